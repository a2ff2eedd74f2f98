"""Normalise and project."""

import dataclasses

import torch
from torch import Tensor, nn

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.layer_norm import with_layer_norm
from ppo_plasticity.interventions.structure import weight_names


@dataclasses.dataclass
class NaP(Intervention):
    """Normalise all pre-activations; scale weights back to their initial norm after each step.

    Weights and bias of a hidden layer are scaled together. The normalisation after the layer undoes
    the scale, so outputs do not change, but effective step sizes no longer decay. Lyle et al. 2024,
    arXiv 2407.01800.
    """

    changes = frozenset({"layers", "after_step"})

    def layers(self, network: nn.Sequential) -> nn.Sequential:
        """Return the network with a normalisation after each hidden layer that has none."""
        return with_layer_norm(network)

    def start(self, handle: Handle) -> None:
        """Store the initial norms."""
        self.norms = {name: _norm(layer) for name, layer in _layers(handle).items()}  # () each

    @torch.no_grad()
    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Scale weights and biases back to the initial norms."""
        for name, layer in _layers(handle).items():
            scale = self.norms[name] / _norm(layer).clamp_min(1e-12)
            for parameter in layer:
                parameter.mul_(scale)


def _layers(handle: Handle) -> dict[str, list[Tensor]]:
    """Return weight and bias, if the layer has one, of every hidden layer by its weight's name."""
    parameters = dict(handle.module.named_parameters())
    pairs = {
        name: (parameters[name], parameters.get(f"{name.removesuffix('weight')}bias"))
        for name in weight_names(handle.module, head=False)
    }
    return {name: [part for part in pair if part is not None] for name, pair in pairs.items()}


@torch.no_grad()
def _norm(layer: list[Tensor]) -> Tensor:
    """Return the norm of weight and bias together, ()."""
    return torch.stack([parameter.square().sum() for parameter in layer]).sum().sqrt()
