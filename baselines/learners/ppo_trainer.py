"""All that changes while PPO trains: how it is built from the seeds, saved and put back."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from baselines.config import PpoConfig
from baselines.errors import UsageError
from baselines.experience.episodes import VectorEnv, make_vector_env
from baselines.experience.preprocess import Preprocessor
from baselines.learners.ppo_stack import Block, SeedHandle, Stack
from baselines.networks.distributions import Distribution, make_distribution
from baselines.networks.network import (
    ActorCritic,
    AppendLogStd,
    hidden_layers,
    initialise_orthogonal,
)
from baselines.plasticity import NETWORKS, Instruments, change_layers, interventions_of
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.folder import derive_seeds
from ppo_plasticity.interventions import Interventions


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


def make_trainer(config: PpoConfig, checkpoints: list[Checkpoint] = ()) -> Trainer:
    """Build everything from the seeds, then put back what the checkpoints (one a seed) hold."""
    if config.target_kl and config.seeds > 1:
        raise UsageError("--target-kl ends each seed's updates at another step: use --seeds 1")
    iteration = checkpoints[0].trainer["iteration"] if checkpoints else 0
    seeds = [config.seed + index for index in range(config.seeds)]
    env = make_vector_env(config, env_seeds(config, seeds, iteration))
    preprocessor = Preprocessor(config, env)
    distribution = space_of(config, env)
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


def space_of(config: PpoConfig, env: VectorEnv) -> Distribution:
    """Return the distribution over an environment's actions.

    Raises:
        UsageError: a policy for continuous actions was asked for where actions are discrete, or
            squashing where they are unbounded.
    """
    if env.discrete:
        if config.policy != "normal":
            raise UsageError(f"--policy {config.policy}: {env.id} has discrete actions")
        return make_distribution(config.policy, env.num_actions, None)
    low, high = (
        torch.from_numpy(bound.astype(np.float32)).to(config.device)
        for bound in (env.action_space.low, env.action_space.high)
    )
    if config.policy != "normal" and not (high - low).isfinite().all():
        raise UsageError(
            f"--policy {config.policy}: actions of {env.id} have no bounds; use normal"
        )
    return make_distribution(config.policy, env.num_actions, (low, high))


def env_seeds(config: PpoConfig, seeds: list[int], iteration: int) -> list[int]:
    """Return one seed an env; a run that goes on after `iteration` begins other episodes."""
    bases = [derive_seeds(seed if iteration == 0 else (seed, iteration))[0] for seed in seeds]
    bases = [max(base, FIRST_TRAINING_SEED) for base in bases]
    return [base + env for base in bases for env in range(config.num_envs)]


FIRST_TRAINING_SEED = 2**16  # those below are for evaluation, see baselines.ppo_evaluation


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
        name: change_layers(interventions[name], nn.Sequential(*trunk, head))
        for name, trunk, head in zip(NETWORKS, trunks, heads, strict=True)
    }
    if config.init == "orthogonal":
        initialise_orthogonal(networks["actor"], 0.01)
        initialise_orthogonal(networks["critic"], 1.0)
    if config.shared_trunk:
        check_same_layers(interventions)
        actor, critic = networks.values()
        networks["critic"] = nn.Sequential(*list(actor)[:-1], *list(critic)[-1:])
    if not has_std:
        networks["actor"].append(AppendLogStd(distribution.raw_size))
    return ActorCritic(**networks).to(config.device)


def check_same_layers(interventions: dict[str, Interventions]) -> None:
    """Raise `UsageError` where interventions ask for other layers in a trunk that is shared."""
    kinds = {
        name: [type(one) for one in hooks.interventions if "layers" in one.changes]
        for name, hooks in interventions.items()
    }
    if kinds["actor"] != kinds["critic"]:
        raise UsageError(
            "--intervention: layers of a shared trunk change for actor and critic alike;"
            " name no network"
        )


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


def network_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's weights without what `preprocessor_weights` added."""
    return {name: value for name, value in weights.items() if not name.startswith("preprocessor.")}
