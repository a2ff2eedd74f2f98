"""Recycling dormant units."""

import dataclasses

from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import hidden_layers
from ppo_plasticity.interventions.units import activity, replace


@dataclasses.dataclass
class ReDo(Intervention):
    """Replace dormant units: those whose mean |activation| is small against their layer's.

    A unit's score is its mean |activation| over the batch, divided by the mean over its layer.
    Where it is at most `threshold`, incoming weights are drawn anew, outgoing ones become zero and
    Adam forgets the moments of both. Sokar et al. 2023, arXiv 2302.12902.
    """

    every: int = option(100, "batches between two looks", low=1)
    threshold: float = option(0.1, "score up to which a unit counts as dormant", low=0)
    changes = frozenset({"after_batch"})

    def start(self, handle: Handle) -> None:
        """Count batches from here."""
        self.batches = 0

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Replace dormant units if it is time."""
        self.batches += 1
        if self.batches % self.every:
            return
        layers = hidden_layers(handle.module)
        for layer, active in zip(layers, activity(handle.module, layers, obs), strict=True):
            dormant = active <= self.threshold * active.mean()
            replace(handle, layer, dormant.nonzero().flatten())
