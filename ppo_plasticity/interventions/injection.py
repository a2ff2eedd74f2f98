"""Plasticity injection."""

import dataclasses

import torch
from torch import Tensor, nn

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import InjectedHead, head_index, head_names


@dataclasses.dataclass
class Injection(Intervention):
    """After `at` batches freeze the head and train a fresh one beside it, minus its frozen copy.

    Outputs do not change at that moment. Nikishin et al. 2023, arXiv 2305.15555.
    """

    at: int = option(100, "batches before the injection", low=0)
    changes = frozenset({"layers", "after_step", "after_batch"})

    def layers(self, network: nn.Sequential) -> nn.Sequential:
        """Return the network with an `InjectedHead` in place of its head."""
        head = network[head_index(network)]
        if not isinstance(head, nn.Linear):
            raise ValueError("plasticity is injected only once")
        changed = [InjectedHead(head) if layer is head else layer for layer in network]
        return nn.Sequential(*changed)

    def start(self, handle: Handle) -> None:
        """Count batches from here; nothing is frozen yet, unless `at` is 0."""
        self.batches = 0
        self.frozen: dict[str, Tensor] = {}
        if self.at == 0:
            self._inject(handle)

    @torch.no_grad()
    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Undo what regularisers did to frozen weights."""
        for name, value in self.frozen.items():
            handle.module.get_parameter(name).copy_(value)

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Inject if it is time."""
        self.batches += 1
        if self.batches == self.at:
            self._inject(handle)

    def _inject(self, handle: Handle) -> None:
        old, new, copy = head_names(handle.module)
        head = next(part for part in handle.module.modules() if isinstance(part, InjectedHead))
        head.inject(handle.generator)
        for name, parameter in handle.module.named_parameters():
            layer = name.rpartition(".")[0]
            if layer in (old, new, copy):
                for moment in handle.moments(name):
                    moment.zero_()
            if layer in (old, copy):
                self.frozen[name] = parameter.detach().clone()
