"""Attach interventions to plain modules: a handle for module and Adam, and a list used as one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs


class ModuleHandle:
    """The handle of one module trained by `torch.optim.Adam` or a relative with its state.

    Only the module's parameters are touched, also where the optimizer owns others.

    Args:
        module: the network.
        optimizer: the optimizer that owns its parameters.
        generator: where interventions draw from; one seeded with 0 if none is given.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None = None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.parameters = dict(module.named_parameters())
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator

    def moments(self, name: str) -> list[Tensor]:
        """Return Adam's first and second moment of a parameter (views; empty before step one)."""
        state = self.optimizer.state.get(self.parameters[name], {})
        return [state[key] for key in ("exp_avg", "exp_avg_sq") if key in state]

    def reset_optimizer(self) -> None:
        """Forget moments and step count of every parameter."""
        for value in self._states():
            value.zero_()

    def reset_step_count(self) -> None:
        """Let Adam count its steps from zero again and keep the moments."""
        for value in self._states("step"):
            value.zero_()

    def _states(self, only: str = "") -> list[Tensor]:
        """Return the optimizer's tensors, changed in place: captured graphs stay valid."""
        return [
            value
            for parameter in self.parameters.values()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and (not only or key == only)
        ]


class Interventions(Intervention):
    """Several interventions of one network, used as one: losses add up, hooks run in order.

    Args:
        interventions: those to combine; an empty list changes nothing.

    Raises:
        ValueError: two of them ask for pre-activations of different layers.
    """

    def __init__(self, interventions: Sequence[Intervention] = ()) -> None:
        self.interventions = list(interventions)
        changes = (intervention.changes for intervention in self.interventions)
        self.changes = frozenset[str]().union(*changes)
        scopes = {intervention.scope for intervention in self.that_change("preactivations")}
        if len(scopes) > 1:
            raise ValueError("pre-activations are either of the last hidden layer or of all layers")
        self.scope = scopes.pop() if scopes else "last"

    def layers(self, network: nn.Sequential) -> nn.Sequential:
        """Return the network as changed by one after the other."""
        for intervention in self.that_change("layers"):
            network = intervention.layers(network)
        return network

    def optimizer_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return Adam's keyword arguments as changed by one after the other."""
        for intervention in self.that_change("optimizer"):
            options = intervention.optimizer_options(options)
        return options

    def start(self, handle: Handle) -> None:
        """Let all look at the initial weights."""
        for intervention in self.interventions:
            intervention.start(handle)

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return the sum of the loss terms."""
        total = inputs.outputs.new_zeros(())
        for intervention in self.that_change("loss"):
            total = total + intervention.loss(handle, inputs)
        return total

    def kept_rows(self, inputs: LossInputs) -> Tensor:
        """Return (rows,) bool: the rows that all of them still let train."""
        kept = super().kept_rows(inputs)
        for intervention in self.that_change("rows"):
            kept = kept & intervention.kept_rows(inputs)
        return kept

    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Let all act after a gradient step."""
        for intervention in self.that_change("after_step"):
            intervention.after_step(handle, obs)

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Let all act after a batch."""
        for intervention in self.that_change("after_batch"):
            intervention.after_batch(handle, obs)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all, by their place."""
        return {str(place): item.state_dict() for place, item in enumerate(self.interventions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states that `state_dict` returned."""
        for place, intervention in enumerate(self.interventions):
            intervention.load_state_dict(state.get(str(place), {}))

    def that_change(self, what: str) -> list[Intervention]:
        """Return the interventions that do this; see `Intervention.changes`."""
        return [item for item in self.interventions if what in item.changes]
