"""The networks of several seeds run as one, each seed getting bit for bit what it would get alone.

On a GPU launching an operation takes longer than doing it, so each runs for all seeds at once. No
arithmetic crosses seeds, but cuBLAS and reductions round by how many there are: there are always
`PLACES`. A processor gains nothing (docs/pqn.md), and seeds take turns there.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from baselines.networks.attention import EntityAttention
from baselines.networks.gru import Gru, run_grus
from baselines.networks.network import Forward, Network
from baselines.networks.stacked import Run, stacked_layer

PLACES = 8  # seeds that run at once; places left over compute what nobody reads


def runs_as_one(network: Network) -> bool:
    """Return whether a network runs in a stack, with other seeds' or alone: on a GPU."""
    return network.head.weight.is_cuda


class NetworkStack(Forward):
    """`Network.step` and `Network.sequence` of several seeds, on tensors with a seed axis first.

    Build it anew when weights have changed; gradients reach each network's own parameters. Layers
    that are not known here, and attention over entities, run one seed after the other.

    Args:
        networks: one a seed, equal but for their values; at most `PLACES`.
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
            keep: (seeds, num_steps, batch, 1) 0.0 where the hidden state is zeroed on entering.

        Returns:
            Outputs (seeds, num_steps * batch, output_size), and the hidden states after each step.
        """
        return self._cut(*super().sequence(_fill(inputs), _fill(hidden), _fill(keep)))

    def _cut(self, outputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[: self.num_seeds], hidden[: self.num_seeds]


class GruStack:
    """`Gru` of several seeds: its input gates, its scan and its step.

    Args:
        grus: one a seed.
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
        attentions: one a seed.
    """

    def __init__(self, attentions: Sequence[EntityAttention]) -> None:
        self.attentions = attentions

    def read(self, inputs: Tensor) -> tuple[Tensor, list[Any]]:
        """Return features (places, num_rows, hidden_size), and each seed's targets."""
        rows = zip(self.attentions, inputs, strict=False)
        features, targets = zip(*[one.read(own.clone()) for one, own in rows], strict=True)
        return stack_tensors(features), targets

    def logits(self, outputs: Tensor, targets: Sequence[Any]) -> Tensor:
        """Return action values (places, num_rows, num_actions)."""
        rows = zip(self.attentions, outputs, targets, strict=False)
        return stack_tensors([one.logits(own.clone(), seen) for one, own, seen in rows])


def stack_layers(modules: Sequence[nn.Module]) -> Run:
    """Return what runs one layer of each seed, or a sequence of layers, on (places, rows, ...)."""
    first = modules[0]
    if isinstance(first, nn.Sequential):
        layers = [stack_layers(layer) for layer in zip(*modules, strict=True)]
        return partial(reduce, lambda inputs, layer: layer(inputs), layers)
    names = [name for name, _ in first.named_parameters()]
    own = {name: stack_tensors([one.get_parameter(name) for one in modules]) for name in names}
    return stacked_layer(first, own) or partial(run_in_turn, modules)


def run_in_turn(modules: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Run a layer of each seed on its own inputs (places, rows, ...).

    These are copied, since cuBLAS also chooses by where they begin.
    """
    rows = zip(modules, inputs, strict=False)
    return stack_tensors([module(own.clone()) for module, own in rows])


def stack_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Return (places, ...) of each seed's tensor; places left over repeat the last one."""
    return torch.stack([*tensors, *[tensors[-1].detach()] * (PLACES - len(tensors))])


def _fill(tensor: Tensor) -> Tensor:
    """Return (places, ...) of (seeds, ...), with zeros in places left over."""
    return torch.cat([tensor, tensor.new_zeros(PLACES - len(tensor), *tensor.shape[1:])])
