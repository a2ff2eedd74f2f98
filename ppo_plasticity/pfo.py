"""Proximal feature optimisation: keep pre-activations near those that collected the batch.

PFO (Moalla et al. 2024) adds `coef * pfo_loss(new, old)` to PPO's loss. `new` are pre-activations
of the network in training. `old` are those of the network that chose the actions of the batch; they
are stored in the rollout and the same in all epochs. The caller chooses the network (actor, critic,
both) and the layers (the last hidden one, or all concatenated). Published runs use the actor only,
with coefficients of 1 or 10. `capture_preactivations` in probe.py gets both from any module.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

Distance = Literal["l2", "cosine"]

KEEP_L2 = 0.1
"""Largest mean squared difference at which the clip form keeps a row (Moalla et al. 2024)."""
KEEP_COSINE = 0.9
"""Smallest cosine at which the clip form keeps a row (Moalla et al. 2024)."""


def pfo_loss(
    new: Tensor, old: Tensor, *, distance: Distance = "l2", valid: Tensor | None = None
) -> Tensor:
    """Return the soft PFO loss, before its coefficient, with shape (...).

    `"l2"` is the mean over rows of the mean over units of (new - old)^2: a mean, not a sum, over
    units. `"cosine"` is minus the mean over rows of the cosine, in -1 ... 1; a zero row counts as
    0.

    Args:
        new: (..., rows, units) pre-activations with gradient.
        old: (..., rows, units) pre-activations of the behaviour policy; they get no gradient.
        distance: penalised quantity.
        valid: (..., rows) bool or weights. Rows of weight 0 give neither loss nor gradient, even
            if they hold NaN; if all weights are 0 the loss is 0.
    """
    if valid is not None:
        new, old = _without_invalid(new, valid), _without_invalid(old, valid)
    loss = _row_distances(new, old.detach(), distance)
    loss = -loss if distance == "cosine" else loss
    if valid is None:
        return loss.mean(-1)
    weights = valid.to(loss.dtype)
    total = weights.sum(-1)
    return (loss * weights).sum(-1) / torch.where(total == 0, 1.0, total)


def pfo_keep(
    new: Tensor,
    old: Tensor,
    *,
    distance: Distance = "l2",
    threshold: float | None = None,
) -> Tensor:
    """Return the clip form of PFO: (..., rows) bool, True for a row that may still train.

    Multiply it into the policy's (and the critic's) per-row loss instead of adding `pfo_loss`. A
    row is kept while its mean squared difference is at most 0.1, or its cosine at least 0.9;
    `threshold` replaces either number. A row with a NaN is not kept. The share of False is the
    share of rows outside the trust region.
    """
    distances = _row_distances(new.detach(), old.detach(), distance)
    if distance == "cosine":
        return distances >= (KEEP_COSINE if threshold is None else threshold)
    return distances <= (KEEP_L2 if threshold is None else threshold)


def _row_distances(new: Tensor, old: Tensor, distance: Distance) -> Tensor:
    """Return the mean squared difference or the cosine of each row, (..., rows)."""
    if distance == "l2":
        return (new - old).square().mean(-1)
    if distance == "cosine":
        return cosine_similarity(new, old, dim=-1)
    raise ValueError(f'unknown distance {distance!r}; use "l2" or "cosine"')


def _without_invalid(preactivations: Tensor, valid: Tensor) -> Tensor:
    """Return pre-activations with zeros in rows of weight 0."""
    return torch.where(valid[..., None] != 0, preactivations, 0.0)  # (..., rows, units)
