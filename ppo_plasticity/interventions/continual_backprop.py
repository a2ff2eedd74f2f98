"""Continual backpropagation."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import HiddenLayer, hidden_layers
from ppo_plasticity.interventions.units import activity, outgoing, replace


@dataclasses.dataclass
class ContinualBackprop(Intervention):
    """Replace the least useful of the units that are old enough, a small fraction in each step.

    A unit's utility is a running mean of mean |activation| · Σ |outgoing weights|. Dohare et al.
    2024, Nature 632; arXiv 2108.06325.
    """

    rate: float = option(1e-4, "fraction of mature units replaced a step", low=0, high=1)
    maturity: int = option(1000, "steps for which a fresh unit is safe", low=0)
    decay: float = option(0.99, "decay of the utility's running mean", low=0, high=0.9999999)
    changes = frozenset({"after_step"})

    def start(self, handle: Handle) -> None:
        """Begin with no utility, no age and nothing to replace."""
        self.utility: dict[str, Tensor] = {}  # by layer, (units,)
        for layer in hidden_layers(handle.module):
            self.utility[layer.name] = layer.layer.weight.new_zeros(layer.units)
        self.age = {name: utility.clone() for name, utility in self.utility.items()}  # steps
        self.due = dict.fromkeys(self.utility, 0.0)

    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Update utilities; replace the units that are due."""
        layers = hidden_layers(handle.module)
        for layer, active in zip(layers, activity(handle.module, layers, obs), strict=True):
            utility, age = self.utility[layer.name], self.age[layer.name]
            utility.lerp_(active * _read_with(handle, layer), 1 - self.decay)
            age += 1
            mature = age > self.maturity
            self.due[layer.name] += self.rate * int(mature.sum())
            count = int(self.due[layer.name])
            if not count:
                continue
            self.due[layer.name] -= count
            corrected = utility / (1 - self.decay**age)
            units = corrected.where(mature, torch.inf).topk(count, largest=False).indices
            replace(handle, layer, units)
            utility[units] = 0
            age[units] = 0


@torch.no_grad()
def _read_with(handle: Handle, layer: HiddenLayer) -> Tensor:
    """Return the summed |outgoing weights| of every unit, (units,)."""
    parameters = dict(handle.module.named_parameters())
    weights = [outgoing(parameters[name].abs(), layer) for name in layer.outgoing]
    return torch.stack([weight.sum((0, 1, 3)) for weight in weights]).sum(0)
