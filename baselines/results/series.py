"""The metrics of one run folder as arrays, and the averages of them that figures and warnings use.

The averages follow Moalla et al. 2024, "No Representation, No Trust" (arXiv 2405.00662).
"""

import dataclasses
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from baselines.results.metrics import NORM, REPORTED, WALL_CLOCK
from baselines.results.stats import Array

SMOOTHING = 0.05  # weight of a new value, the paper's for returns, ranks and norms
FINAL_SHARE = 0.05  # of training, the paper's window for final values


@dataclasses.dataclass(frozen=True)
class Series:
    """The finite values of one metric of one run; both arrays are (points,)."""

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
    """A run folder: its record and its metrics."""

    path: Path
    record: dict[str, Any]  # content of config.json
    last_step: int  # environment steps done; 0 before the first iteration
    series: dict[str, Series]  # by metric, only those that have points
    damaged: int = 0  # unreadable lines of metrics.jsonl; a half-written last line does not count

    def __getitem__(self, metric: str) -> Series:
        """Return a metric's series, empty if the run does not have it."""
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
        """The planned length of the run in environment steps, at least the steps done."""
        return max(self.config["total_steps"], self.last_step)

    @property
    def measured(self) -> bool:
        """Whether the probe was on."""
        return NORM in self.series


# Reading -----------------------------------------------------------------------------------------


def read_run(path: Path, record: dict[str, Any], metrics: Collection[str] = REPORTED) -> RunSeries:
    """Return the named metrics of a run folder, and its capacity losses if there are any.

    Unreadable lines are left out; the last line may be half-written. Value-based learners call
    their network `agent`: its metrics take the actor's place.

    Args:
        path: the run folder.
        record: content of its config.json.
        metrics: names in its metrics.jsonl, or `WALL_CLOCK`.
    """
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in metrics}
    last_step, seconds = 0, 0.0
    rows, damaged = _logged_rows(path / "metrics.jsonl")
    for row in rows:
        last_step = max(last_step, row["global_step"])
        seconds += _iteration_seconds(row)
        row[WALL_CLOCK] = seconds
        for name in metrics:
            row.setdefault(name, row.get(name.replace("/actor", "/agent")))
            if _is_finite(row[name]):
                points[name].append((row["global_step"], row[name]))
    points |= _capacity_points(path / "capacity.json")
    series = {name: _from_points(found) for name, found in points.items() if found}
    return RunSeries(path, record, last_step, series, damaged)


def metric_names(path: Path) -> set[str]:
    """Return the names of all metrics for which a run folder has a finite number."""
    rows, _ = _logged_rows(path / "metrics.jsonl")
    names = {name for row in rows for name, value in row.items() if _is_finite(value)}
    return names - {"global_step"}


def _logged_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the readable lines of metrics.jsonl and the number of damaged ones before the last."""
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


def _iteration_seconds(row: dict[str, Any]) -> float:
    """Return the duration of an iteration, the sum of its times."""
    return sum(
        value
        for name, value in row.items()
        if name.startswith("time/") and name.endswith("_seconds") and _is_finite(value)
    )


def _capacity_points(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return points of `capacity/<figure>/<network>`, none without a readable file."""
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


def _from_points(points: Sequence[tuple[float, float]]) -> Series:
    steps, values = np.array(points, np.float64).T  # (2, points)
    return Series(steps, values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# Averages ----------------------------------------------------------------------------------------


def smooth(values: ArrayLike, alpha: float = SMOOTHING) -> Array:
    """Return the exponential moving average of values (points,), the same shape.

    It is corrected for its start: the first value has the weight of its age and no more. The
    result at point t is sum_i (1 - alpha)^i x_(t-i) over sum_i (1 - alpha)^i, i = 0 ... t.
    """
    total, weight, averages = 0.0, 0.0, []
    for value in np.asarray(values, np.float64):
        total = (1 - alpha) * total + value
        weight = (1 - alpha) * weight + 1
        averages.append(total / weight)
    return np.array(averages)


def final_mean(series: Series, width: float, before: int = 0) -> float:
    """Return the mean over the last `width` steps of a series, NaN if the series is empty.

    The window ends at the last point, so a metric that is no longer logged keeps its last values.

    Args:
        series: of one run.
        width: of the window, in environment steps.
        before: number of points before the window that count too.
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
    by_series = [_means_by_window(metric, width) for metric in series]
    shared = sorted(set.intersection(*(set(means) for means in by_series)))
    rows = [[means[window] for means in by_series] for window in shared]
    return np.array(rows).reshape(len(shared), len(series))  # (windows, series), also for none


def _means_by_window(series: Series, width: float) -> dict[int, float]:
    windows = (series.steps // width).astype(np.int64)  # (points,)
    return {
        int(window): float(series.values[windows == window].mean()) for window in np.unique(windows)
    }


def lowest_rows(rows: Array, count: int = 20) -> Array:
    """Return the `count` rows (windows, 2) with the lowest first column, lowest first."""
    return rows[np.argsort(rows[:, 0], kind="stable")[:count]]


def on_grid(
    series: Sequence[Series], points: int = 200, tolerance: float = 0.02
) -> tuple[Array, Array]:
    """Return series on common steps, by linear interpolation, NaN outside a series' own range.

    Args:
        series: of several runs, none empty.
        points: size of the grid, from the first step of any series to the last of any.
        tolerance: share of the grid by which a series may begin late or end early. Within it the
            outermost value is repeated, because equal runs do not end at the same step.

    Returns:
        Steps (points,) and values (series, points).
    """
    low, high = min(s.steps[0] for s in series), max(s.steps[-1] for s in series)
    grid = np.linspace(low, high, points if high > low else 1)
    slack = tolerance * (high - low)
    rows = np.array([np.interp(grid, s.steps, s.values) for s in series])  # (series, points)
    for row, s in zip(rows, series, strict=True):
        row[(grid < s.steps[0] - slack) | (grid > s.steps[-1] + slack)] = np.nan
    return grid, rows
