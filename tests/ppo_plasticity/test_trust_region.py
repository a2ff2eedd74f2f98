"""Trust-region statistics of ratios written by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppo_plasticity.trust_region import ExcessRatio, clipped_fraction, ratio_statistics

RATIOS = torch.tensor([0.5, 0.7, 0.9, 1.0, 1.1, 1.5, 1.9, 2.6], dtype=torch.float64)


def statistics(ratios, **options):
    return {
        name: value.item() for name, value in ratio_statistics(ratios.log(), 0.2, **options).items()
    }


def test_conditional_means_come_with_their_counts_and_fractions():
    found = statistics(RATIOS)
    assert found["ratio_above_mean"] == pytest.approx((1.5 + 1.9 + 2.6) / 3)
    assert (found["ratio_above_count"], found["ratio_above_fraction"]) == (3, 3 / 8)
    assert found["ratio_below_mean"] == pytest.approx(0.6)
    assert (found["ratio_below_count"], found["ratio_below_fraction"]) == (2, 2 / 8)
    assert found["ratio_outside_fraction"] == 5 / 8
    assert found["excess_ratio"] == pytest.approx(2.0 / 0.6)


def test_moments_are_those_of_the_ratios():
    found = statistics(RATIOS)
    assert found["ratio_mean"] == pytest.approx(10.2 / 8)
    assert found["ratio_std"] == pytest.approx(RATIOS.std().item())
    assert (found["ratio_min"], found["ratio_max"]) == pytest.approx((0.5, 2.6))


def test_kl_estimators_sample_size_and_total_variation_by_hand():
    found = statistics(torch.tensor([0.5, 2.0], dtype=torch.float64))
    log = math.log(2)
    assert found["kl_k1"] == pytest.approx(0, abs=1e-12)  # -(-log + log) / 2
    assert found["kl_k2"] == pytest.approx(log**2 / 2)
    assert found["kl_k3"] == pytest.approx((-0.5 + log + 1 - log) / 2)
    assert found["effective_sample_size"] == pytest.approx(2.5**2 / (2 * 4.25))
    assert found["total_variation"] == pytest.approx((0.5 + 1) / 4)


def test_the_third_estimator_is_exact_in_expectation():
    old = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    new = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    rows = torch.repeat_interleave(
        torch.arange(3), torch.tensor([2, 3, 5])
    )  # frequencies of the old policy
    found = ratio_statistics((new / old).log()[rows], 0.2)
    expected = (old * (old / new).log()).sum()
    torch.testing.assert_close(found["kl_k1"], expected)
    torch.testing.assert_close(found["kl_k3"], expected)


@pytest.mark.parametrize(
    ("ratio", "side"), [(1.1, "above"), (1.1, "below"), (1.5, "below"), (0.5, "above")]
)
def test_an_empty_set_has_count_and_fraction_zero_and_no_mean(ratio, side):
    found = statistics(torch.full((4,), ratio))
    assert found[f"ratio_{side}_count"] == found[f"ratio_{side}_fraction"] == 0
    assert math.isnan(found[f"ratio_{side}_mean"])
    assert math.isnan(found["excess_ratio"])


def test_invalid_rows_do_not_count():
    ratios = torch.cat([RATIOS, torch.tensor([math.nan, 100.0, 0.0])])
    valid = torch.arange(11) < 8
    assert statistics(ratios, valid=valid) == pytest.approx(statistics(RATIOS))


@given(st.integers(0, 2**31))
def test_leading_dimensions_are_measured_separately(seed):
    generator = torch.Generator().manual_seed(seed)
    log_ratio = torch.randn(2, 3, 16, generator=generator) / 2
    valid = torch.rand(2, 3, 16, generator=generator) < 0.7
    together = ratio_statistics(log_ratio, 0.1, valid=valid)
    alone = ratio_statistics(log_ratio[1, 2][valid[1, 2]], 0.1)
    for name, value in together.items():
        torch.testing.assert_close(value[1, 2], alone[name], equal_nan=True, msg=name)


def test_ratios_too_large_for_a_float_leave_the_sample_size_finite():
    found = ratio_statistics(torch.tensor([500.0, 500.0, 0.0, -500.0]), 0.2)
    assert found["effective_sample_size"] == pytest.approx(0.5)
    assert found["ratio_max"] == found["kl_k3"] == math.inf
    assert found["ratio_min"] == 0


def test_a_row_is_clipped_only_if_its_advantage_points_outwards():
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0, 1.5])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 0.0])
    assert clipped_fraction(ratios.log(), advantages, 0.2) == pytest.approx(2 / 6)
    valid = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)
    assert clipped_fraction(ratios.log(), advantages, 0.2, valid=valid) == pytest.approx(1 / 3)


def test_the_excess_ratio_is_the_mean_over_the_last_5_percent_of_training():
    excess = ExcessRatio(1000)
    for step in range(1, 1001):
        excess.add(step, float(step))
    assert excess.value == pytest.approx(sum(range(951, 1001)) / 50)


def test_measurements_without_both_sets_are_skipped():
    excess = ExcessRatio(1000)
    for step in range(1, 1001):
        excess.add(step, float(step) if step <= 500 else math.nan)
    assert excess.value == pytest.approx(sum(range(451, 501)) / 50)


def test_a_sparse_window_keeps_the_value_of_the_last_window_with_enough_measurements():
    excess = ExcessRatio(1000)
    for step in (*range(100, 120), 500, 700, 990):
        excess.add(step, 2.0 if step < 120 else 9.0)
    assert excess.value == 2.0


def test_there_is_no_excess_ratio_before_ten_measurements():
    excess = ExcessRatio(1000)
    for step in range(9):
        excess.add(step, 2.0)
    assert math.isnan(excess.value)
    excess.add(9, 2.0)
    assert excess.value == 2.0


def test_a_resumed_excess_ratio_continues_as_if_uninterrupted():
    whole, first, second = ExcessRatio(1000), ExcessRatio(1000), ExcessRatio(1000)
    for step in range(0, 300, 3):
        whole.add(step, math.sin(step))
        first.add(step, math.sin(step))
    second.load_state_dict(first.state_dict())
    for step in range(300, 600, 3):
        whole.add(step, math.sin(step))
        second.add(step, math.sin(step))
    assert second.value == whole.value
