"""What the plasticity flags add to PPO: terms of interventions, their hooks, measurements."""

import dataclasses

import torch
from torch import Tensor

from baselines.learners.ppo_rollout import Batch, Minibatch
from baselines.learners.ppo_trainer import Trainer
from baselines.networks.distributions import LOG_RATIO_RANGE
from baselines.plasticity import NETWORKS, View, diversity_metrics
from ppo_plasticity.capacity import squared_error
from ppo_plasticity.interventions import LossInputs


@dataclasses.dataclass
class Reference:
    """Rows on which a step must change little, and what the networks made of them before it."""

    minibatch: Minibatch
    outputs: dict[str, Tensor]  # by network


@torch.no_grad()
def look_at(trainer: Trainer, minibatch: Minibatch) -> Reference:
    """Return what the networks make of a minibatch now."""
    outputs = {name: trainer.stack.forward(name, minibatch.obs)[0] for name in NETWORKS}
    return Reference(minibatch, outputs)


def intervention_loss(
    trainer: Trainer,
    minibatch: Minibatch,
    outputs: dict[str, Tensor],
    preactivations: dict[str, Tensor],
    reference: Reference | None,
) -> Tensor:
    """Return the loss terms of the interventions (seeds,)."""
    again = look_at_again(trainer, reference) if reference else {}
    totals = []
    for seed, hooks in enumerate(trainer.interventions):
        terms = [minibatch.weights.new_zeros(())]
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
                trainer.distribution.kl if name == "actor" else squared_error,
                *(again[name, seed] if reference else (None, None)),
            )
            terms.append(hooks[name].loss(trainer.handles[seed][name], inputs))
        totals.append(torch.stack(terms).sum())
    return torch.stack(totals)


def look_at_again(
    trainer: Trainer, reference: Reference
) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """Return by network and seed outputs now and before, without rows that only reset."""
    found = {}
    for name, old in reference.outputs.items():
        new, _ = trainer.stack.forward(name, reference.minibatch.obs)
        for seed, weights in enumerate(reference.minibatch.weights):
            found[name, seed] = (new[seed][weights > 0], old[seed][weights > 0])
    return found


@torch.no_grad()
def after_step(trainer: Trainer, minibatch: Minibatch) -> None:
    """Let interventions act after a gradient step."""
    if not trainer.changes("after_step"):
        return
    for seed, hooks in enumerate(trainer.interventions):
        rows = minibatch.obs[seed][minibatch.weights[seed] > 0]
        for name in NETWORKS:
            hooks[name].after_step(trainer.handles[seed][name], rows)


@torch.no_grad()
def after_batch(trainer: Trainer) -> None:
    """Let interventions act after the last gradient step of a batch."""
    if not trainer.changes("after_batch"):
        return
    for seed, hooks in enumerate(trainer.interventions):
        rows = valid_rows(trainer, seed)
        for name in NETWORKS:
            hooks[name].after_batch(trainer.handles[seed][name], rows)


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
