"""Signs that a run is losing its plasticity, and when each of them first showed.

In Moalla et al. 2024 (arXiv 2405.00662) a growing norm and a falling rank of the actor's
representation come before the trust region fails and the return collapses. A warning is a rule of
thumb, not a verdict: most runs that get one go on learning for long.

Every rule reads the running median of one metric, which single bursts do not move. It speaks from
the end of the first tenth of training on, because a network that starts to learn changes fast, and
it fires when what it states has held at `HOLD` measurements in a row; the step of the warning is
that of the first of them. The thresholds are ours.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from baselines.results.series import DEAD_UNITS, EXCESS, NORM, RANK, RETURN, Array, RunSeries

MEDIAN_OF = 20  # measurements
HOLD = 5  # measurements in a row
START = 0.1  # share of training before which no rule speaks
LAYER_SHARE = 0.25  # of the hidden layer's units
NOISE = 2.0  # deviations of the returns around their running median


@dataclasses.dataclass(frozen=True)
class EarlyWarning:
    """What a rule found in one run."""

    kind: str
    metric: str
    step: int  # environment steps
    before: float  # the value it is compared with
    value: float  # at `step`
    last: float  # at the end of the run so far
    lasts: bool  # whether the rule still holds there


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of one run, as a rule reads it."""

    raw: Array  # (points,)
    median: Array  # (points,) running
    start: int  # index of the first point that a rule may speak of
    hidden_size: int  # units of the last hidden layer; 0 where the run does not say

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


Verdict = tuple[Array, Array]  # what each point is compared with, and whether it fires (points,)


def norm_growing(curve: Curve) -> Verdict:
    """The norm of the actor's pre-activations is at least twice what it was."""
    return curve.early, curve.median >= 2 * curve.early


def rank_falling(curve: Curve) -> Verdict:
    """The approximate rank (PCA) of the actor's features is at most half of its peak."""
    return curve.peak, curve.median <= curve.peak / 2


def dead_units_rising(curve: Curve) -> Verdict:
    """A quarter of the actor's last hidden layer, or more, has died since."""
    risen = curve.median - curve.early >= LAYER_SHARE * curve.hidden_size
    return curve.early, risen & (curve.hidden_size > 0)


def excess_rising(curve: Curve) -> Verdict:
    """The excess ratio is at least 1.5 times what it was."""
    return curve.early, curve.median >= 1.5 * curve.early


def return_fallen(curve: Curve) -> Verdict:
    """More than half of the return gained since the first episodes is lost again.

    Gains below twice the deviation of the returns around their running median do not count.
    """
    gain = curve.peak - curve.median[0]
    fallen = curve.peak - curve.median > gain / 2
    return curve.peak, fallen & (gain > NOISE * np.std(curve.raw - curve.median))


# name, metric, and the rule: its docstring is what the report says of it
RULES: tuple[tuple[str, str, Callable[[Curve], Verdict]], ...] = (
    ("norm growing", NORM, norm_growing),
    ("rank falling", RANK, rank_falling),
    ("dead units rising", DEAD_UNITS, dead_units_rising),
    ("excess ratio rising", EXCESS, excess_rising),
    ("return fallen", RETURN, return_fallen),
)


def find_warnings(run: RunSeries) -> list[EarlyWarning]:
    """Return the warnings of a run in the order of time, at most one of a kind."""
    found = []
    for kind, metric, rule in RULES:
        series = run[metric]
        start = int(np.searchsorted(series.steps, START * run.total_steps))
        if start >= len(series):
            continue
        median = running_median(series.values)
        size = run.config.get("hidden_size", 0)
        compared, fires = rule(Curve(series.values, median, start, size))
        first = first_lasting(fires, start)
        if first is None:
            continue
        before, value, last = float(compared[first]), float(median[first]), float(median[-1])
        step = int(series.steps[first])
        found.append(EarlyWarning(kind, metric, step, before, value, last, bool(fires[-1])))
    return sorted(found, key=lambda warning: warning.step)


def running_median(values: Array, count: int = MEDIAN_OF) -> Array:
    """Return the median of the last `count` values at every point (points,), of fewer at first."""
    ends = range(1, len(values) + 1)
    return np.array([np.median(values[max(0, end - count) : end]) for end in ends])


def first_lasting(fires: Array, start: int = 0, hold: int = HOLD) -> int | None:
    """Return the first index from `start` on at which `fires` begins to hold `hold` times in a row.

    Args:
        fires: (points,) bool.
        start: index of the first point that counts.
        hold: how many points in a row it takes.
    """
    in_a_row = 0
    for index in range(start, len(fires)):
        in_a_row = in_a_row + 1 if fires[index] else 0
        if in_a_row == hold:
            return index - hold + 1
    return None
