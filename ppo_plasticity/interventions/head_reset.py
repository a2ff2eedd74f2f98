"""Periodic resets of the last layers."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import find_hidden_layers, fresh_parameters, named_head


@dataclasses.dataclass
class HeadReset(Intervention):
    """Draw the weights of the last layers anew, up to the head, and reset their moments.

    Nikishin et al. 2022, arXiv 2205.07802. Layers are linear layers and convolutions. Other
    parameters, such as those of a normalisation or log standard deviations after the head, are
    reset only with `count=0`.
    """

    every: int = option(200, "batches between two resets", low=1)
    count: int = option(1, "number of last layers; 0 for all parameters", low=0)
    changes = frozenset({"after_batch"})

    def start(self, handle: Handle) -> None:
        """Set the count of batches to zero."""
        self.batches = 0

    @torch.no_grad()
    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Reset in every `every`-th batch."""
        self.batches += 1
        if self.batches % self.every:
            return
        layers = [layer.name for layer in find_hidden_layers(handle.module)]
        chosen = [*layers, named_head(handle.module)[0]][-self.count :]
        parameters = dict(handle.module.named_parameters())
        for name, fresh in fresh_parameters(handle.module, handle.generator):
            if self.count and name.rpartition(".")[0] not in chosen:
                continue
            parameters[name].copy_(fresh)
            for moment in handle.moments(name):
                moment.zero_()
