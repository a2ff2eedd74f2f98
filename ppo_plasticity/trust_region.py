"""Change of a policy since it collected the batch, estimated from the sampled actions.

All statistics are computed from log ratios log pi_new(a|s) - log pi_old(a|s) of shape (..., N) with
actions drawn from pi_old, and have shape (...). A boolean `valid` mask (..., N) leaves rows out. A
NaN in a row that counts makes every statistic NaN. Most statistics are those of Moalla et al. 2024.
"""

import collections
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def ratio_statistics(
    log_ratio: Tensor, clip_coef: float, *, valid: Tensor | None = None
) -> dict[str, Tensor]:
    """Return statistics of the probability ratio r = exp(log_ratio), each of shape (...).

    - `ratio_mean`, `ratio_std` (unbiased; NaN for one row), `ratio_min`, `ratio_max`;
    - `ratio_{above,below}_{mean,count,fraction}` over {r > 1 + clip_coef} and {r < 1 - clip_coef}:
      an empty set, also without any rows, has count 0, fraction 0 and mean NaN;
    - `ratio_outside_fraction`, the share in either set;
    - `excess_ratio`, the above mean over the below mean, NaN if either set is empty;
    - `effective_sample_size` of the importance weights r as a share of the rows, in 1/N ... 1;
    - `total_variation`, mean |r - 1| / 2;
    - the estimators of KL(old || new) (Schulman 2020) `kl_k1` = mean(-log r),
      `kl_k2` = mean(log^2 r) / 2, `kl_k3` = mean(r - 1 - log r).
    """
    if log_ratio.shape[-1] == 0:  # no rows: the same as a single row that does not count
        log_ratio = log_ratio.new_zeros((*log_ratio.shape[:-1], 1))  # (..., 1)
        valid = torch.zeros_like(log_ratio, dtype=torch.bool)
    valid = torch.ones_like(log_ratio, dtype=torch.bool) if valid is None else valid
    ratio = log_ratio.exp()
    above = valid & (ratio > 1 + clip_coef)
    below = valid & (ratio < 1 - clip_coef)
    statistics = {
        **_moments(ratio, valid),
        **_conditional("ratio_above", ratio, above, valid),
        **_conditional("ratio_below", ratio, below, valid),
        "ratio_outside_fraction": _fraction(above | below, valid),
        "effective_sample_size": _effective_sample_size(log_ratio, valid),
        "total_variation": _mean((ratio - 1).abs(), valid) / 2,
        "kl_k1": _mean(-log_ratio, valid),
        "kl_k2": _mean(log_ratio.square(), valid) / 2,
        "kl_k3": _mean(torch.expm1(log_ratio) - log_ratio, valid),
    }
    statistics["excess_ratio"] = statistics["ratio_above_mean"] / statistics["ratio_below_mean"]
    has_nan = (log_ratio.isnan() & valid).any(-1)  # (...)
    return {name: torch.where(has_nan, math.nan, value) for name, value in statistics.items()}


def clipped_fraction(
    log_ratio: Tensor, advantages: Tensor, clip_coef: float, *, valid: Tensor | None = None
) -> Tensor:
    """Return the share of rows whose clipped term is strictly the smaller one, shape (...).

    These are the rows without gradient from PPO-Clip: r > 1 + clip_coef with a positive advantage
    and r < 1 - clip_coef with a negative one. The share of r outside the interval, whatever the
    advantage, is `ratio_outside_fraction` of `ratio_statistics`. Advantages have the shape of
    `log_ratio`.
    """
    valid = torch.ones_like(log_ratio, dtype=torch.bool) if valid is None else valid
    ratio = log_ratio.exp()
    clipped = (ratio > 1 + clip_coef) & (advantages > 0)
    clipped = clipped | ((ratio < 1 - clip_coef) & (advantages < 0))
    has_nan = ((log_ratio.isnan() | advantages.isnan()) & valid).any(-1)  # (...)
    return torch.where(has_nan, math.nan, _fraction(clipped & valid, valid))


class ExcessRatio:
    """The excess ratio of one run, accumulated during training (Moalla et al. 2024, figure 6).

    It is the mean of `excess_ratio` over a window that is a share `window` of training and ends at
    the last measurement. Measurements with an empty conditional set do not count. If the window
    holds fewer than `minimum` measurements, the value is that of the last window with enough. It is
    at least (1 + clip_coef) / (1 - clip_coef), because both terms are means beyond the interval.

    Args:
        total_steps: length of training, in the unit of the `step` given to `add`.
        window: width of the window as a share of training.
        minimum: smallest number of measurements to average.
    """

    def __init__(self, total_steps: float, *, window: float = 0.05, minimum: int = 10) -> None:
        self._width = window * total_steps
        self._minimum = minimum
        self._points: collections.deque[tuple[float, float]] = collections.deque()
        self._value = math.nan

    @property
    def value(self) -> float:
        """The mean over the window so far; NaN before any window held enough measurements."""
        return self._value

    def add(self, step: float, excess_ratio: float) -> None:
        """Add one measurement; steps must not decrease, and NaN (an empty set) is skipped."""
        if math.isnan(excess_ratio):
            return
        points = self._points
        points.append((step, float(excess_ratio)))
        while points[0][0] <= step - self._width:
            points.popleft()
        if len(points) >= self._minimum:
            self._value = math.fsum(ratio for _, ratio in points) / len(points)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run, in plain Python types."""
        return {"points": [list(point) for point in self._points], "value": self._value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the `state_dict` of an accumulator with the same settings."""
        self._points = collections.deque((step, ratio) for step, ratio in state["points"])
        self._value = state["value"]


def _moments(ratio: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Return mean, standard deviation, minimum and maximum of the rows that count."""
    mean = _mean(ratio, valid)
    squares = torch.where(valid, ratio - mean[..., None], 0.0).square().sum(-1)  # (...)
    degrees = (valid.sum(-1) - 1).clamp_min(0)  # 0 / 0 is NaN: one row has no spread
    empty = ~valid.any(-1)
    return {
        "ratio_mean": mean,
        "ratio_std": (squares / degrees).sqrt(),
        "ratio_min": _nan_where(empty, torch.where(valid, ratio, math.inf).amin(-1)),
        "ratio_max": _nan_where(empty, torch.where(valid, ratio, -math.inf).amax(-1)),
    }


def _conditional(name: str, ratio: Tensor, chosen: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Return mean, count and share of the chosen rows."""
    return {
        f"{name}_mean": _mean(ratio, chosen),
        f"{name}_count": chosen.sum(-1).to(ratio.dtype),
        f"{name}_fraction": _fraction(chosen, valid),
    }


def _effective_sample_size(log_ratio: Tensor, valid: Tensor) -> Tensor:
    """Return (sum r)^2 / (N sum r^2); ratios are divided by the largest, so r^2 cannot overflow."""
    logs = torch.where(valid, log_ratio, -math.inf)
    weights = (logs - logs.amax(-1, keepdim=True)).exp()
    return weights.sum(-1).square() / (weights.square().sum(-1) * valid.sum(-1))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum(-1) / chosen.sum(-1)


def _fraction(chosen: Tensor, valid: Tensor) -> Tensor:
    return chosen.sum(-1) / valid.sum(-1).clamp_min(1)


def _nan_where(empty: Tensor, values: Tensor) -> Tensor:
    return torch.where(empty, math.nan, values)
