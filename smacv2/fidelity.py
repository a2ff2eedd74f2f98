"""Random play here beside random play of StarCraft II, as recorded in public logs.

Random play is the one policy that both games share without a learner. ``data/README.md`` says where
the real numbers come from and how they are averaged.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smacv2 import ENGINE_VERSION, EVALUATION_SEED
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.play import NUM_ENVS, SEEDS_APART, collect
from smacv2.policies import RandomPolicy

RECORDED = Path(__file__).parent / "data" / "recorded_play.json"

QUANTITIES = {
    "kills": "dead_enemies",
    "allies_lost": "dead_allies",
    "length": "episodic_length",
    "return": "episodic_return",
}
"""Compared quantities, each with its field of ``Battles``."""

SIGMAS = 2
"""Standard errors of a difference that chance alone explains."""

WITHIN = {True: "within", False: "within 2 standard errors"}
"""Verdicts on a quantity that agrees, by whether it is inside its bound."""


class Estimate(NamedTuple):
    """A mean with its standard error."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Estimate":
        """Return the estimate from independent values ``(episodes,)``, at least two."""
        return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


class Bound(NamedTuple):
    """The difference from the real mean that still counts as agreement."""

    size: float
    relative: bool = True

    def __str__(self) -> str:
        return f"{100 * self.size:g} %" if self.relative else f"{self.size:g}"

    def width(self, real: float) -> float:
        """Return the difference in the unit of the quantity."""
        return self.size * abs(real) if self.relative else self.size


DEFAULT_BOUNDS = {
    "kills": Bound(0.05),
    "allies_lost": Bound(0.05),
    "length": Bound(0.05),
    "return": Bound(0.1),  # defect B2 scales the returns of each recorded environment
}
BOUNDS = {
    "protoss_5_vs_5_conic": {
        "kills": Bound(0.06, relative=False),
        "return": Bound(0.4, relative=False),
        "length": Bound(0.8, relative=False),
    },
    "protoss_10_vs_10_conic": {"length": Bound(0.9, relative=False)},
    "terran_5_vs_5": {"length": Bound(0.4, relative=False)},
}
"""Bounds of single scenarios; two standard errors of the difference are always allowed."""


@dataclass(frozen=True)
class Recording:
    """Random play of the real game in one scenario, and the settings that it was played with."""

    scenario: str
    options: dict[str, Any]
    episodes: int
    epsilon: float
    quantities: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """One quantity of one scenario, in the real game and here."""

    recorded: Recording
    quantity: str
    ours: Estimate
    bound: Bound

    @property
    def real(self) -> Estimate:
        """The recorded value."""
        return self.recorded.quantities[self.quantity]

    @property
    def difference(self) -> float:
        """Ours minus real."""
        return self.ours.mean - self.real.mean

    @property
    def standard_error(self) -> float:
        """Standard error of the difference."""
        return math.hypot(self.real.standard_error, self.ours.standard_error)

    @property
    def sigmas(self) -> float:
        """Difference in its standard errors."""
        return ratio(self.difference, self.standard_error)

    @property
    def percent(self) -> float:
        """Difference in percent of the real mean."""
        return 100 * ratio(self.difference, self.real.mean)

    @property
    def inside_bound(self) -> bool:
        """Whether the difference is within its bound."""
        return abs(self.difference) <= self.bound.width(self.real.mean)

    @property
    def within(self) -> bool:
        """Whether the difference is within its bound, or within two standard errors."""
        return self.inside_bound or abs(self.difference) <= SIGMAS * self.standard_error


def ratio(difference: float, unit: float) -> float:
    """Return the difference in units; infinite if the unit is 0, but 0 for no difference."""
    if not difference:
        return 0.0
    return difference / unit if unit else math.copysign(math.inf, difference)


# --- The real game ---


def recordings() -> list[Recording]:
    """Return the recorded random play of every scenario."""
    stored = json.loads(RECORDED.read_text("utf-8"))
    return [recording(game, stored["columns"]) for game in stored["games"]]


def recording(game: dict[str, Any], columns: Sequence[str]) -> Recording:
    """Return the recorded play of one entry of ``games``."""
    options = {**game["options"], "rules": game["rules"]}
    if "means" in game:
        quantities = {
            name: Estimate(mean, game["standard_errors"][name])
            for name, mean in game["means"].items()
        }
        return Recording(game["scenario"], options, game["episodes"], game["epsilon"], quantities)
    rows = np.array([row for log in game["logs"] for row in log["rows"]])
    rows = rows[rows[:, columns.index("epsilon")] >= game["min_epsilon"]]
    column = dict(zip(columns, rows.T, strict=True))
    episodes = column.pop("episodes")
    means = {name: averaged(values, episodes) for name, values in column.items()}
    epsilon = means.pop("epsilon").mean
    total = int(episodes.sum())
    kills = means["kills"]
    least = math.sqrt(max(kills.mean * total, 1)) / total
    means["kills"] = Estimate(kills.mean, max(kills.standard_error, least))
    return Recording(game["scenario"], options, total, epsilon, means)


def averaged(values: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return the weighted mean of rows with the standard error from their spread.

    Args:
        values: Means of the rows, ``(rows,)``; at least two rows.
        weights: Episodes of the rows, ``(rows,)``.
    """
    mean = np.average(values, weights=weights)
    spread = np.sum((weights * (values - mean)) ** 2) * len(values) / (len(values) - 1)
    return Estimate(float(mean), float(math.sqrt(spread) / weights.sum()))


# --- The game here ---


def compare(
    only: Sequence[str] = (),
    *,
    episodes: int,
    seed: int = 0,
    num_threads: int | None = None,
) -> list[Comparison]:
    """Return random play here beside the recordings, largest disagreement first.

    Args:
        only: Names of the scenarios to play; none plays all.
        episodes: Battles per scenario, at least 2.
        seed: Number of the set of held-out battles, and the seed of the agents.
        num_threads: CPU threads; None uses every core.
    """
    found = [
        comparison
        for recorded in recordings()
        if not only or recorded.scenario in only
        for comparison in comparisons(recorded, episodes, seed, num_threads)
    ]
    return sorted(found, key=lambda each: (each.within, -abs(each.sigmas)))


def comparisons(
    recorded: Recording, episodes: int, seed: int, num_threads: int | None
) -> Iterator[Comparison]:
    """Yield the comparisons of one scenario after playing it."""
    envs = SMACv2VectorEnv(
        recorded.scenario,
        min(NUM_ENVS, episodes),
        num_threads=num_threads,
        copy=False,
        **recorded.options,
    )
    policy = RandomPolicy(envs, seed)
    battles = collect(envs, policy, episodes, EVALUATION_SEED + seed * SEEDS_APART)
    envs.close()
    bounds = DEFAULT_BOUNDS | BOUNDS.get(recorded.scenario, {})
    for quantity in recorded.quantities:
        ours = Estimate.of(getattr(battles, QUANTITIES[quantity]))
        yield Comparison(recorded, quantity, ours, bounds[quantity])


# --- Reports ---


def report(found: Sequence[Comparison], episodes: int, seed: int) -> dict[str, Any]:
    """Return the figures of ``smacv2 fidelity --json``."""
    rows = [row(each) for each in found]
    return {"engine_version": ENGINE_VERSION, "episodes": episodes, "seed": seed, "rows": rows}


def row(each: Comparison) -> dict[str, Any]:
    """Return one comparison as JSON; an infinite ratio is None."""
    recorded = each.recorded
    played = {"episodes": recorded.episodes, "epsilon": round(recorded.epsilon, 4)}
    return {
        "scenario": recorded.scenario,
        "quantity": each.quantity,
        "real": each.real._asdict() | played,
        "ours": each.ours._asdict(),
        "standard_errors": each.sigmas if math.isfinite(each.sigmas) else None,
        "percent": each.percent if math.isfinite(each.percent) else None,
        "bound": str(each.bound),
        "inside_bound": each.inside_bound,
        "within": each.within,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """Return the rows of a report as cells of text."""
    return [
        {
            "scenario": row["scenario"],
            "quantity": row["quantity"].replace("_", " "),
            "real": numbers(row["real"]),
            "here": numbers(row["ours"]),
            "difference": signed(row["percent"], " %"),
            "standard errors": signed(row["standard_errors"]),
            "bound": row["bound"],
            "verdict": WITHIN[row["inside_bound"]] if row["within"] else "OUTSIDE",
        }
        for row in rows
    ]


def signed(value: float | None, unit: str = "") -> str:
    """Return a signed number as text, nothing for None."""
    return "" if value is None else f"{value:+.1f}{unit}"


def numbers(estimate: dict[str, Any]) -> str:
    """Return a mean with its standard error as text."""
    return f"{estimate['mean']:.3f} ± {estimate['standard_error']:.3f}"


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Return the quantities that differ: outside of their bounds, then inside but not by chance."""
    outside = [row for row in rows if not row["within"]]
    beyond = [row for row in rows if row["within"] and abs(row["standard_errors"] or 0) > SIGMAS]
    if outside:
        text = (
            f"{len(outside)} of {len(rows)} quantities differ from StarCraft II: {named(outside)}."
        )
    else:
        text = f"All {len(rows)} quantities agree with StarCraft II."
    if beyond:
        text += f" Inside their bounds, but by more than chance, differ: {named(beyond)}."
    return text


def named(rows: Sequence[dict[str, Any]]) -> str:
    """Return the scenarios of rows, each with its quantities."""
    quantities: dict[str, list[str]] = {}
    for row in rows:
        quantities.setdefault(row["scenario"], []).append(row["quantity"].replace("_", " "))
    return "; ".join(f"{name} {', '.join(which)}" for name, which in quantities.items())
