"""Distances that features, weights and outputs moved, from an earlier or the initial network.

Functions of features and outputs take one row per state, (..., N, D) with any leading dimensions,
and return shape (...). A NaN in the input gives NaN; no rows give NaN.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def drift(old: Tensor, new: Tensor, *, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Return the change of features on the same states (Moalla et al. 2024).

    `l2` is the mean over rows of the mean over units of the squared difference. `cosine` is the
    mean over rows of the cosine; a zero row counts as 0.

    Args:
        old: (..., N, D) features or pre-activations before.
        new: (..., N, D) after.
        valid: (..., N) bool, the rows that count.
    """
    return {
        "l2": _row_mean((new - old).square().mean(-1), valid),
        "cosine": _row_mean(cosine_similarity(new, old, dim=-1), valid),
    }


def categorical_churn(old_logits: Tensor, new_logits: Tensor) -> dict[str, Tensor]:
    """Return an update's change of a discrete policy on states that the update did not train on.

    `kl` is the mean KL(old || new); `greedy_changed` is the share of states whose best action
    changed (Schaul et al. 2022, "The Phenomenon of Policy Churn"). Logits are (..., N, actions),
    -inf for actions that are not allowed.
    """
    old, new = old_logits.log_softmax(-1), new_logits.log_softmax(-1)
    terms = torch.where(old == -math.inf, 0.0, old.exp() * (old - new))
    changed = (old.argmax(-1) != new.argmax(-1)).to(old.dtype)
    unknown = (old + new).isnan().any(-1)
    return {
        "kl": terms.sum(-1).mean(-1),
        "greedy_changed": torch.where(unknown, math.nan, changed).mean(-1),
    }


def gaussian_churn(
    old_mean: Tensor, old_std: Tensor, new_mean: Tensor, new_std: Tensor
) -> dict[str, Tensor]:
    """Return an update's change of a diagonal Gaussian policy on states it did not train on.

    `kl` is the mean over states of KL(old || new) summed over actions; `mean_changed` is the mean
    absolute change of the Gaussian's mean. All inputs are (..., N, actions), standard deviations
    positive.
    """
    scale = old_std / new_std
    shift = (new_mean - old_mean) / new_std
    kl = (scale.square() + shift.square() - 1) / 2 - scale.log()
    return {
        "kl": kl.sum(-1).mean(-1),
        "mean_changed": (new_mean - old_mean).abs().flatten(-2).mean(-1),  # over (..., N * actions)
    }


def value_churn(old_values: Tensor, new_values: Tensor) -> Tensor:
    """Return the mean absolute change of values (..., N) on states that were not trained on.

    Tang & Berseth 2024 ("Improving Deep Reinforcement Learning by Reducing the Chain Effect of
    Value and Policy Churn").
    """
    return (new_values - old_values).abs().mean(-1)


def weight_distance(
    initial: Mapping[str, Tensor], current: Mapping[str, Tensor], *, batch_dims: int = 0
) -> dict[str, Tensor]:
    """Return the Euclidean distance of every parameter from its initial value, and their `total`.

    The first `batch_dims` dimensions, for example a dimension of seeds, are kept.

    Raises:
        ValueError: the two do not name the same parameters.
    """
    if initial.keys() != current.keys():
        odd = ", ".join(sorted(initial.keys() ^ current.keys()))
        raise ValueError(f"parameters that only one of the two has: {odd}")
    distances = {
        name: _flat_norm(current[name].detach() - initial[name].detach(), batch_dims)
        for name in initial
    }
    squares = [distance.square() for distance in distances.values()]
    total = torch.stack(squares).sum(0).sqrt() if squares else torch.zeros(())  # over parameters
    return {**distances, "total": total}


def spectral_norm(weight: Tensor) -> Tensor:
    """Return the largest singular value of a Linear's or convolution's weight.

    A convolution's weight (channels out, channels in, *kernel) counts as the matrix
    (channels out, the rest). A vector counts as a row. A NaN gives NaN.
    """
    return _weight_singular_values(weight)[0]


def stable_rank(weight: Tensor) -> Tensor:
    """Return the squared Frobenius norm over the squared spectral norm, in 1 ... min(shape).

    Small singular values do not change this rank (Rudelson & Vershynin 2007). The zero matrix gives
    0. Convolutions count as matrices, as in `spectral_norm`.
    """
    values = _weight_singular_values(weight)
    relative = values / torch.where(values[0] == 0, 1.0, values[0])
    return relative.square().sum()


def _weight_singular_values(weight: Tensor) -> Tensor:
    """Return the singular values of a weight as a matrix, descending, (min(shape),).

    The matrix is (channels out, rest), or (1, entries) for a vector.
    """
    matrix = weight.detach().float().flatten(1) if weight.dim() > 1 else weight.detach()[None]
    if not matrix.numel() or not matrix.isfinite().all():
        return matrix.new_full((1,), math.nan)
    values: Tensor = torch.linalg.svdvals(matrix)
    return values


def _flat_norm(tensor: Tensor, batch_dims: int) -> Tensor:
    """Return the Euclidean norm over all but the first `batch_dims` dimensions."""
    flat = tensor.reshape(*tensor.shape[:batch_dims], -1)  # (*batch, entries)
    return flat.square().sum(-1).sqrt()


def _row_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of values (..., N) over the rows that count, (...)."""
    if valid is None:
        return values.mean(-1)
    return torch.where(valid, values, 0.0).sum(-1) / valid.sum(-1)
