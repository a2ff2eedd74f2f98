"""Five ranks of a feature matrix, and the singular values that they share.

Every function takes features (..., N, D): one row per state, one column per unit, any leading
dimensions (for example one per seed), any real dtype. Every rank is float32 of shape (...), so that
it can be NaN: it is NaN if the features hold a NaN or an infinity, or have no entries. Both N < D
and N > D are allowed. The features are not centred, as published in "No Representation, No Trust"
(Moalla et al. 2024), unless `centred=True` subtracts each unit's mean.

Singular values of float32 features take 0.7 ms for 2048 x 64 and 33 ms for 1024 x 512 on one core
(`torch.linalg.svdvals`: 0.8 and 42 ms); `ranks` adds 0.2 ms for all five.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def ranks(features: Tensor, *, delta: float = 0.01, centred: bool = False) -> dict[str, Tensor]:
    """Return all five ranks from one decomposition, keyed by their function's name."""
    values = singular_values(features, centred=centred)
    return {name: rank(values, features, delta).float() for name, rank in _RANKS.items()}


def approximate_rank(features: Tensor, *, delta: float = 0.01, centred: bool = False) -> Tensor:
    """Return the number of principal directions that explain a share 1 - delta of the squared norm.

    min k with sum_{i<=k} s_i^2 >= (1 - delta) sum_i s_i^2 (Yang et al. 2019), the "feature rank
    (PCA)" of Moalla et al. 2024, in 1 ... min(N, D): the zero matrix gives 1, as published.
    """
    values = singular_values(features, centred=centred)
    return _approximate_rank(values, features, delta).float()


def effective_rank(features: Tensor, *, centred: bool = False) -> Tensor:
    """Return exp of the entropy of the normalised singular values (Roy & Vetterli 2007).

    exp(-sum_i p_i ln p_i) with p_i = s_i / sum_j s_j and 0 ln 0 = 0: a real number in
    1 ... min(N, D). The zero matrix gives 0.
    """
    return _effective_rank(singular_values(features, centred=centred), features, 0.0).float()


def srank(features: Tensor, *, delta: float = 0.01, centred: bool = False) -> Tensor:
    """Return the number of singular values in a share 1 - delta of their sum (Kumar et al. 2020).

    min k with sum_{i<=k} s_i >= (1 - delta) sum_i s_i. The zero matrix gives 1, as published.
    """
    return _srank(singular_values(features, centred=centred), features, delta).float()


def feature_rank(features: Tensor, *, delta: float = 0.01, centred: bool = False) -> Tensor:
    """Return the number of singular values with s_i / sqrt(N) > delta (Lyle et al. 2022).

    The threshold is absolute: unlike the other four, this rank changes with the features' scale.
    The zero matrix gives 0.
    """
    return _feature_rank(singular_values(features, centred=centred), features, delta).float()


def matrix_rank(features: Tensor, *, centred: bool = False) -> Tensor:
    """Return the number of singular values above rounding, as `torch.linalg.matrix_rank` does.

    The tolerance is max(N, D) eps s_1 with the eps of the features' dtype (of float32 for shorter
    and integer dtypes). The zero matrix gives 0.
    """
    return _matrix_rank(singular_values(features, centred=centred), features, 0.0).float()


def singular_values(features: Tensor, *, centred: bool = False) -> Tensor:
    """Return the singular values, descending: (..., min(N, D)) float64.

    For features up to float32 they come from the eigenvalues of the smaller Gram matrix in float64.
    This is faster than a decomposition and as exact: values that it cannot resolve, below
    sqrt(max(N, D) 2.2e-16) s_1, become zero and are below the tolerance of `matrix_rank`. float64
    features are decomposed directly. A matrix with a NaN or an infinity gives NaN.
    """
    rows, columns = features.shape[-2:]
    if 0 in (rows, columns):
        return features.new_full((*features.shape[:-2], 1), math.nan, dtype=torch.float64)
    wide = features.detach().to(_widest(features.device))
    if centred:
        wide = wide - wide[..., :1, :]  # a constant unit becomes exactly zero
        wide = wide - wide.mean(-2, keepdim=True)
    if features.dtype == torch.float64 or wide.dtype != torch.float64:
        return _where_finite(torch.linalg.svdvals, wide)
    # (..., min(N, D), min(N, D)); squares of float32 cannot overflow in float64
    gram = wide.mT @ wide if rows >= columns else wide @ wide.mT
    squares = _where_finite(torch.linalg.eigvalsh, gram).flip(-1)  # (..., min(N, D)) descending
    noise = squares[..., :1] * (max(rows, columns) * torch.finfo(wide.dtype).eps)
    return torch.where(squares <= noise, 0.0, squares).sqrt()


def _where_finite(solver: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """Return the solver's values for finite matrices, NaN for the others: solvers would raise."""
    finite = matrices.isfinite().flatten(-2).all(-1)[..., None]  # (..., 1)
    return torch.where(finite, solver(torch.where(finite[..., None], matrices, 0.0)), math.nan)


def _widest(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _approximate_rank(values: Tensor, features: Tensor, delta: float) -> Tensor:
    return _smallest_share(_relative(values).square(), delta)


def _srank(values: Tensor, features: Tensor, delta: float) -> Tensor:
    return _smallest_share(_relative(values), delta)


def _effective_rank(values: Tensor, features: Tensor, delta: float) -> Tensor:
    relative = _relative(values)
    shares = relative / relative.sum(-1, keepdim=True).clamp_min(1.0)  # the sum is 0 or at least 1
    rank = torch.special.entr(shares).sum(-1).exp()
    return torch.where(values[..., 0] == 0, 0.0, rank)


def _feature_rank(values: Tensor, features: Tensor, delta: float) -> Tensor:
    return _count_above(values, torch.full_like(values[..., :1], delta * features.shape[-2] ** 0.5))


def _matrix_rank(values: Tensor, features: Tensor, delta: float) -> Tensor:
    exact = features.dtype if features.dtype == torch.float64 else torch.float32
    return _count_above(
        values, values[..., :1] * (max(features.shape[-2:]) * torch.finfo(exact).eps)
    )


def _relative(values: Tensor) -> Tensor:
    """Return values over the largest: squares neither overflow nor vanish, and zeros stay zero."""
    largest = values[..., :1]
    return values / torch.where(largest == 0, 1.0, largest)


def _smallest_share(weights: Tensor, delta: float) -> Tensor:
    """Return min k such that the first k weights are a share 1 - delta of their sum."""
    cumulated = weights.cumsum(-1)
    total = cumulated[..., -1:]  # (..., 1)
    rank = 1.0 + (cumulated < (1 - delta) * total).sum(-1)
    return torch.where(total[..., 0].isnan(), math.nan, rank)


def _count_above(values: Tensor, threshold: Tensor) -> Tensor:
    """Return the number of values above the threshold (..., 1); NaN if values are NaN."""
    return torch.where(values[..., 0].isnan(), math.nan, (values > threshold).sum(-1).double())


_RANKS = {
    "approximate_rank": _approximate_rank,
    "effective_rank": _effective_rank,
    "srank": _srank,
    "feature_rank": _feature_rank,
    "matrix_rank": _matrix_rank,
}
