"""L2 regularisation towards zero."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option


@dataclasses.dataclass
class L2(Intervention):
    """Add coef · Σ θ² over all parameters; its gradient passes through Adam's moments.

    Lyle et al. 2023, arXiv 2303.01486, use it against loss of plasticity.
    """

    coef: float = option(1e-4, "weight of the term", low=0)
    changes = frozenset({"loss"})

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted sum of squares, ()."""
        squares = [parameter.square().sum() for parameter in handle.parameters.values()]
        return self.coef * torch.stack(squares).sum()  # over parameters
