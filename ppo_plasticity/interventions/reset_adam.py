"""Reset Adam after every batch."""

import dataclasses

from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention


@dataclasses.dataclass
class ResetAdam(Intervention):
    """Reset Adam's moments and step count after every batch.

    Asadi et al. 2023, arXiv 2306.17833; a control of Moalla et al. 2024, arXiv 2405.00662.
    """

    changes = frozenset({"after_batch"})

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Reset the optimizer."""
        handle.reset_optimizer()
