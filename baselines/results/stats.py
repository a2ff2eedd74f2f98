"""Statistics of results: aggregates over runs and tasks, and how sure one can be of them.

They are those of Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice"
(arXiv 2108.13264), as its library rliable computes them; docs/evaluation.md says when to use which.
A matrix of scores is (runs, tasks), one number a run, or (runs, tasks, points), curves that are
resampled whole: every aggregate leaves the axes after the second as they are. A lone task is a
matrix with one column. Scores must be finite, and there must be some.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smacv2.stats import wilson_interval as wilson_interval  # still imported from here

Array = NDArray[np.float64]
LEVEL = 0.95  # of all intervals


# Aggregates --------------------------------------------------------------------------------------


def iqm(scores: ArrayLike) -> Array:
    """Return the interquartile mean: that of all runs on all tasks but the outer quarters.

    A quarter is rounded down, so fewer than four scores are all kept.

    Args:
        scores: (runs, tasks, ...).

    Returns:
        (...), a number for a matrix.

    Raises:
        ValueError: there are no scores, or one is not finite.
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
    """Return by how much scores fall short of `target` on average; those above it count as equal.

    Other arguments as of `iqm`. Less is better.
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
    pooled = np.sort(_pooled(_checked(scores)).ravel())
    return 1 - np.searchsorted(pooled, np.asarray(thresholds), side="right") / len(pooled)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Return how likely a run of X is to beat one of Y on a task, averaged over the tasks.

    It is Mann and Whitney's U over the number of pairs: ties count one half.

    Args:
        x: (runs of X, tasks).
        y: (runs of Y, tasks), the same tasks.

    Raises:
        ValueError: as `iqm`, or they have other numbers of tasks.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"scores of {x.shape[1]} and of {y.shape[1]} tasks: need the same tasks")
    return float((np.sign(x[:, None] - y).mean() + 1) / 2)


# Intervals ---------------------------------------------------------------------------------------


def stratified_bootstrap(
    scores: ArrayLike | tuple[ArrayLike, ...],
    statistic: Callable[..., Any],
    reps: int = 2000,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Return the 95 % percentile interval of a statistic, resampling runs within each task.

    It says how far the statistic would move with other seeds on the same tasks. Of few runs it is
    too narrow: a resample holds nothing that was not seen (docs/evaluation.md has figures).

    Args:
        scores: (runs, tasks, ...), or a tuple of such matrices, each resampled for itself.
        statistic: takes as many matrices as there are; returns a number or an array.
        reps: number of resamples.
        seed: of the resampling.

    Returns:
        Lower and upper ends, each shaped as the statistic.

    Raises:
        ValueError: as `iqm`, or a matrix has one run only.
    """
    matrices = [_checked(one) for one in (scores if isinstance(scores, tuple) else (scores,))]
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
    """Return scores (runs, tasks, ...) with runs drawn with replacement, for each task apart."""
    runs, tasks = scores.shape[:2]
    return scores[generator.integers(runs, size=(runs, tasks)), np.arange(tasks)]


# Curves ------------------------------------------------------------------------------------------


def area_under_curve(
    steps: Sequence[float] | Array, values: ArrayLike, limit: float = math.inf
) -> float:
    """Return a learning curve's mean height: the area below its line over the range of its steps.

    A straight line joins neighbouring points, across points that are NaN too. Curves on unequal
    grids compare if they begin and end alike, so give the `limit` that all of them reach.

    Args:
        steps: (points,) rising.
        values: (points,); points that are NaN are left out.
        limit: where the curve is cut off, between two points by interpolation.

    Raises:
        ValueError: steps do not rise, or fewer than two points lie within the limit.
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


def _checked(scores: ArrayLike) -> Array:
    """Return scores as an array.

    Raises:
        ValueError: it is no (runs, tasks, ...) array of finite numbers, or has none.
    """
    array = np.asarray(scores, np.float64)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"scores must be (runs, tasks) with at least one of each: {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("scores must be finite: leave out the runs, or the tasks, that have none")
    return array


def _pooled(scores: Array) -> Array:
    """Return scores (runs, tasks, ...) of all runs and tasks as one axis."""
    return scores.reshape(-1, *scores.shape[2:])
