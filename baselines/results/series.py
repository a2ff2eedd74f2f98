"""What a run folder measured, as arrays, and the statistics that figures and warnings need.

They follow Moalla et al. 2024, "No Representation, No Trust" (arXiv 2405.00662).
"""

import dataclasses
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RETURN = "charts/episodic_return"
ENTROPY = "losses/entropy"
RANK = "plasticity/approximate_rank/actor"
DEAD_UNITS = "plasticity/dead_units/actor"
NORM = "plasticity/preactivation_norm/actor"
POLICY_VARIANCE = "plasticity/policy_variance/actor"
EXCESS = "trust_region/excess_ratio"
EXCESS_WINDOW = "trust_region/excess_ratio_window"
BELOW_CLIP = "trust_region/ratio_below_mean"
KL = "trust_region/kl"
METRICS = (RETURN, ENTROPY, RANK, DEAD_UNITS, NORM, POLICY_VARIANCE)
METRICS += (EXCESS, EXCESS_WINDOW, BELOW_CLIP, KL)
CAPACITY = "capacity/last_minibatch/actor"  # the loss that the paper reports
WALL_CLOCK = "time/seconds"  # never logged: all time/*_seconds of a run, summed up to each line

SMOOTHING = 0.05  # the paper's, on returns, ranks and norms
FINAL_SHARE = 0.05  # of training, likewise


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric of one run where it was logged and finite; both arrays are (points,)."""

    steps: Array  # environment steps
    values: Array

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.steps)

    def smoothed(self) -> "Series":
        """Return the series after `smooth`."""
        return Series(self.steps, smooth(self.values))


EMPTY = Series(np.empty(0), np.empty(0))


@dataclasses.dataclass(frozen=True)
class RunSeries:
    """A run folder as the report sees it."""

    path: Path
    record: dict[str, Any]  # content of config.json
    last_step: int  # environment steps done; 0 before the first iteration
    series: dict[str, Series]  # by metric, only those that have points
    damaged: int = 0  # lines of metrics.jsonl that could not be read, but for the last

    def __getitem__(self, metric: str) -> Series:
        """Return a metric's series, empty where the run does not have it."""
        return self.series.get(metric, EMPTY)

    @property
    def config(self) -> dict[str, Any]:
        """The run's settings."""
        return self.record["config"]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config["seed"]

    @property
    def total_steps(self) -> int:
        """How long the run is meant to be, in environment steps; never less than it is."""
        return max(self.config["total_steps"], self.last_step)

    @property
    def measured(self) -> bool:
        """Whether the probe was on."""
        return NORM in self.series


def read_run(path: Path, record: dict[str, Any], metrics: Collection[str] = METRICS) -> RunSeries:
    """Read the named metrics of a run folder, and its capacity losses where there are any.

    A line that cannot be read is left out; the last one may be half-written. What acts is called
    `agent` by learners of action values; it stands in the actor's place.

    Args:
        path: the run folder.
        record: content of its config.json.
        metrics: names in its metrics.jsonl, or `WALL_CLOCK`.
    """
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in metrics}
    last_step, seconds = 0, 0.0
    rows, damaged = _rows(path / "metrics.jsonl")
    for row in rows:
        last_step = max(last_step, row["global_step"])
        seconds += _seconds(row)
        row[WALL_CLOCK] = seconds
        for name in metrics:
            row.setdefault(name, row.get(name.replace("/actor", "/agent")))
            if _is_finite(row[name]):
                points[name].append((row["global_step"], row[name]))
    points |= _capacity_points(path / "capacity.json")
    series = {name: _series(found) for name, found in points.items() if found}
    return RunSeries(path, record, last_step, series, damaged)


def metric_names(path: Path) -> set[str]:
    """Return the names of all metrics that a run folder has a finite number of."""
    rows, _ = _rows(path / "metrics.jsonl")
    names = {name for row in rows for name, value in row.items() if _is_finite(value)}
    return names - {"global_step"}


def smooth(values: ArrayLike, alpha: float = SMOOTHING) -> Array:
    """Return the exponential moving average of values (points,), the same shape.

    It is corrected for its start, so the first value weighs no more than its age allows: the
    result at point t is sum_i (1 - alpha)^i x_(t-i) over sum_i (1 - alpha)^i, i = 0 ... t.
    """
    total, weight, averages = 0.0, 0.0, []
    for value in np.asarray(values, np.float64):
        total = (1 - alpha) * total + value
        weight = (1 - alpha) * weight + 1
        averages.append(total / weight)
    return np.array(averages)


def final_mean(series: Series, width: float, before: int = 0) -> float:
    """Return the mean over the last `width` steps of a series, NaN when it is empty.

    The window ends at the last point, so a metric that ceased to exist keeps its last values.

    Args:
        series: of one run.
        width: of the window, in environment steps.
        before: how many points before the window count too.
    """
    if not len(series):
        return math.nan
    first = int(np.searchsorted(series.steps, series.steps[-1] - width, side="right"))
    return float(series.values[max(0, first - before) :].mean())


def window_means(series: Sequence[Series], width: float) -> Array:
    """Return means over non-overlapping windows in which every series has points.

    Args:
        series: of one run.
        width: of a window, in environment steps; window k is [k width, (k + 1) width).

    Returns:
        (windows, series), in the order of time.
    """
    means = []
    for one in series:
        windows = (one.steps // width).astype(np.int64)
        means.append({int(k): float(one.values[windows == k].mean()) for k in np.unique(windows)})
    shared = sorted(set.intersection(*(set(one) for one in means)))
    return np.array([[one[k] for one in means] for k in shared]).reshape(len(shared), len(series))


def lowest_rows(rows: Array, count: int = 20) -> Array:
    """Return the `count` rows (windows, 2) whose first column is lowest, lowest first."""
    return rows[np.argsort(rows[:, 0], kind="stable")[:count]]


def on_grid(
    series: Sequence[Series], points: int = 200, tolerance: float = 0.02
) -> tuple[Array, Array]:
    """Return series on common steps, by linear interpolation, NaN outside a series' own range.

    Args:
        series: of several runs, none empty.
        points: size of the grid, from the first step of any series to the last of any.
        tolerance: share of the grid by which a series may begin late or end early and yet count
            from end to end, with its outermost values: equal runs do not end at the same step.

    Returns:
        Steps (points,) and values (series, points).
    """
    low, high = min(s.steps[0] for s in series), max(s.steps[-1] for s in series)
    grid = np.linspace(low, high, points if high > low else 1)
    slack = tolerance * (high - low)
    rows = np.array([np.interp(grid, s.steps, s.values) for s in series])
    for row, one in zip(rows, series, strict=True):
        row[(grid < one.steps[0] - slack) | (grid > one.steps[-1] + slack)] = np.nan
    return grid, rows


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Return Kendall's rank correlation in -1 ... 1 (tau-b, Kendall 1945: ties are allowed for).

    NaN for fewer than two points, and where one side is constant.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    concordance, untied_x, untied_y = 0.0, 0, 0
    for point in range(len(x)):  # a row of pairs at a time: few numbers in memory
        signs_x, signs_y = np.sign(x[point] - x[:point]), np.sign(y[point] - y[:point])
        concordance += float(signs_x @ signs_y)
        untied_x += np.count_nonzero(signs_x)
        untied_y += np.count_nonzero(signs_y)
    pairs = math.sqrt(untied_x) * math.sqrt(untied_y)
    return concordance / pairs if pairs else math.nan


def spearman_rho(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation in -1 ... 1: Pearson's of the ranks, ties sharing theirs.

    NaN for fewer than two points, and where one side is constant.
    """
    ranks_x, ranks_y = _centred_ranks(x), _centred_ranks(y)
    scale = math.sqrt(float(ranks_x @ ranks_x) * float(ranks_y @ ranks_y))
    return float(ranks_x @ ranks_y) / scale if scale else math.nan


def _rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of metrics.jsonl, and how many but the last could not be read."""
    rows, bad = [], []
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and _is_finite(row.get("global_step")):
            rows.append(row)
        else:
            bad.append(number)
    return rows, sum(number < len(lines) for number in bad)


def _seconds(row: dict[str, Any]) -> float:
    """Return how long an iteration took."""
    return sum(
        value
        for name, value in row.items()
        if name.startswith("time/") and name.endswith("_seconds") and _is_finite(value)
    )


def _capacity_points(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return points of `capacity/<figure>/<network>`; none when there is no readable file."""
    try:
        content = json.loads(path.read_text())
        return {
            f"capacity/{name}/{network}": [
                (step, value)
                for step, value in zip(content["steps"], values, strict=True)
                if _is_finite(value)
            ]
            for network in ("actor", "critic")
            for name, values in content.get(network, {}).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _series(points: Sequence[tuple[float, float]]) -> Series:
    steps, values = np.array(points, np.float64).T
    return Series(steps, values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _centred_ranks(values: ArrayLike) -> Array:
    """Return ranks minus their mean, equal values sharing the mean of theirs."""
    _, group, sizes = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(sizes) - (sizes - 1) / 2
    return np.asarray(mean_ranks[group] - (len(group) + 1) / 2)
