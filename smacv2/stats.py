"""Intervals for win rates."""

import math

NORMAL_QUANTILE_95 = 1.959963984540054  # two-sided 95 % of the standard normal


def wilson_interval(
    successes: int, trials: int, quantile: float = NORMAL_QUANTILE_95
) -> tuple[float, float]:
    """Return the ends of Wilson's score interval for a proportion (Wilson 1927, eq. 1).

    Unlike p ± 1.96 sqrt(p (1 - p) / n), it stays in [0, 1] and keeps its level near 0 and 1.

    Args:
        successes: Number of successes, 0 to `trials`.
        trials: Number of trials, at least 1.
        quantile: Normal quantile of the level; the default gives 95 %.

    Raises:
        ValueError: `trials` is below 1, or `successes` is outside 0 to `trials`.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials: need 0 <= successes <= trials")
    rate, square = successes / trials, quantile * quantile
    centre = (rate + square / (2 * trials)) / (1 + square / trials)
    spread = math.sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials))
    half = quantile * spread / (1 + square / trials)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high
