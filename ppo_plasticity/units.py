"""Dead, dormant and saturated units of one layer.

Features are activations after the nonlinearity: (..., N, units) with one row per state, or
convolution maps (N, channels, height, width), whose units are channels and whose positions count as
rows. Results have shape (...), () for maps, and are NaN if the features hold a NaN or no rows.

| activation | an entry is off | a unit is dead |
|---|---|---|
| relu | = 0 | off in every row |
| leaky_relu | < 0 | off in every row |
| gelu, silu | within 0.001 of 0 | off in every row |
| tanh | beyond 0.99 in size | its standard deviation is below 0.001 |
| sigmoid | below 0.005 or above 0.995 | its standard deviation is below 0.001 |
| elu | < -0.99 | its standard deviation is below 0.001 |

The tests of relu, leaky_relu and tanh are those of Moalla et al. 2024. GELU and SiLU are never
exactly zero for negative inputs, so the paper's test for zero finds no dead unit.
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
"""Activations this near zero count as off if the nonlinearity only approaches zero."""
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

ACTIVATION_NAMES = tuple(_OFF)
"""Allowed values of `activation`."""

_NAME_OF_TYPE: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.ELU: "elu",
}


def dead_units(features: Tensor, activation: str) -> Tensor:
    """Return the number of dead units, by the test of their activation (table above).

    For tanh, sigmoid and elu a single row gives NaN, because it has no spread.
    """
    off = _off_test(activation)
    rows = unit_rows(features)  # (..., N, units)
    if activation in _DEAD_WHEN_CONSTANT:
        spread = std(rows.mT)  # (..., units)
        dead, unknown = spread < CONSTANT_STD, spread.isnan().any(-1)
    else:
        dead = off(rows).sum(-2) == rows.shape[-2]  # ten times as fast as all(-2)
        unknown = rows.isnan().flatten(-2).any(-1)  # over (..., N * units)
    unknown = unknown | (rows.shape[-2] == 0)
    return torch.where(unknown, math.nan, dead.sum(-1).float())


def unit_scores(features: Tensor) -> Tensor:
    """Return each unit's E|h| over the layer's mean E|h| (Sokar et al. 2023), (..., units).

    The zero layer scores 0 everywhere.
    """
    sizes = unit_rows(features).abs().mean(-2)  # (..., units)
    mean = sizes.mean(-1, keepdim=True)  # (..., 1)
    return sizes / torch.where(mean == 0, 1.0, mean)


def dormant_fraction(features: Tensor, tau: float = 0.025) -> Tensor:
    """Return the share of tau-dormant units: those with a score of at most tau.

    Sokar et al. 2023 ("The Dormant Neuron Phenomenon"). The zero layer gives 1; one row suffices.
    """
    scores = unit_scores(features)
    share = (scores <= tau).to(scores.dtype).mean(-1)
    return torch.where(scores.isnan().any(-1), math.nan, share)


def saturated_fraction(features: Tensor, activation: str) -> Tensor:
    """Return the share of entries that are off, through which (almost) no gradient passes."""
    rows = unit_rows(features).flatten(-2)  # (..., N * units)
    share = _off_test(activation)(rows).to(rows.dtype).mean(-1)
    return torch.where(rows.isnan().any(-1), math.nan, share)


def active_fraction(features: Tensor, activation: str) -> Tensor:
    """Return the share of entries that are not off (Ma et al. 2023): 1 - saturated_fraction."""
    return 1 - saturated_fraction(features, activation)


def unit_rows(features: Tensor) -> Tensor:
    """Return convolution maps (N, channels, height, width) as (N * height * width, channels).

    Anything that is not four-dimensional is returned unchanged: (..., N, units).
    """
    if features.dim() != 4:
        return features
    return features.movedim(1, -1).flatten(0, -2)  # (N * height * width, channels)


def activation_name(module: nn.Module) -> str | None:
    """Return the name of an activation module for the functions here, None for other modules.

    A module of your own can have an attribute `activation_name`, for example "relu". A module
    derived from an activation of torch has the name of that activation.
    """
    named = getattr(module, "activation_name", None)
    if isinstance(named, str):
        return named
    return next(
        (_NAME_OF_TYPE[kind] for kind in type(module).__mro__ if kind in _NAME_OF_TYPE), None
    )


def check_activation(activation: str) -> str:
    """Return the name if it is one of `ACTIVATION_NAMES`.

    Raises:
        ValueError: it is not; the message names the nearest.
    """
    if activation in ACTIVATION_NAMES:
        return activation
    nearest = difflib.get_close_matches(activation, ACTIVATION_NAMES, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"unknown activation {activation!r}: use {', '.join(ACTIVATION_NAMES)}{hint}")


def _off_test(activation: str) -> Callable[[Tensor], Tensor]:
    """Return the function from features to the entries that are off."""
    return _OFF[check_activation(activation)]
