"""Periodic resets of the last layers."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import fresh_parameters, hidden_layers, named_head


@dataclasses.dataclass
class HeadReset(Intervention):
    """Draw the head (or the last `count` layers, or all) anew and forget their moments.

    Nikishin et al. 2022, arXiv 2205.07802. Layers are linear ones and convolutions, up to the head.
    What is neither, such as a normalisation or log standard deviations behind the head, stays as it
    is, unless `count=0` resets all.
    """

    every: int = option(200, "batches between two resets", low=1)
    count: int = option(1, "how many of the last layers; 0 for all", low=0)
    changes = frozenset({"after_batch"})

    def start(self, handle: Handle) -> None:
        """Count batches from here."""
        self.batches = 0

    @torch.no_grad()
    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Reset if it is time."""
        self.batches += 1
        if self.batches % self.every:
            return
        layers = [layer.name for layer in hidden_layers(handle.module)]
        chosen = [*layers, named_head(handle.module)[0]][-self.count :]
        parameters = dict(handle.module.named_parameters())
        for name, fresh in fresh_parameters(handle.module, handle.generator):
            if self.count and name.rpartition(".")[0] not in chosen:
                continue
            parameters[name].copy_(fresh)
            for moment in handle.moments(name):
                moment.zero_()
