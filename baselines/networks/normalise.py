"""Running statistics of returns, observations and rewards."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class ValueNorm(nn.Module):
    """Normalise returns by a debiased exponential mean and variance (Yu et al. 2022, App. A).

    The critic predicts normalised values; `denormalise` turns them back into reward units. The
    statistics are buffers, so they travel with the weights.

    Args:
        beta: decay of the averages at each update.
        floor: lower bound of the variance.
        enabled: False makes `normalise` and `denormalise` the identity.
    """

    def __init__(self, beta: float = 0.99999, floor: float = 1e-2, enabled: bool = True) -> None:
        super().__init__()
        self.beta, self.floor, self.enabled = beta, floor, enabled
        self.mean: Tensor
        self.mean_square: Tensor
        self.weight: Tensor
        for name in ("mean", "mean_square", "weight"):
            # float64: with beta this close to one, float32 loses the early updates.
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def update(self, returns: Tensor) -> None:
        """Update the statistics with a batch of returns (any shape, only entries that count)."""
        if not self.enabled:
            return
        returns = returns.detach().double()
        self.mean.lerp_(returns.mean(), 1 - self.beta)
        self.mean_square.lerp_(returns.square().mean(), 1 - self.beta)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.beta)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation as float32 scalars; 0 and 1 before any update."""
        seen = self.weight > 0
        weight = self.weight.clamp(min=1e-12)
        mean = self.mean / weight
        variance = (self.mean_square / weight - mean.square()).clamp(min=self.floor)
        deviation = torch.where(seen, variance.sqrt(), torch.ones_like(variance))
        return mean.float(), deviation.float()

    def normalise(self, returns: Tensor) -> Tensor:
        """Return returns in normalised units."""
        if not self.enabled:
            return returns
        mean, deviation = self.statistics()
        return (returns - mean) / deviation

    def denormalise(self, values: Tensor) -> Tensor:
        """Return normalised values in reward units."""
        if not self.enabled:
            return values
        mean, deviation = self.statistics()
        return values * deviation + mean


class RunningMoments:
    """Mean and variance of a stream of samples, separate per seed (Chan et al. 1979).

    They start with mean 0, variance 1 and a count of 1e-4, as Gymnasium's wrappers do.

    Args:
        seeds: number of streams, one per seed.
        shape: shape of one sample.
    """

    def __init__(self, seeds: int, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros((seeds, *shape))
        self.variance = np.ones((seeds, *shape))
        self.count = np.full((seeds, *(1 for _ in shape)), 1e-4)

    def update(self, samples: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Add samples (seeds, rows, *shape), except rows with 0 in `counts` (seeds, rows)."""
        if counts is None and samples.shape[1] == 1:
            self._merge(samples[:, 0], 0.0, 1.0)
            return
        if counts is None:
            self._merge(samples.mean(1), samples.var(1), float(samples.shape[1]))
            return
        shape = (*counts.shape, *(1 for _ in samples.shape[2:]))
        weights = counts.reshape(shape).astype(np.float64)  # (seeds, rows, 1, ...)
        number = weights.sum(1)
        divisor = np.maximum(number, 1.0)
        mean = (samples * weights).sum(1) / divisor
        variance = (np.square(samples - mean[:, None]) * weights).sum(1) / divisor
        self._merge(mean, variance, number)

    def _merge(self, mean: np.ndarray, variance: Any, number: Any) -> None:
        total = self.count + number
        delta = mean - self.mean
        squares = self.variance * self.count + variance * number
        squares += np.square(delta) * (self.count * number / total)
        self.mean = self.mean + delta * (number / total)
        self.variance = squares / total
        self.count = total

    def deviation(self) -> np.ndarray:
        """Return standard deviations (seeds, *shape), with 1e-8 added to the variance."""
        return np.sqrt(self.variance + 1e-8)

    def state_dict(self, seed: int) -> dict[str, Tensor]:
        """Return one seed's statistics."""
        names = ("mean", "variance", "count")
        return {name: torch.as_tensor(np.array(getattr(self, name)[seed])) for name in names}

    def load_state_dict(self, seed: int, saved: dict[str, Tensor]) -> None:
        """Restore the statistics that `state_dict` returned."""
        for name, value in saved.items():
            getattr(self, name)[seed] = value.numpy()
