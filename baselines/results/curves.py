"""Learning curves: one metric of runs in bins of steps, and its mean over the runs of a group.

A metric that is a mean over the episodes of an iteration is averaged over the episodes of a bin.
Every other metric is averaged over the iterations. The runs of a group have the same algorithm and
the same settings.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from baselines.errors import UsageError, expected
from baselines.results import stats
from baselines.results.groups import by_env, group_across_envs, read_runs
from baselines.results.metrics import EPISODE_COUNT, EPISODE_MEANS, WALL_CLOCK
from baselines.results.series import FINAL_SHARE, RunSeries, Series, metric_names, on_grid
from baselines.results.stats import Array

BINS = 50  # at most, if no width is given
AGGREGATES = {"mean": stats.mean, "iqm": stats.iqm}
Aggregate = Literal["mean", "iqm"]


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """One run's learning curve; arrays are (bins,), only bins in which the metric has a value."""

    run: RunSeries
    steps: Array  # the middle of each bin, environment steps
    seconds: Array  # wall-clock of the run at those steps
    values: Array
    final: float  # mean over the last 5 % of the steps done

    @property
    def total_seconds(self) -> float:
        """Wall-clock of the whole run, 0 if it logged none."""
        return float(self.run[WALL_CLOCK].values[-1])

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second, NaN if the run logged no times."""
        return self.run.last_step / self.total_seconds if self.total_seconds else math.nan

    def area(self, limit: float) -> float:
        """Return the area under the curve up to `limit` steps, NaN for fewer than two bins."""
        if np.count_nonzero(self.steps < limit) < 1 or len(self.steps) < 2:
            return math.nan
        return stats.area_under_curve(self.steps, self.values, limit)


@dataclasses.dataclass(frozen=True)
class Band:
    """An aggregate over runs and its bootstrap interval, at the points that all runs reach."""

    at: Array  # (points,) steps or seconds
    centre: Array  # (points,)
    low: Array  # (points,) NaN for a single run
    high: Array  # (points,)


@dataclasses.dataclass(frozen=True)
class CurveGroup:
    """Runs of one algorithm with the same settings in one environment."""

    label: str
    curves: Sequence[LearningCurve]  # by seed
    over_steps: Band
    over_seconds: Band  # no points if no times were logged

    @property
    def finals(self) -> Array:
        """The runs' final values as a matrix of scores on one task, (runs, 1)."""
        return np.array([[curve.final] for curve in self.curves])


@dataclasses.dataclass(frozen=True)
class EnvironmentCurves:
    """All groups of one environment, on the same bins."""

    env_id: str
    bin_steps: int
    groups: Sequence[CurveGroup]

    @property
    def curves(self) -> list[LearningCurve]:
        """The curves of all groups."""
        return [curve for group in self.groups for curve in group.curves]

    @property
    def last_step(self) -> int:
        """The environment steps of the longest run."""
        return max(curve.run.last_step for curve in self.curves)

    @property
    def common_steps(self) -> float:
        """The last step up to which all runs have values; areas end there."""
        return min(float(curve.steps[-1]) for curve in self.curves)


# Reading and grouping ----------------------------------------------------------------------------


def read_metric(paths: Sequence[str], metric: str) -> list[RunSeries]:
    """Return the runs in folders, with all series that curves of a metric need.

    Raises:
        UsageError: there are no runs, none has logged anything, or none has the metric.
    """
    runs = read_runs(paths, (metric, EPISODE_COUNT, WALL_CLOCK))
    if not any(len(run[metric]) for run in runs):
        known = set().union(*(metric_names(run.path) for run in runs))
        raise UsageError(expected("metric", metric, known))
    return runs


def make_curves(
    runs: Sequence[RunSeries],
    metric: str,
    *,
    statistic: Aggregate = "mean",
    bin_steps: int = 0,
    fields: Sequence[str] = (),
) -> list[EnvironmentCurves]:
    """Return the groups of each environment, with their curves.

    Args:
        runs: those without the metric, or shorter than half a bin, are left out.
        metric: its name.
        statistic: over the runs of a group.
        bin_steps: width of a bin; 0 for a round number that gives at most 50 bins.
        fields: settings that labels name; without any, those that differ.

    Raises:
        UsageError: no run has a setting of `fields`.
    """
    by_label = group_across_envs(runs, fields)
    label_of = {run.path: label for label, members in by_label.items() for run in members}
    environments = []
    for env_id, members in by_env(runs).items():
        width = bin_steps or bin_width(members)
        curves = [make_curve(run, metric, width) for run in members if len(run[metric])]
        groups: dict[str, list[LearningCurve]] = {}
        for curve in sorted(curves, key=lambda curve: curve.run.seed):
            if len(curve.steps):
                groups.setdefault(label_of[curve.run.path], []).append(curve)
        if groups:
            made = [curve_group(label, groups[label], statistic, width) for label in sorted(groups)]
            environments.append(EnvironmentCurves(env_id, width, made))
    return environments


# One run -----------------------------------------------------------------------------------------


def bin_width(runs: Sequence[RunSeries], bins: int = BINS) -> int:
    """Return a round width in steps: at most `bins` bins, none shorter than an iteration."""
    longest = max(run.last_step for run in runs)
    iterations = [np.diff(run[WALL_CLOCK].steps, prepend=0).max(initial=1) for run in runs]
    least = max(longest / bins, *iterations)
    power = 10 ** math.floor(math.log10(least))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= least))


def make_curve(run: RunSeries, metric: str, width: int) -> LearningCurve:
    """Return a run's curve in bins (k width, (k + 1) width].

    An iteration counts in the bin in which it ends. The last bin counts if the run has done half of
    it.
    """
    points, weights = run[metric], episode_weights(run, metric)
    bins = np.maximum(np.ceil(points.steps / width).astype(np.int64) - 1, 0)  # (points,)
    weight = np.bincount(bins, weights)  # (bins,)
    total = np.bincount(bins, weights * points.values)  # (bins,)
    steps = (np.arange(len(weight)) + 0.5) * width
    kept = (weight > 0) & (steps <= run.last_step)
    clock = run[WALL_CLOCK]
    seconds = np.interp(steps, [0, *clock.steps], [0, *clock.values])
    values = total[kept] / weight[kept]
    return LearningCurve(run, steps[kept], seconds[kept], values, curve_end(run, metric))


def curve_end(run: RunSeries, metric: str) -> float:
    """Return a metric's mean over the last 5 % of the steps that a run has done.

    If the metric has no value in that window, it is the last value.
    """
    points, weights = run[metric], episode_weights(run, metric)
    window = points.steps > (1 - FINAL_SHARE) * run.last_step
    if not weights[window].any():
        return float(points.values[-1])
    return float(np.average(points.values[window], weights=weights[window]))


def episode_weights(run: RunSeries, metric: str) -> Array:
    """Return the weight of each point of a metric in a mean, (points,): its episodes, or one."""
    points, episodes = run[metric], run[EPISODE_COUNT]
    if metric not in EPISODE_MEANS or not len(episodes):
        return np.ones(len(points))
    return np.interp(points.steps, episodes.steps, episodes.values)


# A group -----------------------------------------------------------------------------------------


def curve_group(
    label: str, curves: Sequence[LearningCurve], statistic: Aggregate, width: int
) -> CurveGroup:
    """Return a group with its bands; bins in which a run has no value are interpolated."""
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
    return CurveGroup(label, curves, over_steps, over_seconds)


def make_band(at: Array, rows: Array, statistic: Aggregate) -> Band:
    """Return an aggregate over runs (runs, points) and its interval, at points without NaN."""
    shared = np.isfinite(rows).all(axis=0)  # (points,)
    at, scores = at[shared], rows[:, None, shared]  # (runs, 1 task, points)
    if not len(at):
        return Band(at, at, at, at)
    function = AGGREGATES[statistic]
    return Band(at, function(scores), *interval(scores, function))


def interval(
    scores: Array | tuple[Array, ...], statistic: Callable[..., Any]
) -> tuple[Array, Array]:
    """Return the bootstrap interval of a statistic over runs, NaN for a single run.

    Args:
        scores: (runs, tasks, ...), or a tuple of such matrices.
        statistic: as for `stats.stratified_bootstrap`.
    """
    matrices = scores if isinstance(scores, tuple) else (scores,)
    if min(map(len, matrices)) < 2:
        nothing = np.full_like(statistic(*matrices), np.nan)
        return nothing, nothing
    return stats.stratified_bootstrap(matrices, statistic)


# Several environments ----------------------------------------------------------------------------


def score_matrices(environments: Sequence[EnvironmentCurves]) -> dict[str, Array]:
    """Return final values (runs, environments) of groups with equally many runs in each, by label.

    Groups that are missing in an environment are left out.
    """
    found: dict[str, list[Array]] = {}
    for environment in environments:
        for group in environment.groups:
            found.setdefault(group.label, []).append(group.finals)
    return {
        label: np.concatenate(finals, axis=1)  # (runs, environments)
        for label, finals in found.items()
        if len(finals) == len(environments) and len({len(scores) for scores in finals}) == 1
    }
