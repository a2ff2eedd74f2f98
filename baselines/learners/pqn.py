"""PQN (Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning") for teams.

Q(lambda) over the rollout with the learning network: no replay and no target network; normalised
layers keep it stable. With `--mixer sum` it is PQN-VDN. docs/pqn.md lists each choice.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from torch import Tensor

from baselines.config import PqnConfig
from baselines.experience.advantages import lambda_returns
from baselines.experience.battles import make_battles
from baselines.experience.buffers import RolloutBuffer
from baselines.experience.collect import Clock, Collector, Metrics, iteration_metrics
from baselines.experience.graphs import graphed
from baselines.experience.rows import ChosenRows, shuffled
from baselines.learners.optimizer import anneal, mean_losses, share_left
from baselines.learners.value_based import (
    LOSSES,
    epsilon_at,
    exploration,
    gradient_step,
    load_policy,
    make_plasticity,
    make_team,
    make_team_optimizer,
    td_loss,
    update_metrics,
)
from baselines.networks.action_values import ValueAgent, mask_values
from baselines.networks.network import repeat_for_agents
from baselines.plasticity import Measurement, Pass, Reference, is_due
from baselines.runs.seeding import derive_seeds, seed_globals, seeded_generator

__all__ = ["Pqn", "load_policy"]


@dataclasses.dataclass
class Minibatch:
    """The rollout of some envs, history included; `num_rows` counts its steps and the last row.

    Values and inputs of the agents' network have (num_rows * envs * num_agents) rows.
    """

    inputs: Tensor  # (num_rows, envs * num_agents, input_size)
    hidden: Tensor  # (envs * num_agents, memory_size of the network) before the first row
    carry: Tensor  # (num_rows, envs * num_agents, 1) 0.0 where an episode begins
    state: Tensor  # (num_rows, envs, state_size)
    action_mask: Tensor  # (num_rows, envs, num_agents, num_actions) bool
    actions: Tensor  # (num_rows - 1, envs, num_agents)
    rewards: Tensor  # (num_rows - 1, envs)
    terminated: Tensor  # (num_rows - 1, envs) bool
    done: Tensor  # (num_rows - 1, envs) bool
    rows: ChosenRows  # of num_rows - 1 times envs: neither history nor a reset row
    old: Pass | None  # before the update, if a loss term compares with it

    def input_rows(self) -> Tensor:
        """Return the network's inputs (rows * num_agents, input_size)."""
        return self.inputs.flatten(0, 1)


class Pqn:
    """One seed of PQN: a `runs.loop.Learner`.

    On a GPU commands train it through `pqn_stack`, whose stacked network rounds otherwise.

    Args:
        config: of one seed; everything is drawn from `config.seed`.
    """

    algorithm = "pqn"
    counters = ("iteration",)

    def __init__(self, config: PqnConfig) -> None:
        environment_seed, learner_seed = derive_seeds(config.seed)
        seed_globals(learner_seed)
        self.config = config
        self.battles = make_battles(config)
        self.network, hooks = make_team(config, self.battles.sizes)
        self.agent: ValueAgent = self.network.agent
        self.optimizer = make_team_optimizer(config, self.network, hooks)
        self.generator = seeded_generator(learner_seed, config.device)
        self.plasticity = make_plasticity(self.agent, hooks, self.optimizer, self.generator)
        self.battles.reset(environment_seed)
        self.buffer = RolloutBuffer(
            self.battles,
            config.memory_window + config.num_steps,
            history=config.memory_window,
            memory_size=self.agent.memory_size,
        )
        hidden = self.agent.initial_hidden(config.num_envs)
        self.collector = Collector(self.battles, hidden, self.buffer)
        self.gradient_step = graphed(self._gradient_step)
        self.global_step = self.iteration = 0

    def parts(self) -> dict:
        """Return everything that changes in training but weights, battles and counters."""
        return {
            "optimizer": self.optimizer,
            "generator": self.generator,
            "stream": self.collector,
            "buffer": self.buffer,
            "interventions": self.plasticity,
        }

    def iterate(self) -> Metrics:
        """Collect a rollout and learn from it; return the metrics."""
        clock, epsilon, noise = self.begin()
        self.collector.collect(self.agent.act, noise, clock)
        learned = self.learn(clock) if self.buffer.count_valid() else {}
        clock.spent("learn")
        return self.end(epsilon, clock.lap(), learned)

    def begin(self) -> tuple[Clock, float, Tensor]:
        """Begin an iteration.

        Returns:
            A clock, the share of random actions, and the noise of the rollout's steps.
        """
        config, clock = self.config, Clock()
        epsilon = epsilon_at(config, self.global_step)
        if config.anneal_lr:
            anneal(self.optimizer, share_left(self.global_step, config.total_steps))
        self.buffer.repeat_end()
        agents = (config.num_envs, self.agent.num_agents, self.agent.num_actions)
        return clock, epsilon, exploration((config.num_steps, *agents), epsilon, self.generator)

    def end(self, epsilon: float, seconds: dict[str, float], learned: Metrics) -> Metrics:
        """End an iteration; return the metrics.

        Args:
            epsilon: share of random actions.
            seconds: of each part of the iteration.
            learned: metrics of the update.
        """
        steps = self.buffer.count_valid()
        self.global_step += steps
        self.iteration += 1
        played, learned = self.collector.tally.read(), {"charts/epsilon": epsilon, **learned}
        return iteration_metrics(played, steps, self.optimizer, seconds, learned)

    def learn(self, clock: Clock) -> Metrics:
        """Take all gradient steps of an iteration; return the means of the losses."""
        whole, losses = self.whole(), []
        clock.spent("learn")
        measurement = self.measure(whole)
        clock.spent("probe")
        old, reference = self.look_back(whole), None
        for envs, later in self.shuffled():
            minibatch = self.select(envs, old)
            if not len(minibatch.rows):
                continue
            following = self.refer(later)
            losses.append(self.gradient_step(minibatch, reference))
            reference = following
            self.plasticity.after_step(minibatch.input_rows)
        means = mean_losses(LOSSES, losses)
        clock.spent("learn")
        measured = update_metrics(measurement) if measurement else {}
        clock.spent("probe")
        self.plasticity.after_batch(lambda: whole().input_rows())
        return {**means, **measured}

    def whole(self) -> Callable[[], Minibatch]:
        """Return a function that makes the minibatch of all envs, once."""
        everyone = torch.arange(self.config.num_envs, device=self.config.device)
        return cache(partial(self.select, everyone))

    def measure(self, whole: Callable[[], Minibatch]) -> Measurement | None:
        """Return a measurement that begins now, before the update, if one is due."""
        if not is_due(self.config, self.iteration):
            return None
        return Measurement([self.plasticity], lambda _: self.values(whole()))

    @torch.no_grad()
    def look_back(self, whole: Callable[[], Minibatch]) -> Pass | None:
        """Return the network before the update, as (num_rows, num_envs, num_agents, ...)."""
        if not self.plasticity.compares:
            return None
        shape = whole().action_mask.shape[:3]
        return self.run(whole()).map(lambda part: part.view(*shape, -1))

    def shuffled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the envs of each minibatch of an update, and of the minibatch after the next."""
        return shuffled(
            self.config.num_envs,
            epochs=self.config.update_epochs,
            num_minibatches=self.config.num_minibatches,
            generator=self.generator,
        )

    def select(self, envs: Tensor, old: Pass | None = None) -> Minibatch:
        """Return the minibatch of some envs.

        Args:
            envs: (num_selected,) indices.
            old: the network before the update, (num_rows, num_envs, num_agents, ...).
        """
        buffer, agent = self.buffer, self.agent

        def pick(tensor: Tensor) -> Tensor:
            return tensor.index_select(1, envs)  # (num_rows, num_selected, ...)

        memory, size = pick(buffer.memory), agent.network.memory_size
        learns = pick(buffer.valid)[:-1].clone()
        learns[: buffer.history] = False
        return Minibatch(
            inputs=agent.inputs(pick(buffer.obs), memory[..., size:]).flatten(1, 2),
            hidden=memory[0, ..., :size].flatten(0, 1),
            carry=repeat_for_agents(pick(buffer.carry()), agent.num_agents),
            state=pick(buffer.state),
            action_mask=pick(buffer.action_mask),
            actions=pick(buffer.actions),
            rewards=pick(buffer.rewards),
            terminated=pick(buffer.terminated),
            done=pick(buffer.done),
            rows=ChosenRows.where(learns),
            old=old and old.map(lambda part: pick(part).flatten(0, 2)),
        )

    def refer(self, envs: Tensor) -> Reference | None:
        """Return the values of some envs now, if an intervention asks for them."""
        if not self.plasticity.changes("reference"):
            return None
        return Reference.of(partial(self.values, self.select(envs)))

    def _gradient_step(self, minibatch: Minibatch, reference: Reference | None) -> Tensor:
        """Take one step of the optimizer; return the losses (len(LOSSES),), not waited for."""
        total, losses = self.loss(minibatch, self.run(minibatch), reference)
        norm = gradient_step(self.network, self.optimizer, total, self.config.max_grad_norm)
        return torch.cat([losses, norm])

    def run(self, minibatch: Minibatch) -> Pass:
        """Return the values of a minibatch, with the pre-activations that loss terms read."""
        return self.plasticity.run(self.agent.network.trunk, partial(self.values, minibatch))

    def values(self, minibatch: Minibatch) -> Tensor:
        """Return action values (num_rows * envs * num_agents, num_actions)."""
        network = self.agent.network
        return network.sequence(minibatch.inputs, minibatch.hidden, minibatch.carry)[0]

    def loss(
        self, minibatch: Minibatch, new: Pass, reference: Reference | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and its parts in the order of LOSSES without the gradient norm.

        Args:
            minibatch: rows to learn from.
            new: the network on the minibatch.
            reference: values of other rows, from which a step should not move them.
        """
        rows = minibatch.rows
        values = new.outputs.view(minibatch.action_mask.shape)
        with torch.no_grad():
            targets = rows.pick(self.td_targets(minibatch, values.detach()).flatten(0, 1))
        chosen = values[:-1].gather(-1, minibatch.actions.unsqueeze(-1)).squeeze(-1)
        state = rows.pick(minibatch.state[:-1].flatten(0, 1))  # (steps, state_size)
        joint = self.network.mixer(rows.pick(chosen.flatten(0, 1)), state)
        terms = self.plasticity.terms(new, minibatch.old, reference)
        kept = self.plasticity.kept_rows(new, minibatch.old)
        if kept is not None:
            kept = kept.view(minibatch.action_mask.shape[:3])[:-1]  # (num_rows - 1, envs, agents)
            kept = rows.pick(kept.flatten(0, 1))  # (steps, num_agents)
        return td_loss(joint, targets, rows, kept, terms)

    def td_targets(self, minibatch: Minibatch, values: Tensor) -> Tensor:
        """Return Q(lambda) targets (num_rows - 1, envs, 1), or num_agents wide without a mixer.

        Args:
            minibatch: the rollout of some envs.
            values: (num_rows, envs, num_agents, num_actions) of the learning network.
        """
        config, mixer = self.config, self.network.mixer
        best = mask_values(values, minibatch.action_mask).amax(-1)  # (num_rows, envs, num_agents)
        following = mixer(best[1:].flatten(0, 1), minibatch.state[1:].flatten(0, 1))
        following = following.view(len(best) - 1, best.shape[1], -1)
        rewards = (minibatch.rewards * config.reward_scale).unsqueeze(-1)
        terminated = minibatch.done if config.timeout_is_terminal else minibatch.terminated
        return lambda_returns(
            rewards.expand_as(following),
            following,
            terminated.unsqueeze(-1),
            minibatch.done.unsqueeze(-1),
            gamma=config.gamma,
            td_lambda=config.td_lambda,
        )
