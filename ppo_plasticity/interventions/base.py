"""Interventions: the methods they may have, and what they may see and change.

An intervention is attached to one network of a learner, for example to its actor. A learner calls

    network = intervention.layers(network)            once, before the optimizer is built
    options = intervention.optimizer_options(options) once, Adam's keyword arguments
    intervention.start(handle)                        once, on initial weights
    loss += intervention.loss(handle, inputs)         in every gradient step
    kept = intervention.kept_rows(inputs)             in every gradient step: rows that may train
    intervention.after_step(handle, obs)              after every gradient step
    intervention.after_batch(handle, obs)             after the last epoch of every batch

and skips what `changes` says is not there. Every method does nothing until a subclass overrides it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Handle(Protocol):
    """A network in training: its module, its differentiable parameters, its optimizer state.

    `module` and `parameters` share memory; writing into `module`'s parameters in place is how
    interventions change weights. `parameters` differ from the module's own only for learners that
    train several networks at once, where they are views of the stacked tensors.
    """

    module: nn.Module
    parameters: Mapping[str, Tensor]  # by the names of `module.named_parameters()`
    generator: torch.Generator  # all random numbers of an intervention come from here

    def moments(self, name: str) -> list[Tensor]:
        """Return Adam's first and second moment of a parameter (views; empty before step one)."""
        ...

    def reset_optimizer(self) -> None:
        """Forget moments and step count of every parameter."""
        ...

    def reset_step_count(self) -> None:
        """Let Adam count its steps from zero again and keep the moments."""
        ...


@dataclasses.dataclass
class LossInputs:
    """Inputs of a loss term; rows are those of one minibatch.

    `outputs` are those of the network's head (logits, or the parameters of a distribution, or
    values). `old_outputs` are those of the network that collected the batch. `reference_outputs`
    and `reference_old_outputs` are computed on another minibatch, now and before the last gradient
    step; they are present only if `changes` names `"reference"`. Rows of weight 0 are padding.
    """

    outputs: Tensor  # (rows, outputs)
    old_outputs: Tensor  # (rows, outputs), no gradient
    preactivations: Tensor  # (rows, units) those the learner was asked for
    old_preactivations: Tensor  # (rows, units), no gradient
    divergence: Callable[[Tensor, Tensor], Tensor]  # (old, new outputs) to (rows,), KL or squares
    reference_outputs: Tensor | None = None
    reference_old_outputs: Tensor | None = None
    weights: Tensor | None = None  # (rows,) that sum to 1; None: all rows count alike

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values (rows,) over the rows that count."""
        return values.mean() if self.weights is None else values[self.weights > 0].mean()


class Intervention:
    """The intervention that changes nothing; others override what they need.

    Attributes:
        changes: which of the methods do something: any of `"layers"`, `"optimizer"`, `"loss"`,
            `"rows"` (`kept_rows`), `"preactivations"` or `"reference"` (loss or rows read them),
            `"after_step"`, `"after_batch"`. Learners skip the rest, which then costs nothing.
        scope: the pre-activations in `LossInputs` if `changes` names them: `"last"`, those of the
            last hidden layer, or `"all"`, those of all hidden layers side by side.
    """

    changes: frozenset[str] = frozenset()
    scope: str = "last"

    def layers(self, network: nn.Sequential) -> nn.Sequential:
        """Return the network with other layers; called before weights are initialised."""
        return network

    def optimizer_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return Adam's keyword arguments (`lr`, `betas`, `eps`, ...), changed."""
        return options

    def start(self, handle: Handle) -> None:
        """Look at the initial weights."""

    def loss(self, handle: Handle, inputs: LossInputs) -> Tensor:
        """Return a scalar to add to the learner's loss."""
        return inputs.outputs.new_zeros(())

    def kept_rows(self, inputs: LossInputs) -> Tensor:
        """Return (rows,) bool: the rows that may still train the network."""
        return torch.ones(len(inputs.outputs), dtype=torch.bool, device=inputs.outputs.device)

    def after_step(self, handle: Handle, obs: Tensor) -> None:
        """Act after a gradient step on the minibatch `obs` (rows, ...)."""

    def after_batch(self, handle: Handle, obs: Tensor) -> None:
        """Act after the last gradient step of a batch; `obs` (rows, ...) is the whole batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state since `start` as plain data and tensors, for resumed runs."""
        options: set[str] = set(getattr(self, "__dataclass_fields__", ()))
        return {name: value for name, value in vars(self).items() if name not in options}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        vars(self).update(state)
