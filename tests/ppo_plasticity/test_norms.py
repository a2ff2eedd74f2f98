"""Norms and diversity against numbers by hand."""

import pytest
import torch
from torch import nn

from ppo_plasticity.norms import (
    feature_mean,
    feature_norm,
    feature_norm_spread,
    feature_std,
    global_norm,
    policy_variance,
    value_statistics,
)

FEATURES = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])


def test_the_feature_norm_is_the_mean_length_of_a_row():
    assert feature_norm(FEATURES) == pytest.approx((5 + 1 + 10) / 3)


def test_the_spread_is_the_longest_row_over_the_median_one():
    assert feature_norm_spread(FEATURES) == 10 / 5


def test_mean_and_std_of_features():
    assert feature_mean(FEATURES) == pytest.approx(22 / 6)
    # Two numbers a, b have unbiased standard deviation |a - b| / sqrt(2).
    assert feature_std(FEATURES) == pytest.approx((1 + 1 + 2) / 3 / 2**0.5)


def test_the_policy_variance_is_over_states_and_a_mean_over_actions():
    probabilities = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    assert policy_variance(probabilities) == pytest.approx(0.25)
    assert policy_variance(probabilities[:1].expand(3, 2)) == 0


def test_the_policy_variance_averages_location_and_scale():
    location, scale = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    assert policy_variance(location, scale) == pytest.approx((2 + 0) / 2)


def test_value_statistics_are_mean_and_unbiased_std():
    found = value_statistics(torch.tensor([1.0, 3.0]))
    assert (found["value_mean"], found["value_std"]) == (2, pytest.approx(2**0.5))


def test_the_global_norm_counts_every_entry_of_every_parameter():
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
        module.bias.copy_(torch.tensor([0.0, 12.0]))
    assert global_norm(module.parameters()) == 13
    assert global_norm([]) == 0


def test_the_global_norm_keeps_a_dimension_of_seeds():
    stacked = [torch.tensor([[3.0], [0.0]]), torch.tensor([4.0, 2.0])]
    assert global_norm(stacked, batch_dims=1).tolist() == [5, 2]


def test_leading_dimensions_are_measured_separately():
    stacked = torch.stack([FEATURES, 2 * FEATURES])
    for metric in (feature_norm, feature_mean, feature_std, policy_variance):
        torch.testing.assert_close(metric(stacked)[0], metric(FEATURES))
    assert feature_norm_spread(stacked).tolist() == [2, 2]
