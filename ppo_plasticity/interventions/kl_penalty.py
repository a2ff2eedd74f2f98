"""KL penalty, fixed or adaptive."""

import dataclasses

import torch
from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option


@dataclasses.dataclass
class KLPenalty(Intervention):
    """Add coef · KL(π_old ‖ π); with a target, coef doubles or halves to keep the KL near it.

    Once per batch the rule takes the mean KL over the batch's gradient steps: above 1.5 · target
    coef doubles, below target / 1.5 coef halves. Schulman et al. 2017, arXiv 1707.06347. For a
    critic the divergence is the squared difference. (Early stopping ends epochs, so it is an option
    of the learner: its target KL.)
    """

    coef: float = option(1.0, "weight of the term", low=0)
    target: float = option(0.0, "KL to hold; 0 for a fixed weight", low=0)
    changes = frozenset({"loss", "after_batch"})

    def start(self, handle: Handle) -> None:
        """Set the weight to `coef`."""
        self.weight = self.coef
        self.seen: list[Tensor] = []  # divergence of each gradient step of the batch

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted mean divergence from the network that collected the batch, ()."""
        divergence = inputs.mean(inputs.divergence(inputs.old_outputs, inputs.outputs))
        self.seen.append(divergence.detach())
        return self.weight * divergence

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Adapt the weight."""
        seen, self.seen = self.seen, []
        if not self.target or not seen:
            return
        mean = torch.stack(seen).mean().item()
        if mean > 1.5 * self.target:
            self.weight *= 2
        if mean < self.target / 1.5:
            self.weight /= 2
