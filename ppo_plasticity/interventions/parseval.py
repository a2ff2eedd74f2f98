"""Parseval regularisation."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import weight_names


@dataclasses.dataclass
class Parseval(Intervention):
    """Add coef · Σ ‖W Wᵀ - scale · I‖² over hidden layers: rows stay orthogonal, of equal length.

    A matrix with more rows than columns cannot have orthogonal rows; the term then uses its
    columns. Kernels count as matrices of (channels, rest). Chung et al. 2024, arXiv 2412.07224.
    """

    coef: float = option(1e-4, "weight of the term", low=0)
    scale: float = option(1.0, "squared length of a row", low=0)
    changes = frozenset({"loss"})

    def start(self, handle: Handle) -> None:
        """Store the names of the hidden layers' weights."""
        self.names = weight_names(handle.module, head=False)

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted sum over hidden layers, ()."""
        total = inputs.outputs.new_zeros(())
        for name in self.names:
            weight = handle.parameters[name].flatten(1)  # (units, rest)
            wide = weight if weight.shape[0] <= weight.shape[1] else weight.t()  # (short, long)
            target = self.scale * torch.eye(len(wide), device=wide.device, dtype=wide.dtype)
            total = total + (wide @ wide.t() - target).square().sum()
        return self.coef * total
