"""Drift and churn against numbers by hand and torch's distributions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence

from ppo_plasticity.drift import (
    categorical_churn,
    drift,
    gaussian_churn,
    spectral_norm,
    stable_rank,
    value_churn,
    weight_distance,
)

SEEDS = st.integers(0, 2**31)


def random(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_drift_is_the_mean_squared_difference_and_the_mean_cosine():
    old = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    new = torch.tensor([[1.0, 1.0], [0.0, 4.0]])
    found = drift(old, new)
    assert found["l2"] == pytest.approx((1 + 4) / 4)
    assert found["cosine"] == pytest.approx((1 / 2**0.5 + 1) / 2)


def test_drift_leaves_out_invalid_rows():
    old, new = random(2, 5, 3, seed=0), random(2, 5, 3, seed=1)
    new[:, 3:] = math.nan
    found = drift(old, new, valid=torch.arange(5).expand(2, 5) < 3)
    for name, value in drift(old[:, :3], new[:, :3]).items():
        torch.testing.assert_close(found[name], value)


@given(SEEDS)
def test_categorical_churn_is_the_kl_divergence_of_torch(seed):
    old, new = random(2, 6, 4, seed=seed), random(2, 6, 4, seed=seed + 1)
    expected = kl_divergence(Categorical(logits=old), Categorical(logits=new)).mean(-1)
    torch.testing.assert_close(categorical_churn(old, new)["kl"], expected)


def test_greedy_churn_is_the_share_of_states_with_another_best_action():
    old = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    new = torch.tensor([[5.0, 0.0], [0.0, 0.1], [0.0, 1.0], [0.0, 2.0]])
    assert categorical_churn(old, new)["greedy_changed"] == 0.25


def test_actions_that_are_not_allowed_do_not_churn():
    allowed = random(5, 3, seed=0), random(5, 3, seed=1)
    masked = [torch.cat([each, torch.full((5, 1), -math.inf)], 1) for each in allowed]
    assert categorical_churn(*masked) == categorical_churn(*allowed)


@given(SEEDS)
def test_gaussian_churn_is_the_kl_divergence_of_torch(seed):
    old_mean, new_mean = random(6, 4, seed=seed), random(6, 4, seed=seed + 1)
    old_std, new_std = random(6, 4, seed=seed + 2).exp(), random(6, 4, seed=seed + 3).exp()
    found = gaussian_churn(old_mean, old_std, new_mean, new_std)
    expected = kl_divergence(Normal(old_mean, old_std), Normal(new_mean, new_std)).sum(-1).mean()
    torch.testing.assert_close(found["kl"], expected)
    torch.testing.assert_close(found["mean_changed"], (new_mean - old_mean).abs().mean())


def test_value_churn_is_the_mean_absolute_change():
    assert value_churn(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])) == 1.5


def test_the_distance_from_initialisation_is_returned_per_parameter_and_in_total():
    initial = {"weight": torch.zeros(2, 2), "bias": torch.ones(2)}
    current = {"weight": torch.full((2, 2), 1.5), "bias": torch.tensor([1.0, 5.0])}
    found = weight_distance(initial, current)
    assert {name: value.item() for name, value in found.items()} == {
        "weight": 3,
        "bias": 4,
        "total": 5,
    }


def test_the_distance_keeps_a_dimension_of_seeds():
    initial = {"weight": torch.zeros(2, 3, 1), "scale": torch.zeros(2)}
    current = {"weight": torch.ones(2, 3, 1), "scale": torch.tensor([1.0, 0.0])}
    torch.testing.assert_close(
        weight_distance(initial, current, batch_dims=1)["total"], torch.tensor([2, 3**0.5])
    )


def test_the_distance_between_different_networks_is_refused():
    with pytest.raises(ValueError, match="parameters that only one of the two has: bias, gain"):
        weight_distance({"bias": torch.ones(1)}, {"gain": torch.ones(1)})


def test_spectral_norm_and_stable_rank_of_a_diagonal_matrix():
    weight = torch.diag(torch.tensor([2.0, 1.0, 1.0]))
    assert spectral_norm(weight) == pytest.approx(2)
    assert stable_rank(weight) == pytest.approx((4 + 1 + 1) / 4)
    assert stable_rank(torch.eye(5)) == pytest.approx(5)
    assert stable_rank(torch.ones(3, 4)) == pytest.approx(1)


def test_a_convolution_counts_as_a_matrix_with_a_row_per_output_channel():
    convolution = nn.Conv2d(3, 4, 2)
    flat = convolution.weight.detach().reshape(4, 12)
    torch.testing.assert_close(spectral_norm(convolution.weight), torch.linalg.matrix_norm(flat, 2))
    assert not stable_rank(convolution.weight).requires_grad
