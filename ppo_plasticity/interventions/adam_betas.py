"""Adam with equal betas."""

import dataclasses
from typing import Any

from ppo_plasticity.interventions.base import Intervention
from ppo_plasticity.interventions.options import option


@dataclasses.dataclass
class AdamBetas(Intervention):
    """Use one decay for both moments of Adam: a large gradient is then divided by its own size.

    Dohare et al. 2023, "Overcoming policy collapse in deep reinforcement learning" (EWRL); a
    control of Moalla et al. 2024, arXiv 2405.00662.
    """

    beta1: float = option(0.9, "decay of the first moment", low=0, high=0.9999999)
    beta2: float = option(0.9, "decay of the second moment", low=0, high=0.9999999)
    changes = frozenset({"optimizer"})

    def optimizer_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return Adam's keyword arguments with these betas."""
        return {**options, "betas": (self.beta1, self.beta2)}
