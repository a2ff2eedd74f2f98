"""Intervals for win rates."""

import math

NORMAL_QUANTILE_95 = 1.959963984540054  # two-sided 95 % of the standard normal


def wilson_interval(
    successes: int, trials: int, quantile: float = NORMAL_QUANTILE_95
) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (Wilson 1927, eq. 1).

    Unlike p ± 1.96 sqrt(p (1 - p) / n) it stays within [0, 1] and holds its level near the ends.

    Args:
        successes: number of successes, 0 to `trials`.
        trials: number of trials, at least 1.
        quantile: normal quantile of the level; the default gives 95 %.

    Raises:
        ValueError: `trials` below 1, or `successes` outside 0 to `trials`.
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
