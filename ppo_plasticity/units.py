"""Dead, dormant and saturated units of one layer.

Features are activations after the nonlinearity: (..., N, units) with one row per state, or
convolution maps (N, channels, height, width), whose units are channels and whose positions count as
rows. Results have shape (...), () for maps, and are NaN where the features hold a NaN or no rows.

| activation | an entry is off | a unit is dead |
|---|---|---|
| relu | = 0 | off in every row |
| leaky_relu | < 0 | off in every row |
| gelu, silu | within 0.001 of 0 | off in every row |
| tanh | beyond 0.99 in size | its standard deviation is below 0.001 |
| sigmoid | below 0.005 or above 0.995 | its standard deviation is below 0.001 |
| elu | < -0.99 | its standard deviation is below 0.001 |

The tests of relu, leaky_relu and tanh are those of Moalla et al. 2024. GELU and SiLU are never
exactly zero for negative inputs, so testing for zero, as theirs does, finds no dead unit.
"""

import difflib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppo_plasticity.norms import std

CONSTANT_STD = 1e-3
"""A saturating unit with a smaller standard deviation is dead (Moalla et al. 2024)."""
NEAR_ZERO = 1e-3
"""Activations this near zero count as off where the nonlinearity only approaches zero."""
SATURATED = 0.99
"""Share of a bounded activation's range beyond which it counts as saturated."""

_OFF: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda features: features == 0,
    "leaky_relu": lambda features: features < 0,
    "gelu": lambda features: features.abs() < NEAR_ZERO,
    "silu": lambda features: features.abs() < NEAR_ZERO,
    "tanh": lambda features: features.abs() > SATURATED,
    "sigmoid": lambda features: (2 * features - 1).abs() > SATURATED,
    "elu": lambda features: features < -SATURATED,
}
_DEAD_WHEN_CONSTANT = ("tanh", "sigmoid", "elu")

ACTIVATIONS = tuple(_OFF)
"""Names that the functions here accept as `activation`."""

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.ELU: "elu",
}


def dead_units(features: Tensor, activation: str) -> Tensor:
    """Return how many units are dead, by the test of their activation (table above).

    For tanh, sigmoid and elu one row gives NaN: it has no spread.
    """
    off = _off_test(activation)
    rows = unit_rows(features)
    if activation in _DEAD_WHEN_CONSTANT:
        spread = std(rows.mT)
        dead, unknown = spread < CONSTANT_STD, spread.isnan().any(-1)
    else:
        dead = off(rows).sum(-2) == rows.shape[-2]  # ten times as fast as all(-2)
        unknown = rows.isnan().flatten(-2).any(-1)
    unknown = unknown | (rows.shape[-2] == 0)
    return torch.where(unknown, math.nan, dead.sum(-1).float())


def unit_scores(features: Tensor) -> Tensor:
    """Return each unit's E|h| divided by the layer's mean of it (Sokar et al. 2023), (..., units).

    The zero layer scores 0 everywhere.
    """
    sizes = unit_rows(features).abs().mean(-2)
    mean = sizes.mean(-1, keepdim=True)
    return sizes / torch.where(mean == 0, 1.0, mean)


def dormant_fraction(features: Tensor, tau: float = 0.025) -> Tensor:
    """Return the share of tau-dormant units: those with a score of at most tau.

    Sokar et al. 2023 ("The Dormant Neuron Phenomenon"). The zero layer gives 1, one row is enough.
    """
    scores = unit_scores(features)
    share = (scores <= tau).to(scores.dtype).mean(-1)
    return torch.where(scores.isnan().any(-1), math.nan, share)


def saturated_fraction(features: Tensor, activation: str) -> Tensor:
    """Return the share of entries that are off: where (almost) no gradient passes."""
    rows = unit_rows(features).flatten(-2)
    share = _off_test(activation)(rows).to(rows.dtype).mean(-1)
    return torch.where(rows.isnan().any(-1), math.nan, share)


def active_fraction(features: Tensor, activation: str) -> Tensor:
    """Return the share of entries that are not off (Ma et al. 2023): 1 - saturated_fraction."""
    return 1 - saturated_fraction(features, activation)


def unit_rows(features: Tensor) -> Tensor:
    """Return convolution maps (N, channels, height, width) as (N * height * width, channels).

    Anything that is not four-dimensional is returned as it is: (..., N, units).
    """
    return features.movedim(1, -1).flatten(0, -2) if features.dim() == 4 else features


def activation_name(module: nn.Module) -> str | None:
    """Return the name under which the functions here know an activation module, or None.

    A module of your own says it with an attribute `activation_name`, for example "relu"; where it
    is derived from one of torch's, that one's name is known.
    """
    named = getattr(module, "activation_name", None)
    if isinstance(named, str):
        return named
    return next((_MODULES[kind] for kind in type(module).__mro__ if kind in _MODULES), None)


def check_activation(activation: str) -> str:
    """Return the name if it is one of `ACTIVATIONS`; raise ValueError with the nearest one."""
    if activation in ACTIVATIONS:
        return activation
    nearest = difflib.get_close_matches(activation, ACTIVATIONS, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"unknown activation {activation!r}: use {', '.join(ACTIVATIONS)}{hint}")


def _off_test(activation: str) -> Callable[[Tensor], Tensor]:
    return _OFF[check_activation(activation)]
