"""One layer of several seeds at once; no arithmetic crosses seeds."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from baselines.networks.single_agent import ScalePixels

RunLayer = Callable[[Tensor], Tensor]
# None: the module itself is the function, since it has settings.
ELEMENTWISE: dict[type[nn.Module], RunLayer | None] = {
    nn.Tanh: torch.tanh,
    nn.ReLU: torch.relu,
    nn.GELU: None,
    nn.LeakyReLU: None,
    nn.Identity: None,
    ScalePixels: None,
}


def stacked_layer(layer: nn.Module, parameters: dict[str, Tensor]) -> RunLayer | None:
    """Return the function that runs a layer of all seeds at once; None for an unknown layer.

    Args:
        layer: layer of one seed.
        parameters: parameters of all seeds by their names in the layer, (seeds, *shape).
    """
    if type(layer) in ELEMENTWISE:
        return ELEMENTWISE[type(layer)] or layer
    if type(layer) not in (nn.Linear, nn.LayerNorm) or layer.bias is None:
        return None
    if type(layer) is nn.Linear:
        return partial(stacked_linear, **parameters)
    shape, eps = layer.normalized_shape, layer.eps
    return partial(stacked_layer_norm, shape=shape, eps=eps, **parameters)


def prepared(run: RunLayer) -> RunLayer:
    """Return a linear layer with its weights already transposed; other layers as they are."""
    if not (isinstance(run, partial) and run.func is stacked_linear):
        return run
    weight, bias = run.keywords["weight"], run.keywords["bias"]
    if weight.shape[1] == 1:
        return run
    weight = weight.detach().transpose(1, 2)  # (seeds, features, outputs)
    bias = bias.detach().unsqueeze(1)  # (seeds, 1, outputs)
    return lambda inputs: torch.baddbmm(bias, inputs, weight)


def one_by_one(
    inputs: Tensor, *, modules: list[nn.Module], parameters: dict[str, Tensor]
) -> Tensor:
    """Return the outputs (seeds, rows, ...) of any layer of each seed on its own inputs."""
    outputs = []
    for seed, module in enumerate(modules):
        own = {name: value[seed] for name, value in parameters.items()}
        outputs.append(functional_call(module, own, (inputs[seed],)))
    return torch.stack(outputs)  # (seeds, rows, ...)


def stacked_layer_norm(
    inputs: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, ...], eps: float
) -> Tensor:
    """Return (seeds, rows, features): the outputs of every seed's LayerNorm over `shape`."""
    normalised = functional.layer_norm(inputs, shape, eps=eps)
    return torch.addcmul(bias.unsqueeze(1), normalised, weight.unsqueeze(1))


def stacked_linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the outputs (seeds, rows, outputs) of every seed's linear layer.

    Args:
        inputs: (seeds, rows, features).
        weight: (seeds, outputs, features).
        bias: (seeds, outputs).
    """
    if weight.shape[1] == 1:  # BLAS would take another path for a single seed, and round otherwise
        return (inputs * weight).sum(-1, keepdim=True) + bias.unsqueeze(1)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.transpose(1, 2))
