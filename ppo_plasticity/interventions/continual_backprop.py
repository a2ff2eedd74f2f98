"""Continual backpropagation."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import HiddenLayer, find_hidden_layers
from ppo_plasticity.interventions.units import activity, outgoing, replace


@dataclasses.dataclass
class ContinualBackprop(Intervention):
    """Replace the least useful mature units, a small fraction in each step.

    A unit's utility is a running mean of mean |activation| · Σ |outgoing weights|. Dohare et al.
    2024, Nature 632; arXiv 2108.06325.
    """

    rate: float = option(1e-4, "fraction of mature units replaced per step", low=0, high=1)
    maturity: int = option(1000, "steps during which a fresh unit is not replaced", low=0)
    decay: float = option(0.99, "decay of the utility's running mean", low=0, high=0.9999999)
    changes = frozenset({"after_step"})

    def start(self, handle: Handle) -> None:
        """Set utilities, ages and the numbers of due units to zero."""
        self.utility: dict[str, Tensor] = {}  # by layer, (units,)
        for layer in find_hidden_layers(handle.module):
            self.utility[layer.name] = layer.layer.weight.new_zeros(layer.units)
        # (units,) gradient steps since the unit was replaced
        self.age = {name: utility.clone() for name, utility in self.utility.items()}
        self.due = dict.fromkeys(self.utility, 0.0)  # units to replace, with a fraction

    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Update utilities; replace the units that are due."""
        layers = find_hidden_layers(handle.module)
        for layer, active in zip(layers, activity(handle.module, layers, obs), strict=True):
            utility, age = self.utility[layer.name], self.age[layer.name]  # (units,)
            utility.lerp_(active * _outgoing_sizes(handle, layer), 1 - self.decay)
            age += 1
            mature = age > self.maturity
            self.due[layer.name] += self.rate * int(mature.sum())
            count = int(self.due[layer.name])
            if not count:
                continue
            self.due[layer.name] -= count
            corrected = utility / (1 - self.decay**age)
            candidates = corrected.where(mature, torch.inf)  # (units,)
            units = candidates.topk(count, largest=False).indices  # (count,)
            replace(handle, layer, units)
            utility[units] = 0
            age[units] = 0


@torch.no_grad()
def _outgoing_sizes(handle: Handle, layer: HiddenLayer) -> Tensor:
    """Return the summed |outgoing weights| of every unit, (units,)."""
    parameters = dict(handle.module.named_parameters())
    weights = [outgoing(parameters[name].abs(), layer) for name in layer.outgoing]
    sums = [weight.sum((0, 1, 3)) for weight in weights]  # over all but units
    return torch.stack(sums).sum(0)  # (units,)
