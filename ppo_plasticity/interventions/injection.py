"""Plasticity injection."""

import dataclasses

import torch
from torch import Tensor, nn

from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.interventions.options import option
from ppo_plasticity.interventions.structure import InjectedHead, head_index, named_head


@dataclasses.dataclass
class Injection(Intervention):
    """After `at` batches freeze the head and add a fresh trained head minus its frozen copy.

    The outputs do not change at that moment. Nikishin et al. 2023, arXiv 2305.15555.
    """

    at: int = option(100, "batches before the injection", low=0)
    changes = frozenset({"layers", "after_step", "after_batch"})

    def layers(self, network: nn.Sequential) -> nn.Sequential:
        """Return the network with an `InjectedHead` in place of its head."""
        layers = list(network)
        head = layers[head_index(network)]
        if type(head) is not nn.Linear:
            raise ValueError("plasticity is injected only once, into a head of nn.Linear")
        reserve = InjectedHead(head.in_features, head.out_features, head.bias is not None)
        reserve.weight, reserve.bias = head.weight, head.bias
        layers[head_index(network)] = reserve
        return nn.Sequential(*layers)

    def start(self, handle: Handle) -> None:
        """Set the count of batches to zero; nothing is frozen yet, unless `at` is 0."""
        self.batches = 0
        self.frozen: dict[str, Tensor] = {}
        if self.at == 0:
            self._inject(handle)

    @torch.no_grad()
    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Undo changes of the frozen weights by regularisers."""
        for name, value in self.frozen.items():
            handle.module.get_parameter(name).copy_(value)

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Inject after batch number `at`."""
        self.batches += 1
        if self.batches == self.at:
            self._inject(handle)

    def _inject(self, handle: Handle) -> None:
        """Switch the head over, reset its moments, remember its frozen weights."""
        name, head = named_head(handle.module)
        assert isinstance(head, InjectedHead)
        head.inject(handle.generator)
        for own, parameter in head.named_parameters():
            for moment in handle.moments(f"{name}.{own}"):
                moment.zero_()
            if not own.startswith("new_"):
                self.frozen[f"{name}.{own}"] = parameter.detach().clone()
