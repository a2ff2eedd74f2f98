"""The activity of hidden units, and their replacement by fresh units that no layer reads yet."""

import torch
from torch import Tensor, nn

from ppo_plasticity.interventions.base import Handle
from ppo_plasticity.interventions.structure import HiddenLayer, fresh_parameters, parameter_name


@torch.no_grad()
def activity(module: nn.Module, layers: list[HiddenLayer], obs: Tensor) -> list[Tensor]:
    """Return the mean |activation| of each unit, (units,) per hidden layer.

    For a convolution it is also the mean over positions, for a CReLU over both halves.
    """
    found: list[Tensor] = []

    def record(reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer = next(layer for layer in layers if layer.reader is reader)
        # (rows, copies, units, positions)
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
    """Return a view of the weights that read a layer's units, or of their moments."""
    shape = (len(parameter), layer.copies, layer.units, -1)
    return parameter.view(shape)  # (outputs, copies, units, positions)


@torch.no_grad()
def replace(handle: Handle, layer: HiddenLayer, units: Tensor) -> None:
    """Draw incoming weights anew, zero the outgoing weights, and reset the moments of both.

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
