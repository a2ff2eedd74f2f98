"""The networks of several seeds run as one; each seed gets the bits of its single-seed run.

On a GPU launching an operation takes longer than doing it, so each operation runs for all seeds at
once. No arithmetic crosses seeds. But the rounding of cuBLAS and of reductions depends on the
number of networks, so there are always `PLACES` of them. On a CPU this gains nothing (docs/pqn.md),
and seeds take turns.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from baselines.networks.attention import EntityAttention
from baselines.networks.gru import Gru, run_grus
from baselines.networks.network import Forward, Network
from baselines.networks.stacked import RunLayer, stacked_layer

PLACES = 8  # networks that run at once; the results of places without a seed are ignored


def runs_as_one(network: Network) -> bool:
    """Return whether a network runs in a stack, even if it is the only one: on a GPU."""
    return network.head.weight.is_cuda


class NetworkStack(Forward):
    """`Network.step` and `Network.sequence` of several seeds, on tensors with a seed axis first.

    Build a new stack when weights have changed; gradients reach each network's own parameters.
    Unknown layers, and attention over entities, run one seed after the other.

    Args:
        networks: one per seed, equal except for their values; at most `PLACES`.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        first, self.num_seeds = networks[0], len(networks)
        self.trunk = stack_layers([network.trunk for network in networks])
        self.gru_norm = stack_layers([network.gru_norm for network in networks])
        self.head = stack_layers([network.head for network in networks])
        self.gru = self.attention = None
        if first.gru is not None:
            self.gru = GruStack([network.gru for network in networks])
        if first.attention is not None:
            self.attention = AttentionStack([network.attention for network in networks])

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one step: inputs (seeds, batch, input_size), hidden (seeds, batch, memory_size).

        Returns:
            Outputs (seeds, batch, output_size) and the next hidden states.
        """
        return self._cut(*super().step(_fill(inputs), _fill(hidden)))

    def sequence(self, inputs: Tensor, hidden: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Compute all rows of whole sequences.

        Args:
            inputs: (seeds, num_steps, batch, input_size).
            hidden: (seeds, batch, memory_size) before the first step.
            keep: (seeds, num_steps, batch, 1) 0.0 if the hidden state is zeroed on entering a step.

        Returns:
            Outputs (seeds, num_steps * batch, output_size), and the hidden states after each step.
        """
        return self._cut(*super().sequence(_fill(inputs), _fill(hidden), _fill(keep)))

    def _cut(self, outputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[: self.num_seeds], hidden[: self.num_seeds]


class GruStack:
    """`Gru` of several seeds: its input gates, its scan and its step.

    Args:
        grus: one per seed.
    """

    def __init__(self, grus: Sequence[Gru]) -> None:
        self.input = stack_layers([gru.input for gru in grus])
        self.weight = stack_tensors([gru.recurrent.weight for gru in grus])
        self.bias = stack_tensors([gru.recurrent.bias for gru in grus])

    def __call__(self, gates: Tensor, hidden: Tensor, keep: Tensor) -> Tensor:
        """Scan over time, see `run_grus`."""
        return run_grus(gates, hidden, keep, self.weight, self.bias)

    def step(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """Advance one step: gates (places, batch, 3 * hidden_size)."""
        return run_grus(gates, hidden, None, self.weight, self.bias, [gates.shape[1]])


class AttentionStack:
    """`EntityAttention` of several seeds, one after the other.

    Args:
        attentions: one per seed.
    """

    def __init__(self, attentions: Sequence[EntityAttention]) -> None:
        self.attentions = attentions

    def read(self, inputs: Tensor) -> tuple[Tensor, list[Any]]:
        """Return features (places, num_rows, hidden_size), and each seed's targets."""
        pairs = zip(self.attentions, inputs, strict=False)
        results = [attention.read(own.clone()) for attention, own in pairs]
        features, targets = zip(*results, strict=True)
        return stack_tensors(features), targets

    def logits(self, outputs: Tensor, targets: Sequence[Any]) -> Tensor:
        """Return action values (places, num_rows, num_actions)."""
        parts = zip(self.attentions, outputs, targets, strict=False)
        return stack_tensors([module.logits(own.clone(), seen) for module, own, seen in parts])


def stack_layers(modules: Sequence[nn.Module]) -> RunLayer:
    """Return the function that runs a layer, or a sequence, of each seed on (places, rows, ...)."""
    first = modules[0]
    if isinstance(first, nn.Sequential):
        layers = [stack_layers(layer) for layer in zip(*modules, strict=True)]
        return partial(reduce, lambda inputs, layer: layer(inputs), layers)
    names = [name for name, _ in first.named_parameters()]
    parameters = {
        name: stack_tensors([module.get_parameter(name) for module in modules]) for name in names
    }
    return stacked_layer(first, parameters) or partial(run_in_turn, modules)


def run_in_turn(modules: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Run a layer of each seed on its own inputs (places, rows, ...).

    Inputs are copied, because cuBLAS also chooses kernels by memory address.
    """
    pairs = zip(modules, inputs, strict=False)
    return stack_tensors([module(own.clone()) for module, own in pairs])


def stack_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Return a tensor (places, ...) of each seed's; places without a seed repeat the last one."""
    fillers = [tensors[-1].detach()] * (PLACES - len(tensors))
    return torch.stack([*tensors, *fillers])  # (places, ...)


def _fill(tensor: Tensor) -> Tensor:
    """Return a tensor (seeds, ...) as (places, ...), with zeros in places without a seed."""
    zeros = tensor.new_zeros(PLACES - len(tensor), *tensor.shape[1:])
    return torch.cat([tensor, zeros])  # (places, ...)
