"""Churn reduction."""

import dataclasses

from torch import Tensor

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.options import option


@dataclasses.dataclass
class Churn(Intervention):
    """Keep outputs on a reference minibatch, other states, as before the last step (CHAIN).

    Policies are compared by their divergence, values by squared differences. Tang and Berseth,
    "Improving deep reinforcement learning by reducing the chain effect of value and policy churn".
    """

    coef: float = option(1.0, "weight of the term", low=0)
    changes = frozenset({"loss", "reference"})

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the weighted mean divergence on the reference minibatch, zero without one."""
        now, before = inputs.reference_outputs, inputs.reference_old_outputs
        if now is None or before is None:
            return inputs.outputs.new_zeros(())
        return self.coef * inputs.divergence(before, now).mean()
