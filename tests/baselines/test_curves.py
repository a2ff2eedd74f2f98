"""Learning curves: bins, weights, wall-clock, groups and bands, against numbers by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_runs import battle_rows, write_run

from baselines.errors import UsageError
from baselines.results import stats
from baselines.results.curves import (
    bin_width,
    curve_end,
    make_band,
    make_curve,
    make_curves,
    read_metric,
    score_matrices,
)
from baselines.results.groups import group_across_envs
from baselines.results.metrics import WIN_RATE


@pytest.fixture
def read(tmp_path):
    """Return a function that writes runs, each (rows, settings), and reads them."""

    def runs(*written, metric=WIN_RATE):
        for number, (rows, about) in enumerate(written):
            write_run(tmp_path / f"run{number}", rows, **about)
        return read_metric([str(tmp_path)], metric)

    return runs


# One run -----------------------------------------------------------------------------------------


def test_a_bin_averages_over_its_episodes_and_not_over_its_iterations(read):
    rows = battle_rows([0.0, 1.0, 0.5, 0.5])
    rows[1]["charts/episodes"] = 30
    (run,) = read((rows, {}))
    curve = make_curve(run, WIN_RATE, 200)
    np.testing.assert_allclose(curve.steps, [100, 300])
    np.testing.assert_allclose(curve.values, [30 / 40, 0.5])


def test_other_metrics_are_averaged_over_iterations(read):
    rows = battle_rows([0.0, 1.0])
    rows[0]["losses/entropy"], rows[1]["losses/entropy"] = 1.0, 2.0
    rows[1]["charts/episodes"] = 99
    (run,) = read((rows, {}), metric="losses/entropy")
    np.testing.assert_allclose(make_curve(run, "losses/entropy", 200).values, [1.5])


def test_an_iteration_counts_in_the_bin_in_which_it_ends(read):
    (run,) = read((battle_rows([0.1, 0.2, 0.3]), {}))
    np.testing.assert_allclose(make_curve(run, WIN_RATE, 100).values, [0.1, 0.2, 0.3])


def test_a_last_bin_less_than_half_done_is_left_out(read):
    (run,) = read((battle_rows([0.1] * 4), {}))
    assert list(make_curve(run, WIN_RATE, 300).steps) == [150]  # the next middle is at 450
    assert len(make_curve(run, WIN_RATE, 1000).steps) == 0


def test_bins_without_episodes_have_no_value(read):
    rows = battle_rows([0.2, 0.9, 0.4])
    rows[1] = {"global_step": 200, "charts/episodes": 0, "time/env_seconds": 2.0}
    (run,) = read((rows, {}))
    curve = make_curve(run, WIN_RATE, 100)
    np.testing.assert_allclose(curve.steps, [50, 250])
    np.testing.assert_allclose(curve.values, [0.2, 0.4])


def test_wall_clock_is_the_sum_of_all_times_of_all_iterations(read):
    (run,) = read((battle_rows([0.1] * 4, seconds=2.0), {}))
    curve = make_curve(run, WIN_RATE, 200)
    np.testing.assert_allclose(curve.seconds, [2, 6])
    assert curve.total_seconds == 8
    assert curve.steps_per_second == 50


def test_the_final_value_is_the_mean_over_the_episodes_of_the_last_5_percent(read):
    rows = battle_rows([0.0] * 95 + [0.2, 0.5, 0.6, 0.6, 0.6], every=10)
    rows[95]["charts/episodes"] = 30
    (run,) = read((rows, {}))
    assert curve_end(run, WIN_RATE) == pytest.approx((30 * 0.2 + 10 * 0.5 + 30 * 0.6) / 70)


def test_a_metric_that_is_no_longer_logged_keeps_its_last_value(read):
    rows = [*battle_rows([0.1, 0.7]), {"global_step": 10_000}]
    (run,) = read((rows, {}))
    assert curve_end(run, WIN_RATE) == 0.7


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_bins_are_round_few_and_no_shorter_than_an_iteration(steps, total):
    every = min(steps, total)
    rows = [_Run([every, total] if every < total else [total])]
    width = bin_width(rows)
    longest = max(every, total - every)
    assert width >= longest
    assert total / width <= 50
    assert width / 10 ** math.floor(math.log10(width)) in (1, 2, 5)
    assert width <= 2.5 * max(longest, total / 50) or width == 1


class _Run:
    """A run that knows only the last steps of its iterations."""

    def __init__(self, steps):
        self.steps, self.last_step = np.array(steps, np.float64), steps[-1]

    def __getitem__(self, metric):
        return self


# Groups ------------------------------------------------------------------------------------------


def test_runs_are_grouped_by_algorithm_and_by_the_settings_that_differ(read):
    runs = read(
        (battle_rows([0.1]), {"seed": 2}),
        (battle_rows([0.1]), {"seed": 1, "runs_dir": "elsewhere"}),
        (battle_rows([0.1]), {"seed": 1, "learning_rate": 0.01}),
        (battle_rows([0.1]), {"seed": 1, "algorithm": "qmix", "mixer": "sum"}),
    )
    sizes = {label: len(members) for label, members in group_across_envs(runs).items()}
    assert sizes == {"mappo, learning_rate=0.001": 2, "mappo, learning_rate=0.01": 1, "qmix": 1}
    (environment,) = make_curves(runs, WIN_RATE)
    seeds = [[curve.run.seed for curve in group.curves] for group in environment.groups]
    assert seeds == [[1, 2], [1], [1]]


def test_labels_name_the_requested_settings(read):
    runs = read(
        (battle_rows([0.1]), {"profile": "batched", "learning_rate": 0.1}),
        (battle_rows([0.1]), {"profile": "smacv2_paper", "learning_rate": 0.2}),
        (battle_rows([0.1]), {"algorithm": "vdn"}),
    )
    assert list(group_across_envs(runs, ["profile"])) == [
        "mappo, profile=batched",
        "mappo, profile=smacv2_paper",
        "vdn",
    ]
    with pytest.raises(UsageError, match=r"unknown setting 'profil'. Did you mean 'profile'"):
        group_across_envs(runs, ["profil"])


def test_a_group_has_one_label_in_all_environments(read):
    runs = read(
        (battle_rows([0.1]), {"env": "smacv2/terran_5_vs_5-v0"}),
        (battle_rows([0.1]), {"env": "smacv2/zerg_5_vs_5-v0"}),
    )
    environments = make_curves(runs, WIN_RATE)
    assert [environment.env_id for environment in environments] == [
        "smacv2/terran_5_vs_5-v0",
        "smacv2/zerg_5_vs_5-v0",
    ]
    assert [group.label for environment in environments for group in environment.groups] == [
        "mappo",
        "mappo",
    ]


def test_the_line_of_a_group_ends_where_its_first_run_ends(read):
    runs = read((battle_rows([0.2] * 6), {"seed": 1}), (battle_rows([0.4] * 4), {"seed": 2}))
    (environment,) = make_curves(runs, WIN_RATE, bin_steps=100)
    (group,) = environment.groups
    np.testing.assert_allclose(group.over_steps.at, [50, 150, 250, 350])
    np.testing.assert_allclose(group.over_steps.centre, 0.3)
    np.testing.assert_allclose(group.over_steps.low, 0.2)
    np.testing.assert_allclose(group.over_steps.high, 0.4)
    assert (environment.last_step, environment.common_steps) == (600, 350)


def test_a_bin_that_a_run_lacks_is_interpolated(read):
    gap = battle_rows([0.0, 0.5, 1.0])
    del gap[1]
    runs = read((gap, {"seed": 1}), (battle_rows([1.0, 0.0, 0.0]), {"seed": 2}))
    (environment,) = make_curves(runs, WIN_RATE, bin_steps=100)
    np.testing.assert_allclose(environment.groups[0].over_steps.centre, [0.5, 0.25, 0.5])


def test_over_wall_clock_runs_are_averaged_at_equal_times(read):
    # Both rise by 0.1 per 100 steps, the second at half the speed.
    rates = np.linspace(0.1, 1.0, 10)
    runs = read(
        (battle_rows(rates, seconds=1.0), {"seed": 1}),
        (battle_rows(rates, seconds=2.0), {"seed": 2}),
    )
    (environment,) = make_curves(runs, WIN_RATE, bin_steps=100)
    band = environment.groups[0].over_seconds
    # At time t the first run is at step 100 t and the second at 50 t; middles lag by half a bin.
    expected = ((band.at + 0.5) + (band.at / 2 + 0.5)) / 2 / 10
    inside = (band.at >= 1) & (band.at <= 9.5)
    np.testing.assert_allclose(band.centre[inside], expected[inside])
    assert band.at[-1] < 10


def test_runs_without_times_have_no_wall_clock(read):
    rows = [{"global_step": 100, "charts/episodes": 4, WIN_RATE: 0.5}]
    (environment,) = make_curves(read((rows, {})), WIN_RATE)
    (group,) = environment.groups
    assert len(group.over_seconds.at) == 0
    assert math.isnan(group.curves[0].steps_per_second)


def test_a_single_run_has_a_line_and_no_interval(read):
    (environment,) = make_curves(read((battle_rows([0.2, 0.4]), {})), WIN_RATE)
    band = environment.groups[0].over_steps
    np.testing.assert_allclose(band.centre, [0.2, 0.4])
    assert np.isnan(band.low).all()
    assert np.isnan(band.high).all()


def test_the_band_is_the_bootstrap_interval_of_each_point():
    rows = np.random.default_rng(1).random((5, 3))
    band = make_band(np.arange(3.0), rows, "iqm")
    np.testing.assert_allclose(band.centre, [stats.iqm(rows[:, [k]]) for k in range(3)])
    for point in range(3):
        low, high = stats.stratified_bootstrap(rows[:, [point]], stats.iqm)
        assert band.low[point] == pytest.approx(low)
        assert band.high[point] == pytest.approx(high)


def test_areas_end_where_all_runs_have_values(read):
    runs = read((battle_rows([0.0, 1.0]), {"seed": 1}), (battle_rows([0.0, 1.0, 0.0]), {"seed": 2}))
    (environment,) = make_curves(runs, WIN_RATE, bin_steps=100)
    (group,) = environment.groups
    assert environment.common_steps == 150
    assert [curve.area(150) for curve in group.curves] == [0.5, 0.5]
    assert math.isnan(group.curves[0].area(50))


def test_scores_over_environments_need_equally_many_runs_in_each(read):
    zerg = "smacv2/zerg_5_vs_5-v0"
    runs = read(
        (battle_rows([0.1]), {"seed": 1}),
        (battle_rows([0.2]), {"seed": 1, "env": zerg}),
        (battle_rows([0.3]), {"seed": 1, "algorithm": "qmix"}),
        (battle_rows([0.4]), {"seed": 1, "algorithm": "qmix", "env": zerg}),
        (battle_rows([0.5]), {"seed": 2, "algorithm": "qmix", "env": zerg}),
    )
    (scores,) = score_matrices(make_curves(runs, WIN_RATE)).values()
    np.testing.assert_allclose(scores, [[0.1, 0.2]])


# Bad input ---------------------------------------------------------------------------------------


def test_an_unknown_metric_is_refused_with_the_nearest_name(read):
    with pytest.raises(UsageError, match=r"'charts/win_rat'. Did you mean 'charts/win_rate'"):
        read((battle_rows([0.1]), {}), metric="charts/win_rat")


def test_a_folder_without_runs_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="neither a run folder nor a folder of runs"):
        read_metric([str(tmp_path)], WIN_RATE)
    with pytest.raises(UsageError, match="not a run folder"):
        read_metric([str(tmp_path / "nowhere")], WIN_RATE)


def test_runs_that_have_logged_nothing_are_refused(read):
    with pytest.raises(UsageError, match="nothing logged yet"):
        read(([], {}))


def test_a_folder_of_runs_may_hold_runs_and_groups_of_seeds(tmp_path):
    write_run(tmp_path / "lone", battle_rows([0.1]))
    for seed in (1, 2):
        write_run(tmp_path / "group" / f"seed{seed}", battle_rows([0.1]), seed=seed)
    assert len(read_metric([str(tmp_path)], WIN_RATE)) == 3
    assert len(read_metric([str(tmp_path), str(tmp_path / "lone")], WIN_RATE)) == 3


def test_damaged_lines_before_the_last_are_counted(read):
    rows = battle_rows([0.1, 0.2, 0.3])
    rows.insert(1, '{"global_step": 150, "charts/win')
    rows.insert(2, '["no", "row"]')
    rows.append('{"global_step": 400, "ch')
    (run,) = read((rows, {}))
    assert run.damaged == 2
    assert list(run[WIN_RATE].values) == [0.1, 0.2, 0.3]
