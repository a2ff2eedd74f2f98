"""Concatenated ReLU in place of all activations."""

import dataclasses

from torch import nn

from ppo_plasticity.interventions.base import Intervention
from ppo_plasticity.interventions.structure import NONLINEAR, CReLU


@dataclasses.dataclass
class ConcatenatedReLU(Intervention):
    """Replace activations by (relu(x), relu(-x)); the layers after them read twice as many units.

    Abbas et al. 2023, arXiv 2303.07507.
    """

    changes = frozenset({"layers"})

    def layers(self, network: nn.Sequential) -> nn.Sequential:
        """Return the network with CReLU; its number of outputs does not change."""
        changed: list[nn.Module] = []
        factor, unit_axis = 1, -1
        for layer in network:
            if isinstance(layer, NONLINEAR):
                layer, factor = CReLU(unit_axis), 2
            elif isinstance(layer, nn.Linear | nn.Conv2d):
                unit_axis = -3 if isinstance(layer, nn.Conv2d) else -1
                layer, factor = widened(layer, factor), 1
            elif isinstance(layer, nn.LayerNorm) and factor == 2:
                layer = nn.LayerNorm([2 * layer.normalized_shape[0]])
            changed.append(layer)
        return nn.Sequential(*changed)


def widened(layer: nn.Module, factor: int) -> nn.Module:
    """Return a new layer with `factor` times as many inputs, otherwise the same."""
    if factor == 1:
        return layer
    if isinstance(layer, nn.Linear):  # or a subclass
        return type(layer)(factor * layer.in_features, layer.out_features, layer.bias is not None)
    assert isinstance(layer, nn.Conv2d)
    window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    rest = (layer.groups, layer.bias is not None, layer.padding_mode)
    channels = (factor * layer.in_channels, layer.out_channels)
    return nn.Conv2d(*channels, *window, *rest)  # type: ignore[arg-type]
