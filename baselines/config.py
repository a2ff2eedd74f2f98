"""One frozen dataclass for each command: its fields are the flags, the defaults and the record.

It stands apart from the algorithms because those import PyTorch, and `--help` must not wait for it.
"""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from baselines.errors import UsageError

MAX_ENVS = 2**16  # env i plays the stream of seed + i; `run.derive_seeds` leaves room for so many
MAX_HIDDEN_SIZE = 2**16

Options = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]


Interventions = Annotated[
    tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[NET.]NAME[:KEY=VALUE,...]")
]


@dataclasses.dataclass(frozen=True)
class PlasticityConfig:
    """What every learner can measure and mend of its networks' plasticity (docs/plasticity.md)."""

    probe: int = 0
    """Measure ranks, dead units, norms and the trust region every so many iterations; 0: never."""
    pfo_coef: float = 0.0
    """Weight of Proximal Feature Optimization, the squared change of pre-activations; 0: off."""
    pfo_layers: Literal["last", "all"] = "last"
    """Pre-activations it holds: of the last hidden layer or of all hidden layers."""
    pfo_distance: Literal["l2", "cosine"] = "l2"
    """Squared change a unit, or minus the cosine."""
    pfo_mode: Literal["soft", "clip"] = "soft"
    """Add it to the loss, or drop the samples that have moved too far from theirs."""
    pfo_network: Literal["actor", "critic", "both"] = "actor"
    """Networks it applies to."""
    intervention: Interventions = ()
    """Such as redo:threshold=0.1 or actor.l2_init:coef=0.001 (both networks unless one is named);
    repeat the flag for more."""


@dataclasses.dataclass(frozen=True)
class BattleConfig(PlasticityConfig):
    """What every learner of battles has in common."""

    env: str = "smacv2/terran_5_vs_5"
    """Gymnasium id, with or without its version ("module:id" imports the module first)."""
    env_option: Options = ()
    """Environment keyword such as obs_last_action=true, value in TOML; repeat the flag for more."""
    open_loop: bool = False
    """Let agents see the time and their index only: what can be won without looking."""
    total_steps: int = 10_000_000
    """Environment steps to train for, summed over the envs of one seed."""
    seed: int = 1
    """Seed of everything: battles, weights, actions; 0 to 2**32 - 1."""
    seeds: int = 1
    """How many seeds (seed, seed + 1, ...) to train at once; each equals its lone run."""
    resume: str = ""
    """Run folder to continue from its last checkpoint; other flags then come from its record."""

    num_envs: int = 128
    """Battles played at once, for each seed."""
    network: Literal["gru", "mlp"] = "gru"
    """Recurrent or feed-forward networks."""
    encoder: Literal["mlp", "plain", "attention"] = "mlp"
    """What reads observations: two normalised layers, PyMARL's single layer, or attention over
    entities (docs/encoders.md)."""
    hidden_size: int = 64
    """Width of all hidden layers."""
    agent_id: bool = False
    """Append the agent's one-hot index to its observation."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    anneal_lr: bool = True
    """Lower the learning rate linearly to zero over total_steps."""
    gamma: float = 0.99
    """Discount factor."""
    max_grad_norm: float = 0.5
    """Gradient norm limit."""
    timeout_is_terminal: bool = False
    """Treat the episode limit as the end of the world, as older code does; else bootstrap."""

    device: str = "cpu"
    """PyTorch device of networks and of what they learn from."""
    num_threads: int = 0
    """CPU threads for PyTorch; 0 means all cores this process may use."""
    runs_dir: str = "runs"
    """Folder that receives the run folder."""
    checkpoint_minutes: float = 2.0
    """Save a checkpoint when this many minutes have passed; 0 turns it off."""
    checkpoint_steps: int = 0
    """Save a checkpoint when this many env steps have passed; 0 turns it off."""
    keep_checkpoints: int = 3
    """How many of the latest checkpoints stay on disk."""

    @property
    def shows_agent_id(self) -> bool:
        """Whether networks are told which agent they are."""
        return self.agent_id or self.open_loop or self.encoder == "attention"

    def __post_init__(self) -> None:
        """Refuse values that no run could use, each with one line."""
        check_seed(self.seed)
        check_range("seeds", self.seeds, low=1, high=1024)
        check_seed(self.seed + self.seeds - 1)
        check_range("total_steps", self.total_steps, low=1)
        if self.open_loop and self.encoder == "attention":
            raise UsageError("--open-loop leaves no entities to see: use --encoder mlp or plain")
        check_range("num_envs", self.num_envs, low=1, high=MAX_ENVS)
        check_range("hidden_size", self.hidden_size, low=1, high=MAX_HIDDEN_SIZE)
        check_range("keep_checkpoints", self.keep_checkpoints, low=1)
        check_range("gamma", self.gamma, low=0.0, high=1.0)
        for name in ("learning_rate", "max_grad_norm"):
            check_range(name, getattr(self, name), low=0.0, exclusive=True)
        for name in ("checkpoint_minutes", "checkpoint_steps", "num_threads"):
            check_range(name, getattr(self, name), low=0)
        check_plasticity(self)


@dataclasses.dataclass(frozen=True)
class MappoConfig(BattleConfig):
    """Train MAPPO (Yu et al. 2022), or IPPO with --critic-input obs."""

    profile: Literal["batched", "smacv2_paper"] = "batched"
    """Named set of defaults; flags given apart win over it."""
    num_steps: int = 64
    """Rollout length of each env in one iteration."""
    critic_input: Literal["state", "obs"] = "state"
    """What the critic sees: the global state (MAPPO) or each agent's observation (IPPO)."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    update_epochs: int = 4
    """Passes over each rollout."""
    num_minibatches: int = 2
    """Minibatches in a pass, each holding whole sequences of num_envs / num_minibatches envs."""
    clip_coef: float = 0.2
    """Clip range of the policy ratio, and of the value change in normalised units."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 1.0
    """Weight of the value loss."""
    clip_vloss: bool = True
    """Take the larger of the clipped and the plain value loss."""
    huber_delta: float = 10.0
    """Where the value loss turns from quadratic to linear, in normalised units."""
    value_norm: bool = True
    """Let the critic predict values normalised by a running mean and deviation of the returns."""
    value_norm_per_minibatch: bool = True
    """Fold returns into the value statistics in each minibatch (else once an iteration)."""
    norm_adv: bool = True
    """Normalise advantages over the live entries of the whole batch."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use, each with one line."""
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
    """What learners of action values have in common."""

    pfo_network: Literal["agent"] = "agent"
    """Networks PFO applies to: the one that all agents share."""
    mixer: Literal["monotonic", "sum", "none"] = "monotonic"
    """How the agents' values make the team's: a monotonic network of the state (QMIX), their sum
    (VDN), or not at all: each agent learns from the team's reward alone (IQL)."""
    mixer_size: int = 32
    """Width of the monotonic mixer's hidden layer."""
    hypernet_size: int = 64
    """Width of the networks that make the monotonic mixer's weights from the state."""
    last_action: bool = True
    """Append the one-hot of the agent's last action to its observation."""
    agent_id: bool = True
    """Append the agent's one-hot index to its observation."""
    reward_scale: float = 1.0
    """Factor of the rewards that the learner sees."""
    td_lambda: float = 0.4
    """Lambda of the returns that values are drawn to: 0 one step, 1 the whole episode."""
    epsilon_start: float = 1.0
    """Share of random actions at the start."""
    epsilon_end: float = 0.05
    """Share of random actions from `epsilon_steps` on."""
    epsilon_steps: int = 100_000
    """Environment steps over which the share falls linearly."""

    @property
    def shows_last_action(self) -> bool:
        """Whether networks are told the last action; it tells of what was in range."""
        return self.last_action and not self.open_loop

    def __post_init__(self) -> None:
        """Refuse values that no run could use, each with one line."""
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
    """Named set of defaults; flags given apart win over it."""
    encoder: Literal["mlp", "plain", "attention"] = "plain"
    """What reads observations: two normalised layers, PyMARL's single layer, or attention over
    entities (docs/encoders.md)."""
    max_grad_norm: float = 10.0
    """Gradient norm limit, of agent network and mixer together."""
    anneal_lr: bool = False
    """Lower the learning rate linearly to zero over total_steps."""
    double_q: bool = True
    """Choose the next action by the learning network, value it by the target network."""
    buffer_episodes: int = 5000
    """Whole episodes that the replay holds."""
    batch_episodes: int = 64
    """Episodes in a gradient step, drawn without replacement; none is taken before so many."""
    rollout_episodes: int = 0
    """Episodes to finish in an iteration; 0: as many as there are envs."""
    updates_per_rollout: int = 8
    """Gradient steps in an iteration."""
    target_update_episodes: int = 200
    """Episodes after which the target network becomes a copy of the learning one."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use, each with one line."""
        super().__post_init__()
        for name in ("batch_episodes", "updates_per_rollout", "target_update_episodes"):
            check_range(name, getattr(self, name), low=1)
        check_range("rollout_episodes", self.rollout_episodes, low=0)
        check_range("buffer_episodes", self.buffer_episodes, low=self.batch_episodes)


@dataclasses.dataclass(frozen=True)
class PqnConfig(ValueConfig):
    """Train PQN (Gallici et al. 2024), which needs no replay; PQN-VDN with --mixer sum."""

    profile: Literal["batched"] = "batched"
    """Named set of defaults; flags given apart win over it."""
    hidden_size: int = 128
    """Width of all hidden layers."""
    max_grad_norm: float = 10.0
    """Gradient norm limit, of agent network and mixer together."""
    td_lambda: float = 0.85
    """Lambda of the returns over the rollout: 0 one step, 1 until its end."""
    num_steps: int = 32
    """Rollout length of each env in one iteration."""
    memory_window: int = 4
    """Steps before the rollout that are run again to warm the GRU, without a loss."""
    update_epochs: int = 1
    """Passes over each rollout."""
    num_minibatches: int = 16
    """Minibatches in a pass, each holding whole sequences of num_envs / num_minibatches envs."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use, each with one line."""
        super().__post_init__()
        for name in ("num_steps", "update_epochs"):
            check_range(name, getattr(self, name), low=1)
        check_range("num_minibatches", self.num_minibatches, low=1, high=self.num_envs)
        check_range("memory_window", self.memory_window, low=0)


@dataclasses.dataclass(frozen=True)
class PpoConfig(PlasticityConfig):
    """Train PPO (Schulman et al. 2017) on Atari, MuJoCo or any Gymnasium environment."""

    env: str = "Hopper-v5"
    """Gymnasium id ("module:id" imports the module first)."""
    env_option: Options = ()
    """Environment keyword such as ctrl_cost_weight=0.1, value in TOML; repeat the flag for more."""
    source: Literal["auto", "gymnasium", "ale", "envpool"] = "auto"
    """What steps the environments; auto is the fastest of those installed (docs/ppo.md)."""
    profile: Literal["cleanrl", "fast", "paper", "paper_fixed"] = "cleanrl"
    """Named set of defaults for everything below; flags given apart win over it."""
    total_steps: int = 1_000_000
    """Environment steps to train for, summed over the envs of one seed, reset steps included; whole
    rollouts, at least one."""
    seed: int = 1
    """Seed of everything: environments, weights, actions; 0 to 2**32 - 1."""
    seeds: int = 1
    """How many seeds (seed, seed + 1, ...) to train at once; each equals its lone run."""
    resume: str = ""
    """Run folder to continue from its last checkpoint; other flags then come from its record."""

    num_envs: int = 1
    """Environments stepped at once, for each seed."""
    num_steps: int = 2048
    """Rollout length of each env in one iteration."""

    frame_skip: int = 4
    """Atari: frames an action is repeated for."""
    sticky: float = 0.0
    """Atari: probability that the emulator repeats the action before instead."""
    max_pool: bool = True
    """Atari: show the maximum of the last two frames."""
    noop_max: int = 30
    """Atari: at most so many idle steps at the start."""
    fire_reset: bool = True
    """Atari: press fire at the start."""
    episodic_life: bool = True
    """Atari: a lost life ends the episode for the learner; returns are logged by game."""
    obs_norm: Literal["none", "running", "frozen"] = "running"
    """Normalise observations by running statistics, or by those of 1,000 random steps an env."""
    obs_clip: float = 10.0
    """Bound of normalised observations; 0: none."""
    time_feature: bool = False
    """Append the share of the episode limit that has passed, from -1 to 1."""
    reward_norm: Literal["none", "running", "sign"] = "running"
    """What the learner sees of a reward: itself, divided by the returns' deviation, its sign."""
    reward_clip: float = 10.0
    """Bound of running-normalised rewards; 0: none."""
    timeout_is_terminal: bool = True
    """Treat the episode limit as the end of the world, as CleanRL does; else bootstrap."""

    activation: Literal["tanh", "relu", "gelu", "leaky_relu"] = "tanh"
    """Nonlinearity of all hidden layers (pixels: NatureCNN with it)."""
    hidden_size: int = 64
    """Width of the two hidden layers; pixels: of the one after the convolutions."""
    shared_trunk: bool = False
    """One trunk for actor and critic, separate heads."""
    init: Literal["orthogonal", "pytorch"] = "orthogonal"
    """Weights: orthogonal (heads with gain 0.01 and 1), or PyTorch's default."""
    policy: Literal["normal", "tanh_normal", "tanh_normal_atanh"] = "normal"
    """Continuous actions: a normal, clipped by the environment; one squashed to the bounds; that
    with log-probabilities from the squashed action, which explode as the published code's do."""
    state_std: bool = False
    """Let the network predict the standard deviation; else it is a parameter."""

    learning_rate: float = 3e-4
    """Adam's step size."""
    anneal_lr: bool = True
    """Lower the learning rate linearly to zero over total_steps."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    update_epochs: int = 10
    """Passes over each rollout."""
    num_minibatches: int = 32
    """Minibatches in a pass."""
    clip_coef: float = 0.2
    """Clip range of the policy ratio, and of the value change."""
    log_ratio_clamp: bool = False
    """Bound log-ratios to [ln 1e-7, ln 1e9] before they are exponentiated."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss, half the squared error."""
    max_grad_norm: float = 0.5
    """Gradient norm limit."""
    clip_grad_apart: bool = False
    """Limit the gradients of actor and critic separately."""
    step_trunk_twice: bool = False
    """With a shared trunk: two optimizers clip and step it, one after the other (published)."""
    clip_vloss: bool = True
    """Take the larger of the clipped and the plain value loss."""
    norm_adv: Literal["none", "unbiased", "biased"] = "unbiased"
    """Normalise advantages in each minibatch, by this estimate of their deviation."""
    target_kl: float = 0.0
    """End an iteration's updates when a minibatch's KL estimate exceeds this; 0: never."""

    device: str = "cpu"
    """PyTorch device of networks and rollout buffer."""
    num_threads: int = 1
    """CPU threads for PyTorch; 0 means all cores this process may use."""
    runs_dir: str = "runs"
    """Folder that receives the run folder."""
    snapshots: int = 0
    """Weights kept over the whole run, the initial ones included (the paper keeps 41); 0: none."""
    checkpoint_minutes: float = 2.0
    """Save a checkpoint when this many minutes have passed; 0 turns it off."""
    checkpoint_steps: int = 0
    """Save a checkpoint when this many env steps have passed; 0 turns it off."""
    keep_checkpoints: int = 3
    """How many of the latest checkpoints stay on disk."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use, each with one line."""
        check_seed(self.seed)
        check_range("seeds", self.seeds, low=1, high=1024)
        check_seed(self.seed + self.seeds - 1)
        for name in ("total_steps", "num_steps", "update_epochs", "frame_skip"):
            check_range(name, getattr(self, name), low=1)
        check_range("num_envs", self.num_envs, low=1, high=MAX_ENVS)
        check_range("hidden_size", self.hidden_size, low=1, high=MAX_HIDDEN_SIZE)
        rows = self.num_envs * self.num_steps
        check_range("num_minibatches", self.num_minibatches, low=1, high=rows)
        check_range("keep_checkpoints", self.keep_checkpoints, low=1)
        for name in ("gamma", "gae_lambda", "sticky"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        for name in ("learning_rate", "clip_coef", "max_grad_norm", "adam_eps"):
            check_range(name, getattr(self, name), low=0.0, exclusive=True)
        for name in (
            *("ent_coef", "vf_coef", "checkpoint_minutes", "checkpoint_steps", "target_kl"),
            *("num_threads", "noop_max", "obs_clip", "reward_clip", "snapshots"),
        ):
            check_range(name, getattr(self, name), low=0)
        check_plasticity(self)


@dataclasses.dataclass(frozen=True)
class PlasticityReportConfig:
    """Draw the figures of "No Representation, No Trust" from runs, and list early warnings."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders, or folders of runs."""
    out: str = "plasticity_report"
    """Folder that receives index.html, which needs nothing else, and each figure as SVG and PNG."""

    def __post_init__(self) -> None:
        """Refuse a report on nothing."""
        if not self.runs:
            raise UsageError("name at least one run folder")


@dataclasses.dataclass(frozen=True)
class PlotConfig:
    """Draw learning curves of runs by environment steps and by wall-clock; print how they end."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders, or folders of runs."""
    metric: str = "charts/win_rate"
    """What to draw: any name in metrics.jsonl."""
    statistic: Literal["mean", "iqm"] = "mean"
    """Of the runs of a group: their mean, or their interquartile mean."""
    bin_steps: int = 0
    """Steps over which a point of a curve averages; 0: a round number that gives at most 50."""
    label: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SETTING")
    ] = ()
    """Name groups by this setting, such as profile (else by all that differ); repeat for more."""
    published: bool = False
    """Draw the published curves of the scenarios too, which are of real StarCraft II."""
    out: str = "learning_curves"
    """Files to write, less .svg, .png and .json; or a folder for them."""

    def __post_init__(self) -> None:
        """Refuse a plot of nothing."""
        if not self.runs:
            raise UsageError("name at least one run folder")
        check_range("bin_steps", self.bin_steps, low=0)


@dataclasses.dataclass(frozen=True)
class CapacityConfig:
    """Measure the capacity loss of PPO runs over their snapshots, into a capacity.json of each."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, or folders of groups."""
    every: int = 1
    """Measure every so many snapshots."""
    target_seeds: tuple[int, ...] = (27,)
    """Seeds of the random targets; the paper uses 27 alone."""
    device: str = "cpu"
    """PyTorch device of the networks."""
    num_threads: int = 1
    """CPU threads for PyTorch; 0 means all cores this process may use."""

    def __post_init__(self) -> None:
        """Refuse values that measure nothing."""
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
    """How many to play, on seeds that training can never draw; default 1,024 battles, else 32."""
    num_envs: int | None = None
    """Played at once, at most; the result depends on this number but not on speed; default 256
    battles, else 8 episodes."""
    stochastic: bool = False
    """Sample actions from the policy; else take the most likely one."""
    seed: int = 0
    """Which held-out set: offset into the reserved seeds, and seed of the sampling."""
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
    """Folder that receives the run folder."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        check_seed(self.seed)
        check_range("total_steps", self.total_steps, low=1)
        check_range("episodes", self.episodes, low=1)


def recorded_config(config_class: type, fields: dict[str, Any]) -> Any:
    """Return the config that a config.json holds.

    Raises:
        UsageError: a field is missing, unknown or of another type, or no run could use its value.
    """
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


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def check_plasticity(config: PlasticityConfig) -> None:
    """Raise `UsageError` for a probe or PFO setting that no run could use."""
    check_range("probe", config.probe, low=0)
    check_range("pfo_coef", config.pfo_coef, low=0)


def check_seed(seed: int) -> None:
    """Raise `UsageError` unless `seed` lies in the range that training may draw from."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed}: seeds lie between 0 and 2**32 - 1 = {2**32 - 1}")


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
