"""Running normalisation of returns."""

import torch
from torch import Tensor, nn


class ValueNorm(nn.Module):
    """Normalise returns by a debiased exponential mean and variance (Yu et al. 2022, App. A).

    The critic predicts normalised values; `denormalise` turns them back into reward units. The
    statistics are buffers, so they travel with the weights.

    Args:
        beta: decay of the averages at each update.
        floor: lower bound of the variance.
        enabled: False makes all three functions the identity.
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
        """Fold a batch of returns (any shape, only entries that count) into the statistics."""
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
