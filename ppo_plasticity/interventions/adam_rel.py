"""Adam with relative timesteps."""

import dataclasses

from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention


@dataclasses.dataclass
class AdamRel(Intervention):
    """Count Adam's steps from zero in every batch, but keep its moments (Adam-Rel).

    The bias correction then makes the first steps on a new objective smaller. Ellis et al. 2024,
    arXiv 2412.17113.
    """

    changes = frozenset({"after_batch"})

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Reset the step count."""
        handle.reset_step_count()
