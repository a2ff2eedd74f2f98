"""Several seeds of PQN whose networks run as one on a GPU; each seed equals its lone run.

A seed's rows are as many as any other's, so that their networks can be stacked
(`networks.network_stack`). What is not a network runs per seed, through the methods of `Pqn`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.config import PqnConfig
from baselines.experience.collect import Choice, Clock, Metrics
from baselines.learners.optimizer import mean_losses
from baselines.learners.pqn import Minibatch, Pqn
from baselines.learners.value_based import LOSSES, clipped_step, load_policy, update_metrics
from baselines.networks.network_stack import PLACES, NetworkStack, runs_as_one
from baselines.plasticity import Pass, Reference
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.loop import Seeds

__all__ = ["load_policy", "make_group"]


def make_group(config: PqnConfig, found: Sequence[Checkpoint] = ()) -> "PqnSeeds":
    """Return all seeds."""
    return PqnSeeds(Pqn, config)


class PqnSeeds(Seeds):
    """The seeds of PQN that train at once; on a GPU their networks run as one.

    There they do not take turns, and nothing may draw from the global random numbers meanwhile.
    """

    def iterate(self) -> list[Metrics | None]:
        """Let each seed that is not finished collect and learn once."""
        if not runs_as_one(self.learners[0].agent.network):
            return super().iterate()
        metrics: list[Metrics | None] = [None] * len(self.learners)
        left = [i for i, step in enumerate(self.global_steps) if step < self.total_steps]
        for start in range(0, len(left), PLACES):
            group = left[start : start + PLACES]
            found = iterate([self.learners[index] for index in group])
            for index, row in zip(group, found, strict=True):
                metrics[index] = row
        return metrics


def iterate(learners: Sequence[Pqn]) -> list[Metrics]:
    """Run one iteration of several seeds; return each seed's metrics.

    Args:
        learners: of one config but for the seed, at most `PLACES`.
    """
    begun = [learner.begin() for learner in learners]
    clock = begun[0][0]
    collect(learners, [noise for _, _, noise in begun], clock)
    valid = [learner.buffer.count_valid() > 0 for learner in learners]
    learning = [learner for learner, has_rows in zip(learners, valid, strict=True) if has_rows]
    learned = iter(learn(learning, clock))
    clock.spent("learn")
    seconds = clock.lap()
    return [
        learner.end(epsilon, seconds, next(learned) if has_rows else {})
        for learner, has_rows, (_, epsilon, _) in zip(learners, valid, begun, strict=True)
    ]


def collect(learners: Sequence[Pqn], noise: Sequence[Tensor], clock: Clock) -> None:
    """Fill each seed's buffer; all seeds' networks act at once.

    Args:
        learners: the seeds.
        noise: of each seed, (num_steps, num_envs, num_agents, num_actions).
        clock: books env and inference time.
    """
    with torch.no_grad():
        network = NetworkStack([learner.agent.network for learner in learners])
    act, collectors = learners[0].agent.act, [learner.collector for learner in learners]
    for row in range(learners[0].buffer.history, learners[0].buffer.num_steps):
        step = row - learners[0].buffer.history
        with torch.inference_mode():
            pairs = zip(collectors, noise, strict=True)
            seen = [collector.look(row, own[step]) for collector, own in pairs]
            columns = map(torch.stack, zip(*seen, strict=True))
            actions, _, memory = act(*columns, network=network)  # agents differ in nothing else
            for collector, chosen, after in zip(collectors, actions, memory, strict=True):
                collector.advance(row, Choice(chosen, None, after), clock)
    for collector in collectors:
        collector.finish(clock)


def learn(learners: Sequence[Pqn], clock: Clock) -> list[Metrics]:
    """Take all gradient steps of an iteration; return the means of each seed's losses."""
    wholes = [learner.whole() for learner in learners]
    clock.spent("learn")
    pairs = list(zip(learners, wholes, strict=True))
    measurements = [learner.measure(whole) for learner, whole in pairs]
    clock.spent("probe")
    updates = [SeedUpdate(learner, learner.look_back(whole)) for learner, whole in pairs]
    for parts in zip(*(learner.shuffled() for learner in learners), strict=True):
        take_step(updates, parts)
    means = [mean_losses(LOSSES, update.losses) for update in updates]
    clock.spent("learn")
    measured = [update_metrics(found) if found else {} for found in measurements]
    clock.spent("probe")
    for learner, whole in pairs:
        learner.plasticity.after_batch(lambda whole=whole: whole().input_rows())
    return [{**row, **more} for row, more in zip(means, measured, strict=True)]


class SeedUpdate:
    """One seed's update while it is taken.

    Args:
        learner: the seed.
        old: its network before the update, if a loss term compares with it.
    """

    def __init__(self, learner: Pqn, old: Pass | None) -> None:
        self.learner, self.old = learner, old
        self.reference: Reference | None = None
        self.losses: list[Tensor] = []  # of each gradient step


def take_step(updates: Sequence[SeedUpdate], parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Take one gradient step of each seed whose minibatch has rows to learn from.

    Args:
        updates: of the seeds.
        parts: of each seed the envs of its minibatch, and of the minibatch after the next one.
    """
    rows = [
        (update, update.learner.select(envs, update.old), later)
        for update, (envs, later) in zip(updates, parts, strict=True)
    ]
    rows = [row for row in rows if len(row[1].rows)]
    if not rows:
        return
    passes = run([update.learner for update, _, _ in rows], [batch for _, batch, _ in rows])
    totals, losses = [], []
    for (update, batch, later), new in zip(rows, passes, strict=True):
        total, found = update.learner.loss(batch, new, update.reference)
        update.reference = update.learner.refer(later)
        totals.append(total)
        losses.append(found)
    for update, _, _ in rows:
        update.learner.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(totals)
    for (update, batch, _), found in zip(rows, losses, strict=True):
        learner = update.learner
        norm = clipped_step(learner.network, learner.optimizer, learner.config.max_grad_norm)
        update.losses.append(torch.cat([found, norm]))
        learner.plasticity.after_step(batch.input_rows)


def run(learners: Sequence[Pqn], batches: Sequence[Minibatch]) -> list[Pass]:
    """Return each seed's values of its minibatch; a seed whose terms read more runs alone."""
    if learners[0].plasticity.changes("preactivations"):
        return [learner.run(batch) for learner, batch in zip(learners, batches, strict=True)]
    parts = [(batch.inputs, batch.hidden, batch.carry) for batch in batches]
    columns = map(torch.stack, zip(*parts, strict=True))
    values, _ = NetworkStack([learner.agent.network for learner in learners]).sequence(*columns)
    return [Pass(own) for own in values]
