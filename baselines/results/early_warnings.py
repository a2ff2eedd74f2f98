"""Signs that a run is losing its plasticity, and the step at which each of them first showed.

In Moalla et al. 2024 (arXiv 2405.00662) a growing norm and a falling rank of the actor's
representation come before the trust region fails and the return collapses. A warning is a rule of
thumb, not a verdict: most runs with a warning keep learning for long.

Every rule reads the running median of one metric, which single bursts do not move. A network that
starts to learn changes fast, so rules apply only after the first tenth of training. A rule fires
when its condition has held at `HOLD` measurements in a row; the step of the warning is that of the
first of them. The thresholds are ours.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from baselines.results.metrics import DEAD_UNITS, EXCESS, NORM, RANK, RETURN
from baselines.results.series import RunSeries
from baselines.results.stats import Array

MEDIAN_OF = 20  # measurements
HOLD = 5  # measurements in a row
START = 0.1  # share of training before which no rule applies
LAYER_SHARE = 0.25  # of the hidden layer's units
NOISE = 2.0  # deviations of the returns around their running median


@dataclasses.dataclass(frozen=True)
class EarlyWarning:
    """A rule that fired in a run."""

    run: RunSeries
    kind: str
    metric: str
    step: int  # environment steps
    before: float  # the reference value
    value: float  # at `step`
    last: float  # at the end of the run so far
    lasts: bool  # whether the rule still holds there


WarningsByGroup = Mapping[str, Sequence[EarlyWarning]]  # by the label of their runs' group


@dataclasses.dataclass(frozen=True)
class WatchedMetric:
    """One metric of one run, as a rule reads it."""

    raw: Array  # (points,)
    median: Array  # (points,) running
    start: int  # index of the first point at which a rule may fire
    hidden_size: int  # units of the last hidden layer; 0 if the run does not record them

    @property
    def early(self) -> Array:
        """The value at the start, at every point (points,)."""
        return np.full(len(self.median), self.median[self.start])

    @property
    def peak(self) -> Array:
        """The greatest value since the start (points,)."""
        values = self.median.copy()
        values[: self.start] = values[self.start]
        return np.maximum.accumulate(values)


Verdict = tuple[Array, Array]  # reference value of each point, and whether the rule holds (points,)


def norm_growing(metric: WatchedMetric) -> Verdict:
    """The norm of the actor's pre-activations is at least twice its early value."""
    return metric.early, metric.median >= 2 * metric.early


def rank_falling(metric: WatchedMetric) -> Verdict:
    """The approximate rank (PCA) of the actor's features is at most half of its peak."""
    return metric.peak, metric.median <= metric.peak / 2


def dead_units_rising(metric: WatchedMetric) -> Verdict:
    """A quarter of the actor's last hidden layer, or more, has died since the start."""
    risen = metric.median - metric.early >= LAYER_SHARE * metric.hidden_size
    return metric.early, risen & (metric.hidden_size > 0)


def excess_rising(metric: WatchedMetric) -> Verdict:
    """The excess ratio is at least 1.5 times its early value."""
    return metric.early, metric.median >= 1.5 * metric.early


def return_fallen(metric: WatchedMetric) -> Verdict:
    """More than half of the return gained since the first episodes is lost again.

    Gains below twice the deviation of the returns around their running median do not count.
    """
    gain = metric.peak - metric.median[0]
    fallen = metric.peak - metric.median > gain / 2
    return metric.peak, fallen & (gain > NOISE * np.std(metric.raw - metric.median))


# name, metric, and the rule; the report prints the rule's docstring
RULES: tuple[tuple[str, str, Callable[[WatchedMetric], Verdict]], ...] = (
    ("norm growing", NORM, norm_growing),
    ("rank falling", RANK, rank_falling),
    ("dead units rising", DEAD_UNITS, dead_units_rising),
    ("excess ratio rising", EXCESS, excess_rising),
    ("return fallen", RETURN, return_fallen),
)


def find_warnings(run: RunSeries) -> list[EarlyWarning]:
    """Return the warnings of a run in the order of time, at most one per kind."""
    found = []
    for kind, metric, rule in RULES:
        series = run[metric]
        start = int(np.searchsorted(series.steps, START * run.total_steps))
        if start >= len(series):
            continue
        median = running_median(series.values)
        size = run.config.get("hidden_size", 0)
        reference, fires = rule(WatchedMetric(series.values, median, start, size))
        first = first_lasting(fires, start)
        if first is None:
            continue
        step = int(series.steps[first])
        before, value, last = float(reference[first]), float(median[first]), float(median[-1])
        found.append(EarlyWarning(run, kind, metric, step, before, value, last, bool(fires[-1])))
    return sorted(found, key=lambda warning: warning.step)


def running_median(values: Array, count: int = MEDIAN_OF) -> Array:
    """Return the median of the last `count` values at every point (points,), of fewer at first."""
    ends = range(1, len(values) + 1)
    return np.array([np.median(values[max(0, end - count) : end]) for end in ends])


def first_lasting(fires: Array, start: int = 0, hold: int = HOLD) -> int | None:
    """Return the first index, `start` or later, of `hold` true values in a row, None without any.

    Args:
        fires: (points,) bool.
        start: index of the first point that counts.
        hold: number of true values in a row.
    """
    in_a_row = 0
    for index in range(start, len(fires)):
        in_a_row = in_a_row + 1 if fires[index] else 0
        if in_a_row == hold:
            return index - hold + 1
    return None
