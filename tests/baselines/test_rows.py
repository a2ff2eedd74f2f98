"""The rows that count: chosen by index or weighted, means against numbers worked out by hand."""

import math

import pytest
import torch

from baselines.experience.rows import ChosenRows, WeightedRows
from baselines.learners import mappo

COUNTS = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)  # (seeds, rows)
VALUES = torch.tensor([[1.0, 50.0, 2.0, 6.0], [50.0, 50.0, 7.0, 50.0]])


def test_chosen_rows_are_those_whose_flags_are_true_in_flat_order():
    rows = ChosenRows.where(COUNTS)
    assert rows.index.tolist() == [0, 2, 3, 6]
    assert rows.index.dtype == torch.int64
    assert len(rows) == 4
    assert rows.pick(VALUES.flatten()).tolist() == [1.0, 2.0, 6.0, 7.0]


def test_chosen_rows_pick_whole_rows_in_the_order_of_the_index():
    values = torch.arange(12).view(4, 3)
    assert ChosenRows(torch.tensor([3, 0]), 4).pick(values).tolist() == [[9, 10, 11], [0, 1, 2]]


def test_the_mean_of_chosen_rows_is_that_of_the_values_picked():
    rows = ChosenRows.where(COUNTS)
    picked = rows.pick(VALUES.flatten())
    assert rows.mean(picked).item() == (1 + 2 + 6 + 7) / 4
    assert rows.mean(torch.stack([picked, 3 * picked], -1)).item() == 2 * (1 + 2 + 6 + 7) / 4


def test_rows_that_may_no_longer_train_count_as_zero_in_the_mean_of_chosen_rows():
    rows, kept = ChosenRows.where(COUNTS), torch.tensor([True, False, True, True])
    picked = rows.pick(VALUES.flatten())
    assert rows.mean(mappo.only(kept, picked)).item() == (1 + 6 + 7) / 4
    assert mappo.only(None, picked) is picked
    assert rows.mean(mappo.only(torch.zeros(4, dtype=torch.bool), picked)).item() == 0


def test_gradient_reaches_chosen_rows_alone():
    values = VALUES.flatten().requires_grad_()
    rows = ChosenRows.where(COUNTS)
    rows.mean(rows.pick(values)).backward()
    assert values.grad.tolist() == [0.25, 0, 0.25, 0.25, 0, 0, 0.25, 0]


def test_no_chosen_rows_are_empty_and_have_no_mean():
    rows = ChosenRows.where(torch.zeros(2, 3, dtype=torch.bool))
    assert len(rows) == 0
    assert rows.index.shape == (0,)
    picked = rows.pick(torch.ones(6, 5))
    assert picked.shape == (0, 5)
    assert math.isnan(rows.mean(picked))


@pytest.mark.parametrize("counts", [COUNTS, COUNTS.float()])
def test_weights_of_each_seed_sum_to_one_over_the_rows_that_count(counts):
    third = 1 / 3
    wanted = torch.tensor([[third, 0, third, third], [0, 0, 1, 0]])
    torch.testing.assert_close(WeightedRows(counts).weights, wanted)


def test_weighted_means_are_those_of_each_seeds_rows_that_count():
    rows = WeightedRows(COUNTS)
    assert rows.index is None
    assert rows.pick(VALUES) is VALUES
    torch.testing.assert_close(rows.mean(VALUES), torch.tensor([3.0, 7.0]))


def test_weighted_and_chosen_rows_of_a_lone_seed_have_the_same_mean():
    chosen, weighted = ChosenRows.where(COUNTS[0]), WeightedRows(COUNTS[:1])
    lone = weighted.mean(weighted.pick(VALUES[:1]))[0]
    torch.testing.assert_close(chosen.mean(chosen.pick(VALUES[0])), lone)


def test_rows_that_may_no_longer_train_lose_their_weight_and_the_others_keep_theirs():
    rows = WeightedRows(COUNTS)
    kept = torch.tensor([[True, True, False, True], [True, True, True, False]])
    fewer = rows.only(kept)
    torch.testing.assert_close(fewer.mean(VALUES), torch.tensor([(1.0 + 6.0) / 3, 7.0]))
    torch.testing.assert_close(rows.mean(VALUES), torch.tensor([3.0, 7.0]))  # as they were
    assert (fewer.weights[:, :2] == rows.weights[:, :2]).all()
    assert fewer.only(torch.zeros_like(kept)).mean(VALUES).tolist() == [0, 0]


def test_weighted_rows_without_a_restriction_are_the_same_rows():
    rows = WeightedRows(COUNTS)
    assert rows.only(None) is rows


def test_a_seed_without_rows_that_count_has_mean_zero_and_leaves_the_others_alone():
    rows = WeightedRows(torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 0]]))
    assert rows.weights[0].tolist() == [0, 0, 0, 0]
    assert rows.mean(VALUES).tolist() == [0, 7]


def test_gradient_reaches_weighted_rows_by_their_weights():
    values = VALUES.clone().requires_grad_()
    rows = WeightedRows(COUNTS)
    rows.mean(values).sum().backward()
    assert torch.equal(values.grad, rows.weights)
