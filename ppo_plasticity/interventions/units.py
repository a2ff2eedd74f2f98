"""How active hidden units are, and how a unit is replaced by a fresh one that nobody reads yet."""

import torch
from torch import Tensor, nn

from ppo_plasticity.interventions.base import Handle
from ppo_plasticity.interventions.structure import HiddenLayer, fresh_parameters, parameter_name


@torch.no_grad()
def activity(module: nn.Module, layers: list[HiddenLayer], obs: Tensor) -> list[Tensor]:
    """Return for every hidden layer the mean |activation| of its units, (units,).

    Of a convolution it is the mean over positions, of a CReLU the mean over both halves.
    """
    found: list[Tensor] = []

    def record(reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer = next(layer for layer in layers if layer.reader is reader)
        read = inputs[0].abs().reshape(len(obs), layer.copies, layer.units, -1)
        found.append(read.mean((0, 1, 3)))

    hooks = [layer.reader.register_forward_pre_hook(record) for layer in layers]
    try:
        module(obs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def outgoing(parameter: Tensor, layer: HiddenLayer) -> Tensor:
    """Return the weights that read a layer's units, (outputs, copies, units, positions), a view."""
    return parameter.view(len(parameter), layer.copies, layer.units, -1)


@torch.no_grad()
def replace(handle: Handle, layer: HiddenLayer, units: Tensor) -> None:
    """Draw incoming weights anew, zero the outgoing ones, and forget their moments.

    Args:
        handle: the network.
        layer: one of its hidden layers.
        units: (count,) indices of its units.
    """
    parameters = dict(handle.module.named_parameters())
    for own, fresh in fresh_parameters(layer.layer, handle.generator):
        name = parameter_name(layer.name, own)
        parameters[name][units] = fresh[units]
        for moment in handle.moments(name):
            moment[units] = 0
    for name in layer.outgoing:
        for weights in (parameters[name], *handle.moments(name)):
            outgoing(weights, layer)[:, :, units] = 0
