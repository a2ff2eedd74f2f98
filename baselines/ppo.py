"""PPO (Schulman et al. 2017) for one agent: discrete or continuous actions, vectors or pixels.

Several seeds train at once as stacked networks (baselines/stacking.py); a lone seed is a stack of
one. docs/baselines.md lists the profiles and each choice; docs/plasticity.md what is measured.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from baselines.advantages import gae
from baselines.checkpoints import Checkpoint
from baselines.config import PpoConfig
from baselines.console import Progress
from baselines.distributions import Distribution, make_distribution
from baselines.errors import TrainingError, UsageError
from baselines.networks import (
    ActorCritic,
    AppendLogStd,
    hidden_layers,
    initialise_orthogonal,
)
from baselines.plasticity import (
    NETWORKS,
    Instruments,
    View,
    diversity_metrics,
    has_pfo,
    interventions_of,
    pfo_mask,
    pfo_term,
)
from baselines.preprocess import Preprocessor
from baselines.rollout import Clock
from baselines.run import RunGroup, StopRequest, derive_seeds, exit_status, prepare_torch
from baselines.stacking import Block, SeedHandle, Stack, clip_gradients, joint_norm
from baselines.vector_envs import VectorEnv, make_vector_env
from ppo_plasticity.interventions import Interventions, LossInputs

LOSSES = (
    "losses/policy_loss",
    "losses/value_loss",
    "losses/entropy",
    "losses/approx_kl",
    "losses/clipfrac",
    "losses/ratio",
    "losses/pfo",
    "losses/interventions",
    "losses/actor_grad_norm",
    "losses/critic_grad_norm",
)
KL_COLUMN = LOSSES.index("losses/approx_kl")
LOG_RATIO_RANGE = (math.log(1e-7), math.log(1e9))  # the published bounds


@dataclasses.dataclass
class Rollout:
    """One iteration's experience of all seeds, time before envs.

    `valid` is False on rows that only reset an env. Row `num_steps` of `obs` is what comes next.
    What the environment says lies in NumPy arrays, which are quicker to write a step at a time.
    """

    obs: Tensor  # (seeds, num_steps + 1, num_envs, *obs_shape) float32 or uint8
    raw_actions: Tensor  # (seeds, num_steps, num_envs, raw_size) float32, see distributions
    rewards: np.ndarray  # (seeds, num_steps, num_envs) float32, as the learner sees them
    terminated: np.ndarray  # (seeds, num_steps, num_envs) bool
    truncated: np.ndarray  # (seeds, num_steps, num_envs) bool
    valid: np.ndarray  # (seeds, num_steps, num_envs) bool

    @classmethod
    def empty(cls, config: PpoConfig, preprocessor: Preprocessor, raw_size: int) -> "Rollout":
        """Allocate it."""
        steps, shape = config.num_steps, (config.seeds, config.num_steps, config.num_envs)
        obs_shape = (config.seeds, steps + 1, config.num_envs, *preprocessor.obs_shape)
        dtype = torch.uint8 if preprocessor.pixels else torch.float32
        return cls(
            torch.zeros(obs_shape, dtype=dtype, device=config.device),
            torch.zeros(*shape, raw_size, device=config.device),
            np.zeros(shape, np.float32),
            *(np.zeros(shape, bool) for _ in range(3)),
        )

    def rows(self) -> Tensor:
        """Return obs (seeds, num_steps * num_envs, *obs_shape), without the last row."""
        return self.obs[:, :-1].flatten(1, 2)


@dataclasses.dataclass
class Stream:
    """Where the environments stand between two steps; arrays are (seeds * num_envs,)."""

    obs: Tensor  # (seeds, num_envs, *obs_shape) as the learner sees them
    valid: np.ndarray  # bool, the next step is a transition
    elapsed: np.ndarray  # int64, steps of the episode so far
    episodic_return: np.ndarray  # float64, raw
    ended: list[tuple[int, float, int]]  # (env, return, length) of episodes since last asked


@dataclasses.dataclass
class Trainer:
    """All that changes while PPO trains; `seeds` stand in the order of `config.seed + i`."""

    config: PpoConfig
    env: VectorEnv
    preprocessor: Preprocessor
    distribution: Distribution
    stack: Stack
    optimizers: list[torch.optim.Optimizer]
    generators: list[torch.Generator]  # one a seed
    interventions: list[dict[str, Interventions]]  # one a seed
    handles: list[dict[str, SeedHandle]]  # one a seed
    instruments: list[Instruments]  # one a seed
    rollout: Rollout
    stream: Stream
    global_steps: np.ndarray  # (seeds,) transitions so far
    iteration: int = 0

    def changes(self, what: str) -> bool:
        """Return whether any intervention does this (see `Intervention.changes`)."""
        return any(what in one.changes for one in self.interventions[0].values())


def main(config: PpoConfig) -> int:
    """Train, and say how to evaluate the result; return the exit status."""
    paths, stopped = train(config)
    if stopped is None:
        print("evaluate with")
        for path in paths:
            print(f"  baselines evaluate {path}")
    return exit_status(stopped)


def train(config: PpoConfig) -> tuple[list[Path], int | None]:
    """Train, or continue the run or group of runs `config.resume`.

    Returns:
        The run folders, one a seed, and the signal that stopped them (None when complete).

    Raises:
        UsageError: the config cannot be run here.
    """
    threads = prepare_torch(config.num_threads, config.device)
    config = dataclasses.replace(config, num_threads=threads)
    checkpoints = RunGroup.checkpoints(Path(config.resume)) if config.resume else []
    trainer = make_trainer(config, checkpoints)
    environment = {"id": trainer.env.id, "fingerprint": trainer.env.fingerprint}
    if config.resume:
        runs = RunGroup.resume(Path(config.resume), config, environment)
    else:
        runs = RunGroup.start("ppo", config, environment)
        runs.save(save_state(trainer))
    progress = Progress(config.total_steps * config.seeds, int(trainer.global_steps.sum()))
    try:
        with StopRequest() as stop:
            loop(trainer, runs, progress, stop)
    finally:
        progress.close()
        runs.close()
        trainer.env.close()
    return runs.paths, stop.signal


def num_iterations(config: PpoConfig) -> int:
    """Return how many rollouts a run makes."""
    return max(1, config.total_steps // (config.num_envs * config.num_steps))


def loop(trainer: Trainer, runs: RunGroup, progress: Progress, stop: StopRequest) -> None:
    """Iterate until the end, or until a signal asks to stop; the last state is saved."""
    config = trainer.config
    progress.say(f"run folder {runs.path}")
    snapshots = snapshot_iterations(config)
    saved = trainer.iteration
    if trainer.iteration == 0 and 0 in snapshots:
        runs.snapshot(save_state(trainer))
    while trainer.iteration < num_iterations(config) and stop.signal is None:
        metrics = iterate(trainer)
        runs.log(trainer.global_steps, metrics)
        progress.update(int(trainer.global_steps.sum()), _over_seeds(metrics))
        check_finite(trainer, metrics, runs)
        if trainer.iteration in snapshots:
            runs.snapshot(save_state(trainer))
        if runs.checkpoint_due(trainer.global_steps):
            runs.save(save_state(trainer))
            saved = trainer.iteration
    if saved != trainer.iteration:
        runs.save(save_state(trainer))
    if stop.signal is not None:
        progress.say(runs.how_to_continue("ppo", stop.signal))


def snapshot_iterations(config: PpoConfig) -> set[int]:
    """Return the iterations after which weights are kept, evenly spread from first to last."""
    return {
        round(part * num_iterations(config) / max(1, config.snapshots - 1))
        for part in range(config.snapshots)
    }


def check_finite(trainer: Trainer, metrics: list[dict[str, float]], runs: RunGroup) -> None:
    """Stop a run whose losses are no numbers any more.

    Raises:
        TrainingError: its one line names the seed, iteration, metric and last checkpoint.
    """
    for seed, values in enumerate(metrics):
        broken = [name for name in LOSSES if not math.isfinite(values.get(name, 0.0))]
        if broken:
            raise TrainingError(
                f"seed {trainer.config.seed + seed}: {broken[0]} is {values[broken[0]]}"
                f" in iteration {trainer.iteration};"
                f" the last good checkpoint is {runs.last_checkpoint(seed)}"
            )


def _over_seeds(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Return means over the seeds for the progress line; speeds add up."""
    names = [name for name in metrics[0] if all(name in values for values in metrics)]
    means = {name: sum(values[name] for values in metrics) / len(metrics) for name in names}
    return means | {"charts/SPS": sum(values["charts/SPS"] for values in metrics)}


# Building ----------------------------------------------------------------------------------------


def make_trainer(config: PpoConfig, checkpoints: list[Checkpoint] = ()) -> Trainer:
    """Build everything from the seeds, then put back what the checkpoints (one a seed) hold."""
    if config.target_kl and config.seeds > 1:
        raise UsageError("--target-kl ends each seed's updates at another step: use --seeds 1")
    iteration = checkpoints[0].trainer["iteration"] if checkpoints else 0
    seeds = [config.seed + index for index in range(config.seeds)]
    env = make_vector_env(config, env_seeds(config, seeds, iteration))
    preprocessor = Preprocessor(config, env)
    low, high = getattr(env.action_space, "low", None), getattr(env.action_space, "high", None)
    bounds = None if env.discrete else (torch.from_numpy(low), torch.from_numpy(high))
    distribution = make_distribution(config.policy, env.num_actions, bounds)
    generators = [torch.Generator().manual_seed(derive_seeds(seed)[1]) for seed in seeds]
    interventions = [{name: interventions_of(config, name) for name in NETWORKS} for _ in seeds]
    agents = []
    for seed, hooks in zip(seeds, interventions, strict=True):
        torch.manual_seed(derive_seeds(seed)[1])
        agents.append(make_agent(config, preprocessor.obs_shape, distribution, hooks))
    stack = Stack(agents, block_tests(agents[0]))
    optimizers = make_optimizers(config, stack, interventions[0])
    handles = [
        {name: SeedHandle(stack, i, name, optimizers, generators[i]) for name in NETWORKS}
        for i in range(config.seeds)
    ]
    trainer = Trainer(
        config=config,
        env=env,
        preprocessor=preprocessor,
        distribution=distribution,
        stack=stack,
        optimizers=optimizers,
        generators=generators,
        interventions=interventions,
        handles=handles,
        instruments=[make_instruments(config, agent) for agent in agents],
        rollout=Rollout.empty(config, preprocessor, distribution.raw_size),
        stream=Stream(torch.empty(0), *(np.empty(0) for _ in range(3)), []),
        global_steps=np.zeros(config.seeds, np.int64),
    )
    for hooks, handle in zip(interventions, handles, strict=True):
        for name in NETWORKS:
            hooks[name].start(handle[name])
    if config.obs_norm == "frozen" and not checkpoints:
        rngs = [np.random.default_rng(derive_seeds(seed)[1]) for seed in seeds]
        preprocessor.estimate(env, rngs)
    for index, checkpoint in enumerate(checkpoints):
        load_state(trainer, index, checkpoint)
    start_episodes(trainer)
    return trainer


def env_seeds(config: PpoConfig, seeds: list[int], iteration: int) -> list[int]:
    """Return one seed an env; a run that goes on after `iteration` begins other episodes."""
    bases = [derive_seeds(seed if iteration == 0 else (seed, iteration))[0] for seed in seeds]
    return [base + env for base in bases for env in range(config.num_envs)]


def make_instruments(config: PpoConfig, agent: ActorCritic) -> Instruments:
    """Return what measures one seed."""
    modules = {"actor": agent.actor, "critic": agent.critic}
    return Instruments(config.probe, modules, config.total_steps)


def make_agent(
    config: PpoConfig,
    obs_shape: tuple[int, ...],
    distribution: Distribution,
    interventions: dict[str, Interventions],
) -> ActorCritic:
    """Build one seed's networks, with the layers that interventions ask for."""
    has_std = config.state_std or not hasattr(distribution, "low")
    num_outputs = distribution.num_outputs if has_std else distribution.num_outputs // 2
    trunks = [hidden_layers(obs_shape, config.hidden_size, config.activation) for _ in NETWORKS]
    last = [layer for layer in trunks[0] if isinstance(layer, nn.Linear)][-1]
    heads = (nn.Linear(last.out_features, num_outputs), nn.Linear(last.out_features, 1))
    networks = {
        name: interventions[name].layers(nn.Sequential(*trunk, head))
        for name, trunk, head in zip(NETWORKS, trunks, heads, strict=True)
    }
    if config.init == "orthogonal":
        initialise_orthogonal(networks["actor"], 0.01)
        initialise_orthogonal(networks["critic"], 1.0)
    if config.shared_trunk:
        actor, critic = networks.values()
        networks["critic"] = nn.Sequential(*list(actor)[:-1], *list(critic)[-1:])
    if not has_std:
        networks["actor"].append(AppendLogStd(distribution.raw_size))
    return ActorCritic(**networks).to(config.device)


def block_tests(agent: ActorCritic) -> dict[str, Callable[[str], bool]]:
    """Return which parameters form a block, by name: actor and critic, or trunk and two heads."""
    critics = {id(parameter) for parameter in agent.critic.parameters()}
    trunk = {name for name, p in agent.named_parameters() if id(p) in critics} - {
        name for name, _ in agent.named_parameters() if name.startswith("critic.")
    }
    tests = {
        "actor": lambda name: name.startswith("actor.") and name not in trunk,
        "critic": lambda name: name.startswith("critic."),
    }
    return tests | {"trunk": lambda name: name in trunk} if trunk else tests


def network_blocks(stack: Stack, network: str) -> list[Block]:
    """Return the blocks that hold a network's parameters; a shared trunk belongs to both."""
    return [block for name, block in stack.blocks.items() if name in (network, "trunk")]


def make_optimizers(
    config: PpoConfig, stack: Stack, interventions: dict[str, Interventions]
) -> list[torch.optim.Optimizer]:
    """Return one Adam over all blocks, or two that both own a shared trunk (published)."""
    options = {}
    for name in NETWORKS:
        plain = {"lr": config.learning_rate, "eps": config.adam_eps, "betas": (0.9, 0.999)}
        options[name] = interventions[name].optimizer_options(plain)
        options[name]["initial_lr"] = options[name]["lr"]
    if config.shared_trunk and config.step_trunk_twice:
        return [
            torch.optim.Adam(
                [{"params": [b.flat for b in network_blocks(stack, name)], **options[name]}],
                fused=True,
            )
            for name in NETWORKS
        ]
    groups = [
        {"params": [block.flat], **options["critic" if name == "critic" else "actor"]}
        for name, block in stack.blocks.items()
    ]
    return [torch.optim.Adam(groups, fused=True)]


def start_episodes(trainer: Trainer) -> None:
    """Reset all environments."""
    raw = trainer.env.reset()
    count = trainer.env.num_envs
    elapsed = np.zeros(count, np.int64)
    obs = trainer.preprocessor.observe(raw, elapsed)
    trainer.stream = Stream(obs, np.ones(count, bool), elapsed, np.zeros(count), [])


# One iteration -----------------------------------------------------------------------------------


def iterate(trainer: Trainer) -> list[dict[str, float]]:
    """Run one iteration, a rollout and an update; return each seed's metrics."""
    config, clock = trainer.config, Clock()
    anneal(trainer)
    collect(trainer, clock)
    batch = make_batch(trainer)
    clock.spent("learn")
    due = trainer.instruments[0].due(trainer.iteration)
    before = [look(trainer, seed) for seed in range(config.seeds)] if due else []
    clock.spent("probe")
    losses = update(trainer, batch)
    clock.spent("learn")
    steps = trainer.rollout.valid.sum((1, 2))
    trainer.global_steps = trainer.global_steps + steps
    trainer.iteration += 1
    measured = [measure(trainer, seed, batch, *looked) for seed, looked in enumerate(before)]
    clock.spent("probe")
    seconds = clock.lap()
    rate = 1.0 / sum(seconds.values())
    lr = float(trainer.optimizers[0].param_groups[0]["lr"])
    return [
        {
            **episode_metrics(trainer, seed),
            "charts/SPS": float(steps[seed]) * rate,
            "charts/learning_rate": lr,
            **losses[seed],
            **(measured[seed] if due else {}),
            **{f"time/{name}_seconds": spent for name, spent in seconds.items()},
        }
        for seed in range(config.seeds)
    ]


def anneal(trainer: Trainer) -> None:
    """Set the learning rate of this iteration."""
    if not trainer.config.anneal_lr:
        return
    left = 1.0 - trainer.iteration / num_iterations(trainer.config)
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * left


def collect(trainer: Trainer, clock: Clock) -> None:
    """Fill the rollout with the next `num_steps` steps of every env."""
    config, rollout, stream = trainer.config, trainer.rollout, trainer.stream
    stack, distribution = trainer.stack, trainer.distribution
    shape = (config.num_steps, config.num_envs)
    noise = torch.stack([distribution.draw_noise(shape, one) for one in trainer.generators])
    stream.ended.clear()
    for step in range(config.num_steps):
        rollout.obs[:, step] = stream.obs
        with torch.inference_mode():
            outputs, _ = stack.forward("actor", rollout.obs[:, step].to(config.device))
            raw_actions = distribution.sample(outputs, noise[:, step])
            rollout.raw_actions[:, step] = raw_actions
            actions = distribution.to_env(raw_actions).flatten(0, 1).cpu().numpy()
        clock.spent("inference")
        advance(trainer, step, actions)
        clock.spent("env")
    rollout.obs[:, -1] = stream.obs


def advance(trainer: Trainer, step: int, actions: np.ndarray) -> None:
    """Step the environments and write what came of the actions into row `step`."""
    stream, rollout = trainer.stream, trainer.rollout
    seeds = trainer.config.seeds
    steps = trainer.env.step(actions)
    valid = stream.valid
    rewards = trainer.preprocessor.reward(steps.reward, steps.terminated, valid)
    rollout.rewards[:, step] = rewards
    rollout.terminated[:, step] = steps.terminated.reshape(seeds, -1)
    rollout.truncated[:, step] = steps.truncated.reshape(seeds, -1)
    rollout.valid[:, step] = valid.reshape(seeds, -1)
    stream.elapsed = stream.elapsed + valid
    stream.episodic_return = stream.episodic_return + steps.reward
    stream.obs = trainer.preprocessor.observe(steps.obs, stream.elapsed)
    if steps.ended.any():
        for env in np.flatnonzero(steps.ended):
            episode = (int(env), float(stream.episodic_return[env]), int(stream.elapsed[env]))
            stream.ended.append(episode)
        stream.elapsed = np.where(steps.ended, 0, stream.elapsed)
        stream.episodic_return = np.where(steps.ended, 0.0, stream.episodic_return)
    stream.valid = ~steps.resets


def episode_metrics(trainer: Trainer, seed: int) -> dict[str, float]:
    """Return `charts/*` of one seed's episodes that ended in this iteration, raw returns."""
    envs = trainer.config.num_envs
    ended = [episode for episode in trainer.stream.ended if episode[0] // envs == seed]
    if not ended:
        return {"charts/episodes": 0}
    _, returns, lengths = zip(*ended, strict=True)
    return {
        "charts/episodes": len(ended),
        "charts/episodic_return": float(np.mean(returns)),
        "charts/episodic_return_max": max(returns),
        "charts/episodic_length": float(np.mean(lengths)),
    }


@dataclasses.dataclass
class Batch:
    """What the update works on: rows of one rollout, each (seeds, rows, ...)."""

    obs: Tensor  # as Rollout.rows
    numbers: Tensor  # (seeds, rows, raw_size + 5) raw action and the five that `Minibatch` names
    outputs: dict[str, Tensor]  # by network, before the update
    preactivations: dict[str, Tensor]  # likewise, where something needs them: (seeds, rows, units)


@dataclasses.dataclass
class Minibatch:
    """Rows of a batch, each (seeds, rows, ...)."""

    obs: Tensor
    raw_actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    weights: Tensor  # float32 that sum to 1 over each seed's rows, 0 on rows that only reset
    outputs: dict[str, Tensor]
    preactivations: dict[str, Tensor]


@torch.no_grad()
def make_batch(trainer: Trainer) -> Batch:
    """Run the networks over the rollout before the update, and compute what it aims at."""
    config, rollout, distribution = trainer.config, trainer.rollout, trainer.distribution
    obs, every = rollout.rows(), rollout.obs.flatten(1, 2)
    outputs, preactivations = {}, {}
    outputs["actor"], preactivations["actor"] = trainer.stack.forward("actor", obs)
    all_values, of_critic = trainer.stack.forward("critic", every)
    preactivations["critic"] = [layer[:, : obs.shape[1]] for layer in of_critic]
    outputs["critic"] = all_values[:, : obs.shape[1]]
    values = all_values.view(config.seeds, config.num_steps + 1, config.num_envs)
    advantages = estimate_advantages(config, rollout, values)
    raw_actions = rollout.raw_actions.flatten(1, 2)
    log_probs = distribution.log_prob(outputs["actor"], raw_actions)
    valid = torch.from_numpy(rollout.valid).to(config.device)
    columns = (log_probs, advantages, advantages + values[:, :-1], values[:, :-1], valid)
    columns = [column.reshape(*log_probs.shape, 1).float() for column in columns]
    return Batch(
        obs=obs,
        numbers=torch.cat([raw_actions, *columns], -1),
        outputs=outputs,
        preactivations={
            name: select_preactivations(config, trainer, layers)
            for name, layers in preactivations.items()
            if has_pfo(config, name) or trainer.changes("preactivations")
        },
    )


def estimate_advantages(config: PpoConfig, rollout: Rollout, values: Tensor) -> Tensor:
    """Return advantages (seeds, num_steps, num_envs); values have one more step."""
    done = rollout.terminated | rollout.truncated
    terminated = done if config.timeout_is_terminal else rollout.terminated
    arrays = (rollout.rewards, terminated, done)
    rewards, terminated, done = (torch.from_numpy(array).to(values.device) for array in arrays)
    return gae(
        *(tensor.transpose(0, 1) for tensor in (rewards, values, terminated, done)),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    ).transpose(0, 1)


def select_preactivations(config: PpoConfig, trainer: Trainer, layers: list[Tensor]) -> Tensor:
    """Return (seeds, rows, units) of the last hidden layer, or of all of them."""
    scopes = {one.scope for one in trainer.interventions[0].values() if one.changes}
    wants_all = config.pfo_layers == "all" if config.pfo_coef else "all" in scopes
    return torch.cat([layer.flatten(2) for layer in layers[0 if wants_all else -1 :]], -1)


@dataclasses.dataclass
class Reference:
    """Rows on which a step must change little, and what the networks made of them before it."""

    obs: Tensor  # (seeds, rows, *obs_shape)
    outputs: dict[str, Tensor]  # by network


def update(trainer: Trainer, batch: Batch) -> list[dict[str, float]]:
    """Improve actor and critic on the batch; return each seed's mean losses."""
    config = trainer.config
    num_rows = batch.obs.shape[1]
    size = num_rows // config.num_minibatches
    watches_churn = trainer.changes("reference")
    reference: Reference | None = None
    losses: list[Tensor] = []  # each (seeds, len(LOSSES))
    for _ in range(config.update_epochs):
        order = torch.stack([torch.randperm(num_rows, generator=g) for g in trainer.generators])
        picks = order[:, : size * config.num_minibatches].split(size, 1)
        for index, pick in enumerate(picks):
            minibatch = select(batch, pick)
            total, parts = loss(trainer, minibatch, reference)
            if watches_churn:  # the step after this one trains on the next rows, not on these
                reference = look_at(trainer, select(batch, picks[(index + 2) % len(picks)]).obs)
            norms = gradient_step(trainer, total)
            losses.append(torch.cat([parts, norms], -1))
            after_step(trainer, minibatch)
            if config.target_kl and parts[0, KL_COLUMN] > config.target_kl:
                break
        else:
            continue
        break
    after_batch(trainer, batch)
    return summarise(trainer, torch.stack(losses))


def summarise(trainer: Trainer, losses: Tensor) -> list[dict[str, float]]:
    """Return each seed's mean losses, and those of the first and last step when measured.

    Args:
        trainer: says whether this iteration is measured.
        losses: (steps, seeds, len(LOSSES)).
    """
    kinds = {"losses": losses.mean(0)}
    if trainer.instruments[0].due(trainer.iteration):
        kinds |= {"first_minibatch": losses[0], "last_minibatch": losses[-1]}
    tables = {kind: table.tolist() for kind, table in kinds.items()}
    return [
        {
            name.replace("losses", kind, 1): value
            for kind, table in tables.items()
            for name, value in zip(LOSSES, table[seed], strict=True)
        }
        | {"losses/updates": len(losses)}
        for seed in range(trainer.config.seeds)
    ]


def select(batch: Batch, pick: Tensor) -> Minibatch:
    """Return the rows `pick` (seeds, rows) of a batch."""
    seeds, num_rows = batch.obs.shape[:2]
    flat = (pick + num_rows * torch.arange(seeds).unsqueeze(1)).flatten().to(batch.obs.device)

    def rows(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1).index_select(0, flat).unflatten(0, (seeds, -1))

    numbers = rows(batch.numbers)
    raw_actions, (*columns, valid) = numbers[..., :-5], numbers[..., -5:].unbind(-1)
    return Minibatch(
        rows(batch.obs),
        raw_actions,
        *columns,
        weights=valid / valid.sum(1, keepdim=True).clamp(min=1.0),
        outputs={name: rows(tensor) for name, tensor in batch.outputs.items()},
        preactivations={name: rows(tensor) for name, tensor in batch.preactivations.items()},
    )


def loss(
    trainer: Trainer, minibatch: Minibatch, reference: Reference | None
) -> tuple[Tensor, Tensor]:
    """Return the loss summed over seeds, and (seeds, len(LOSSES) - 2) its parts for the log."""
    config, distribution, weights = trainer.config, trainer.distribution, minibatch.weights
    forward = {name: trainer.stack.forward(name, minibatch.obs) for name in NETWORKS}
    outputs = {name: pair[0] for name, pair in forward.items()}
    pfo, keep, preactivations = torch.zeros(config.seeds), None, {}
    for name, old in minibatch.preactivations.items():
        preactivations[name] = select_preactivations(config, trainer, forward[name][1])
        if has_pfo(config, name):
            pfo = pfo + pfo_term(config, preactivations[name], old, weights)
            keep = pfo_mask(config, preactivations[name], old)
            weights = weights if keep is None else weights * keep
    policy, statistics = policy_loss(config, distribution, minibatch, outputs["actor"], weights)
    value = value_loss(config, minibatch, outputs["critic"].squeeze(-1), weights)
    entropy = distribution.entropy(outputs["actor"], minibatch.raw_actions)
    entropy = (entropy * weights).sum(1)
    extra = torch.zeros(config.seeds)
    if trainer.changes("loss"):
        extra = intervention_loss(trainer, minibatch, outputs, preactivations, reference)
    total = policy - config.ent_coef * entropy + config.vf_coef * value + pfo + extra
    parts = [policy, value, entropy, *statistics, pfo, extra]
    return total.sum(), torch.stack(parts, -1).detach()


def policy_loss(
    config: PpoConfig,
    distribution: Distribution,
    minibatch: Minibatch,
    outputs: Tensor,
    weights: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Return PPO's clipped loss (Schulman et al. 2017, eq. 7) and KL, clipped share, mean ratio.

    All (seeds,); KL is the k3 estimate of Schulman 2020, clipped the share outside the clip range.
    """
    log_ratio = distribution.log_prob(outputs, minibatch.raw_actions) - minibatch.log_probs
    if config.log_ratio_clamp:
        log_ratio = log_ratio.clamp(*LOG_RATIO_RANGE)
    ratio = log_ratio.exp()
    advantages = normalise(minibatch.advantages, minibatch.weights, config.norm_adv)
    bounded = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
    policy = -(torch.minimum(ratio * advantages, bounded * advantages) * weights).sum(1)
    with torch.no_grad():
        kl = ((ratio - 1 - log_ratio) * minibatch.weights).sum(1)
        clipped = (((ratio - 1).abs() > config.clip_coef) * minibatch.weights).sum(1)
        mean_ratio = (ratio * minibatch.weights).sum(1)
    return policy, [kl, clipped, mean_ratio]


def normalise(advantages: Tensor, weights: Tensor, deviation: str) -> Tensor:
    """Return advantages (seeds, rows) with mean 0 and deviation 1 over each seed's rows."""
    if deviation == "none":
        return advantages
    centred = advantages - (advantages * weights).sum(1, keepdim=True)
    variance = (centred.square() * weights).sum(1, keepdim=True)
    if deviation == "biased":
        return centred / variance.sqrt().clamp(min=1e-6)
    count = (weights > 0).sum(1, keepdim=True)
    return centred / ((variance * count / (count - 1).clamp(min=1)).sqrt() + 1e-8)


def value_loss(config: PpoConfig, minibatch: Minibatch, values: Tensor, weights: Tensor) -> Tensor:
    """Return half the mean squared error (seeds,), the larger of plain and clipped if asked."""
    errors = (values - minibatch.returns).square()
    if config.clip_vloss:
        change = (values - minibatch.values).clamp(-config.clip_coef, config.clip_coef)
        errors = torch.maximum(errors, (minibatch.values + change - minibatch.returns).square())
    return 0.5 * (errors * weights).sum(1)


def intervention_loss(
    trainer: Trainer,
    minibatch: Minibatch,
    outputs: dict[str, Tensor],
    preactivations: dict[str, Tensor],
    reference: Reference | None,
) -> Tensor:
    """Return the loss terms of the interventions (seeds,)."""
    again = {}
    if reference is not None:
        again = {name: trainer.stack.forward(name, reference.obs)[0] for name in NETWORKS}
    totals = []
    for seed, hooks in enumerate(trainer.interventions):
        terms = [torch.zeros(())]
        rows = minibatch.weights[seed] > 0
        for name in NETWORKS:
            if "loss" not in hooks[name].changes:
                continue
            inputs = LossInputs(
                outputs[name][seed][rows],
                minibatch.outputs[name][seed][rows],
                *(
                    found[name][seed][rows] if name in found else torch.empty(0)
                    for found in (preactivations, minibatch.preactivations)
                ),
                DIVERGENCES[name](trainer.distribution),
                again[name][seed] if reference else None,
                reference.outputs[name][seed] if reference else None,
            )
            terms.append(hooks[name].loss(trainer.handles[seed][name], inputs))
        totals.append(torch.stack(terms).sum())
    return torch.stack(totals)


DIVERGENCES = {
    "actor": lambda distribution: distribution.kl,
    "critic": lambda _: lambda old, new: (new - old).square().sum(-1),
}


@torch.no_grad()
def look_at(trainer: Trainer, obs: Tensor) -> Reference:
    """Return what the networks make of the rows `obs` now."""
    return Reference(obs, {name: trainer.stack.forward(name, obs)[0] for name in NETWORKS})


def gradient_step(trainer: Trainer, total: Tensor) -> Tensor:
    """Take one optimizer step; return (seeds, 2) gradient norms of actor and critic before it."""
    config, stack = trainer.config, trainer.stack
    for block in stack.blocks.values():
        block.flat.grad.zero_()
    total.backward()
    names = list(stack.blocks)
    if "trunk" in names and config.step_trunk_twice:
        before = torch.stack([block.flat.grad.norm(dim=1) for block in stack.blocks.values()])
        for name in NETWORKS:
            clip_gradients(network_blocks(stack, name), config.max_grad_norm)
    elif config.clip_grad_apart and "trunk" not in names:
        before = torch.cat(
            [clip_gradients([b], config.max_grad_norm) for b in stack.blocks.values()]
        )
    else:
        before = clip_gradients(list(stack.blocks.values()), config.max_grad_norm)
    for optimizer in trainer.optimizers:
        optimizer.step()
    shares = [[names.index(n) for n in names if n in (network, "trunk")] for network in NETWORKS]
    return torch.stack([joint_norm(before[share]) for share in shares], -1)


@torch.no_grad()
def after_step(trainer: Trainer, minibatch: Minibatch) -> None:
    """Let interventions act after a gradient step."""
    if not trainer.changes("after_step"):
        return
    for seed, hooks in enumerate(trainer.interventions):
        for name in NETWORKS:
            hooks[name].after_step(trainer.handles[seed][name], minibatch.obs[seed])


@torch.no_grad()
def after_batch(trainer: Trainer, batch: Batch) -> None:
    """Let interventions act after the last gradient step of a batch."""
    if not trainer.changes("after_batch"):
        return
    for seed, hooks in enumerate(trainer.interventions):
        for name in NETWORKS:
            hooks[name].after_batch(trainer.handles[seed][name], valid_rows(trainer, seed))


# Measuring ---------------------------------------------------------------------------------------


def valid_rows(trainer: Trainer, seed: int) -> Tensor:
    """Return one seed's observations (rows, *obs_shape) of the rollout that are transitions."""
    rows = trainer.rollout.rows()[seed]
    return rows[torch.from_numpy(trainer.rollout.valid[seed].flatten())]


def view(trainer: Trainer, seed: int) -> dict[str, View]:
    """Watch one seed's networks on the whole batch."""
    rows, agent = valid_rows(trainer, seed), trainer.stack.agents[seed]
    calls = {name: lambda name=name: getattr(agent, name)(rows) for name in NETWORKS}
    return trainer.instruments[seed].view(calls)


def look(trainer: Trainer, seed: int) -> tuple[dict[str, View], dict[str, float]]:
    """Return one seed's view and metrics before an update."""
    views = view(trainer, seed)
    parameters = trainer.distribution.parameters(views["actor"].outputs)
    values = views["critic"].outputs.squeeze(-1)
    metrics = trainer.instruments[seed].start_metrics(views)
    return views, metrics | diversity_metrics(parameters, values)


def measure(
    trainer: Trainer, seed: int, batch: Batch, before: dict[str, View], metrics: dict[str, float]
) -> dict[str, float]:
    """Add one seed's metrics after an update, drift and trust region to those before it."""
    instruments, distribution = trainer.instruments[seed], trainer.distribution
    after = view(trainer, seed)
    numbers = batch.numbers[seed]
    numbers = numbers[numbers[:, -1] > 0]
    raw_actions, log_probs, advantages = numbers[:, :-5], numbers[:, -5], numbers[:, -4]
    log_ratio = distribution.log_prob(after["actor"].outputs, raw_actions) - log_probs
    if trainer.config.log_ratio_clamp:
        log_ratio = log_ratio.clamp(*LOG_RATIO_RANGE)
    kl = distribution.kl(before["actor"].outputs, after["actor"].outputs)
    return {
        **metrics,
        **instruments.end_metrics(before, after),
        **instruments.trust_region(
            int(trainer.global_steps[seed]), log_ratio, advantages, kl, trainer.config.clip_coef
        ),
    }


# Saving ------------------------------------------------------------------------------------------


def save_state(trainer: Trainer) -> list[Checkpoint]:
    """Return each seed's checkpoint: everything but the state of the environments."""
    return [save_seed(trainer, seed) for seed in range(trainer.config.seeds)]


def save_seed(trainer: Trainer, seed: int) -> Checkpoint:
    """Return what `load_state` needs of one seed."""
    moments = [
        {
            name: {
                key: value.clone() if key == "step" else value[seed].clone()
                for key, value in optimizer.state[block.flat].items()
            }
            for name, block in trainer.stack.blocks.items()
            if block.flat in optimizer.state
        }
        for optimizer in trainer.optimizers
    ]
    preprocessor = trainer.preprocessor.state_dict(seed)
    weights = trainer.stack.agents[seed].state_dict()
    return Checkpoint(
        global_step=int(trainer.global_steps[seed]),
        weights={name: value.clone() for name, value in weights.items()}
        | preprocessor_weights(preprocessor),
        trainer={
            "iteration": trainer.iteration,
            "optimizers": moments,
            "generator": trainer.generators[seed].get_state(),
            "preprocessor": preprocessor,
            "excess": trainer.instruments[seed].excess.state_dict(),
            "interventions": {
                name: hooks.state_dict() for name, hooks in trainer.interventions[seed].items()
            },
        },
        env={},
        metadata={"algorithm": "ppo", "env": trainer.env.id},
    )


def load_state(trainer: Trainer, seed: int, checkpoint: Checkpoint) -> None:
    """Put back what `save_seed` returned."""
    saved = checkpoint.trainer
    agent = trainer.stack.agents[seed]
    with torch.no_grad():  # in place: the parameters are views
        for name, value in agent.state_dict().items():
            value.copy_(checkpoint.weights[name])
    for optimizer, moments in zip(trainer.optimizers, saved["optimizers"], strict=True):
        for name, values in moments.items():
            flat = trainer.stack.blocks[name].flat
            for key, value in values.items():
                state = optimizer.state[flat]
                if key == "step":
                    state[key] = value.clone()
                else:
                    state.setdefault(key, torch.zeros_like(flat))[seed] = value
    trainer.generators[seed].set_state(saved["generator"])
    trainer.preprocessor.load_state_dict(seed, saved["preprocessor"])
    trainer.instruments[seed].excess.load_state_dict(saved["excess"])
    for name, state in saved["interventions"].items():
        trainer.interventions[seed][name].load_state_dict(state)
    trainer.iteration = saved["iteration"]
    trainer.global_steps[seed] = checkpoint.global_step


def preprocessor_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the statistics that a policy needs beside its weights, under names of their own."""
    return {f"preprocessor.{name}": value for name, value in state.items() if name != "discounted"}
