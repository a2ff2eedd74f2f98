"""Proximal feature optimization as an intervention."""

import dataclasses
from typing import Literal

from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option
from ppo_plasticity.pfo import pfo_loss


@dataclasses.dataclass
class PFO(Intervention):
    """Keep pre-activations near those of the network that collected the batch.

    Moalla et al. 2024, arXiv 2405.00662. There `coef` is 1 (last) and 10 (all) on Atari, 1 on
    MuJoCo with tanh and 10 with ReLU, and only the actor has the term.
    """

    coef: float = option(1.0, "weight of the term", low=0)
    scope: str = option("last", "which hidden layers", allowed=("last", "all"))
    distance: Literal["l2", "cosine"] = option(
        "l2", "squares per unit, or cosine", allowed=("l2", "cosine")
    )
    changes = frozenset({"loss", "preactivations"})

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted distance of new and old pre-activations."""
        new, old = inputs.preactivations, inputs.old_preactivations
        return self.coef * pfo_loss(new, old, distance=self.distance)
