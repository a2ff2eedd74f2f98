"""Learning curves: one metric of runs in bins of steps, and the mean over the runs of a group.

A metric that is a mean over the episodes of an iteration is averaged over those of a bin; every
other is averaged over the iterations. Groups are runs of one algorithm and the same settings.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from baselines.errors import UsageError, expected
from baselines.results import stats
from baselines.results.report import by_env, labels, read_runs, settings
from baselines.results.series import (
    FINAL_SHARE,
    RETURN,
    WALL_CLOCK,
    Array,
    RunSeries,
    Series,
    metric_names,
    on_grid,
)

WIN_RATE = "charts/win_rate"
EPISODES = "charts/episodes"
EPISODE_MEANS = {
    *(WIN_RATE, RETURN, "charts/episodic_length"),
    *("charts/draw_rate", "charts/timeout_rate"),
}
BINS = 50  # at most, where the width is not given
STATISTICS = {"mean": stats.mean, "iqm": stats.iqm}
Statistic = Literal["mean", "iqm"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run's learning curve; arrays are (bins,), those in which the metric has a value."""

    run: RunSeries
    steps: Array  # the middle of each bin, environment steps
    seconds: Array  # wall-clock of the run at those steps
    values: Array
    final: float  # mean over the last 5 % of the steps done

    @property
    def total_seconds(self) -> float:
        """Wall-clock of the whole run, 0 where it logged none."""
        return float(self.run[WALL_CLOCK].values[-1])

    @property
    def steps_per_second(self) -> float:
        """Environment steps a second, NaN where the run logged no times."""
        return self.run.last_step / self.total_seconds if self.total_seconds else math.nan

    def area(self, limit: float) -> float:
        """Return the area under the curve up to `limit` steps, NaN for fewer than two bins."""
        if np.count_nonzero(self.steps < limit) < 1 or len(self.steps) < 2:
            return math.nan
        return stats.area_under_curve(self.steps, self.values, limit)


@dataclasses.dataclass(frozen=True)
class Band:
    """A statistic over runs and its bootstrap interval, where all of them have values."""

    at: Array  # (points,) steps or seconds
    centre: Array  # (points,)
    low: Array  # (points,) NaN for a lone run
    high: Array  # (points,)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one algorithm with the same settings in one environment."""

    label: str
    curves: Sequence[Curve]  # by seed
    over_steps: Band
    over_seconds: Band  # no points where no times were logged

    @property
    def finals(self) -> Array:
        """The runs' final values as a matrix of scores on one task, (runs, 1)."""
        return np.array([[curve.final] for curve in self.curves])


@dataclasses.dataclass(frozen=True)
class Environment:
    """All groups of one environment, on the same bins."""

    id: str
    bin_steps: int
    groups: Sequence[Group]

    @property
    def last_step(self) -> int:
        """How far the longest run came, in environment steps."""
        return max(curve.run.last_step for group in self.groups for curve in group.curves)

    @property
    def common_steps(self) -> float:
        """Up to where all runs have values: areas end there."""
        return min(float(curve.steps[-1]) for group in self.groups for curve in group.curves)


# Reading and grouping ----------------------------------------------------------------------------


def read_metric(paths: Sequence[str], metric: str) -> list[RunSeries]:
    """Return the runs that folders name, with what curves of a metric need.

    Raises:
        UsageError: there are no runs, none has logged anything, or none has the metric.
    """
    runs = read_runs(paths, (metric, EPISODES, WALL_CLOCK))
    if not any(len(run[metric]) for run in runs):
        known = set().union(*(metric_names(run.path) for run in runs))
        raise UsageError(expected("metric", metric, known))
    return runs


def make_curves(
    runs: Sequence[RunSeries],
    metric: str,
    *,
    statistic: Statistic = "mean",
    bin_steps: int = 0,
    fields: Sequence[str] = (),
) -> list[Environment]:
    """Return the groups of each environment, with their curves.

    Args:
        runs: those without the metric, or shorter than half a bin, are left out.
        metric: its name.
        statistic: over the runs of a group.
        bin_steps: width of a bin; 0 for a round one that gives at most 50.
        fields: settings that labels name; those that differ unless any are given.

    Raises:
        UsageError: no run has a setting of `fields`.
    """
    named = {run.path: label for label, some in label_runs(runs, fields).items() for run in some}
    environments = []
    for env_id, members in by_env(runs).items():
        width = bin_steps or bin_width(members)
        curves = [make_curve(run, metric, width) for run in members if len(run[metric])]
        groups: dict[str, list[Curve]] = {}
        for curve in sorted(curves, key=lambda curve: curve.run.seed):
            if len(curve.steps):
                groups.setdefault(named[curve.run.path], []).append(curve)
        if groups:
            made = [make_group(label, groups[label], statistic, width) for label in sorted(groups)]
            environments.append(Environment(env_id, width, made))
    return environments


def label_runs(runs: Sequence[RunSeries], fields: Sequence[str] = ()) -> dict[str, list[RunSeries]]:
    """Return runs by algorithm and, where these differ, settings; environments do not part them.

    Raises:
        UsageError: no run has a setting of `fields`.
    """
    known = set().union(*map(settings, runs))
    for field in fields:
        if field not in known:
            raise UsageError(expected("setting", field, known))
    found = {}
    for algorithm in dict.fromkeys(run.record["algorithm"] for run in runs):
        alike: dict[str, list[RunSeries]] = {}
        for run in runs:
            if run.record["algorithm"] == algorithm:
                alike.setdefault(json.dumps(_own(run), sort_keys=True), []).append(run)
        given = [_own(members[0]) for members in alike.values()]
        for name, members in zip(labels(given, fields), alike.values(), strict=True):
            found[algorithm if name == algorithm else f"{algorithm}, {name}"] = members
    return found


def _own(run: RunSeries) -> dict[str, Any]:
    """Return the settings by which runs are grouped."""
    return {name: value for name, value in settings(run).items() if name != "env"}


# One run -----------------------------------------------------------------------------------------


def bin_width(runs: Sequence[RunSeries], bins: int = BINS) -> int:
    """Return a round number of steps: at most `bins` of them, none shorter than an iteration."""
    longest = max(run.last_step for run in runs)
    iterations = [np.diff(run[WALL_CLOCK].steps, prepend=0).max(initial=1) for run in runs]
    least = max(longest / bins, *iterations)
    power = 10 ** math.floor(math.log10(least))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= least))


def make_curve(run: RunSeries, metric: str, width: int) -> Curve:
    """Return a run's curve in bins (k width, (k + 1) width].

    An iteration counts in the bin in which it ends. The last bin counts if the run has done half.
    """
    points, weights = run[metric], episode_weights(run, metric)
    bins = np.maximum(np.ceil(points.steps / width).astype(np.int64) - 1, 0)
    weight = np.bincount(bins, weights)
    total = np.bincount(bins, weights * points.values)
    steps = (np.arange(len(weight)) + 0.5) * width
    kept = (weight > 0) & (steps <= run.last_step)
    clock = run[WALL_CLOCK]
    seconds = np.interp(steps, [0, *clock.steps], [0, *clock.values])
    values = total[kept] / weight[kept]
    return Curve(run, steps[kept], seconds[kept], values, final_value(run, metric))


def final_value(run: RunSeries, metric: str) -> float:
    """Return a metric's mean over the last 5 % of the steps that a run has done.

    It is its last value where there is none in that window.
    """
    points, weights = run[metric], episode_weights(run, metric)
    window = points.steps > (1 - FINAL_SHARE) * run.last_step
    if not weights[window].any():
        return float(points.values[-1])
    return float(np.average(points.values[window], weights=weights[window]))


def episode_weights(run: RunSeries, metric: str) -> Array:
    """Return what each point of a metric weighs in a mean, (points,): its episodes, or one."""
    points, episodes = run[metric], run[EPISODES]
    if metric not in EPISODE_MEANS or not len(episodes):
        return np.ones(len(points))
    return np.interp(points.steps, episodes.steps, episodes.values)


# A group -----------------------------------------------------------------------------------------


def make_group(label: str, curves: Sequence[Curve], statistic: Statistic, width: int) -> Group:
    """Return a group with its bands; bins in which a run has no value are bridged."""
    last = max(curve.steps[-1] for curve in curves)
    steps = np.arange(0.5 * width, last + 1, width)
    rows = [
        np.interp(steps, curve.steps, curve.values, left=np.nan, right=np.nan) for curve in curves
    ]
    over_steps = make_band(steps, np.array(rows), statistic)
    timed = all(curve.total_seconds for curve in curves)
    if timed:
        seconds, rows = on_grid([Series(curve.seconds, curve.values) for curve in curves])
        over_seconds = make_band(seconds, rows, statistic)
    else:
        over_seconds = make_band(np.empty(0), np.empty((len(curves), 0)), statistic)
    return Group(label, curves, over_steps, over_seconds)


def make_band(at: Array, rows: Array, statistic: Statistic) -> Band:
    """Return a statistic over runs (runs, points) and its interval, where no run has NaN."""
    shared = np.isfinite(rows).all(axis=0)
    at, scores = at[shared], rows[:, None, shared]
    if not len(at):
        return Band(at, at, at, at)
    function = STATISTICS[statistic]
    return Band(at, function(scores), *interval(scores, function))


def interval(
    scores: Array | tuple[Array, ...], statistic: Callable[..., Any]
) -> tuple[Array, Array]:
    """Return the bootstrap interval of a statistic over runs, NaN where there is a lone run.

    Args:
        scores: (runs, tasks, ...), or a tuple of such matrices.
        statistic: what `stats.stratified_bootstrap` takes.
    """
    matrices = scores if isinstance(scores, tuple) else (scores,)
    if min(map(len, matrices)) < 2:
        nothing = np.full_like(statistic(*matrices), np.nan)
        return nothing, nothing
    return stats.stratified_bootstrap(matrices, statistic)


# Several environments ----------------------------------------------------------------------------


def score_matrices(environments: Sequence[Environment]) -> dict[str, Array]:
    """Return final values (runs, environments) by label, of groups with as many runs in each."""
    found: dict[str, list[Array]] = {}
    for environment in environments:
        for group in environment.groups:
            found.setdefault(group.label, []).append(group.finals)
    return {
        label: np.concatenate(finals, axis=1)
        for label, finals in found.items()
        if len(finals) == len(environments) and len({len(one) for one in finals}) == 1
    }
