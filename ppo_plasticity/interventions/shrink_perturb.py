"""Shrink and perturb."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import fresh_parameters


@dataclasses.dataclass
class ShrinkPerturb(Intervention):
    """Mix weights with fresh ones: θ ← keep · θ + (1 - keep) · θ_fresh.

    Ash and Adams 2020, arXiv 1910.08475. Juliani and Ash 2024, arXiv 2405.19153, mix softly in
    every step (`per=step`, `keep` near 1).
    """

    keep: float = option(0.8, "share of the old weights", low=0, high=1)
    every: int = option(100, "batches or steps between two mixtures", low=1)
    per: str = option("batch", "unit of `every`", allowed=("batch", "step"))
    changes = frozenset({"after_step", "after_batch"})

    def start(self, handle: Handle) -> None:
        """Set the count to zero."""
        self.count = 0

    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Mix if `every` counts steps."""
        if self.per == "step":
            self._mix(handle)

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Mix if `every` counts batches."""
        if self.per == "batch":
            self._mix(handle)

    @torch.no_grad()
    def _mix(self, handle: Handle) -> None:
        """Mix in every `every`-th call."""
        self.count += 1
        if self.count % self.every:
            return
        parameters = dict(handle.module.named_parameters())
        for name, fresh in fresh_parameters(handle.module, handle.generator):
            parameters[name].lerp_(fresh, 1 - self.keep)
