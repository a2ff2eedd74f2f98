"""What the plasticity flags add to learners of action values: PFO, interventions, measurements.

They act on the network that all agents share, named `agent`. What is compared with "before" is the
network that the learner names: QMIX's target network, PQN's network before the update.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from baselines.config import ValueConfig
from baselines.learners.value_based import NETWORK, ValueAgent
from baselines.plasticity import (
    Instruments,
    NetworkHandle,
    View,
    has_pfo,
    pfo_mask,
    pfo_term,
    scope_of,
    wants_preactivations,
)
from ppo_plasticity.capacity import squared_error
from ppo_plasticity.interventions import Interventions, LossInputs
from ppo_plasticity.norms import value_statistics
from ppo_plasticity.probe import capture_preactivations


@dataclasses.dataclass
class Seen:
    """What a network did on a batch."""

    values: Tensor  # (rows, num_actions)
    preactivations: Tensor | None  # (rows, units), where wanted


@dataclasses.dataclass
class Plasticity:
    """Interventions and instruments of one seed's agent network.

    Args:
        config: the flags.
        hooks: interventions that they ask for.
        handle: what those may change.
        instruments: what measures.
    """

    config: ValueConfig
    hooks: Interventions
    handle: NetworkHandle
    instruments: Instruments

    @classmethod
    def start(
        cls,
        config: ValueConfig,
        agent: ValueAgent,
        hooks: Interventions,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> "Plasticity":
        """Look at the initial weights."""
        network = agent.network
        handle = NetworkHandle(network.chain, network, optimizer, generator)
        hooks.start(handle)
        instruments = Instruments(config.probe, agent.networks, config.total_steps)
        return cls(config, hooks, handle, instruments)

    @property
    def needs_before(self) -> bool:
        """Whether a loss term compares with the network before."""
        return self.config.pfo_coef > 0 or "loss" in self.hooks.changes

    @property
    def wants_preactivations(self) -> bool:
        """Whether a loss term reads pre-activations."""
        return wants_preactivations(self.config, self.hooks, NETWORK)

    def see(self, agent: ValueAgent, run: Callable[[ValueAgent], Tensor]) -> Seen:
        """Run a network on a batch, and keep pre-activations where a term reads them.

        Args:
            agent: the learning network, or the one that it is compared with.
            run: returns its values (rows, num_actions).
        """
        if not self.wants_preactivations:
            return Seen(run(agent), None)
        scope = scope_of(self.config, self.hooks, NETWORK)
        with capture_preactivations(agent.network.trunk, scope) as captured:
            values = run(agent)
        return Seen(values, captured.preactivations)

    def terms(
        self, new: Seen, old: Seen | None, again: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return PFO's loss, the interventions' loss, and the rows that may still train.

        Args:
            new: the learning network on the batch.
            old: the network before on the same batch; not read unless `needs_before`.
            again: values on another batch, now and before the last gradient step.
        """
        zero, keep = new.values.new_zeros(()), None
        pfo = extra = zero
        if has_pfo(self.config, NETWORK):
            pfo = pfo_term(self.config, new.preactivations, old.preactivations, None)
            keep = pfo_mask(self.config, new.preactivations, old.preactivations)
        if "loss" in self.hooks.changes:
            nothing = torch.empty(0)
            inputs = LossInputs(
                new.values,
                old.values,
                nothing if new.preactivations is None else new.preactivations,
                nothing if old.preactivations is None else old.preactivations,
                squared_error,
                *(again or (None, None)),
            )
            extra = self.hooks.loss(self.handle, inputs)
        return pfo, extra, keep

    @torch.no_grad()
    def after_step(self, inputs: Callable[[], Tensor]) -> None:
        """Let interventions act after a gradient step; `inputs` returns (rows, input_size)."""
        if "after_step" in self.hooks.changes:
            self.hooks.after_step(self.handle, inputs())

    @torch.no_grad()
    def after_batch(self, inputs: Callable[[], Tensor]) -> None:
        """Let interventions act after the last gradient step of an iteration."""
        if "after_batch" in self.hooks.changes:
            self.hooks.after_batch(self.handle, inputs())

    def look(self, run: Callable[[], Tensor]) -> dict[str, View]:
        """Watch the learning network on a batch; `run` returns its values."""
        return self.instruments.view({NETWORK: run})

    def metrics(self, before: dict[str, View], after: dict[str, View]) -> dict[str, float]:
        """Return `plasticity/*`, `plasticity_end/*` and `drift/*` of one iteration's update."""
        statistics = value_statistics(before[NETWORK].outputs.amax(-1))
        return {
            **self.instruments.start_metrics(before),
            **{f"plasticity/{name}/{NETWORK}": float(value) for name, value in statistics.items()},
            **self.instruments.end_metrics(before, after),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt since `start`."""
        return self.hooks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.hooks.load_state_dict(state)
