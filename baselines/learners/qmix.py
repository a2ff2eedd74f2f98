"""QMIX (Rashid et al. 2018) with TD(lambda) and double Q, as PyMARL2 tuned it (Hu et al. 2021).

With `--mixer sum` it is VDN (Sunehag et al. 2018), with `--mixer none` independent Q-learning.
docs/qmix.md lists each choice.
"""

import copy
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from baselines.config import QmixConfig
from baselines.experience.advantages import lambda_returns
from baselines.experience.battles import make_battles
from baselines.experience.collect import Choice, Clock, Collector, Metrics, iteration_metrics
from baselines.experience.graphs import graphed
from baselines.experience.replay import EpisodeBatch, EpisodeReplay
from baselines.experience.rows import ChosenRows
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
from baselines.networks.action_values import TeamValues, ValueAgent, mask_values
from baselines.plasticity import Measurement, Pass, Reference, is_due
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.loop import Seeds
from baselines.runs.seeding import derive_seeds, seed_globals, seeded_generator

__all__ = ["Qmix", "load_policy", "make_group"]


def make_group(config: QmixConfig, found: Sequence[Checkpoint] = ()) -> Seeds:
    """Return all seeds, which take turns."""
    return Seeds(partial(Qmix, replays=config.seeds), config)


class Qmix:
    """One seed of QMIX: a `runs.loop.Learner`.

    Args:
        config: of one seed; everything is drawn from `config.seed`.
        replays: how many learners of this size there will be in the process.
    """

    algorithm = "qmix"
    counters = ("iteration", "episodes", "target_episodes")

    def __init__(self, config: QmixConfig, replays: int = 1) -> None:
        environment_seed, learner_seed = derive_seeds(config.seed)
        seed_globals(learner_seed)
        self.config = config
        self.battles = make_battles(config)
        self.network, hooks = make_team(config, self.battles.sizes)
        self.target = copy.deepcopy(self.network).requires_grad_(requires_grad=False)
        self.optimizer = make_team_optimizer(config, self.network, hooks)
        self.generator = seeded_generator(learner_seed, config.device)  # exploration, interventions
        self.sampler = seeded_generator(learner_seed, "cpu")  # draws episodes
        self.plasticity = make_plasticity(self.network.agent, hooks, self.optimizer, self.generator)
        self.replay = EpisodeReplay(self.battles, config.buffer_episodes)
        print(self.replay.describe(), flush=True)
        self.replay.allocate(replays)
        self.battles.reset(environment_seed)
        hidden = self.network.agent.initial_hidden(config.num_envs)
        self.collector = Collector(self.battles, hidden)
        self.gradient_step = graphed(self._gradient_step)
        self.global_step = self.iteration = 0
        self.episodes = 0  # that have ended
        self.target_episodes = 0  # that had ended when the target network was last copied

    def parts(self) -> dict:
        """Return everything that changes in training but weights, battles and counters."""
        return {
            "target": self.target,
            "optimizer": self.optimizer,
            "generator": self.generator,
            "sampler": self.sampler,
            "stream": self.collector,
            "replay": self.replay,
            "interventions": self.plasticity,
        }

    def iterate(self) -> Metrics:
        """Finish some episodes and take some gradient steps; return the metrics."""
        clock, config, before = Clock(), self.config, self.global_step
        epsilon = epsilon_at(config, self.global_step)
        if config.anneal_lr:
            anneal(self.optimizer, share_left(self.global_step, config.total_steps))
        self.collect(epsilon, clock)
        learned = self.broken_rewards()
        played = self.collector.tally.read()
        if len(self.replay.ended) >= config.batch_episodes:
            learned = self.learn(clock) | learned
        if self.episodes - self.target_episodes >= config.target_update_episodes:
            self.target.load_state_dict(self.network.state_dict())
            self.target_episodes = self.episodes
        self.iteration += 1
        clock.spent("learn")
        learned = {"charts/epsilon": epsilon, **learned}
        steps = self.global_step - before
        return iteration_metrics(played, steps, self.optimizer, clock.lap(), learned)

    def collect(self, epsilon: float, clock: Clock) -> None:
        """Play until enough episodes have ended.

        Args:
            epsilon: share of random actions.
            clock: books env and inference time.
        """
        config, agent, replay = self.config, self.network.agent, self.replay
        shape = (config.num_envs, agent.num_agents, agent.num_actions)
        goal = self.episodes + (config.rollout_episodes or config.num_envs)
        while self.episodes < goal:
            seen = self.battles.observe()
            replay.observe(seen)
            with torch.inference_mode():
                noise = exploration(shape, epsilon, self.generator)
                choice = agent.act(seen.obs, seen.action_mask, self.collector.hidden, noise)
                seen, outcome = self.collector.step(Choice(*choice), clock)
            clock.spent("env")
            replay.record(choice[0], seen.valid, outcome)
            ended = outcome.ended.nonzero().squeeze(-1)
            if len(ended):
                replay.observe(self.battles.observe(), ended)  # the last observation
                replay.close(ended)
            self.global_step += int(seen.valid.sum())
            self.episodes += len(ended)
            clock.spent("inference")

    def broken_rewards(self) -> Metrics:
        """Return a metric that stops the run if a reward is NaN, which the replay would keep."""
        tally = self.collector.tally
        finite = tally.totals.isfinite().all() & tally.episodic_return.isfinite().all()
        return {} if finite else {"losses/rewards": math.nan}

    def learn(self, clock: Clock) -> Metrics:
        """Take the gradient steps of an iteration; return the means of the losses."""
        config, agent, plasticity = self.config, self.network.agent, self.plasticity
        batch, reference, losses, measurement = self.draw(), None, [], None
        clock.spent("learn")
        if is_due(config, self.iteration):
            run = partial(values_of, agent, batch)
            measurement = Measurement([plasticity], lambda _: run())
        clock.spent("probe")
        for number in range(config.updates_per_rollout):
            batch = self.draw() if number else batch
            following = self.refer()
            losses.append(self.gradient_step(batch, reference))
            reference = following
            plasticity.after_step(partial(inputs_of, agent, batch))
        means = mean_losses(LOSSES, losses)
        clock.spent("learn")
        measured = update_metrics(measurement) if measurement else {}
        clock.spent("probe")
        plasticity.after_batch(partial(inputs_of, agent, batch))
        return {**means, **measured}

    def draw(self) -> EpisodeBatch:
        """Return episodes drawn from the replay."""
        return self.replay.sample(self.config.batch_episodes, self.sampler)

    def refer(self) -> Reference | None:
        """Return the values of other episodes now, if an intervention asks for them."""
        if not self.plasticity.changes("reference"):
            return None
        return Reference.of(partial(values_of, self.network.agent, self.draw()))

    def _gradient_step(self, batch: EpisodeBatch, reference: Reference | None) -> Tensor:
        """Take one step of the optimizer; return the losses (len(LOSSES),), not waited for."""
        total, losses = self.loss(batch, reference)
        norm = gradient_step(self.network, self.optimizer, total, self.config.max_grad_norm)
        return torch.cat([losses, norm])

    def loss(
        self, batch: EpisodeBatch, reference: Reference | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and its parts in the order of LOSSES without the gradient norm.

        Args:
            batch: episodes to learn from.
            reference: values of other episodes, from which a step should not move them.
        """
        new = self.run(self.network, batch)
        with torch.no_grad():
            old = self.run(self.target, batch)
            targets = self.td_targets(batch, new.outputs.detach(), old.outputs)
        taken = ChosenRows(batch.taken, len(batch.step))
        values = taken.pick(new.outputs.view(batch.action_mask.shape))
        chosen = values.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)  # (steps, num_agents)
        joint = self.network.mixer(chosen, taken.pick(batch.state))
        terms = self.plasticity.terms(new, old, reference)
        kept = self.plasticity.kept_rows(new, old)
        if kept is not None:
            kept = taken.pick(kept.view(batch.action_mask.shape[:2]))  # (steps, num_agents)
        return td_loss(joint, targets, taken, kept, terms)

    def run(self, team: TeamValues, batch: EpisodeBatch) -> Pass:
        """Return a team's values of a batch, with the pre-activations that loss terms read."""
        agent = team.agent
        return self.plasticity.run(agent.network.trunk, partial(values_of, agent, batch))

    def td_targets(self, batch: EpisodeBatch, online: Tensor, target: Tensor) -> Tensor:
        """Return the TD(lambda) targets (steps, 1), or (steps, num_agents) without a mixer.

        Args:
            batch: the episodes.
            online: (rows * num_agents, num_actions) values of the learning network.
            target: values of the target network, same shape as `online`.
        """
        config, mask = self.config, batch.action_mask
        online, target = online.view(mask.shape), target.view(mask.shape)
        chooser = online if config.double_q else target
        best = mask_values(chooser, mask).argmax(-1, keepdim=True)
        values = self.target.mixer(target.gather(-1, best).squeeze(-1), batch.state)
        following = values.index_select(0, batch.following)
        step, episode = batch.step[batch.taken], batch.episode[batch.taken]
        shape = (len(batch.sizes) - 1, batch.sizes[0])

        def spread(flat: Tensor) -> Tensor:  # (steps, ...) to (time, episodes, ...)
            return flat.new_zeros(*shape, *flat.shape[1:]).index_put_((step, episode), flat)

        terminated = batch.done if config.timeout_is_terminal else batch.terminated
        rewards = spread(batch.rewards * config.reward_scale).unsqueeze(-1)
        returns = lambda_returns(
            rewards.expand(*shape, values.shape[1]),
            spread(following),
            spread(terminated).unsqueeze(-1),
            spread(batch.done).unsqueeze(-1),
            gamma=config.gamma,
            td_lambda=config.td_lambda,
        )
        return returns[step, episode]


def inputs_of(agent: ValueAgent, batch: EpisodeBatch) -> Tensor:
    """Return the network's inputs (rows * num_agents, input_size) of a batch."""
    return agent.inputs(batch.obs, agent.one_hot(batch.last_actions)).flatten(0, 1)


def values_of(agent: ValueAgent, batch: EpisodeBatch) -> Tensor:
    """Return action values (rows * num_agents, num_actions) of a batch."""
    sizes = [size * agent.num_agents for size in batch.sizes]
    return agent.network.packed(inputs_of(agent, batch), sizes)
