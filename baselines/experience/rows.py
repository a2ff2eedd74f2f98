"""Minibatches, and the rows that count: chosen by index, or weighted if shapes must be fixed.

Rows of dead agents and reset rows do not count. Choosing rows skips the work on the others, which
pays on a CPU, but it makes shapes depend on the data. Weights keep shapes fixed, for stacked seeds
and for graphs. A loss picks with `pick` and averages with `mean`, with either class of rows.
"""

import copy
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class Rows(Protocol):
    """The rows that count."""

    index: Tensor | None  # (num_chosen,) int64 flat indices; None: all rows are computed

    def pick(self, values: Tensor) -> Tensor:
        """Return the values (rows, ...) of the rows to compute."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of picked values over the rows that count."""


class ChosenRows:
    """Rows chosen by index.

    Args:
        index: (num_chosen,) int64 flat indices.
        num_rows: rows from which they are chosen.
    """

    def __init__(self, index: Tensor, num_rows: int) -> None:
        self.index: Tensor = index
        self.num_rows = num_rows

    @classmethod
    def where(cls, counts: Tensor) -> "ChosenRows":
        """Return the rows where flags of any shape are True; on a GPU this waits for the device."""
        return cls(counts.flatten().nonzero().squeeze(-1), counts.numel())

    def __len__(self) -> int:
        """Return the number of rows that count."""
        return len(self.index)

    def pick(self, values: Tensor) -> Tensor:
        """Return the chosen rows (num_chosen, ...) of values (rows, ...)."""
        return values.index_select(0, self.index)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of picked values (num_chosen, ...)."""
        return values.mean()


class WeightedRows:
    """All rows of several seeds, with weights.

    Args:
        counts: (seeds, rows) float32 or bool, 0 on rows that do not count.
    """

    index = None

    def __init__(self, counts: Tensor) -> None:
        counts = counts.float()
        self.weights = counts / counts.sum(1, keepdim=True).clamp(min=1.0)  # (seeds, rows), sum 1

    def only(self, kept: Tensor | None) -> "WeightedRows":
        """Return the rows with weight 0 for those that may no longer train; other weights stay.

        Args:
            kept: (seeds, rows) bool; None keeps all rows.
        """
        if kept is None:
            return self
        rows = copy.copy(self)
        rows.weights = self.weights * kept
        return rows

    def pick(self, values: Tensor) -> Tensor:
        """Return the values unchanged."""
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean (seeds,) of values (seeds, rows) over each seed's rows that count."""
        return (values * self.weights).sum(1)


def shuffled(
    count: int, *, epochs: int, num_minibatches: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices of each minibatch, and of the minibatch after the next one.

    Each epoch deals all indices out anew. The later minibatch is one on which neither this gradient
    step nor the next one trains, if there are more than two.

    Args:
        count: indices 0 to count - 1.
        epochs: passes over all indices.
        num_minibatches: in an epoch.
        generator: source of the order, on the indices' device.
    """
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator, device=generator.device)
        parts = order.tensor_split(num_minibatches)
        for number, indices in enumerate(parts):
            yield indices, parts[(number + 2) % len(parts)]
