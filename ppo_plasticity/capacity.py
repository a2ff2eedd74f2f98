"""Capacity loss: how well a network can still fit random targets, from its current weights.

A copy of the network is trained for a fixed number of steps to reproduce the outputs of a freshly
initialised network of its architecture. Lyle et al. 2022, arXiv 2204.09560; in this form Moalla et
al. 2024, arXiv 2405.00662, who report the loss on the last minibatch. That loss is noisy, so three
steadier figures accompany it, several targets can be tried, and a fresh network is the control.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Observations = Tensor | NDArray[Any]
Divergence = Callable[[Tensor, Tensor], Tensor]  # (target outputs, outputs) to (rows,)
Prepare = Callable[[Tensor], Tensor]
FIRST_SEED_OF_FRESH = 1_000_003  # far from target seeds: no control equals its target network


@dataclasses.dataclass(frozen=True)
class CapacityResult:
    """Losses of one fit; all are means over rows, and lower is more capacity."""

    last_minibatch: float  # before the last gradient step, as published
    mean_last_tenth: float  # mean over the last 10 % of the steps
    area: float  # under the curve of losses, divided by the number of steps
    full_set: float  # over all rows, after training
    losses: tuple[float, ...]  # before every step


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """A network's fit to the targets of one seed, and a fresh network's fit to those targets."""

    target_seed: int
    network: CapacityResult
    fresh: CapacityResult

    @property
    def ratio(self) -> float:
        """The network's full-set loss over the fresh network's: above 1 capacity was lost."""
        return self.network.full_set / max(self.fresh.full_set, 1e-30)


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a copy is trained; the defaults are the paper's for Atari.

    For MuJoCo they are `Fit(minibatch=64, epochs=4, optimizer_options={"lr": 3e-4})`.
    """

    minibatch: int = 256  # rows per gradient step
    epochs: int = 1  # passes over all rows
    # Adam's keyword arguments
    optimizer_options: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"lr": 2.5e-4})
    max_grad_norm: float | None = 0.5  # None: gradients are not clipped
    prepare: Prepare | None = None  # from stored rows to the network's input


DEFAULT_FIT = Fit()


def capacity_loss(
    network: nn.Module,
    observations: Observations,
    targets: Tensor,
    *,
    loss: Divergence,
    generator: torch.Generator,
    fit: Fit = DEFAULT_FIT,
) -> CapacityResult:
    """Train a copy of `network` towards `targets` with a new Adam; return its losses.

    Minibatches are shuffled anew in every epoch; the incomplete last one is dropped.

    Args:
        network: is not changed.
        observations: (rows, ...) of any dtype that the network takes. An array or memory map is
            read minibatch by minibatch, so `uint8` frames are never converted as a whole.
        targets: (rows, outputs) outputs to reproduce.
        loss: `categorical_kl`, `normal_kl`, `squared_error`, or another function from target
            outputs and outputs to one number per row.
        generator: shuffles the rows (on the CPU).
        fit: how the copy is trained.

    Raises:
        ValueError: there are fewer rows than one minibatch.
    """
    rows = len(observations)
    if rows < fit.minibatch:
        raise ValueError(f"{rows} observations are less than one minibatch of {fit.minibatch}")
    student = copy.deepcopy(network)
    losses = _train(student, observations, targets, loss, generator=generator, fit=fit)
    curve = losses.double()  # (steps,)
    outputs = _outputs(student, observations, fit)  # (rows, outputs)
    return CapacityResult(
        last_minibatch=curve[-1].item(),
        mean_last_tenth=curve[-math.ceil(len(curve) / 10) :].mean().item(),
        area=curve.mean().item(),
        full_set=loss(targets, outputs).double().mean().item(),
        losses=tuple(curve.tolist()),
    )


def _train(
    student: nn.Module,
    observations: Observations,
    targets: Tensor,
    loss: Divergence,
    *,
    generator: torch.Generator,
    fit: Fit,
) -> Tensor:
    """Train a network in place; return the loss before every gradient step, (steps,)."""
    rows = len(observations)
    optimizer = torch.optim.Adam(student.parameters(), **fit.optimizer_options)
    losses = []
    for _ in range(fit.epochs):
        order = torch.randperm(rows, generator=generator)[: rows - rows % fit.minibatch]
        for chosen in torch.split(order, fit.minibatch):  # (minibatch,) each
            outputs = student(_input_rows(observations, chosen, targets.device, fit.prepare))
            step_loss = loss(targets[chosen.to(targets.device)], outputs).mean()
            optimizer.zero_grad()
            step_loss.backward()  # type: ignore[no-untyped-call]
            if fit.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(student.parameters(), fit.max_grad_norm)
            optimizer.step()
            losses.append(step_loss.detach())
    return torch.stack(losses)  # (steps,)


class CapacityProbe:
    """Measure networks of one architecture on the same observations and the same random targets.

    Each target seed has its own target network and its own control: copies with new initial
    weights. Minibatches come in the same order for every network.

    Args:
        network: any network of the architecture; its weights do not matter.
        observations: (rows, ...); the paper uses 36 000 (Atari) or 4 000 (MuJoCo) steps of the
            initial policy, the same for all checkpoints of a run.
        loss: `categorical_kl` or `normal_kl` for an actor, `squared_error` for a critic.
        target_seeds: one fit per seed; the paper uses 27 only.
        fit: how copies are trained.
        initialise: draws new weights; by default, every layer's `reset_parameters`.
    """

    def __init__(
        self,
        network: nn.Module,
        observations: Observations,
        *,
        loss: Divergence,
        target_seeds: Sequence[int] = (27,),
        fit: Fit = DEFAULT_FIT,
        initialise: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.observations, self.loss, self.fit = observations, loss, fit
        self.initialise = initialise or reset_parameters
        self.targets = {
            seed: self._targets(self.reinitialised(network, seed)) for seed in target_seeds
        }
        self.fresh = {
            seed: self._fit(self.reinitialised(network, FIRST_SEED_OF_FRESH + seed), seed)
            for seed in target_seeds
        }

    def measure(self, network: nn.Module) -> list[ProbeResult]:
        """Return the network's capacity losses, one result per target seed; it is not changed."""
        return [
            ProbeResult(seed, self._fit(network, seed), self.fresh[seed]) for seed in self.targets
        ]

    def reinitialised(self, network: nn.Module, seed: int) -> nn.Module:
        """Return a copy with new weights; PyTorch's global generator is not changed."""
        fresh = copy.deepcopy(network)
        device = next(fresh.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.initialise(fresh.cpu())
        return fresh.to(device)

    def _fit(self, network: nn.Module, seed: int) -> CapacityResult:
        generator = torch.Generator().manual_seed(seed)
        return capacity_loss(
            network,
            self.observations,
            self.targets[seed],
            loss=self.loss,
            generator=generator,
            fit=self.fit,
        )

    def _targets(self, network: nn.Module) -> Tensor:
        return _outputs(network, self.observations, self.fit)


def reset_parameters(module: nn.Module) -> None:
    """Draw all weights anew, each layer's by its own `reset_parameters`.

    Raises:
        ValueError: a layer has parameters and no `reset_parameters`.
    """
    for name, layer in module.named_modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
        elif list(layer.parameters(recurse=False)):
            raise ValueError(
                f"{name or 'the network'} ({type(layer).__name__}) has no reset_parameters;"
                " pass `initialise`"
            )


def categorical_kl(target_logits: Tensor, logits: Tensor) -> Tensor:
    """Return KL(target ‖ policy) of categorical policies, (rows,), in nats."""
    target, log_policy = target_logits.log_softmax(-1), logits.log_softmax(-1)
    return (target.exp() * (target - log_policy)).sum(-1)


def normal_kl(target_outputs: Tensor, outputs: Tensor) -> Tensor:
    """Return KL(target ‖ policy) of diagonal normal policies, (rows,), in nats.

    Outputs (rows, 2 * actions) are the means, then x for the standard deviations
    softplus(x + ln(e - 1)), which are 1 at x = 0 and at least 1e-4. A tanh after both distributions
    does not change the KL.
    """
    (target_mean, target_scale), (mean, scale) = map(_normal, (target_outputs, outputs))
    variance_ratio = (target_scale / scale).square()
    distance = ((target_mean - mean) / scale).square()
    return 0.5 * (variance_ratio + distance - 1 - variance_ratio.log()).sum(-1)


def squared_error(target_outputs: Tensor, outputs: Tensor) -> Tensor:
    """Return the mean squared difference of each row, (rows,)."""
    return (target_outputs - outputs).square().mean(-1)


def _normal(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations, (rows, actions) each."""
    mean, raw = outputs.chunk(2, -1)  # (rows, actions) each
    return mean, functional.softplus(raw + math.log(math.e - 1)).clamp_min(1e-4)


@torch.no_grad()
def _outputs(network: nn.Module, observations: Observations, fit: Fit) -> Tensor:
    """Return the network's outputs on all rows (rows, outputs), minibatch by minibatch."""
    device = next(network.parameters()).device
    chunks = torch.split(torch.arange(len(observations)), fit.minibatch)  # (minibatch,) each
    inputs = (_input_rows(observations, rows, device, fit.prepare) for rows in chunks)
    return torch.cat([network(rows) for rows in inputs])  # (rows, outputs)


def _input_rows(
    observations: Observations, chosen: Tensor, device: torch.device, prepare: Prepare | None
) -> Tensor:
    """Return chosen rows as the network's input, (chosen, ...)."""
    if isinstance(observations, Tensor):
        rows = observations[chosen.to(observations.device)]
    else:
        rows = torch.from_numpy(np.asarray(observations[chosen.numpy()]))
    rows = rows.to(device)
    return rows if prepare is None else prepare(rows)
