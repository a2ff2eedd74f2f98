"""Gradient metrics against linear networks, whose gradients are known in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from ppo_plasticity.gradients import (
    empirical_ntk,
    gradient_collinearity,
    gradient_cosine,
    gradient_covariance,
    gradient_covariance_rank,
    gradient_noise_scale,
    gradient_norm,
    layer_norms,
    named_gradients,
    ntk_rank,
    per_sample_gradients,
)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_gradient_norms_are_those_that_clipping_reports():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module(random(5, 3).float()).square().sum().backward()
    gradients = named_gradients(module)
    by_layer = layer_norms(gradients)
    assert by_layer.keys() == dict(module.named_parameters()).keys()
    norm = gradient_norm(gradients)
    torch.testing.assert_close(torch.stack(list(by_layer.values())).norm(), norm)
    torch.testing.assert_close(nn.utils.clip_grad_norm_(module.parameters(), 0.1), norm)


def test_parameters_without_gradient_are_left_out():
    module = nn.Linear(2, 2)
    assert named_gradients(module) == {}
    assert gradient_norm({}) == 0


def test_the_cosine_between_gradients_is_over_all_parameters_together():
    first = {"weight": torch.tensor([[1.0, 0.0]]), "bias": torch.tensor([2.0])}
    second = {"bias": torch.tensor([0.0]), "weight": torch.tensor([[3.0, 4.0]])}
    assert gradient_cosine(first, second) == pytest.approx(3 / (5**0.5 * 5))
    assert gradient_cosine(first, first) == pytest.approx(1)
    assert gradient_cosine(first, {name: 0 * each for name, each in first.items()}) == 0


def test_the_cosine_between_gradients_of_different_networks_is_refused():
    with pytest.raises(ValueError, match="only one of the two gradients has: gain"):
        gradient_cosine({}, {"gain": torch.ones(1)})


@given(st.integers(0, 2**31))
def test_per_sample_gradients_of_a_linear_layer_are_error_times_input(seed):
    layer = nn.Linear(3, 2, dtype=torch.float64)
    inputs, targets = random(5, 3, seed=seed), random(5, 2, seed=seed + 1)
    found = per_sample_gradients(layer, mse_loss, inputs, targets)
    errors = (layer(inputs) - targets).detach()  # d mse / d output: 2 / 2 of it
    outer = errors[:, :, None] * inputs[:, None, :]
    torch.testing.assert_close(found, torch.cat([outer.flatten(1), errors], 1))


def test_the_mean_of_per_sample_gradients_is_the_gradient_of_the_batch():
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    inputs, targets = random(6, 1, 3, 3), random(6, 3, seed=1)
    found = per_sample_gradients(module, mse_loss, inputs, targets).mean(0)
    mse_loss(module(inputs), targets).backward()
    expected = torch.cat([each.flatten() for each in named_gradients(module).values()])
    torch.testing.assert_close(found, expected)


def test_the_covariance_is_a_matrix_of_cosines():
    gradients = torch.tensor([[2.0, 0.0], [0.0, 0.5], [3.0, 3.0], [0.0, 0.0]])
    half = 0.5**0.5
    expected = [[1, 0, half, 0], [0, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(gradient_covariance(gradients), torch.tensor(expected))


def test_orthogonal_gradients_have_full_rank_and_equal_ones_rank_one():
    assert gradient_covariance_rank(torch.diag(torch.tensor([1.0, 5.0, 0.1]))) == pytest.approx(3)
    same = torch.tensor([1.0, 2.0, 3.0]).expand(4, 3)
    assert gradient_covariance_rank(same) == pytest.approx(1)


def test_collinearity_is_the_mean_cosine_of_different_samples():
    gradients = random(6, 4)
    cosines = gradient_covariance(gradients)
    expected = (cosines.sum() - cosines.trace()) / 30
    torch.testing.assert_close(gradient_collinearity(gradients), expected)
    assert gradient_collinearity(-torch.ones(3, 2)) == pytest.approx(1)


def test_the_noise_scale_by_hand():
    # Mean (2, 0), summed variance 2 / 1, squared mean without its noise 4 - 2 / 2.
    gradients = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    assert gradient_noise_scale(gradients) == pytest.approx(2 / 3)
    assert gradient_noise_scale(torch.ones(4, 2)) == 0


def test_the_kernel_of_a_linear_layer_follows_from_its_inputs():
    layer, inputs = nn.Linear(3, 2, dtype=torch.float64), random(5, 3)
    # The sum of both outputs has gradient (x, 1) for each: the kernel is 2 (x.y + 1).
    torch.testing.assert_close(empirical_ntk(layer, inputs), 2 * (inputs @ inputs.T + 1))


def test_the_rank_of_the_kernel_counts_the_states_that_can_be_learned_independently():
    layer = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    assert ntk_rank(layer, torch.eye(4, dtype=torch.float64)) == pytest.approx(4)
    assert ntk_rank(layer, torch.ones(4, 4, dtype=torch.float64)) == pytest.approx(1)


def test_a_network_that_depends_on_no_parameter_has_kernel_rank_zero():
    dead = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))
    nn.init.constant_(dead[0].bias, -100.0)
    assert ntk_rank(dead, random(5, 3).float()) == 0


def test_a_nan_anywhere_gives_nan():
    gradients = torch.tensor([[1.0, math.nan], [1.0, 1.0]])
    for metric in (gradient_covariance_rank, gradient_collinearity, gradient_noise_scale):
        assert metric(gradients).isnan()
    assert gradient_norm({"weight": gradients}).isnan()
