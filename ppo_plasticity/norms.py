"""Sizes of features and weights, and the spread of policy and value over states.

Features are (..., N, D), one row per state; results have shape (...). A NaN in the input gives NaN;
so do an empty batch and the spread of a single row or unit. All follow Moalla et al. 2024.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def feature_norm(features: Tensor) -> Tensor:
    """Return the mean over states of the row's Euclidean norm.

    For pre-activations it is the paper's "preactivation norm", the earliest sign of collapse.
    """
    return _row_norms(features).mean(-1)


def feature_norm_spread(features: Tensor) -> Tensor:
    """Return the largest row norm over the (lower) median one, at least 1; NaN for a median of 0.

    A few states with far larger features dominate the gradients of weights that states share.
    """
    sizes = _row_norms(features)
    if sizes.shape[-1] == 0:
        return sizes.new_full(sizes.shape[:-1], math.nan)
    median = sizes.median(-1).values
    return torch.where(median == 0, math.nan, sizes.amax(-1) / median)


def feature_mean(features: Tensor) -> Tensor:
    """Return the mean of all entries."""
    return features.flatten(-2).mean(-1)  # over (..., N * D)


def feature_std(features: Tensor) -> Tensor:
    """Return the mean over states of the unbiased standard deviation across units."""
    return std(features).mean(-1)


def policy_variance(*parameters: Tensor) -> Tensor:
    """Return the variance of the policy's parameters over states: 0 for a constant policy.

    It is the unbiased variance over states, averaged over actions and over the given parameters:
    the probabilities of a discrete policy, or location and scale of a continuous policy, each
    (..., N, actions).
    """
    variances = [_variance(parameter.mT).mean(-1) for parameter in parameters]
    return torch.stack(variances).mean(0)  # over (parameters, ...)


def value_statistics(values: Tensor) -> dict[str, Tensor]:
    """Return `value_mean` and `value_std` (unbiased) of state values (..., N)."""
    return {"value_mean": values.mean(-1), "value_std": std(values)}


def global_norm(tensors: Iterable[Tensor], *, batch_dims: int = 0) -> Tensor:
    """Return the Euclidean norm of all entries of all tensors, of parameters or gradients.

    The first `batch_dims` dimensions, for example a dimension of seeds, are kept: shape (...). No
    tensors at all have norm 0.
    """
    norms = [
        torch.linalg.vector_norm(tensor.detach().flatten(batch_dims), dim=-1)  # (*batch,)
        if tensor.dim() > batch_dims
        else tensor.detach().abs()
        for tensor in tensors
    ]
    return torch.stack(norms).norm(dim=0) if norms else torch.zeros(())  # over (tensors, *batch)


def std(values: Tensor) -> Tensor:
    """Return the unbiased standard deviation over the last dimension; NaN for fewer than two."""
    return _variance(values).sqrt()


def _row_norms(features: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(features, dim=-1)
    return norms


def _variance(values: Tensor) -> Tensor:
    """Return the unbiased variance over the last dimension; NaN for fewer than two."""
    if values.shape[-1] < 2 or not values.numel():
        return values.new_full(values.shape[:-1], math.nan)
    deviations = values - values.mean(-1, keepdim=True)  # (..., last)
    return deviations.square().sum(-1) / (values.shape[-1] - 1)  # ten times as fast as var
