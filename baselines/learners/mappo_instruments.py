"""What the plasticity flags add to MAPPO: PFO, interventions' terms and hooks, measurements."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.config import MappoConfig
from baselines.experience.minibatches import RUN, Minibatch
from baselines.networks.network import Agent
from baselines.plasticity import (
    View,
    diversity_metrics,
    has_pfo,
    pfo_mask,
    pfo_term,
    scope_of,
    wants_preactivations,
)
from ppo_plasticity.capacity import categorical_kl, squared_error
from ppo_plasticity.interventions import LossInputs
from ppo_plasticity.probe import capture_preactivations

if TYPE_CHECKING:
    from baselines.learners.mappo import Trainer

Pick = Callable[[Tensor], Minibatch]  # env indices to their minibatch
DIVERGENCES = {"actor": categorical_kl, "critic": squared_error}  # of log-probabilities, of values


def needs_before(trainer: "Trainer") -> bool:
    """Return whether a loss term compares with the networks before the update."""
    return trainer.config.pfo_coef > 0 or trainer.changes("loss")


def everyone(trainer: "Trainer", pick: Pick) -> Minibatch:
    """Return the minibatch of all envs."""
    config = trainer.config
    return pick(torch.arange(config.num_envs, device=config.device))


def forward(trainer: "Trainer", batch: Minibatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run both networks; return outputs, and pre-activations (rows, units) where wanted."""
    config, outputs, preactivations = trainer.config, {}, {}
    for name, network in trainer.agent.networks.items():
        hooks = trainer.interventions[name]
        if not wants_preactivations(config, hooks, name):
            outputs[name] = RUN[name](trainer.agent, batch)
            continue
        with capture_preactivations(network.trunk, scope_of(config, hooks, name)) as captured:
            outputs[name] = RUN[name](trainer.agent, batch)
        preactivations[name] = captured.preactivations
    return outputs, preactivations


@dataclasses.dataclass
class Old:
    """What the networks did on a minibatch before the update, by network."""

    outputs: dict[str, Tensor]  # (rows, outputs)
    preactivations: dict[str, Tensor]  # (rows, units)


@dataclasses.dataclass
class Before:
    """The same for the whole rollout: (num_steps, num_envs, agents or values, ...), by network."""

    outputs: dict[str, Tensor]
    preactivations: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, trainer: "Trainer", pick: Pick) -> "Before":
        """Run the networks on all envs."""
        config, batch = trainer.config, everyone(trainer, pick)
        agent, shape = trainer.agent, (config.num_steps, config.num_envs)
        widths = {"actor": agent.num_agents, "critic": agent.num_values}
        rows = {"actor": batch.live_rows, "critic": batch.valid_rows}

        def spread(name: str, tensor: Tensor) -> Tensor:
            full = tensor.new_zeros(math.prod(shape) * widths[name], tensor.shape[-1])
            return full.index_copy_(0, rows[name], tensor).view(*shape, widths[name], -1)

        found = forward(trainer, batch)
        return cls(*({name: spread(name, one) for name, one in part.items()} for part in found))

    def select(self, envs: Tensor, batch: Minibatch) -> Old:
        """Return the rows of a minibatch."""
        rows = {"actor": batch.live_rows, "critic": batch.valid_rows}

        def pick(part: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: full.index_select(1, envs).flatten(0, 2).index_select(0, rows[name])
                for name, full in part.items()
            }

        return Old(pick(self.outputs), pick(self.preactivations))


@dataclasses.dataclass
class Reference:
    """A batch on which interventions hold the networks still, and what they did before a step."""

    batch: Minibatch
    outputs: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, agent: Agent, batch: Minibatch) -> "Reference":
        """Run the networks as they are now."""
        return cls(batch, {name: run(agent, batch) for name, run in RUN.items()})


def pfo_terms(
    config: MappoConfig, preactivations: dict[str, Tensor], old: Old
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of PFO's losses, and by network the rows that may still train."""
    total, keep = torch.zeros((), device=config.device), {}
    for name, new in preactivations.items():
        if has_pfo(config, name):
            total = total + pfo_term(config, new, old.preactivations[name], None)
            mask = pfo_mask(config, new, old.preactivations[name])
            keep |= {} if mask is None else {name: mask}
    return total, keep


def intervention_loss(
    trainer: "Trainer",
    outputs: dict[str, Tensor],
    preactivations: dict[str, Tensor],
    old: Old,
    reference: Reference | None,
) -> Tensor:
    """Return the sum of the interventions' loss terms."""
    total = next(iter(outputs.values())).new_zeros(())
    nothing = torch.empty(0)
    for name, hooks in trainer.interventions.items():
        if "loss" not in hooks.changes:
            continue
        again = RUN[name](trainer.agent, reference.batch) if reference else None
        inputs = LossInputs(
            outputs[name],
            old.outputs[name],
            preactivations.get(name, nothing),
            old.preactivations.get(name, nothing),
            DIVERGENCES[name],
            again,
            reference.outputs[name] if reference else None,
        )
        total = total + hooks.loss(trainer.handles[name], inputs)
    return total


@torch.no_grad()
def after_step(trainer: "Trainer", batch: Minibatch) -> None:
    """Let interventions act after a gradient step."""
    for name, hooks in trainer.interventions.items():
        if "after_step" in hooks.changes:
            hooks.after_step(trainer.handles[name], inputs_of(name, batch))


@torch.no_grad()
def after_batch(trainer: "Trainer", pick: Pick) -> None:
    """Let interventions act after the last gradient step of an iteration."""
    for name, hooks in trainer.interventions.items():
        if "after_batch" in hooks.changes:
            hooks.after_batch(trainer.handles[name], inputs_of(name, everyone(trainer, pick)))


def inputs_of(network: str, batch: Minibatch) -> Tensor:
    """Return a network's inputs (rows, size) in the rows that count."""
    if network == "actor":
        return batch.actor_inputs.flatten(0, 1).index_select(0, batch.live_rows)
    return batch.critic_inputs.flatten(0, 1).index_select(0, batch.valid_rows)


@dataclasses.dataclass
class Measurement:
    """An iteration that is measured: its whole batch, and what was seen before the update."""

    batch: Minibatch
    views: dict[str, View]
    metrics: dict[str, float]

    @classmethod
    def start(cls, trainer: "Trainer", pick: Pick) -> "Measurement":
        """Watch the networks before the update."""
        batch = everyone(trainer, pick)
        views = watch(trainer, batch)
        values = trainer.agent.value_norm.denormalise(views["critic"].outputs.squeeze(-1))
        metrics = trainer.instruments.start_metrics(views)
        metrics |= diversity_metrics([views["actor"].outputs.exp()], values)
        return cls(batch, views, metrics)

    def end(self, trainer: "Trainer") -> dict[str, float]:
        """Watch them again; return all metrics."""
        instruments, after = trainer.instruments, watch(trainer, self.batch)
        old, new = self.views["actor"].outputs, after["actor"].outputs
        chosen = new.gather(-1, self.batch.actions.unsqueeze(-1)).squeeze(-1)
        return {
            **self.metrics,
            **instruments.end_metrics(self.views, after),
            **instruments.trust_region(
                trainer.global_step,
                chosen - self.batch.log_probs,
                self.batch.advantages,
                categorical_kl(old, new),
                trainer.config.clip_coef,
            ),
        }


def watch(trainer: "Trainer", batch: Minibatch) -> dict[str, View]:
    """Run both networks on a batch and watch them."""
    calls = {name: partial(run, trainer.agent, batch) for name, run in RUN.items()}
    return trainer.instruments.view(calls)
