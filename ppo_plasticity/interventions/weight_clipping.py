"""Weight clipping."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import init_bound, weight_names


@dataclasses.dataclass
class WeightClipping(Intervention):
    """Clip weights and biases of every layer to ±factor · 1/√fan_in after each gradient step.

    Elsayed, Lan, Lyle and Mahmood, "Weight clipping for deep continual and reinforcement learning".
    """

    factor: float = option(2.0, "multiple of the bound of the initial weights", low=0)
    changes = frozenset({"after_step"})

    @torch.no_grad()
    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Clip the parameters in place."""
        parameters = dict(handle.module.named_parameters())
        for name in weight_names(handle.module):
            bound = self.factor * init_bound(parameters[name])
            parameters[name].clamp_(-bound, bound)
            bias = parameters.get(f"{name.removesuffix('weight')}bias")
            if bias is not None:
                bias.clamp_(-bound, bound)
