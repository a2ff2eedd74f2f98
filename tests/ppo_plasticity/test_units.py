"""Dead, dormant and saturated units, by the test of each activation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ppo_plasticity.units import (
    ACTIVATION_NAMES,
    activation_name,
    active_fraction,
    dead_units,
    dormant_fraction,
    saturated_fraction,
    unit_rows,
    unit_scores,
)


def columns(*units):
    return torch.tensor(units, dtype=torch.float32).T


def test_a_relu_unit_is_dead_if_it_is_zero_in_every_row():
    assert dead_units(columns([0, 0, 0], [0, 0, 0.1], [1, 2, 3]), "relu") == 1


def test_a_leaky_relu_unit_is_dead_if_it_is_negative_in_every_row():
    assert dead_units(columns([-1, -2, -3], [-1, 0, -1], [-1, 2, -3]), "leaky_relu") == 1


def test_a_tanh_unit_is_dead_if_it_hardly_varies():
    # Unbiased standard deviations: 0, 0.0008 and 0.0012.
    still, barely = 0.0008 / math.sqrt(2), 0.0012 / math.sqrt(2)
    features = columns([0.999, 0.999], [still, -still], [barely, -barely])
    assert dead_units(features, "tanh") == 2


def test_a_gelu_unit_is_dead_if_its_inputs_are_all_far_below_zero():
    features = nn.functional.gelu(columns([-6, -5, -8], [-6, -5, -1], [-1, 0, 1]))
    assert (features != 0).any(0)[0]  # never exactly zero: a test for zero finds nothing
    assert dead_units(features, "gelu") == 1


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_every_activation_has_dead_units_far_below_zero_and_none_around_it(name):
    function = (
        {"silu": nn.functional.silu, "elu": nn.functional.elu}.get(name)
        or getattr(torch, name, None)
        or getattr(nn.functional, name)
    )
    rows = torch.linspace(-2, 2, 9)[:, None].expand(9, 3)
    assert dead_units(function(rows), name) == 0
    assert dead_units(function(rows - 50), name) == 3


def test_channels_of_a_map_are_units():
    maps = torch.zeros(2, 3, 4, 5)
    maps[1, 0, 3, 4] = 1.0
    assert dead_units(maps, "relu") == 2
    assert dormant_fraction(maps) == pytest.approx(2 / 3)
    assert active_fraction(maps, "relu") == pytest.approx(1 / 120, rel=1e-5)
    assert unit_rows(maps).shape == (40, 3)


def test_a_unit_is_dormant_if_its_score_is_at_most_tau():
    features = columns([1, -1], [0.02, 0.02], [0, 0], [3, 2.96])
    # Mean sizes 1, 0.02, 0, 2.98 and their mean 1.
    torch.testing.assert_close(unit_scores(features), torch.tensor([1, 0.02, 0, 2.98]))
    assert dormant_fraction(features) == 0.5
    assert dormant_fraction(features, tau=0.0) == 0.25
    assert dormant_fraction(features, tau=1.1) == 0.75


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_dormancy_ignores_the_scale_of_the_layer(seed, scale):
    features = torch.rand(16, 8, generator=torch.Generator().manual_seed(seed)).double() ** 8
    assert dormant_fraction(features * scale, 0.1) == dormant_fraction(features, 0.1)


def test_entries_are_saturated_if_their_activation_is_flat():
    assert saturated_fraction(columns([0, 0, 1, 2]), "relu") == 0.5
    assert saturated_fraction(columns([0.995, -0.995, 0.9, 0]), "tanh") == 0.5
    assert saturated_fraction(columns([0.999, 0.001, 0.5, 0.9]), "sigmoid") == 0.5
    assert active_fraction(columns([0, 0, 0, 2]), "relu") == 0.25


@given(st.integers(0, 2**31), st.sampled_from(ACTIVATION_NAMES))
def test_leading_dimensions_are_measured_separately(seed, name):
    features = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(seed)).relu()
    assert dead_units(features, name)[1] == dead_units(features[1], name)
    assert dormant_fraction(features)[1] == dormant_fraction(features[1])
    assert active_fraction(features, name)[1] == active_fraction(features[1], name)


def test_activation_modules_are_known_by_name():
    modules = (nn.ReLU(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.ELU())
    assert sorted(map(activation_name, modules)) == sorted(ACTIVATION_NAMES)
    assert activation_name(nn.Linear(1, 1)) is None


def test_an_unknown_activation_is_refused_with_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"unknown activation 'leakyrelu'.*did you mean 'leaky_relu'"
    ):
        dead_units(torch.zeros(1, 1), "leakyrelu")
