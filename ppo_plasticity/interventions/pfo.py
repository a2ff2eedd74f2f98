"""Proximal feature optimization as an intervention."""

import dataclasses
from typing import Literal

from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option
from ppo_plasticity.pfo import pfo_keep, pfo_loss


@dataclasses.dataclass
class PFO(Intervention):
    """Keep pre-activations near those of the network that collected the batch.

    Moalla et al. 2024, arXiv 2405.00662. There `coef` is 1 (last) and 10 (all) on Atari, 1 on
    MuJoCo with tanh and 10 with ReLU, and only the actor has the term. The mode `"clip"` has no
    term and no `coef`: rows whose pre-activations have moved too far do not train.
    """

    coef: float = option(1.0, "weight of the term", low=0)
    scope: str = option("last", "which hidden layers", allowed=("last", "all"))
    distance: Literal["l2", "cosine"] = option(
        "l2", "squares per unit, or cosine", allowed=("l2", "cosine")
    )
    mode: Literal["soft", "clip"] = option(
        "soft", "add a term, or drop the rows that moved too far", allowed=("soft", "clip")
    )

    @property
    def changes(self) -> frozenset[str]:  # type: ignore[override]
        """The loss in soft mode, the rows that train in clip mode."""
        return frozenset({"preactivations", "rows" if self.mode == "clip" else "loss"})

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted distance of new and old pre-activations."""
        new, old = inputs.preactivations, inputs.old_preactivations
        return self.coef * pfo_loss(new, old, distance=self.distance, valid=inputs.weights)

    def kept_rows(self, inputs: LossInputs) -> Tensor:
        """Return (rows,) bool: the rows whose pre-activations are still near the old ones."""
        return pfo_keep(inputs.preactivations, inputs.old_preactivations, distance=self.distance)
