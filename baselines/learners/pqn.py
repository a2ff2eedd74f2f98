"""PQN (Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning") for teams.

Q(lambda) over the rollout with the network that learns: no replay and no target network; normalised
layers keep it stable. With `--mixer sum` it is PQN-VDN. docs/pqn.md lists each choice.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.config import PqnConfig
from baselines.experience.advantages import lambda_returns
from baselines.experience.buffers import RolloutBuffer
from baselines.experience.collect import (
    Choice,
    Clock,
    Collector,
    Shown,
    Stream,
    collect,
    each,
    iteration_metrics,
)
from baselines.experience.episodes import make_battles
from baselines.experience.minibatches import repeat_for_agents
from baselines.learners.value_based import (
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
from baselines.learners.value_instruments import Plasticity, Seen
from baselines.networks.network_stack import PLACES, NetworkStack, runs_as_one
from baselines.plasticity import View
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.folder import derive_seeds, seed_globals
from baselines.runs.loop import Learners, Metrics, anneal, finish, train_battles


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

    def iterate(self) -> Metrics:
        """Run one iteration: a rollout and an update; return its metrics."""
        return iterate([self])[0]

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
    return train_battles("pqn", config, make_trainer, Seeds)


class Seeds(Learners):
    """The seeds of PQN that train at once; on a GPU their networks run as one.

    There they do not take turns, and nothing may draw from the global random numbers meanwhile.
    """

    def iterate(self) -> list[Metrics | None]:
        """Let each seed that is not finished collect and learn once."""
        if not runs_as_one(self.learners[0].learned.agent.network):
            return super().iterate()
        steps = self.global_steps
        left = [index for index, step in enumerate(steps) if step < self.total_steps]
        metrics: list[Metrics | None] = [None] * len(steps)
        for start in range(0, len(left), PLACES):
            group = left[start : start + PLACES]
            found = iterate([self.learners[index] for index in group])
            for index, row in zip(group, found, strict=True):
                metrics[index] = row
        return metrics


def make_trainer(config: PqnConfig) -> Trainer:
    """Build networks, optimizer and buffer, and reset the environment; all from the seed."""
    environment_seed, learner_seed = derive_seeds(config.seed)
    seed_globals(learner_seed)
    env = make_battles(config)
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


def iterate(trainers: Sequence[Trainer]) -> list[Metrics]:
    """Run one iteration of several seeds, a rollout and an update; return each seed's metrics.

    Args:
        trainers: of one config but for the seed: at most `PLACES`, one where nothing runs as one.
    """
    clock = Clock()
    epsilons = [epsilon_at(one.config, one.global_step) for one in trainers]
    for one in trainers:
        anneal(one.config, one.optimizer, one.global_step)
    ended = explore(trainers, epsilons, clock)
    steps = [int(one.buffer.valid[one.buffer.history : -1].sum()) for one in trainers]
    learning = [index for index, count in enumerate(steps) if count]
    learnt = update([trainers[index] for index in learning], clock)
    learnt = dict(zip(learning, learnt, strict=True))
    clock.spent("learn")
    seconds = clock.lap()
    metrics = []
    for index, one in enumerate(trainers):
        one.global_step += steps[index]
        one.iteration += 1
        more = {"charts/epsilon": epsilons[index], **learnt.get(index, {})}
        row = iteration_metrics(ended[index], steps[index], one.optimizer, seconds, more)
        metrics.append(row)
    return metrics


def explore(
    trainers: Sequence[Trainer], epsilons: Sequence[float], clock: Clock
) -> list[dict[str, np.ndarray]]:
    """Collect each seed's rollout; return the battles that ended."""
    config, agent = trainers[0].config, trainers[0].learned.agent
    shape = (config.num_steps, config.num_envs, agent.num_agents, agent.num_actions)
    collectors = []
    for one, epsilon in zip(trainers, epsilons, strict=True):
        one.buffer.repeat_end()
        noise = exploration(shape, epsilon, one.generator)
        collectors.append(Collector(one.env, one.stream, noise, one.buffer))
    if not runs_as_one(agent.network):
        return collect(each(agent.act), collectors, clock)
    with torch.no_grad():
        network = NetworkStack([one.learned.agent.network for one in trainers])

    def act(shown: list[Shown]) -> list[Choice]:
        columns = map(torch.stack, zip(*shown, strict=True))
        actions, _, memory = agent.act(*columns, network=network)  # agents differ in nothing else
        return [(chosen, None, after) for chosen, after in zip(actions, memory, strict=True)]

    return collect(act, collectors, clock)


def update(trainers: Sequence[Trainer], clock: Clock) -> list[Metrics]:
    """Take all gradient steps of an iteration; return the means of each seed's losses."""
    if not trainers:
        return []
    config, updates = trainers[0].config, [Update(one) for one in trainers]
    clock.spent("learn")
    looked = [one.look() for one in updates]
    clock.spent("probe")
    for one in updates:
        one.look_back()
    for _ in range(config.update_epochs):
        for one in updates:
            one.shuffle()
        for number in range(config.num_minibatches):
            take_step([one for one in updates if one.teaches[number]], number)
    means = [one.means() for one in updates]
    clock.spent("learn")
    measured = [one.measure(before) for one, before in zip(updates, looked, strict=True)]
    clock.spent("probe")
    for one in updates:
        one.end()
    return [{**row, **more} for row, more in zip(means, measured, strict=True)]


def take_step(updates: "Sequence[Update]", number: int) -> None:
    """Take one gradient step of each seed, on its minibatch of that number."""
    if not updates:
        return
    trainers, batches = [one.trainer for one in updates], [one.batch(number) for one in updates]
    rows = list(zip(updates, batches, see(trainers, batches), strict=True))
    totals = [one.loss(number, batch, new) for one, batch, new in rows]
    for (one, batch, _), norm in zip(rows, gradient_step(trainers, totals), strict=True):
        one.stepped(batch, norm)


class Update:
    """One seed's update while it is taken.

    Args:
        trainer: the seed, with a rollout in its buffer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.plasticity = trainer, trainer.plasticity
        self.agent = trainer.learned.agent
        self.pick = partial(select, self.agent, trainer.buffer)
        self.due = self.plasticity.instruments.due(trainer.iteration)
        self.before: Seen | None = None
        self.reference: tuple[Minibatch, Tensor] | None = None
        self.parts: Sequence[Tensor] = ()  # envs of each minibatch of this pass
        self.teaches: list[bool] = []  # whether it has anything to learn from
        self.losses: list[Tensor] = []  # of each step, without the gradient norm until it is known

    @cached_property
    def everyone(self) -> Minibatch:
        """The whole rollout."""
        config = self.trainer.config
        return self.pick(torch.arange(config.num_envs, device=config.device))

    def look(self) -> dict[str, View]:
        """Watch the network on the whole rollout, where that is due."""
        if not self.due:
            return {}
        return self.plasticity.look(partial(values_of, self.agent, self.everyone))

    def look_back(self) -> None:
        """Remember what the network does before the first step, where a loss term needs it."""
        if self.plasticity.needs_before:
            self.before = look_back(self.trainer, self.everyone)

    def shuffle(self) -> None:
        """Begin a pass: deal the envs out to minibatches. This waits for the device."""
        config, buffer = self.trainer.config, self.trainer.buffer
        generator, device = self.trainer.generator, config.device
        order = torch.randperm(config.num_envs, generator=generator, device=device)
        self.parts = order.tensor_split(config.num_minibatches)
        learns = buffer.valid[buffer.history : -1].any(0)
        self.teaches = torch.stack([learns[envs].any() for envs in self.parts]).tolist()

    def batch(self, number: int) -> Minibatch:
        """Return a minibatch of this pass."""
        return self.pick(self.parts[number])

    def loss(self, number: int, batch: Minibatch, new: Seen) -> Tensor:
        """Return the loss of a minibatch, on which the network does `new` now."""
        old = self.before and seen_of(self.before, self.parts[number])
        total, values = loss(self.trainer, batch, new, old, self.reference)
        self.losses.append(values)
        if "reference" in self.plasticity.hooks.changes:  # trained on in the step after next
            other = self.batch((number + 2) % len(self.parts))
            self.reference = other, values_of(self.agent, other).detach()
        return total

    def stepped(self, batch: Minibatch, norm: Tensor) -> None:
        """Note the gradient norm (1,) of the step just taken, and let interventions act."""
        self.losses[-1] = torch.cat([self.losses[-1], norm])
        self.plasticity.after_step(partial(inputs_of, batch))

    def means(self) -> Metrics:
        """Return the means of the losses; this waits for the device."""
        return dict(zip(LOSSES, torch.stack(self.losses).mean(0).tolist(), strict=True))

    def measure(self, before: dict[str, View]) -> Metrics:
        """Return what the probe says after the last step, where that is due."""
        return self.plasticity.metrics(before, self.look()) if self.due else {}

    def end(self) -> None:
        """Let interventions act after the last step."""
        self.plasticity.after_batch(lambda: inputs_of(self.everyone))


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


def see(trainers: Sequence[Trainer], batches: Sequence[Minibatch]) -> list[Seen]:
    """Return what each seed's network does on its minibatch.

    Where a loss term reads pre-activations, each network runs by itself on a GPU too.
    """
    networks = [one.learned.agent.network for one in trainers]
    if trainers[0].plasticity.wants_preactivations or not runs_as_one(networks[0]):
        return [
            one.plasticity.see(one.learned.agent, partial(values_of, batch=batch))
            for one, batch in zip(trainers, batches, strict=True)
        ]
    parts = [(batch.inputs, batch.hidden, batch.keep) for batch in batches]
    columns = map(torch.stack, zip(*parts, strict=True))
    values, _ = NetworkStack(networks).sequence(*columns)
    return [Seen(own, None) for own in values]


def loss(
    trainer: Trainer,
    batch: Minibatch,
    new: Seen,
    old: Seen | None = None,
    reference: tuple[Minibatch, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss, and its parts in the order of LOSSES but for the gradient norm.

    Args:
        trainer: what learns.
        batch: what it learns from.
        new: what the network does on the batch.
        old: what it did on the batch before the update, where a term needs it.
        reference: another batch with the values before the last gradient step, on which
            interventions hold the network still.
    """
    learned, plasticity = trainer.learned, trainer.plasticity
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
