"""Statistics against published numbers, against rliable's, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from baselines.results import stats
from baselines.results.stats import (
    area_under_curve,
    iqm,
    kendall_tau,
    performance_profile,
    probability_of_improvement,
    spearman_rho,
    stratified_bootstrap,
)
from smacv2.stats import wilson_interval

# Constants below are those of rliable 1.2.0 (with arch 5.4.0, NumPy 1.24.4, SciPy 1.10.1).
X = np.array([[0.31, 0.64, 0.42], [0.35, 0.62, 0.40], [0.29, 0.70, 0.37], [0.44, 0.58, 0.41]])
Y = np.array([[0.33, 0.40, 0.42], [0.31, 0.39, 0.26], [0.40, 0.38, 0.31]])
Z = np.array(
    [
        [1.3, -0.2, 0.5, 0.90],
        [0.7, 0.10, 0.5, 1.10],
        [2.4, 0.00, 0.5, 0.95],
        [0.2, 0.30, 0.5, 1.60],
        [0.9, 0.15, 0.5, 0.80],
    ]
)
THRESHOLDS = (-0.5, 0.0, 0.15, 0.5, 0.9, 1.3, 3.0)
AGGREGATES = (iqm, stats.mean, stats.median, stats.optimality_gap)

# Multiples of 1/64 add up exactly, whatever the order.
NUMBERS = st.integers(-1000, 1000).map(lambda number: number / 64)
MATRICES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=NUMBERS,
)


# Aggregates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "values"),
    [
        (X, (0.4366666667, 0.4608333333, 0.4, 0.5391666667)),
        (Y, (0.362, 0.3555555556, 0.3466666667, 0.6444444444)),
        (Z, (0.61, 0.685, 0.785, 0.435)),
    ],
)
def test_aggregates_equal_those_of_rliable(scores, values):
    assert [aggregate(scores) for aggregate in AGGREGATES] == pytest.approx(values, abs=1e-10)


def test_the_target_of_the_optimality_gap_can_be_raised():
    assert stats.optimality_gap(Z, 2.0) == pytest.approx(1.335)  # rliable


def test_the_interquartile_mean_drops_whole_scores_only():
    assert iqm([[1.0, 2.0], [4.0, 100.0]]) == 3  # a quarter of four is one
    assert iqm([[1.0], [2.0], [9.0]]) == 4  # a quarter of three is none
    assert iqm([[7.0]]) == 7


@given(MATRICES, st.randoms(use_true_random=False))
def test_the_interquartile_mean_is_within_the_scores_in_any_order_of_runs(scores, random):
    value = iqm(scores)
    assert scores.min() <= value <= scores.max()
    shuffled = np.array([random.sample(column, len(column)) for column in scores.T.tolist()]).T
    assert iqm(shuffled) == value


@given(MATRICES, NUMBERS)
def test_an_outlier_moves_the_mean_and_not_the_interquartile_mean(scores, height):
    scores = np.concatenate([scores, scores, scores, scores])
    worst = scores.copy()
    worst[np.unravel_index(worst.argmax(), worst.shape)] += abs(height)
    assert iqm(worst) == iqm(scores)
    assert stats.mean(worst) >= stats.mean(scores)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_curves_are_aggregated_point_by_point(aggregate):
    curves = np.stack([X, 2 * X, X - 1], axis=-1)
    expected = [aggregate(X), aggregate(2 * X), aggregate(X - 1)]
    np.testing.assert_allclose(aggregate(curves), expected)


# Comparisons -------------------------------------------------------------------------------------


def test_the_probability_of_improvement_equals_that_of_rliable():
    assert probability_of_improvement(X, Y) == pytest.approx(0.7222222222)
    assert probability_of_improvement(Y, X) == pytest.approx(0.2777777778)
    assert probability_of_improvement(X, X) == 0.5


def test_the_probability_of_improvement_counts_pairs_and_half_of_the_ties():
    x, y = [[1.0, 5.0], [3.0, 5.0]], [[1.0, 0.0], [2.0, 9.0]]
    # First task: 3 > 1, 3 > 2 and the tie 1 = 1 of four pairs; second task: two of four.
    assert probability_of_improvement(x, y) == (2.5 / 4 + 2 / 4) / 2


@given(st.data(), st.integers(1, 5))
def test_the_probabilities_of_improvement_in_both_directions_add_up_to_one(data, tasks):
    x, y = (
        data.draw(arrays(np.float64, (data.draw(st.integers(1, 6)), tasks), elements=NUMBERS))
        for _ in range(2)
    )
    forth, back = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert 0 <= forth <= 1
    assert forth + back == pytest.approx(1)
    assert probability_of_improvement(x**3, y**3) == forth  # only the order matters


def test_algorithms_are_compared_on_the_same_tasks():
    with pytest.raises(ValueError, match="scores of 3 and of 4 tasks"):
        probability_of_improvement(X, Z)


def test_the_performance_profile_equals_that_of_rliable():
    expected = [1.0, 0.9, 0.8, 0.45, 0.25, 0.1, 0.0]
    np.testing.assert_allclose(performance_profile(Z, THRESHOLDS), expected, atol=1e-12)


@given(MATRICES, st.lists(NUMBERS, min_size=2, max_size=9))
def test_the_performance_profile_falls_from_one_to_zero(scores, thresholds):
    ends = [scores.min() - 1, *sorted(thresholds), scores.max()]
    profile = performance_profile(scores, sorted(ends))
    assert (np.diff(profile) <= 0).all()
    assert (profile.min(), profile.max()) == (0, 1)
    shares = [(scores > threshold).mean() for threshold in thresholds]
    np.testing.assert_allclose(performance_profile(scores, thresholds), shares, atol=1e-12)


# Intervals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "statistic", "interval"),
    [
        (X, iqm, (0.4116666667, 0.4583333333)),
        (X, stats.mean, (0.4375, 0.4858333333)),
        (X, stats.median, (0.38, 0.4175)),
        (Z, iqm, (0.48, 0.735)),
        (Z, stats.mean, (0.5225, 0.8725)),
        (Z, stats.median, (0.51, 0.87)),
        ((X, Y), probability_of_improvement, (0.5, 0.9166666667)),
    ],
)
def test_bootstrap_intervals_equal_those_of_rliable(scores, statistic, interval):
    # rliable drew 200,000 resamples, 20,000 for the last, which moves in steps of 1/72.
    found = stratified_bootstrap(scores, statistic, reps=10_000)
    assert found == pytest.approx(interval, abs=0.015)


def test_the_band_of_a_performance_profile_equals_that_of_rliable():
    low, high = stratified_bootstrap(Z, lambda scores: performance_profile(scores, THRESHOLDS))
    np.testing.assert_allclose(low, [1.0, 0.8, 0.75, 0.35, 0.1, 0.0, 0.0], atol=0.051)  # one run
    np.testing.assert_allclose(high, [1.0, 1.0, 0.9, 0.5, 0.4, 0.25, 0.0], atol=0.051)


def test_the_interval_of_the_mean_of_two_runs_spans_both():
    # A resample is twice the lower run, twice the higher or both: a quarter, a quarter, a half.
    assert stratified_bootstrap([[1.0], [3.0]], stats.mean) == (1, 3)


def test_runs_are_resampled_within_their_task():
    apart = [[0.0, 100.0], [1.0, 101.0]]
    low, high = stratified_bootstrap(apart, lambda scores: scores.min(axis=0))
    np.testing.assert_array_equal((low, high), [(0, 100), (1, 101)])


def test_curves_are_resampled_whole():
    curves = np.array([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 1.0]]])
    low, high = stratified_bootstrap(curves, lambda drawn: drawn.sum(axis=2).mean(axis=0))
    assert (low, high) == (1, 2)  # no resample has the height of one and the end of the other


@given(arrays(np.float64, (4, 2), elements=NUMBERS), st.integers(0, 99))
def test_an_interval_depends_on_its_seed_only_and_is_within_the_scores(scores, seed):
    low, high = stratified_bootstrap(scores, stats.mean, reps=50, seed=seed)
    assert scores.min() <= low <= high <= scores.max()
    assert stratified_bootstrap(scores, stats.mean, reps=50, seed=seed) == (low, high)


def test_equal_runs_have_no_spread():
    assert stratified_bootstrap([[0.3], [0.3], [0.3]], iqm) == pytest.approx((0.3, 0.3))


def test_an_interval_over_one_run_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        stratified_bootstrap([[0.3, 0.4]], stats.mean)


@pytest.mark.parametrize("scores", [[], [[]], np.zeros((0, 3)), [1.0, 2.0], 3.0])
def test_scores_that_are_not_a_matrix_are_refused(scores):
    for statistic in (*AGGREGATES, lambda x: stratified_bootstrap(x, iqm)):
        with pytest.raises(ValueError, match=r"\(runs, tasks\) with at least one of each"):
            statistic(scores)


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(hole):
    with pytest.raises(ValueError, match="must be finite"):
        iqm([[1.0, hole], [2.0, 3.0]])


# Areas -------------------------------------------------------------------------------------------


def test_the_area_under_a_curve_is_its_mean_height():
    assert area_under_curve([0, 10, 20], [0.0, 1.0, 1.0]) == 0.75
    assert area_under_curve([100, 110, 200], [0.5, 0.5, 0.5]) == 0.5


def test_the_area_ends_at_its_limit_by_interpolation():
    assert area_under_curve([0, 10], [0.0, 1.0], limit=5) == 0.25
    assert area_under_curve([0, 10, 20], [0.0, 1.0, 9.0], limit=10) == 0.5
    assert area_under_curve([0, 10], [0.0, 1.0], limit=99) == 0.5


def test_missing_points_are_interpolated():
    assert area_under_curve([0, 5, 10], [0.0, np.nan, 1.0]) == 0.5
    assert area_under_curve([0, 5, 10], [np.nan, 1.0, 1.0]) == 1


@given(
    st.lists(st.tuples(st.integers(1, 50), NUMBERS), min_size=2, max_size=9),
    st.lists(st.floats(0, 1), max_size=9),
)
def test_the_area_does_not_depend_on_the_grid(points, more):
    steps = np.cumsum([step for step, _ in points])
    values = np.array([value for _, value in points])
    finer = np.unique([*steps, *(steps[0] + share * (steps[-1] - steps[0]) for share in more)])
    area = area_under_curve(finer, np.interp(finer, steps, values))
    assert area == pytest.approx(area_under_curve(steps, values), abs=1e-9)
    assert values.min() - 1e-9 <= area <= values.max() + 1e-9


@pytest.mark.parametrize(
    ("steps", "values", "limit", "said"),
    [
        ([], [], 9, "two points"),
        ([3], [1.0], 9, "two points"),
        ([3, 4], [1.0, 2.0], 3, "before 3"),
        ([3, 3], [1.0, 2.0], 9, "rise"),
        ([4, 3], [1.0, 2.0], 9, "rise"),
    ],
)
def test_too_few_points_or_falling_steps_have_no_area(steps, values, limit, said):
    with pytest.raises(ValueError, match=said):
        area_under_curve(steps, values, limit)


# Rank correlations -------------------------------------------------------------------------------


def test_rank_correlations_equal_those_counted_by_hand():
    x, y = [1, 2, 3, 4], [1, 3, 2, 4]  # five of six pairs agree; squared rank differences: 2
    assert kendall_tau(x, y) == pytest.approx(4 / 6)
    assert spearman_rho(x, y) == pytest.approx(1 - 6 * 2 / (4 * 15))
    x, y = [1, 1, 2], [1, 2, 3]  # a tie in x: two of two pairs agree, y has three
    assert kendall_tau(x, y) == pytest.approx(2 / math.sqrt(2 * 3))
    assert spearman_rho(x, y) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@pytest.mark.parametrize("correlation", [kendall_tau, spearman_rho])
def test_rank_correlations_of_a_constant_or_of_too_few_points_are_nan(correlation):
    for x, y in (([], []), ([1.0], [2.0]), ([3.0, 3.0], [1.0, 2.0])):
        assert math.isnan(correlation(x, y))


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=30))
def test_rank_correlations_depend_on_the_order_only(points):
    x, y = np.array(points, np.float64).T
    for correlation in (kendall_tau, spearman_rho):
        value = correlation(x, y)
        assert math.isnan(value) or -1 - 1e-9 <= value <= 1 + 1e-9
        same = pytest.approx(value, abs=1e-9, nan_ok=True)
        assert correlation(np.exp(x), y**3) == same
        assert correlation(y, x) == same
        assert -correlation(-x, y) == same


# Win rates ---------------------------------------------------------------------------------------


def test_wilson_interval_equals_published_values():
    # Newcombe 1998, Statistics in Medicine 17, Table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_interval_stays_within_zero_and_one():
    assert wilson_interval(0, 1)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_interval_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match=f"{successes} successes in {trials} trials"):
        wilson_interval(successes, trials)
