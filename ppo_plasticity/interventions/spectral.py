"""Spectral regularisation."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import weight_names


@dataclasses.dataclass
class Spectral(Intervention):
    """Add coef · Σ (σ^power - 1)², σ the largest singular value of each weight matrix.

    σ comes from one power iteration per step, started at the vectors of the step before. Kernels
    count as matrices of (channels, rest). Lewandowski et al. 2024, arXiv 2406.06811.
    """

    coef: float = option(1e-4, "weight of the term", low=0)
    power: int = option(2, "power of the singular value", low=1)
    changes = frozenset({"loss"})

    def start(self, handle: Handle) -> None:
        """Draw the vectors of the power iteration and iterate until they are close."""
        self.left: dict[str, Tensor] = {}  # (channels,) by the weight's name
        for name in weight_names(handle.module):
            weight = handle.parameters[name].detach().flatten(1)  # (channels, rest)
            drawn = torch.randn(
                len(weight), generator=handle.generator, device=handle.generator.device
            )
            self.left[name] = functional.normalize(drawn.to(weight), dim=0)
            for _ in range(20):
                self.left[name], _right = power_iteration(weight, self.left[name])

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted sum over all layers, ()."""
        terms = []
        for name, vector in self.left.items():
            weight = handle.parameters[name].flatten(1)  # (channels, rest)
            self.left[name], right = power_iteration(weight.detach(), vector)
            largest = torch.dot(self.left[name], weight @ right)
            terms.append((largest**self.power - 1).square())
        return self.coef * torch.stack(terms).sum()  # over layers


def power_iteration(weight: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left and right vectors, (channels,) and (rest,), after one power iteration."""
    right = functional.normalize(weight.t() @ left, dim=0)  # (rest,)
    return functional.normalize(weight @ right, dim=0), right
