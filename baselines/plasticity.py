"""Plasticity flags of every learner: the probe, PFO and interventions, wired once.

`Instruments` measure at the start and the end of an iteration's update; `interventions_of` reads
what the flags ask to change. docs/plasticity.md lists the metrics.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.config import PlasticityConfig
from baselines.errors import UsageError
from ppo_plasticity import drift, trust_region
from ppo_plasticity.interventions import Interventions, ModuleHandle, parse
from ppo_plasticity.norms import policy_variance, value_statistics
from ppo_plasticity.pfo import pfo_keep, pfo_loss
from ppo_plasticity.probe import Probe, Record

NETWORKS = ("actor", "critic")


def interventions_of(
    config: PlasticityConfig, network: str, networks: Sequence[str] = NETWORKS
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
        target, dot, rest = text.partition(".")
        if not dot or target not in networks:
            target, rest = "", text
        if target in ("", network):
            chosen.append(_parse(text, rest))
    try:
        hooks = Interventions(chosen)
    except ValueError as error:
        raise UsageError(f"--intervention: {error}") from error
    if has_pfo(config, network) and "preactivations" in hooks.changes:
        raise UsageError(f"--pfo-coef and --intervention pfo both hold the {network}: use one")
    return hooks


def change_layers(hooks: Interventions, network: nn.Sequential) -> nn.Sequential:
    """Return the network with the layers that interventions ask for.

    Raises:
        UsageError: they do not go together.
    """
    try:
        return hooks.layers(network)
    except ValueError as error:
        raise UsageError(f"--intervention: {error}") from error


def _parse(text: str, description: str) -> Any:
    try:
        return parse(description)
    except ValueError as error:
        raise UsageError(f"--intervention {text}: {error}") from error


def has_pfo(config: PlasticityConfig, network: str) -> bool:
    """Return whether PFO applies to a network."""
    return config.pfo_coef > 0 and config.pfo_network in (network, "both")


def wants_preactivations(config: PlasticityConfig, hooks: Interventions, network: str) -> bool:
    """Return whether a loss term reads a network's pre-activations."""
    return has_pfo(config, network) or "preactivations" in hooks.changes


def scope_of(config: PlasticityConfig, hooks: Interventions, network: str) -> str:
    """Return which it reads, those of the `"last"` hidden layer or of `"all"`."""
    return config.pfo_layers if has_pfo(config, network) else hooks.scope


def pfo_term(config: PlasticityConfig, new: Tensor, old: Tensor, valid: Tensor | None) -> Tensor:
    """Return PFO's weighted loss (...), 0 in clip mode; see `ppo_plasticity.pfo_loss`."""
    if config.pfo_mode == "clip":
        return new.new_zeros(new.shape[:-2])
    return config.pfo_coef * pfo_loss(new, old, distance=config.pfo_distance, valid=valid)


def pfo_mask(config: PlasticityConfig, new: Tensor, old: Tensor) -> Tensor | None:
    """Return which rows (...) may still train in clip mode; None in soft mode: all."""
    if config.pfo_mode == "soft":
        return None
    return pfo_keep(new, old, distance=config.pfo_distance)


@dataclasses.dataclass
class View:
    """What a network did on the whole batch."""

    record: Record
    outputs: Tensor  # (rows, outputs)


class NetworkHandle:
    """A plain network of a learner for interventions: its feed-forward layers, its whole Adam.

    Args:
        chain: the feed-forward layers, which interventions look at and change.
        network: all of it; Adam's state is reset for all its parameters.
        optimizer: owns them.
        generator: where interventions draw from.
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


class Instruments:
    """Everything that is measured of one seed's networks.

    Args:
        every: iterations between measurements; 0 for never.
        modules: the networks by name.
        total_steps: of the run, for the window of the excess ratio.
    """

    def __init__(self, every: int, modules: dict[str, nn.Module], total_steps: int) -> None:
        self.every = every
        self.probes = {name: Probe(module) for name, module in modules.items()} if every else {}
        self.excess = trust_region.ExcessRatio(total_steps)

    def due(self, iteration: int) -> bool:
        """Return whether iteration 0, 1, ... is measured."""
        return self.every > 0 and iteration % self.every == 0

    def view(self, calls: dict[str, Callable[[], Tensor]]) -> dict[str, View]:
        """Run each network on the batch without gradient, and watch it.

        Args:
            calls: by network, what runs it and returns its outputs.
        """
        views = {}
        for name, call in calls.items():
            with torch.no_grad(), self.probes[name].recording() as record:
                outputs = call()
            views[name] = View(record, outputs)
        return views

    def start_metrics(self, views: dict[str, View]) -> dict[str, float]:
        """Return `plasticity/<metric>/<network>`, before the update."""
        return _network_metrics("plasticity", views)

    def end_metrics(self, before: dict[str, View], after: dict[str, View]) -> dict[str, float]:
        """Return the same after the update as `plasticity_end/`, and `drift/` between the two."""
        metrics = _network_metrics("plasticity_end", after)
        for name, view in after.items():
            for kind in ("features", "preactivations", "all_preactivations"):
                old, new = getattr(before[name].record, kind), getattr(view.record, kind)
                for key, value in drift.drift(old, new).items():
                    metrics[f"drift/{kind}_{key}/{name}"] = float(value)
        return metrics

    def trust_region(
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
        names, values = zip(*statistics.items(), strict=True)
        metrics = dict(zip(names, torch.stack(values).tolist(), strict=True))
        self.excess.add(global_step, metrics["excess_ratio"])
        metrics["excess_ratio_window"] = self.excess.value
        return {f"trust_region/{name}": value for name, value in metrics.items()}


def diversity_metrics(parameters: Iterable[Tensor], values: Tensor) -> dict[str, float]:
    """Return how much policy and values differ between states.

    Args:
        parameters: of the action distribution, each (rows, actions).
        values: (rows,) in reward units.
    """
    metrics = {"plasticity/policy_variance/actor": float(policy_variance(*parameters))}
    for name, value in value_statistics(values).items():
        metrics[f"plasticity/{name}/critic"] = float(value)
    return metrics


def _network_metrics(group: str, views: dict[str, View]) -> dict[str, float]:
    return {
        f"{group}/{name}/{network}": value
        for network, view in views.items()
        for name, value in view.record.metrics().items()
    }
