"""L2 regularisation towards the initial weights."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option


@dataclasses.dataclass
class L2Init(Intervention):
    """Add coef · Σ (θ - θ_0)², regenerative regularisation. Kumar et al. 2023, arXiv 2308.11958."""

    coef: float = option(1e-4, "weight of the term", low=0)
    changes = frozenset({"loss"})

    def start(self, handle: Handle) -> None:
        """Store the initial weights."""
        self.initial = {name: value.detach().clone() for name, value in handle.parameters.items()}

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted squared distance to the initial weights, ()."""
        moved = [
            (parameter - self.initial[name]).square().sum()
            for name, parameter in handle.parameters.items()
        ]
        return self.coef * torch.stack(moved).sum()  # over parameters
