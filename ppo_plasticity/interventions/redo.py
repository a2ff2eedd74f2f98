"""Recycling dormant units."""

import dataclasses

from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import find_hidden_layers
from ppo_plasticity.interventions.units import activity, replace


@dataclasses.dataclass
class ReDo(Intervention):
    """Replace dormant units: those with a small mean |activation| compared with their layer.

    A unit's score is its mean |activation| over the batch, divided by the mean over its layer. If
    the score is at most `threshold`, the unit's incoming weights are drawn anew, its outgoing
    weights become zero, and Adam's moments of both are reset. Sokar et al. 2023, arXiv 2302.12902.
    """

    every: int = option(100, "batches between two replacements", low=1)
    threshold: float = option(0.1, "score up to which a unit counts as dormant", low=0)
    changes = frozenset({"after_batch"})

    def start(self, handle: Handle) -> None:
        """Set the count of batches to zero."""
        self.batches = 0

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Replace dormant units in every `every`-th batch."""
        self.batches += 1
        if self.batches % self.every:
            return
        layers = find_hidden_layers(handle.module)
        for layer, active in zip(layers, activity(handle.module, layers, obs), strict=True):
            dormant = active <= self.threshold * active.mean()  # (units,)
            replace(handle, layer, dormant.nonzero().flatten())  # (dormant units,)
