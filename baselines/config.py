"""One frozen dataclass per command: its fields are the flags, the defaults and the run's record.

The dataclasses are not in the algorithms' files, because those import PyTorch, and `--help` must
not wait for that.
"""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from baselines.errors import UsageError

MAX_ENVS = 2**16  # env i plays stream seed + i; `runs.seeding.derive_seeds` leaves room for these
MAX_HIDDEN_SIZE = 2**16

Options = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]


Interventions = Annotated[
    tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[NET.]NAME[:KEY=VALUE,...]")
]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Settings of every training command."""

    env: str = "smacv2/terran_5_vs_5"
    """Gymnasium id, version optional ("module:id" imports the module first)."""
    env_option: Options = ()
    """Environment keyword such as obs_last_action=true, value in TOML; repeat the flag for more."""
    total_steps: int = 10_000_000
    """Environment steps to train for, summed over the envs of one seed."""
    seed: int = 1
    """Random seed of environments, weights and actions; 0 to 2**32 - 1."""
    seeds: int = 1
    """Number of seeds (seed, seed + 1, ...) to train at once; each equals a run of that seed."""
    resume: str = ""
    """Run folder to resume from its last checkpoint; other settings then come from its record."""

    num_envs: int = 128
    """Number of parallel environments per seed."""
    hidden_size: int = 64
    """Width of all hidden layers."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    anneal_lr: bool = True
    """Lower the learning rate linearly to zero over total_steps."""
    gamma: float = 0.99
    """Discount factor."""
    max_grad_norm: float = 0.5
    """Maximum gradient norm; larger gradients are scaled down to it."""
    timeout_is_terminal: bool = False
    """Treat a time limit as termination (no bootstrap), as older code does."""

    probe: int = 0
    """Iterations between measurements of ranks, dead units, norms and trust region; 0: never."""
    intervention: Interventions = ()
    """Plasticity intervention such as redo:threshold=0.1 or actor.l2_init:coef=0.001, on all
    networks unless one is named; repeat the flag for more. --pfo-coef 10 is short for
    actor.pfo:coef=10 (docs/plasticity.md)."""

    device: str = "cpu"
    """PyTorch device of the networks and of their training data."""
    num_threads: int = 0
    """CPU threads for PyTorch; 0 means all cores this process may use."""
    runs_dir: str = "runs"
    """Parent folder of the run folder."""
    checkpoint_minutes: float = 2.0
    """Minutes between checkpoints; 0: no checkpoints by time."""
    checkpoint_steps: int = 0
    """Environment steps between checkpoints; 0: no checkpoints by steps."""
    keep_checkpoints: int = 3
    """Number of latest checkpoints to keep on disk."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        check_seed(self.seed)
        check_range("seeds", self.seeds, low=1, high=1024)
        check_seed(self.seed + self.seeds - 1)
        for name in ("total_steps", "keep_checkpoints"):
            check_range(name, getattr(self, name), low=1)
        check_range("num_envs", self.num_envs, low=1, high=MAX_ENVS)
        check_range("hidden_size", self.hidden_size, low=1, high=MAX_HIDDEN_SIZE)
        check_range("gamma", self.gamma, low=0.0, high=1.0)
        for name in ("learning_rate", "max_grad_norm"):
            check_range(name, getattr(self, name), low=0.0, exclusive=True)
        for name in ("checkpoint_minutes", "checkpoint_steps", "num_threads", "probe"):
            check_range(name, getattr(self, name), low=0)


@dataclasses.dataclass(frozen=True)
class BattleConfig(RunConfig):
    """Settings of every multi-agent learner."""

    open_loop: bool = False
    """Open-loop control: agents see only the time and their index. Such agents show how much can be
    won without observations."""
    network: Literal["gru", "mlp"] = "gru"
    """Network type: recurrent (gru) or feed-forward (mlp)."""
    encoder: Literal["mlp", "plain", "attention"] = "mlp"
    """Encoder of observations: two normalised layers (mlp), PyMARL's single layer (plain), or
    attention over entities (docs/encoders.md)."""
    agent_id: bool = False
    """Append the agent's one-hot index to its observation."""

    @property
    def shows_agent_id(self) -> bool:
        """Whether the networks' input contains the agent's index."""
        return self.agent_id or self.open_loop or self.encoder == "attention"

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        if self.open_loop and self.encoder == "attention":
            raise UsageError("--open-loop leaves no entities to see: use --encoder mlp or plain")


@dataclasses.dataclass(frozen=True)
class MappoConfig(BattleConfig):
    """Train MAPPO (Yu et al. 2022), or IPPO with --critic-input obs."""

    profile: Literal["batched", "smacv2_paper"] = "batched"
    """Named set of defaults; other flags override it."""
    num_steps: int = 64
    """Rollout length: steps per env in one iteration."""
    critic_input: Literal["state", "obs"] = "state"
    """Input of the critic: the global state (MAPPO) or each agent's observation (IPPO)."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    update_epochs: int = 4
    """Passes over each rollout."""
    num_minibatches: int = 2
    """Minibatches per pass, each with whole sequences of num_envs / num_minibatches envs."""
    clip_coef: float = 0.2
    """Clip range of the policy ratio, and of the value change in normalised units."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 1.0
    """Weight of the value loss."""
    clip_vloss: bool = True
    """Use the larger of the clipped and the unclipped value loss."""
    huber_delta: float = 10.0
    """Error at which the value loss turns from quadratic to linear, in normalised units."""
    value_norm: bool = True
    """Normalise the critic's targets by a running mean and standard deviation of the returns."""
    value_norm_per_minibatch: bool = True
    """Update the statistics of the returns in each minibatch; else once per iteration."""
    norm_adv: bool = True
    """Normalise advantages over the whole batch, without dead agents and reset rows."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        for name in ("num_steps", "update_epochs"):
            check_range(name, getattr(self, name), low=1)
        check_range("num_minibatches", self.num_minibatches, low=1, high=self.num_envs)
        check_range("gae_lambda", self.gae_lambda, low=0.0, high=1.0)
        for name in ("clip_coef", "huber_delta"):
            check_range(name, getattr(self, name), low=0.0, exclusive=True)
        for name in ("ent_coef", "vf_coef"):
            check_range(name, getattr(self, name), low=0)


@dataclasses.dataclass(frozen=True)
class ValueConfig(BattleConfig):
    """Settings of every value-based learner."""

    mixer: Literal["monotonic", "sum", "none"] = "monotonic"
    """Mixer of the agents' values into the team's value: a monotonic network of the state (QMIX),
    their sum (VDN), or none: each agent learns from the team's reward independently (IQL)."""
    mixer_size: int = 32
    """Width of the monotonic mixer's hidden layer."""
    hypernet_size: int = 64
    """Hidden width of the networks that compute the monotonic mixer's weights from the state."""
    last_action: bool = True
    """Append the one-hot of the agent's last action to its observation."""
    agent_id: bool = True
    """Append the agent's one-hot index to its observation."""
    reward_scale: float = 1.0
    """Factor by which the learner's rewards are multiplied."""
    td_lambda: float = 0.4
    """Lambda of the TD targets: 0 for one-step targets, 1 for the whole episode."""
    epsilon_start: float = 1.0
    """Share of random actions at the start."""
    epsilon_end: float = 0.05
    """Share of random actions after `epsilon_steps` steps."""
    epsilon_steps: int = 100_000
    """Environment steps over which the share of random actions falls linearly."""

    @property
    def shows_last_action(self) -> bool:
        """Whether the input contains the last action; it reveals what was in range."""
        return self.last_action and not self.open_loop

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        for name in ("mixer_size", "hypernet_size"):
            check_range(name, getattr(self, name), low=1, high=MAX_HIDDEN_SIZE)
        for name in ("td_lambda", "epsilon_start", "epsilon_end"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        check_range("reward_scale", self.reward_scale, low=0.0, exclusive=True)
        check_range("epsilon_steps", self.epsilon_steps, low=0)


@dataclasses.dataclass(frozen=True)
class QmixConfig(ValueConfig):
    """Train QMIX (Rashid et al. 2018), VDN with --mixer sum, or IQL with --mixer none."""

    profile: Literal["batched", "smacv2_paper"] = "batched"
    """Named set of defaults; other flags override it."""
    encoder: Literal["mlp", "plain", "attention"] = "plain"
    """Encoder of observations: two normalised layers (mlp), PyMARL's single layer (plain), or
    attention over entities (docs/encoders.md)."""
    max_grad_norm: float = 10.0
    """Maximum gradient norm of agent network and mixer together; larger gradients are scaled down
    to it."""
    anneal_lr: bool = False
    """Lower the learning rate linearly to zero over total_steps."""
    double_q: bool = True
    """Double Q-learning: the online network chooses the next action, the target network values
    it."""
    buffer_episodes: int = 5000
    """Capacity of the replay in whole episodes."""
    batch_episodes: int = 64
    """Episodes per gradient step, drawn without replacement; learning starts when this many have
    ended."""
    rollout_episodes: int = 0
    """Episodes to finish per iteration; 0: as many as there are envs."""
    updates_per_rollout: int = 8
    """Gradient steps per iteration."""
    target_update_episodes: int = 200
    """Episodes between copies of the online network into the target network."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        for name in ("batch_episodes", "updates_per_rollout", "target_update_episodes"):
            check_range(name, getattr(self, name), low=1)
        check_range("rollout_episodes", self.rollout_episodes, low=0)
        check_range("buffer_episodes", self.buffer_episodes, low=self.batch_episodes)


@dataclasses.dataclass(frozen=True)
class PqnConfig(ValueConfig):
    """Train PQN (Gallici et al. 2024), which needs no replay, or PQN-VDN with --mixer sum."""

    profile: Literal["batched"] = "batched"
    """Named set of defaults; other flags override it."""
    hidden_size: int = 128
    """Width of all hidden layers."""
    max_grad_norm: float = 10.0
    """Maximum gradient norm of agent network and mixer together; larger gradients are scaled down
    to it."""
    td_lambda: float = 0.85
    """Lambda of the TD targets: 0 for one-step targets, 1 for the rest of the rollout."""
    num_steps: int = 32
    """Rollout length: steps per env in one iteration."""
    memory_window: int = 4
    """Steps before the rollout that the GRU reads again, without a loss, to warm up its hidden
    state."""
    update_epochs: int = 1
    """Passes over each rollout."""
    num_minibatches: int = 16
    """Minibatches per pass, each with whole sequences of num_envs / num_minibatches envs."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        for name in ("num_steps", "update_epochs"):
            check_range(name, getattr(self, name), low=1)
        check_range("num_minibatches", self.num_minibatches, low=1, high=self.num_envs)
        check_range("memory_window", self.memory_window, low=0)


@dataclasses.dataclass(frozen=True)
class PpoConfig(RunConfig):
    """Train PPO (Schulman et al. 2017) on Atari, MuJoCo or any Gymnasium environment."""

    env: str = "Hopper-v5"
    """Gymnasium id ("module:id" imports the module first)."""
    env_option: Options = ()
    """Environment keyword such as ctrl_cost_weight=0.1, value in TOML; repeat the flag for more."""
    total_steps: int = 1_000_000
    """Environment steps to train for, summed over the envs of one seed, reset steps included;
    rounded down to whole rollouts, at least one."""
    num_envs: int = 1
    """Number of parallel environments per seed."""
    hidden_size: int = 64
    """Width of the two hidden layers; for pixels, of the layer after the convolutions."""
    learning_rate: float = 3e-4
    """Learning rate of Adam."""
    timeout_is_terminal: bool = True
    """Treat a time limit as termination (no bootstrap), as CleanRL does."""
    num_threads: int = 1
    """CPU threads for PyTorch; 0 means all cores this process may use."""

    source: Literal["auto", "gymnasium", "ale", "envpool"] = "auto"
    """Library that runs the environments; auto picks the fastest one installed (docs/ppo.md)."""
    profile: Literal["cleanrl", "fast", "paper", "paper_fixed"] = "cleanrl"
    """Named set of defaults; other flags override it."""
    num_steps: int = 2048
    """Rollout length: steps per env in one iteration."""

    frame_skip: int = 4
    """Atari: frames for which an action is repeated."""
    sticky: float = 0.0
    """Atari: probability that the emulator repeats the previous action instead of the new one."""
    max_pool: bool = True
    """Atari: show the maximum of the last two frames."""
    noop_max: int = 30
    """Atari: maximum number of idle steps at the start of a game."""
    fire_reset: bool = True
    """Atari: press fire at the start of a game."""
    episodic_life: bool = True
    """Atari: end the learner's episode with each lost life; returns are logged per game."""
    obs_norm: Literal["none", "running", "frozen"] = "running"
    """Normalisation of observations by running statistics, or by frozen statistics of 1,000 random
    steps per env."""
    obs_clip: float = 10.0
    """Bound on the magnitude of normalised observations; 0: no bound."""
    time_feature: bool = False
    """Append the elapsed share of the episode limit to observations, scaled to -1 to 1."""
    reward_norm: Literal["none", "running", "sign"] = "running"
    """Normalisation of the learner's rewards: none, division by the running deviation of the
    returns, or their sign."""
    reward_clip: float = 10.0
    """Bound on the magnitude of rewards normalised by running statistics; 0: no bound."""

    activation: Literal["tanh", "relu", "gelu", "leaky_relu"] = "tanh"
    """Nonlinearity of all hidden layers, of the NatureCNN for pixels too."""
    shared_trunk: bool = False
    """Share one trunk between actor and critic; their heads are separate."""
    init: Literal["orthogonal", "pytorch"] = "orthogonal"
    """Initial weights: orthogonal (gain 0.01 in the actor's head, 1 in the critic's), or PyTorch's
    default."""
    policy: Literal["normal", "tanh_normal", "tanh_normal_atanh"] = "normal"
    """Distribution of continuous actions: a normal whose actions are clipped to the bounds; a
    normal squashed to the bounds by tanh; or the latter with log-probabilities computed from the
    squashed action, which explode as in the published code."""
    state_std: bool = False
    """Let the network predict the standard deviation; else it is a parameter without inputs."""

    adam_eps: float = 1e-5
    """Adam's epsilon."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    update_epochs: int = 10
    """Passes over each rollout."""
    num_minibatches: int = 32
    """Minibatches per pass."""
    clip_coef: float = 0.2
    """Clip range of the policy ratio, and of the value change."""
    log_ratio_clamp: bool = False
    """Clamp log-ratios to [ln 1e-7, ln 1e9] before they are exponentiated."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss, which is half the squared error."""
    clip_grad_apart: bool = False
    """Clip the gradient norms of actor and critic separately."""
    step_trunk_twice: bool = False
    """Clip and step a shared trunk twice, by two optimizers in turn, as the published code does."""
    clip_vloss: bool = True
    """Use the larger of the clipped and the unclipped value loss."""
    norm_adv: Literal["none", "unbiased", "biased"] = "unbiased"
    """Normalisation of advantages in each minibatch, by this estimate of their deviation."""
    target_kl: float = 0.0
    """Maximum KL estimate of a minibatch: a larger one ends the iteration's updates; 0: no
    maximum."""

    snapshots: int = 0
    """Number of weight snapshots to keep, spread evenly over the run; the paper keeps 41."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        for name in ("num_steps", "update_epochs", "frame_skip"):
            check_range(name, getattr(self, name), low=1)
        rows = self.num_envs * self.num_steps
        check_range("num_minibatches", self.num_minibatches, low=1, high=rows)
        for name in ("gae_lambda", "sticky"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        for name in ("clip_coef", "adam_eps"):
            check_range(name, getattr(self, name), low=0.0, exclusive=True)
        for name in (
            *("ent_coef", "vf_coef", "target_kl", "noop_max", "obs_clip", "reward_clip"),
            "snapshots",
        ):
            check_range(name, getattr(self, name), low=0)


@dataclasses.dataclass(frozen=True)
class PlasticityReportConfig:
    """Draw the figures of "No Representation, No Trust" from runs, and list early warnings."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders, or folders of runs."""
    out: str = "plasticity_report"
    """Output folder for a self-contained index.html and each figure as SVG and PNG."""

    def __post_init__(self) -> None:
        """Refuse a report on nothing."""
        if not self.runs:
            raise UsageError("name at least one run folder")


@dataclasses.dataclass(frozen=True)
class PlotConfig:
    """Draw learning curves of runs by environment steps and by wall-clock; print final values."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders, or folders of runs."""
    metric: str = "charts/win_rate"
    """Metric to draw: any name in metrics.jsonl."""
    statistic: Literal["mean", "iqm"] = "mean"
    """Statistic over the runs of a group: the mean, or the interquartile mean."""
    bin_steps: int = 0
    """Environment steps averaged in a point of a curve; 0: a round number for at most 50 points."""
    label: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SETTING")
    ] = ()
    """Setting that names the groups, such as profile; repeat the flag for more. Default: all
    settings that differ."""
    published: bool = False
    """Also draw the published curves of the scenarios, which come from real StarCraft II."""
    out: str = "learning_curves"
    """Output path, to which .svg, .png and .json are appended; or an output folder."""

    def __post_init__(self) -> None:
        """Refuse a plot of nothing."""
        if not self.runs:
            raise UsageError("name at least one run folder")
        check_range("bin_steps", self.bin_steps, low=0)


@dataclasses.dataclass(frozen=True)
class CapacityConfig:
    """Measure the capacity loss of PPO runs over their snapshots; write a capacity.json per run."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, or folders of groups."""
    every: int = 1
    """Stride over the snapshots: 1 measures each of them, 2 every second one."""
    target_seeds: tuple[int, ...] = (27,)
    """Seeds of the random targets; the paper uses 27 alone."""
    device: str = "cpu"
    """PyTorch device of the networks."""
    num_threads: int = 1
    """CPU threads for PyTorch; 0 means all cores this process may use."""

    def __post_init__(self) -> None:
        """Refuse values that no measurement could use."""
        if not self.runs:
            raise UsageError("capacity: name at least one run folder")
        if not self.target_seeds:
            raise UsageError("--target-seeds: name at least one")
        check_range("every", self.every, low=1)
        check_range("num_threads", self.num_threads, low=0)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Play held-out battles or episodes with a trained policy; report win rate or return."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder, or one of its checkpoint folders."""
    episodes: int | None = None
    """Number of battles or episodes to play, on seeds that training can never draw; default 1,024
    battles or 32 episodes."""
    num_envs: int | None = None
    """Number of parallel environments (upper bound); changing it changes which episodes are played.
    Default: 256 for battles, 8 for episodes."""
    stochastic: bool = False
    """Sample actions from the policy; else take the most likely action."""
    seed: int = 0
    """Number of the held-out set: offset into the reserved seeds, and seed of sampled actions."""
    device: str = "cpu"
    """PyTorch device of the networks."""
    num_threads: int = 0
    """CPU threads for PyTorch; 0 means all cores this process may use."""

    def __post_init__(self) -> None:
        """Refuse values that no evaluation could use."""
        for name in ("episodes", "num_envs"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), low=1)
        check_range("num_threads", self.num_threads, low=0)
        check_seed(self.seed)


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Train MAPPO on terran_5_vs_5 for about five minutes, then measure its win rate."""

    seed: int = 1
    """Seed of the run; 0 to 2**32 - 1."""
    total_steps: int = 2_500_000
    """Environment steps to train for."""
    episodes: int = 1024
    """Held-out battles in the final evaluation."""
    env: str = "smacv2/terran_5_vs_5"
    """Gymnasium id of the scenario."""
    runs_dir: str = "runs"
    """Parent folder of the run folder."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        check_seed(self.seed)
        check_range("total_steps", self.total_steps, low=1)
        check_range("episodes", self.episodes, low=1)


def recorded_config(config_class: type, fields: dict[str, Any]) -> Any:
    """Return the config that a config.json holds, also if its run is older than PFO interventions.

    Raises:
        UsageError: a field is missing, unknown or of the wrong type, or its value is not usable.
    """
    fields = with_pfo_as_intervention(fields)
    known = {field.name for field in dataclasses.fields(config_class)}
    wrong = [f"{name} is missing" for name in sorted(known - set(fields))]
    wrong += [f"{name} is unknown" for name in sorted(set(fields) - known)]
    wrong += [
        f"{field.name} is {fields[field.name]!r}"
        for field in dataclasses.fields(config_class)
        if field.name in fields and not _same_type(fields[field.name], field.default)
    ]
    if wrong:
        raise UsageError(f"config.json has other fields: {', '.join(wrong)}")
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return config_class(**fields | lists)


def with_pfo_as_intervention(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a record's fields, with the five PFO flags of older runs as an intervention."""
    old = {name: fields.get(f"pfo_{name}") for name in ("coef", "layers", "distance", "mode")}
    fields = dict(fields)
    network = fields.pop("pfo_network", None)
    if network is None:
        return fields
    for name in old:
        fields.pop(f"pfo_{name}", None)
    if old["coef"]:
        prefix = f"{network}." if network in ("actor", "critic") else ""
        options = "coef={coef},scope={layers},distance={distance},mode={mode}".format(**old)
        fields["intervention"] = [*(fields.get("intervention") or ()), f"{prefix}pfo:{options}"]
    return fields


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def check_seed(seed: int) -> None:
    """Raise `UsageError` unless `seed` is in the range that training may draw from."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed}: it must be between 0 and 2**32 - 1 = {2**32 - 1}")


def check_range(
    name: str, value: float, *, low: float, high: float | None = None, exclusive: bool = False
) -> None:
    """Raise `UsageError` unless `low <= value <= high` (`low < value` when exclusive)."""
    good = (value > low if exclusive else value >= low) and (high is None or value <= high)
    if good and value == value and abs(value) != float("inf"):
        return
    bound = f"above {low}" if exclusive else f"at least {low}"
    limit = f" and at most {high}" if high is not None else ""
    raise UsageError(f"--{name.replace('_', '-')} {value}: it must be {bound}{limit}")
