"""Plasticity of one network: its probe and its interventions, wired once for every learner.

`interventions_of` reads the interventions that the flags ask for. `Plasticity` holds them for one
network, with the probe. `Measurement` measures networks before and after an iteration's update.
docs/plasticity.md lists the metrics.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from baselines.algorithms import POLICY
from baselines.config import RunConfig
from baselines.errors import UsageError, expected
from ppo_plasticity import drift, trust_region
from ppo_plasticity.interventions import PFO, Interventions, LossInputs, ModuleHandle, parse
from ppo_plasticity.interventions.base import Handle, Intervention
from ppo_plasticity.norms import policy_variance, value_statistics
from ppo_plasticity.probe import Probe, Record, capture_preactivations

NETWORKS = POLICY


def interventions_of(
    config: RunConfig, network: str, networks: Sequence[str] = NETWORKS
) -> Interventions:
    """Return the interventions that the flags ask for on a network, fresh ones at each call.

    Args:
        config: the flags.
        network: its name.
        networks: names that the learner's networks have.

    Raises:
        UsageError: a name, an option or a network is not known.
    """
    chosen = []
    for text in config.intervention:
        target, rest = _split(text, networks)
        if target in ("", network):
            chosen.append(_parse(text, rest))
    try:
        return Interventions(chosen)
    except ValueError as error:
        raise UsageError(f"--intervention: {error}") from error


def _split(text: str, networks: Sequence[str]) -> tuple[str, str]:
    """Return the network that a text such as `actor.redo:every=1` names, and the rest.

    Raises:
        UsageError: it names a network that the learner does not have.
    """
    target, dot, rest = text.partition(".")
    if not dot or ":" in target:  # a dot in a number
        return "", text
    if target not in networks:
        raise UsageError(f"--intervention {text}: {expected('network', target, networks)}")
    return target, rest


def _parse(text: str, description: str) -> Intervention:
    try:
        return parse(description)
    except ValueError as error:
        raise UsageError(f"--intervention {text}: {error}") from error


def change_layers(hooks: Interventions, network: nn.Sequential) -> nn.Sequential:
    """Return the network with the layers that interventions ask for.

    Raises:
        UsageError: the interventions do not fit together.
    """
    try:
        return hooks.layers(network)
    except ValueError as error:
        raise UsageError(f"--intervention: {error}") from error


class NetworkHandle:
    """A plain network of a learner for interventions: its feed-forward layers, its whole Adam.

    Args:
        chain: the feed-forward layers, which interventions look at and change.
        network: the whole network; Adam's state is reset for all its parameters.
        optimizer: owns the parameters.
        generator: source of the interventions' random numbers.
    """

    def __init__(
        self,
        chain: nn.Sequential,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> None:
        part, whole = (ModuleHandle(module, optimizer, generator) for module in (chain, network))
        self.module, self.parameters, self.generator = chain, part.parameters, generator
        self.moments = part.moments
        self.reset_optimizer = whole.reset_optimizer
        self.reset_step_count = whole.reset_step_count


class Pass(NamedTuple):
    """Outputs of a network on some rows, with the pre-activations that loss terms read."""

    outputs: Tensor  # (rows, outputs)
    preactivations: Tensor | None = None  # (rows, units); None if no term reads them

    def map(self, function: Callable[[Tensor], Tensor]) -> "Pass":
        """Return the pass with a function applied to each tensor."""
        return Pass(*(None if part is None else function(part) for part in self))


class Reference(NamedTuple):
    """A network's outputs on another minibatch, from which a gradient step should not move them."""

    run: Callable[[], Tensor]  # runs the network on the minibatch again
    outputs: Tensor  # before the gradient step

    @classmethod
    @torch.no_grad()
    def of(cls, run: Callable[[], Tensor]) -> "Reference":
        """Return the reference of a network as it is now."""
        return cls(run, run())


NO_REFERENCES: Mapping[str, Reference] = {}  # by network


class Terms(NamedTuple):
    """Loss terms of a network's interventions."""

    pfo: Tensor  # scalar, or (seeds,)
    others: Tensor  # same shape


class View(NamedTuple):
    """A network's hidden layers and outputs on one batch, as the probe saw them."""

    record: Record
    outputs: Tensor  # (rows, outputs)


class Plasticity:
    """The probe and the interventions of one network.

    Args:
        name: of the network in flags and metrics, such as `"actor"`.
        network: measured by the probe.
        hooks: the network's interventions.
        handle: the parts of the network that interventions may change.
        divergence: (old, new) outputs to (rows,), by which interventions compare outputs.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        hooks: Interventions,
        handle: Handle,
        divergence: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.name, self.hooks, self.handle, self.divergence = name, hooks, handle, divergence
        self.probe = Probe(network)
        hooks.start(handle)

    def changes(self, what: str) -> bool:
        """Return whether an intervention does this (see `Intervention.changes`)."""
        return what in self.hooks.changes

    @property
    def compares(self) -> bool:
        """Whether a loss term may compare the network with an older one."""
        return self.changes("loss") or self.changes("rows")

    def run(self, trunk: nn.Module, call: Callable[[], Tensor]) -> Pass:
        """Run a network; keep its pre-activations if a loss term reads them.

        Args:
            trunk: the hidden layers, of this network or of the one it is compared with.
            call: runs the network and returns its outputs (rows, outputs).
        """
        if not self.changes("preactivations"):
            return Pass(call())
        with capture_preactivations(trunk, self.hooks.scope) as captured:
            outputs = call()
        return Pass(outputs, captured.preactivations)

    def kept_rows(self, new: Pass, old: Pass | None) -> Tensor | None:
        """Return (rows,) bool, the rows of a minibatch that may still train; None: all rows.

        Args:
            new: the network on the minibatch.
            old: the older network on the same rows; not read unless `compares`.
        """
        return self.hooks.kept_rows(self._inputs(new, old)) if self.changes("rows") else None

    def terms(
        self,
        new: Pass,
        old: Pass | None,
        reference: Reference | None = None,
        weights: Tensor | None = None,
    ) -> Terms:
        """Return the interventions' loss terms on a minibatch.

        Args:
            new: the network on the minibatch.
            old: the older network on the same rows; not read unless `compares`.
            reference: outputs on another minibatch before the last gradient step.
            weights: (rows,) how much each row counts, sum 1; None: all rows count alike.
        """
        pfo = others = new.outputs.new_zeros(())
        if not self.changes("loss"):
            return Terms(pfo, others)
        inputs = self._inputs(new, old, weights)
        if reference is not None and self.changes("reference"):
            inputs.reference_outputs = reference.run()
            inputs.reference_old_outputs = reference.outputs
        for hook in self.hooks.that_change("loss"):
            term = hook.loss(self.handle, inputs)
            if isinstance(hook, PFO):
                pfo = pfo + term
            else:
                others = others + term
        return Terms(pfo, others)

    def _inputs(self, new: Pass, old: Pass, weights: Tensor | None = None) -> LossInputs:
        nothing = torch.empty(0)
        return LossInputs(
            new.outputs,
            old.outputs,
            nothing if new.preactivations is None else new.preactivations,
            nothing if old.preactivations is None else old.preactivations,
            self.divergence,
            weights=weights,
        )

    def after_step(self, inputs: Callable[[], Tensor]) -> None:
        """Let interventions act after a gradient step; `inputs` returns (rows, input_size)."""
        if self.changes("after_step"):
            with torch.no_grad():
                self.hooks.after_step(self.handle, inputs())

    def after_batch(self, inputs: Callable[[], Tensor]) -> None:
        """Let interventions act after the last gradient step of an iteration."""
        if self.changes("after_batch"):
            with torch.no_grad():
                self.hooks.after_batch(self.handle, inputs())

    @torch.no_grad()
    def view(self, call: Callable[[], Tensor]) -> View:
        """Run the network with the probe on; `call` returns its outputs (rows, outputs)."""
        with self.probe.recording() as record:
            outputs = call()
        return View(record, outputs)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the interventions since the start."""
        return self.hooks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.hooks.load_state_dict(state)


def is_due(config: RunConfig, iteration: int) -> bool:
    """Return whether iteration 0, 1, ... is measured."""
    return config.probe > 0 and iteration % config.probe == 0


class Measurement:
    """Metrics of some networks on one batch, before an update and after it.

    Args:
        plasticity: of the networks; the batch is run at once.
        run: network name to its outputs on the batch (rows, outputs).

    Attributes:
        before: each network's view before the update, by name.
        after: each network's view after the update; empty until `end`.
        metrics: `plasticity/<metric>/<network>`; after `end` also `plasticity_end/` and `drift/`.
    """

    def __init__(self, plasticity: Iterable[Plasticity], run: Callable[[str], Tensor]) -> None:
        self._plasticity, self._run = list(plasticity), run
        self.before, self.after = self._views(), {}
        self.metrics: dict[str, float] = {}
        for name, view in self.before.items():
            self._add("plasticity", view.record.metrics(), name)

    def end(self) -> None:
        """Run the batch again after the update, and add the metrics."""
        self.after = self._views()
        for name, view in self.after.items():
            self._add("plasticity_end", view.record.metrics(), name)
            for kind in ("features", "preactivations", "all_preactivations"):
                old, new = getattr(self.before[name].record, kind), getattr(view.record, kind)
                moved = drift.drift(old, new).items()
                self._add("drift", {f"{kind}_{key}": float(value) for key, value in moved}, name)

    def _views(self) -> dict[str, View]:
        return {
            network.name: network.view(partial(self._run, network.name))
            for network in self._plasticity
        }

    def _add(self, group: str, metrics: Mapping[str, float], network: str) -> None:
        self.metrics |= {f"{group}/{name}/{network}": value for name, value in metrics.items()}


def diversity_metrics(parameters: Iterable[Tensor], values: Tensor) -> dict[str, float]:
    """Return how much policy and values differ between states.

    Args:
        parameters: of the action distribution, each (rows, actions).
        values: (rows,) in reward units.
    """
    variance = float(policy_variance(*parameters))
    return {"plasticity/policy_variance/actor": variance, **value_metrics(values, "critic")}


def value_metrics(values: Tensor, network: str) -> dict[str, float]:
    """Return how much a network's values (rows,) differ between states."""
    statistics = value_statistics(values)
    return {f"plasticity/{name}/{network}": float(value) for name, value in statistics.items()}


class TrustRegion:
    """How far updates move the policy, and the excess ratio over the last part of a run.

    Args:
        total_steps: of the run, for the window of the excess ratio.
    """

    def __init__(self, total_steps: int) -> None:
        self.excess = trust_region.ExcessRatio(total_steps)

    def metrics(
        self,
        global_step: int,
        log_ratio: Tensor,
        advantages: Tensor,
        kl: Tensor,
        clip_coef: float,
    ) -> dict[str, float]:
        """Return `trust_region/*` of the whole batch after its last epoch.

        Args:
            global_step: environment steps done, for the window of the excess ratio.
            log_ratio: (rows,) log pi_new - log pi_old of the actions taken.
            advantages: (rows,).
            kl: (rows,) KL(pi_old || pi_new) in closed form.
            clip_coef: clip range.
        """
        statistics = trust_region.ratio_statistics(log_ratio, clip_coef)
        statistics["clipped_fraction"] = trust_region.clipped_fraction(
            log_ratio, advantages, clip_coef
        )
        statistics["kl"] = kl.mean()
        values = torch.stack(list(statistics.values())).tolist()
        metrics = dict(zip(statistics, values, strict=True))
        self.excess.add(global_step, metrics["excess_ratio"])
        metrics["excess_ratio_window"] = self.excess.value
        return {f"trust_region/{name}": value for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the ratios in the window."""
        return self.excess.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ratios that `state_dict` returned."""
        self.excess.load_state_dict(state)
