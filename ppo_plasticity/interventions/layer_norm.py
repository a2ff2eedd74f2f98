"""Layer normalisation of all pre-activations."""

import dataclasses

from torch import nn

from ppo_plasticity.interventions.base import Intervention
from ppo_plasticity.interventions.structure import NORMS, head_index


@dataclasses.dataclass
class LayerNorm(Intervention):
    """Normalise the output of every hidden layer, before its activation.

    After a convolution, channels and positions are normalised together, with a gain and an offset
    per channel. Ba et al. 2016, arXiv 1607.06450; for plasticity Lyle et al. 2024, arXiv
    2402.18762.
    """

    changes = frozenset({"layers"})

    def layers(self, network: nn.Sequential) -> nn.Sequential:
        """Return the network with a normalisation after each hidden layer that has none."""
        return with_layer_norm(network)


def with_layer_norm(network: nn.Sequential) -> nn.Sequential:
    """Return the network with a normalisation after each hidden layer that has none."""
    layers = list(network)
    changed: list[nn.Module] = []
    for position, layer in enumerate(layers[: head_index(network)]):
        changed.append(layer)
        if isinstance(layers[position + 1], NORMS):
            continue
        if isinstance(layer, nn.Linear):
            changed.append(nn.LayerNorm(layer.out_features))
        if isinstance(layer, nn.Conv2d):
            changed.append(nn.GroupNorm(1, layer.out_channels))
    return nn.Sequential(*changed, *layers[head_index(network) :])
