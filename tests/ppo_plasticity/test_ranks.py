"""Ranks against the values published for random matrices, and against matrices built to a rank."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppo_plasticity.ranks import (
    approximate_rank,
    effective_rank,
    feature_rank,
    matrix_rank,
    ranks,
    singular_values,
    srank,
)

NAMES = ("approximate_rank", "effective_rank", "srank", "feature_rank", "matrix_rank")
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
SEEDS = st.integers(0, 2**31)


def gaussian(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_singular_values(rows, values, dtype=torch.float64):
    left = torch.linalg.qr(gaussian(rows, len(values), seed=1, dtype=torch.float64)).Q
    right = torch.linalg.qr(gaussian(len(values), len(values), seed=2, dtype=torch.float64)).Q
    return (left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right).to(dtype)


def test_ranks_of_a_gaussian_matrix_are_those_published():
    found = ranks(gaussian(1024, 512))
    published = {"approximate_rank": 475, "effective_rank": 474, "srank": 498, "matrix_rank": 512}
    assert {name: round(found[name].item()) for name in published} == published


@pytest.mark.parametrize(
    ("centred", "approximate", "effective"), [(False, 462, 448), (True, 475, 474)]
)
def test_ranks_of_a_rectified_gaussian_matrix_are_those_published(centred, approximate, effective):
    found = ranks(gaussian(1024, 512).relu(), centred=centred)
    assert round(found["approximate_rank"].item()) == approximate
    assert round(found["effective_rank"].item()) == effective
    assert found["srank"] == 498


def test_ranks_of_chosen_singular_values_equal_those_computed_by_hand():
    features = with_singular_values(100, [3.0, 1.0, 0.05, 0.0], torch.float32)
    # Sums of squares are 9, 10, 10.0025 (99 %: 9.90); sums are 3, 4, 4.05 (99 %: 4.01).
    assert approximate_rank(features) == 2
    assert srank(features) == 3
    # s / sqrt(100) > 0.01: 0.3, 0.1, 0.005.
    assert feature_rank(features) == 2
    assert matrix_rank(features) == 3
    shares = [3 / 4.05, 1 / 4.05, 0.05 / 4.05]
    entropy = -sum(share * math.log(share) for share in shares)
    torch.testing.assert_close(
        effective_rank(features).item(), math.exp(entropy), rtol=1e-5, atol=0
    )


def test_delta_is_the_unexplained_share():
    features = with_singular_values(10, [3.0, 1.0])
    assert approximate_rank(features, delta=0.2) == 1  # 9 of 10
    assert srank(features, delta=0.2) == 2  # 3 of 4
    assert srank(features, delta=0.3) == 1


def test_the_effective_rank_of_equal_singular_values_is_their_number():
    torch.testing.assert_close(effective_rank(torch.eye(7)).item(), 7.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64, 8), (8, 64), (8, 8)])
def test_singular_values_are_exact_for_every_dtype_and_shape(dtype, shape):
    features = gaussian(*shape).to(dtype)
    expected = torch.linalg.svdvals(features.double())
    assert singular_values(features).dtype == torch.float64
    torch.testing.assert_close(singular_values(features), expected, rtol=1e-9, atol=1e-9)


def test_integer_features_are_measured_as_floats():
    assert ranks(torch.tensor([[1, 0], [0, 1], [0, 0]]))["matrix_rank"] == 2


@given(SHAPES, SEEDS, st.sampled_from([torch.float32, torch.float64]))
def test_matrix_rank_agrees_with_torch(shape, seed, dtype):
    rank = min(shape) // 2
    features = gaussian(shape[0], rank, seed=seed) @ gaussian(rank, shape[1], seed=seed + 1)
    assert matrix_rank(features.to(dtype)) == torch.linalg.matrix_rank(features.to(dtype))


def test_every_rank_of_a_rank_one_matrix_is_one():
    features = torch.outer(gaussian(300).abs() + 1, gaussian(64, seed=1).abs() + 1)
    assert [round(rank.item(), 6) for rank in ranks(features).values()] == [1, 1, 1, 1, 1]


@given(SHAPES, SEEDS, st.booleans())
def test_leading_dimensions_are_measured_separately(shape, seed, centred):
    features = gaussian(2, 3, *shape, seed=seed)
    together = ranks(features, centred=centred)
    assert {rank.shape for rank in together.values()} == {(2, 3)}
    alone = ranks(features[1, 2], centred=centred)
    for name in NAMES:
        torch.testing.assert_close(together[name][1, 2], alone[name])


@given(SHAPES, SEEDS)
def test_ranks_from_one_decomposition_equal_those_of_each_function(shape, seed):
    features = gaussian(*shape, seed=seed).relu()
    single = (approximate_rank, effective_rank, srank, feature_rank, matrix_rank)
    assert ranks(features) == {rank.__name__: rank(features) for rank in single}


@given(SHAPES, SEEDS, st.floats(-3, 3))
def test_all_ranks_except_feature_rank_ignore_the_scale(shape, seed, exponent):
    features = gaussian(*shape, seed=seed, dtype=torch.float64)
    scaled = ranks(features * 10**exponent)
    for name, rank in ranks(features).items():
        if name != "feature_rank":
            torch.testing.assert_close(scaled[name], rank)


@given(SHAPES, SEEDS, st.floats(-100, 100))
def test_centred_ranks_ignore_an_offset_common_to_all_rows(shape, seed, offset):
    features = gaussian(*shape, seed=seed, dtype=torch.float64)
    shifted = singular_values(features + offset, centred=True)
    torch.testing.assert_close(
        shifted, singular_values(features, centred=True), rtol=1e-6, atol=1e-11
    )


def test_values_near_the_largest_float_neither_overflow_nor_vanish():
    for scale in (1e38, 1e-38):
        found = ranks(torch.eye(3) * scale)
        assert found["approximate_rank"] == found["matrix_rank"] == found["srank"] == 3
    assert approximate_rank(torch.eye(3, dtype=torch.float64) * 1e300) == 3


def test_ranks_have_no_gradient():
    features = gaussian(8, 4).requires_grad_()
    assert not ranks(features)["effective_rank"].requires_grad
