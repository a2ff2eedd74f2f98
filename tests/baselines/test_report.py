"""Early warnings and figures of run folders: averages by hand, then the command as a whole."""

import json
import math
import re
import subprocess
import sys
import xml.dom.minidom

import numpy as np
import pytest
import written_runs

from baselines.cli import main
from baselines.results import early_warnings, figures, groups, metrics, report, series
from baselines.results.early_warnings import find_warnings, first_lasting, running_median
from baselines.results.series import Series, read_run, smooth
from baselines.runs.records import read_record

TOTAL = 100_000
MEASURED = {
    metrics.RANK: 30.0,
    metrics.DEAD_UNITS: 0.0,
    metrics.NORM: 2.0,
    metrics.POLICY_VARIANCE: 0.01,
    metrics.EXCESS: 1.9,
    metrics.BELOW_CLIP: 0.7,
    metrics.KL: 0.02,
}


def settings_of(seed, **settings):
    """Return the settings of a run, by default PPO on Hopper."""
    defaults = {
        "env": "Hopper-v5",
        "algorithm": "ppo",
        "total_steps": TOTAL,
        "hidden_size": 64,
        "runs_dir": f"runs{seed}",
        "learning_rate": 0.0003,
    }
    return defaults | settings | {"seed": seed}


def write_run(folder, rows, tail="", **settings):
    """Write a run folder; row k is logged at step 1000 k, and `tail` is a half-written line."""
    logged = [{"global_step": 1000 * k, **row} for k, row in enumerate(rows, 1)]
    written_runs.write_run(folder, logged, **settings_of(**settings))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(tail)
    return folder


def measured_rows(count, **changed):
    """Return rows of a healthy run; `changed` replaces a metric, by its name in metrics.py."""
    rows = []
    for index in range(count):
        row = MEASURED | {metrics.RETURN: 10.0 + index, metrics.ENTROPY: 1.0}
        for name, values in changed.items():
            row[getattr(metrics, name)] = values[index]
        rows.append(row)
    return rows


def read(folder):
    return read_run(folder, read_record(folder))


def run_of(tmp_path, count=100, **changed):
    folder = write_run(tmp_path / "run", measured_rows(count, **changed), seed=1)
    return read(folder)


# Averages ----------------------------------------------------------------------------------------


def test_smoothing_is_an_average_of_past_values_weighted_by_age():
    np.testing.assert_allclose(smooth([1, 3, 2], alpha=0.5), [1, 3.5 / 1.5, (2 + 1.75) / 1.75])
    np.testing.assert_allclose(smooth([4.0] * 50), 4.0)


def test_the_final_mean_covers_the_window_that_ends_at_the_last_point():
    points = Series(np.array([10.0, 50.0, 95.0, 100.0]), np.array([1.0, 2.0, 4.0, 8.0]))
    assert series.final_mean(points, 10) == 6
    assert series.final_mean(points, 5) == 8  # the window is (95, 100]
    assert series.final_mean(points, 10, before=1) == pytest.approx(14 / 3)
    assert math.isnan(series.final_mean(series.EMPTY, 10))


def test_windows_average_each_series_and_need_points_of_both():
    ratio = Series(np.array([1.0, 5.0, 12.0, 35.0]), np.array([0.2, 0.4, 0.9, 0.5]))
    rank = Series(np.array([3.0, 4.0, 31.0, 45.0]), np.array([6.0, 8.0, 5.0, 1.0]))
    means = series.window_means([ratio, rank], 10)
    np.testing.assert_allclose(means, [[0.3, 7.0], [0.5, 5.0]])
    assert series.window_means([ratio, series.EMPTY], 10).shape == (0, 2)


def test_the_lowest_rows_are_those_with_the_lowest_ratio():
    rows = np.array([[0.5, 1.0], [0.1, 2.0], [0.3, 3.0]])
    np.testing.assert_array_equal(series.lowest_rows(rows, 2), [[0.1, 2.0], [0.3, 3.0]])


def test_a_shorter_run_leaves_the_grid_where_it_ends():
    long = Series(np.array([0.0, 100.0]), np.array([0.0, 100.0]))
    nearly = Series(np.array([0.0, 99.0]), np.array([5.0, 5.0]))
    short = Series(np.array([0.0, 50.0]), np.array([7.0, 9.0]))
    grid, rows = series.on_grid([long, nearly, short], points=5)
    np.testing.assert_allclose(grid, [0, 25, 50, 75, 100])
    np.testing.assert_allclose(rows[0], grid)
    np.testing.assert_allclose(rows[1], 5.0)
    np.testing.assert_allclose(rows[2], [7, 8, 9, np.nan, np.nan])


# Early warnings ----------------------------------------------------------------------------------


def test_a_healthy_run_gets_no_warning(tmp_path):
    assert find_warnings(run_of(tmp_path)) == []


def test_a_norm_that_doubles_is_dated_by_its_running_median(tmp_path):
    run = run_of(tmp_path, NORM=[2.0] * 50 + [5.0] * 50)
    (found,) = find_warnings(run)
    # From the 11th of the higher values on, more than half of the last 20 are higher.
    assert (found.kind, found.step) == ("norm growing", 61_000)
    assert (found.before, found.value, found.last, found.lasts) == (2, 5, 5, True)


@pytest.mark.parametrize(
    ("metric", "before", "after", "kind"),
    [
        ("RANK", 30.0, 15.0, "rank falling"),
        ("DEAD_UNITS", 2.0, 18.0, "dead units rising"),
        ("EXCESS", 2.0, 3.0, "excess ratio rising"),
    ],
)
def test_a_rule_fires_at_its_threshold_and_not_below_it(tmp_path, metric, before, after, kind):
    run = run_of(tmp_path / "at", **{metric: [before] * 50 + [after] * 50})
    assert [found.kind for found in find_warnings(run)] == [kind]
    nearly = after + 0.01 * (before - after)
    run = run_of(tmp_path / "short", **{metric: [before] * 50 + [nearly] * 50})
    assert find_warnings(run) == []


def test_bursts_and_the_first_tenth_of_training_give_no_warning(tmp_path):
    bursts = [1e6 if index % 3 == 0 else 2.0 for index in range(100)]
    run = run_of(
        tmp_path, EXCESS=bursts, NORM=[0.1] * 4 + [2.0] * 96, RANK=[64.0] * 4 + [20.0] * 96
    )
    assert find_warnings(run) == []


def test_a_return_of_any_sign_has_fallen_when_half_of_its_gain_is_lost(tmp_path):
    learns = list(np.linspace(-500, -100, 50))
    run = run_of(tmp_path / "falls", RETURN=learns + [-400.0] * 50)
    (found,) = find_warnings(run)
    assert found.kind == "return fallen"
    assert 51_000 <= found.step <= 75_000
    run = run_of(tmp_path / "dips", RETURN=learns + [-250.0] * 50)
    assert find_warnings(run) == []


def test_noise_of_a_return_that_never_rose_gives_no_warning(tmp_path):
    noise = np.random.default_rng(1).normal(size=100)
    assert find_warnings(run_of(tmp_path, RETURN=list(noise))) == []


def test_warnings_come_in_the_order_of_time_and_say_whether_they_last(tmp_path):
    run = run_of(tmp_path, NORM=[2.0] * 30 + [9.0] * 40 + [2.0] * 30, RANK=[30.0] * 60 + [1.0] * 40)
    found = [(warning.kind, warning.lasts) for warning in find_warnings(run)]
    assert found == [("norm growing", False), ("rank falling", True)]


def test_a_rule_must_hold_five_times_in_a_row():
    fires = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)
    assert first_lasting(fires) == 5
    assert first_lasting(fires, start=6) == 6
    assert first_lasting(fires[:9]) is None


def test_the_running_median_grows_into_its_window():
    np.testing.assert_array_equal(running_median(np.array([4.0, 2, 9, 1]), 3), [4, 3, 4, 2])


def test_every_rule_has_a_sentence_for_the_report():
    assert all((rule.__doc__ or "").endswith((".", ".\n    ")) for *_, rule in early_warnings.RULES)


# Groups ------------------------------------------------------------------------------------------


def test_runs_from_before_pfo_was_an_intervention_join_the_group_of_newer_ones():
    config = {"env": "Hopper-v5", "seed": 1, "intervention": []}
    old = {"pfo_layers": "last", "pfo_distance": "l2", "pfo_mode": "soft", "pfo_network": "actor"}
    for coef, held in ((0.0, []), (2.0, ["actor.pfo:coef=2.0,scope=last,distance=l2,mode=soft"])):
        runs = [
            type("Run", (), {"config": fields, "record": {"algorithm": "ppo"}})()
            for fields in (config | old | {"pfo_coef": coef}, config | {"intervention": held})
        ]
        older, newer = map(groups.settings, runs)
        assert older == newer


def test_groups_are_labelled_by_the_settings_in_which_they_differ():
    same = {"algorithm": "ppo", "env": "Hopper-v5", "pfo_mode": "soft"}
    first = {**same, "pfo_coef": 0.0, "intervention": []}
    second = {**same, "pfo_coef": 10.0, "intervention": ["redo"]}
    assert groups.labels([first, second]) == [
        "pfo_coef=0, intervention=none",
        "pfo_coef=10, intervention=redo",
    ]
    assert groups.labels([first]) == ["ppo"]


def test_labels_are_short_and_distinct():
    many = [
        {"algorithm": "ppo", **{f"field{k}": (1, k % 5, 2)[group] for k in range(7)}}
        for group in (0, 2, 2)
    ]
    many[2] = many[2] | {"field6": 3}
    found = groups.labels(many)
    assert found[0] == "field0=1, field1=1, field2=1, field3=1, +3 more"
    assert len(set(found)) == 3


def test_runs_that_differ_in_seed_and_device_form_one_group(tmp_path):
    runs = [
        read(write_run(tmp_path / str(seed), measured_rows(3), seed=seed, device=device))
        for seed, device in ((2, "cpu"), (1, "cuda"))
    ]
    (group,) = groups.group_runs(runs).values()
    assert [run.seed for run in group] == [1, 2]


# The command -------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path):
    return tmp_path / "report"


def svgs(page):
    """Return the figures of a page, each parsed."""
    found = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return [xml.dom.minidom.parseString(svg) for svg in found]


def test_the_report_is_a_single_self_contained_page(tmp_path, out, capsys):
    group = tmp_path / "group"
    for seed in (1, 2):
        rows = measured_rows(100, NORM=[2.0] * 50 + [5.0] * 50)
        write_run(group / f"seed{seed}", rows, seed=seed)
    alone = write_run(tmp_path / "alone", measured_rows(60), seed=1, learning_rate=0.001)
    assert main(["plasticity", str(group), str(alone), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"learning_rate=0.0003 +2  norm growing  61,000 +2 +5 +5  yes", said)
    assert said.endswith(f"report: {out / 'index.html'}\n")
    page = (out / "index.html").read_text()
    assert len(svgs(page)) == 3
    assert not re.search(r"<script|<link|(src|href)=\"(?!#|data:)", page)
    assert "learning_rate=0.001" in page
    assert "early warnings in 2 of them" in page
    names = {path.name for path in out.iterdir()} - {"index.html"}
    kinds = ("boxes", "curves", "trust_region")
    assert names == {f"Hopper-v5_{kind}.{end}" for kind in kinds for end in ("png", "svg")}


def test_the_agent_of_a_value_based_learner_is_read_as_the_actor(tmp_path):
    rows = measured_rows(20)
    agent = [{name.replace("/actor", "/agent"): value for name, value in r.items()} for r in rows]
    for name, written in (("actor", rows), ("agent", agent)):
        write_run(tmp_path / name, written, seed=1, algorithm="qmix")
    actor, found = (read(tmp_path / name) for name in ("actor", "agent"))
    assert found.measured
    assert found.series.keys() == actor.series.keys()
    assert found[metrics.RANK].values.tolist() == actor[metrics.RANK].values.tolist()


def test_a_run_in_progress_is_read_up_to_its_last_complete_line(tmp_path):
    row = {metrics.NORM: float("nan"), metrics.RANK: None, metrics.EXCESS: float("inf")}
    rows = [*measured_rows(4), row]
    folder = write_run(tmp_path / "run", rows, tail='{"global_step": 6000, "plasti', seed=1)
    run = read(folder)
    assert run.last_step == 5000
    assert [len(run[name]) for name in (metrics.NORM, metrics.RANK, metrics.EXCESS)] == [4, 4, 4]


def test_runs_without_probe_are_drawn_and_named_in_a_line(tmp_path, out, capsys):
    rows = [{metrics.RETURN: 1.0, metrics.ENTROPY: 2.0}, {metrics.ENTROPY: 1.5}]
    folder = write_run(tmp_path / "run", rows, seed=1)
    assert main(["plasticity", str(folder), "--out", str(out)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--probe" in line]
    assert str(folder) in line
    assert len(svgs((out / "index.html").read_text())) == 2  # no trust region


def test_a_line_names_runs_with_too_few_measurements_for_warnings(tmp_path):
    (line,) = report.report_notes([run_of(tmp_path / "few", count=13)])  # four of them after 10 %
    assert "too few for warnings" in line
    assert report.report_notes([run_of(tmp_path / "enough", count=14)]) == []


def test_every_environment_has_its_own_section(tmp_path, out, capsys):
    envs = {"ALE/Phoenix-v5": "ppo", "smacv2/terran_5_vs_5-v0": "mappo"}
    folders = [
        write_run(tmp_path / algorithm, measured_rows(30), seed=1, env=env, algorithm=algorithm)
        for env, algorithm in envs.items()
    ]
    assert main(["plasticity", *map(str, folders), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "ALE/Phoenix-v5: 1 run\nno early warnings\n" in said
    assert (out / "ALE_Phoenix-v5_curves.svg").exists()
    assert (out / "smacv2_terran_5_vs_5-v0_curves.svg").exists()
    assert len(svgs((out / "index.html").read_text())) == 6


def test_capacity_is_drawn_if_it_was_probed(tmp_path):
    folder = write_run(tmp_path / "run", measured_rows(20), seed=1)
    losses = {"last_minibatch": [0.1, 0.2, None, 0.6]}
    content = {"steps": [0, 5000, 10_000, 20_000], "actor": losses, "critic": losses}
    (folder / "capacity.json").write_text(json.dumps({**content, "protocol": {}}))
    run = read(folder)
    np.testing.assert_array_equal(run[metrics.CAPACITY].steps, [0, 5000, 20_000])
    assert figures.final_value(run, metrics.CAPACITY) == pytest.approx(0.4)  # and the one before
    figure = figures.draw_curves({"ppo": [run]}, {})
    assert "Actor capacity loss" in [axis.get_title() for axis in figure.axes]


def test_the_excess_ratio_of_a_box_is_the_papers_if_it_was_logged(tmp_path):
    values = list(np.linspace(2, 3, 100))
    run = run_of(tmp_path / "short", EXCESS=values)
    assert figures.final_value(run, metrics.EXCESS) == pytest.approx(np.mean(values[-5:]))
    run = run_of(tmp_path / "long", EXCESS=values, EXCESS_WINDOW=[math.nan] * 50 + [2.5] * 50)
    assert figures.final_value(run, metrics.EXCESS) == 2.5


def test_labels_with_markup_are_escaped(tmp_path, out):
    folders = [
        write_run(tmp_path / str(k), measured_rows(9), seed=1, env_option=[f"<b>$x_{k}$</b>"])
        for k in range(2)
    ]
    assert main(["plasticity", *map(str, folders), "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert "<b>" not in page
    assert "env_option=&lt;b&gt;$x_1$&lt;/b&gt;" in page


def test_a_run_named_twice_counts_once(tmp_path, out):
    folder = write_run(tmp_path / "group" / "seed1", measured_rows(9), seed=1)
    assert len(groups.read_runs([str(folder), str(folder.parent)])) == 1


@pytest.mark.parametrize("case", ["nowhere", "nothing named", "nothing logged", "no room"])
def test_bad_input_gives_an_error_of_one_line(tmp_path, out, capsys, case):
    folder = write_run(
        tmp_path / "run", [] if case == "nothing logged" else measured_rows(3), seed=1
    )
    (tmp_path / "file").write_text("")
    arguments, said = {
        "nowhere": ([str(tmp_path / "missing")], "not a run folder"),
        "nothing named": ([], "at least one run folder"),
        "nothing logged": ([str(folder)], "nothing logged yet"),
        "no room": ([str(folder), "--out", str(tmp_path / "file" / "x")], "--out"),
    }[case]
    assert (
        main(["plasticity", *arguments, *([] if case == "no room" else ["--out", str(out)])]) == 2
    )
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, out, capsys, monkeypatch):
    folder = write_run(tmp_path / "run", measured_rows(3), seed=1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plasticity", str(folder), "--out", str(out)]) == 2
    assert "pip install 'smacv2-suite[plots]'" in capsys.readouterr().err


# Imports -----------------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, pkgutil, sys
import baselines.results
for module in pkgutil.iter_modules(baselines.results.__path__, "baselines.results."):
    importlib.import_module(module.name)
print(*sys.modules)
"""


def test_results_import_neither_pytorch_nor_a_learner():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert not {"torch", "matplotlib", "ppo_plasticity"} & set(imported)
    others = {name for name in imported if re.match(r"baselines(?!\.results\b)", name)}
    assert others == {
        "baselines",
        "baselines.config",
        "baselines.errors",
        "baselines.runs",
        "baselines.runs.records",
    }
