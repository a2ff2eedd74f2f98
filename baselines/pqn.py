"""PQN (Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning") for teams.

Q(lambda) over the rollout with the network that learns: no replay and no target network; normalised
layers keep it stable. With `--mixer sum` it is PQN-VDN. docs/baselines.md lists each choice.
"""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.advantages import lambda_returns
from baselines.buffers import RolloutBuffer
from baselines.checkpoints import Checkpoint
from baselines.config import PqnConfig
from baselines.minibatches import repeat_for_agents
from baselines.rollout import Clock, Stream, collect, iteration_metrics
from baselines.run import derive_seeds
from baselines.training import anneal, finish, train_battles
from baselines.value_agent import (
    LOSSES,
    TeamValues,
    ValueAgent,
    change_agent_layers,
    epsilon_at,
    exploration,
    gradient_step,
    load_agent,
    make_optimizer,
    mask_values,
    total_loss,
)
from baselines.value_instruments import Plasticity, Seen
from baselines.vector_envs import make_battles


@dataclasses.dataclass
class Trainer:
    """All that changes while PQN trains: a `training.Learner`."""

    config: PqnConfig
    env: Any
    learned: TeamValues
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    buffer: RolloutBuffer
    stream: Stream
    plasticity: Plasticity
    global_step: int = 0
    iteration: int = 0

    def iterate(self) -> dict[str, float]:
        """Run one iteration: a rollout and an update; return its metrics."""
        return iterate(self)

    def save_state(self) -> Checkpoint:
        """Return everything that `load_state` needs to go on bit for bit."""
        return save_state(self)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Put back what `save_state` returned."""
        load_state(self, checkpoint)


@dataclasses.dataclass
class Minibatch:
    """The rollout of some envs, history included; `num_rows` is its steps and the one that follows.

    Values and inputs of the agents' network have (num_rows * envs * num_agents) rows.
    """

    inputs: Tensor  # (num_rows, envs * num_agents, input_size)
    hidden: Tensor  # (envs * num_agents, memory_size of the network) before the first row
    keep: Tensor  # (num_rows, envs * num_agents, 1) 0.0 where an episode begins
    state: Tensor  # (num_rows, envs, state_size)
    action_mask: Tensor  # (num_rows, envs, num_agents, num_actions) bool
    actions: Tensor  # (num_rows - 1, envs, num_agents)
    rewards: Tensor  # (num_rows - 1, envs)
    terminated: Tensor  # (num_rows - 1, envs) bool
    done: Tensor  # (num_rows - 1, envs) bool
    learns: Tensor  # (num_rows - 1, envs) bool, neither history nor a reset row


def main(config: PqnConfig) -> int:
    """Train, and say how to evaluate the result; return the exit status."""
    return finish(*train(config))


def train(config: PqnConfig) -> tuple[list[Path], int | None]:
    """Train, or continue the run or group `config.resume`; see `training.train_battles`."""
    return train_battles("pqn", config, make_trainer)


def make_trainer(config: PqnConfig) -> Trainer:
    """Build networks, optimizer and buffer, and reset the environment; all from the seed."""
    env = make_battles(config)
    environment_seed, learner_seed = derive_seeds(config.seed)
    torch.manual_seed(learner_seed)
    learned = TeamValues(config, env.unwrapped)
    hooks = change_agent_layers(config, learned.agent)
    learned = learned.to(config.device)
    optimizer = make_optimizer(config, learned, hooks)
    generator = torch.Generator(config.device)
    generator.manual_seed(learner_seed)
    obs, info = env.reset(seed=environment_seed)
    return Trainer(
        config=config,
        env=env,
        learned=learned,
        optimizer=optimizer,
        generator=generator,
        buffer=RolloutBuffer(
            env,
            config.memory_window + config.num_steps,
            config.device,
            history=config.memory_window,
            memory_size=learned.agent.memory_size,
        ),
        stream=Stream.start(obs, info, learned.agent.initial_hidden(config.num_envs)),
        plasticity=Plasticity.start(config, learned.agent, hooks, optimizer, generator),
    )


def save_state(trainer: Trainer) -> Checkpoint:
    """Return everything that `load_state` needs to go on bit for bit."""
    return Checkpoint(
        global_step=trainer.global_step,
        weights=trainer.learned.state_dict(),
        trainer={
            "optimizer": trainer.optimizer.state_dict(),
            "generator": trainer.generator.get_state(),
            "stream": trainer.stream.state_dict(),
            "buffer": trainer.buffer.state_dict(),
            "iteration": trainer.iteration,
            "interventions": trainer.plasticity.state_dict(),
        },
        env=trainer.env.unwrapped.checkpoint(),
        metadata={"algorithm": "pqn", "env": trainer.env.spec.id},
    )


def load_state(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put back what `save_state` returned."""
    saved = checkpoint.trainer
    trainer.learned.load_state_dict(checkpoint.weights)
    trainer.optimizer.load_state_dict(saved["optimizer"])
    trainer.generator.set_state(saved["generator"])
    trainer.stream.restore(trainer.env, checkpoint.env, saved["stream"])
    trainer.buffer.load_state_dict(saved["buffer"])
    trainer.global_step = checkpoint.global_step
    trainer.iteration = saved["iteration"]
    trainer.plasticity.load_state_dict(saved["interventions"])


def iterate(trainer: Trainer) -> dict[str, float]:
    """Run one iteration: a rollout and an update; return its metrics."""
    config, clock, buffer = trainer.config, Clock(), trainer.buffer
    agent, epsilon = trainer.learned.agent, epsilon_at(config, trainer.global_step)
    anneal(config, trainer.optimizer, trainer.global_step)
    buffer.repeat_end()
    shape = (config.num_steps, config.num_envs, agent.num_agents, agent.num_actions)
    noise = exploration(shape, epsilon, trainer.generator)
    episodes = collect(trainer.env, trainer.stream, agent.act, noise, buffer, clock)
    steps = int(buffer.valid[buffer.history : -1].sum())
    trainer.global_step += steps
    metrics = update(trainer, clock) if steps else {}
    trainer.iteration += 1
    clock.spent("learn")
    metrics = {"charts/epsilon": epsilon, **metrics}
    return iteration_metrics(episodes, steps, trainer.optimizer, clock, metrics)


def update(trainer: Trainer, clock: Clock) -> dict[str, float]:
    """Take all gradient steps of an iteration; return the means of the losses."""
    config, plasticity, agent = trainer.config, trainer.plasticity, trainer.learned.agent
    pick = partial(select, agent, trainer.buffer)
    everyone = cache(partial(pick, torch.arange(config.num_envs, device=config.device)))
    due = plasticity.instruments.due(trainer.iteration)
    clock.spent("learn")
    look = partial(plasticity.look, partial(values_of, agent, everyone())) if due else dict
    looked = look()
    clock.spent("probe")
    before = look_back(trainer, everyone()) if plasticity.needs_before else None
    losses, measured, reference = [], {}, None
    for _ in range(config.update_epochs):
        order = torch.randperm(config.num_envs, generator=trainer.generator, device=config.device)
        parts = order.tensor_split(config.num_minibatches)
        for index, envs in enumerate(parts):
            batch = pick(envs)
            if not batch.learns.any():
                continue
            total, values = loss(
                trainer, batch, seen_of(before, envs) if before else None, reference
            )
            if "reference" in plasticity.hooks.changes:  # trained on in the step after next
                other = pick(parts[(index + 2) % len(parts)])
                reference = other, values_of(agent, other).detach()
            norm = gradient_step(config, trainer.optimizer, trainer.learned, total)
            losses.append(torch.cat([values, norm]))
            plasticity.after_step(partial(inputs_of, batch))
    means = torch.stack(losses).mean(0).tolist()  # the one transfer of the update
    clock.spent("learn")
    if due:
        measured = plasticity.metrics(looked, look())
        clock.spent("probe")
    plasticity.after_batch(lambda: inputs_of(everyone()))
    return {**dict(zip(LOSSES, means, strict=True)), **measured}


def inputs_of(batch: Minibatch) -> Tensor:
    """Return what the network sees of a batch: (rows * num_agents, input_size)."""
    return batch.inputs.flatten(0, 1)


@torch.no_grad()
def look_back(trainer: Trainer, whole: Minibatch) -> Seen:
    """Return what the network does before the update, as (num_rows, num_envs, agents, ...)."""
    agent, shape = trainer.learned.agent, whole.action_mask.shape[:3]
    seen = trainer.plasticity.see(agent, lambda one: values_of(one, whole))
    hidden = seen.preactivations
    return Seen(seen.values.view(*shape, -1), None if hidden is None else hidden.view(*shape, -1))


def seen_of(before: Seen, envs: Tensor) -> Seen:
    """Return the rows of a minibatch."""

    def pick(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.index_select(1, envs).flatten(0, 2)

    return Seen(pick(before.values), pick(before.preactivations))


def select(agent: ValueAgent, buffer: RolloutBuffer, envs: Tensor) -> Minibatch:
    """Return the minibatch of some envs (num_selected,)."""

    def pick(tensor: Tensor) -> Tensor:
        return tensor.index_select(1, envs)

    memory, size = pick(buffer.memory), agent.network.memory_size
    terminated = pick(buffer.terminated)
    learns = pick(buffer.valid)[:-1].clone()
    learns[: buffer.history] = False
    return Minibatch(
        inputs=agent.inputs(pick(buffer.obs), memory[..., size:]).flatten(1, 2),
        hidden=memory[0, ..., :size].flatten(0, 1),
        keep=repeat_for_agents(pick(buffer.keep()), agent.num_agents),
        state=pick(buffer.state),
        action_mask=pick(buffer.action_mask),
        actions=pick(buffer.actions),
        rewards=pick(buffer.rewards),
        terminated=terminated,
        done=terminated | pick(buffer.truncated),
        learns=learns,
    )


def values_of(agent: ValueAgent, batch: Minibatch) -> Tensor:
    """Return action values (num_rows * envs * num_agents, num_actions)."""
    return agent.network.sequence(batch.inputs, batch.hidden, batch.keep)[0]


def loss(
    trainer: Trainer,
    batch: Minibatch,
    old: Seen | None = None,
    reference: tuple[Minibatch, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss, and its parts in the order of LOSSES but for the gradient norm.

    Args:
        trainer: what learns.
        batch: what it learns from.
        old: what the network did on the batch before the update, where a term needs it.
        reference: another batch with the values before the last gradient step, on which
            interventions hold the network still.
    """
    learned, plasticity = trainer.learned, trainer.plasticity
    new = plasticity.see(learned.agent, lambda agent: values_of(agent, batch))
    values = new.values.view(batch.action_mask.shape)
    with torch.no_grad():
        returns = make_returns(trainer, batch, values.detach())[batch.learns]
    chosen = values[:-1].gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    joint = learned.mixer(chosen[batch.learns], batch.state[:-1][batch.learns])
    again = None if reference is None else (values_of(learned.agent, reference[0]), reference[1])
    pfo, extra, keep = plasticity.terms(new, old, again)
    if keep is not None:
        keep = keep.view(batch.action_mask.shape[:3])[:-1][batch.learns]
    return total_loss(joint, returns, pfo, extra, keep)


def make_returns(trainer: Trainer, batch: Minibatch, values: Tensor) -> Tensor:
    """Return Q(lambda) returns (num_rows - 1, envs, 1), or num_agents wide without a mixer.

    Args:
        trainer: mixer and settings.
        batch: the rollout of some envs.
        values: (num_rows, envs, num_agents, num_actions) of the network that learns.
    """
    config = trainer.config
    best = mask_values(values, batch.action_mask).amax(-1)
    following = trainer.learned.mixer(best[1:].flatten(0, 1), batch.state[1:].flatten(0, 1))
    following = following.view(len(best) - 1, best.shape[1], -1)
    rewards = (batch.rewards * config.reward_scale).unsqueeze(-1)
    terminated = batch.done if config.timeout_is_terminal else batch.terminated
    return lambda_returns(
        rewards.expand_as(following),
        following,
        terminated.unsqueeze(-1),
        batch.done.unsqueeze(-1),
        gamma=config.gamma,
        td_lambda=config.td_lambda,
    )


load_policy = load_agent  # for `baselines evaluate`
