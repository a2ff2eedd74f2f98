"""Statistics of results: aggregates over runs and tasks, their intervals, rank correlations.

The aggregates are those of Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice"
(arXiv 2108.13264), as its library rliable computes them; docs/evaluation.md says when to use which.
A matrix of scores is (runs, tasks), one number per run, or (runs, tasks, points): curves that are
resampled whole. Every aggregate keeps the axes after the second. A single task is a matrix with one
column. Scores must be finite, and there must be at least one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
LEVEL = 0.95  # of all intervals


# Aggregates --------------------------------------------------------------------------------------


def iqm(scores: ArrayLike) -> Array:
    """Return the interquartile mean: the mean over runs and tasks without the outer quarters.

    A quarter is rounded down, so fewer than four scores are all kept.

    Args:
        scores: (runs, tasks, ...).

    Returns:
        (...), a number for a matrix.

    Raises:
        ValueError: there are no scores, or a score is not finite.
    """
    pooled = np.sort(_pooled(_checked(scores)), axis=0)
    cut = len(pooled) // 4
    return pooled[cut : len(pooled) - cut].mean(axis=0)


def mean(scores: ArrayLike) -> Array:
    """Return the mean over tasks of the means over runs; arguments as of `iqm`."""
    return _pooled(_checked(scores)).mean(axis=0)


def median(scores: ArrayLike) -> Array:
    """Return the median over tasks of the means over runs; arguments as of `iqm`."""
    return np.median(_checked(scores).mean(axis=0), axis=0)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Array:
    """Return the mean amount by which scores fall short of `target`; less is better.

    A score above the target counts as equal to it. Other arguments as of `iqm`.
    """
    return target - np.minimum(_pooled(_checked(scores)), target).mean(axis=0)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Return the share of runs on all tasks that score above each threshold.

    The band around it is `stratified_bootstrap(scores, lambda x: performance_profile(x, taus))`.

    Args:
        scores: (runs, tasks).
        thresholds: (thresholds,).

    Returns:
        (thresholds,), falling from 1 to 0 as thresholds rise.

    Raises:
        ValueError: as `iqm`.
    """
    pooled = np.sort(_pooled(_checked(scores)).ravel())  # (runs * tasks,)
    return 1 - np.searchsorted(pooled, np.asarray(thresholds), side="right") / len(pooled)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Return the probability that a run of X beats a run of Y on a task, averaged over tasks.

    It is Mann and Whitney's U over the number of pairs: ties count one half.

    Args:
        x: (runs of X, tasks).
        y: (runs of Y, tasks), the same tasks.

    Raises:
        ValueError: as `iqm`, or the numbers of tasks differ.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"scores of {x.shape[1]} and of {y.shape[1]} tasks: need the same tasks")
    return float((np.sign(x[:, None] - y).mean() + 1) / 2)  # (runs of X, runs of Y, tasks) inside


# Intervals ---------------------------------------------------------------------------------------


def stratified_bootstrap(
    scores: ArrayLike | tuple[ArrayLike, ...],
    statistic: Callable[..., Any],
    reps: int = 2000,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Return the 95 % percentile interval of a statistic, resampling runs within each task.

    The interval says how far the statistic would move with other seeds on the same tasks. For few
    runs it is too narrow: a resample holds only runs that were seen (docs/evaluation.md has
    figures).

    Args:
        scores: (runs, tasks, ...), or a tuple of such matrices, each resampled on its own.
        statistic: takes as many matrices as there are; returns a number or an array.
        reps: number of resamples.
        seed: of the resampling.

    Returns:
        Lower and upper ends, each shaped as the statistic.

    Raises:
        ValueError: as `iqm`, or a matrix has a single run.
    """
    matrices = [_checked(matrix) for matrix in (scores if isinstance(scores, tuple) else (scores,))]
    if any(len(matrix) < 2 for matrix in matrices):
        raise ValueError("one run has no spread: an interval over runs needs at least two")
    generator = np.random.default_rng(seed)
    values = [
        statistic(*(_resampled(matrix, generator) for matrix in matrices)) for _ in range(reps)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.array(values, np.float64), (tail, 1 - tail), axis=0)
    return low, high


def _resampled(scores: Array, generator: np.random.Generator) -> Array:
    """Return scores (runs, tasks, ...) with runs drawn with replacement, separately per task."""
    runs, tasks = scores.shape[:2]
    return scores[generator.integers(runs, size=(runs, tasks)), np.arange(tasks)]


# Curves ------------------------------------------------------------------------------------------


def area_under_curve(
    steps: Sequence[float] | Array, values: ArrayLike, limit: float = math.inf
) -> float:
    """Return a learning curve's mean height: the area below its line over the range of its steps.

    A straight line joins neighbouring points, also across points that are NaN. Curves on unequal
    grids are comparable if they begin and end alike, so give the `limit` that all of them reach.

    Args:
        steps: (points,) rising.
        values: (points,); points that are NaN are left out.
        limit: the step at which the curve is cut off, by interpolation between two points.

    Raises:
        ValueError: steps do not rise, or fewer than two points are within the limit.
    """
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    x, y = x[~np.isnan(y)], y[~np.isnan(y)]
    if (np.diff(x) <= 0).any():
        raise ValueError("the steps of a curve must rise")
    end = min(limit, x[-1]) if len(x) else -math.inf
    inside = x < end
    if not inside.any():
        raise ValueError(f"a curve needs two points, the first of them before {limit:g}")
    y = np.append(y[inside], np.interp(end, x, y))
    x = np.append(x[inside], end)
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


# Rank correlations -------------------------------------------------------------------------------


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Return Kendall's rank correlation in -1 ... 1 (tau-b, Kendall 1945, which allows ties).

    NaN for fewer than two points, and if one side is constant.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    concordance, untied_x, untied_y = 0.0, 0, 0
    for point in range(len(x)):  # a row of pairs at a time, to save memory
        signs_x, signs_y = np.sign(x[point] - x[:point]), np.sign(y[point] - y[:point])
        concordance += float(signs_x @ signs_y)
        untied_x += np.count_nonzero(signs_x)
        untied_y += np.count_nonzero(signs_y)
    pairs = math.sqrt(untied_x) * math.sqrt(untied_y)
    return concordance / pairs if pairs else math.nan


def spearman_rho(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation in -1 ... 1: Pearson's correlation of the ranks.

    Equal values share their mean rank. NaN for fewer than two points, and if one side is constant.
    """
    ranks_x, ranks_y = _centred_ranks(x), _centred_ranks(y)
    scale = math.sqrt(float(ranks_x @ ranks_x) * float(ranks_y @ ranks_y))
    return float(ranks_x @ ranks_y) / scale if scale else math.nan


def _centred_ranks(values: ArrayLike) -> Array:
    """Return ranks minus their mean (points,); equal values share their mean rank."""
    _, group, sizes = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(sizes) - (sizes - 1) / 2  # (distinct values,)
    return np.asarray(mean_ranks[group] - (len(group) + 1) / 2)


# Scores ------------------------------------------------------------------------------------------


def _checked(scores: ArrayLike) -> Array:
    """Return scores as an array.

    Raises:
        ValueError: the scores are not a (runs, tasks, ...) array of finite numbers, or are empty.
    """
    array = np.asarray(scores, np.float64)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"scores must be (runs, tasks) with at least one of each: {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("scores must be finite: leave out the runs, or the tasks, that have none")
    return array


def _pooled(scores: Array) -> Array:
    """Return scores (runs, tasks, ...) with runs and tasks as one axis, (runs * tasks, ...)."""
    return scores.reshape(-1, *scores.shape[2:])  # (runs * tasks, ...)
