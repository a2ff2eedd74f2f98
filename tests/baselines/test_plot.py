"""`baselines plot` as a whole: its figure, its numbers, its tables, its messages."""

import json
import re
import sys
import xml.dom.minidom

import pytest
from written_runs import battle_rows, write_run

from baselines.cli import main
from baselines.results.metrics import WIN_RATE

ZERG = "smacv2/zerg_5_vs_5-v0"


@pytest.fixture
def runs(tmp_path):
    """Two algorithms with two seeds each on two scenarios."""
    folder = tmp_path / "runs"
    for env, least in (("smacv2/terran_5_vs_5-v0", 0.2), (ZERG, 0.1)):
        for algorithm, gain, speed in (("mappo", 0.0, 1.0), ("qmix", 0.2, 2.0)):
            for seed in (1, 2):
                rates = [least + gain + 0.1 * seed * k / 40 for k in range(1, 41)]
                write_run(
                    folder / f"{env.replace('/', '_')}__{algorithm}__seed{seed}",
                    battle_rows(rates, every=10_000, seconds=speed),
                    **{"env": env, "algorithm": algorithm, "seed": seed},
                )
    return folder


def plot(tmp_path, *arguments):
    return main(["plot", *map(str, arguments), "--out", str(tmp_path / "out")])


def test_the_command_writes_a_figure_its_numbers_and_a_table(runs, tmp_path, capsys):
    assert plot(tmp_path, runs) == 0
    said = capsys.readouterr().out
    # The last 5 % of 400,000 steps are two rows, with 39 / 40 and 40 / 40 of the gain.
    assert re.search(r"mappo +1,2  0.2987 / 0.3975 +0.3481  0.2987 to 0.3975", said)
    assert re.search(r"400,000 +10,000  40.0 seconds", said)
    assert "over all 2 environments:" in said
    assert re.search(r"mappo +qmix +0  0 to 0", said)  # all of QMIX's runs are better
    assert {path.name for path in tmp_path.glob("out.*")} == {"out.svg", "out.png", "out.json"}
    assert not list(tmp_path.glob(".tmp*"))
    text = (tmp_path / "out.svg").read_text()
    xml.dom.minidom.parseString(text)
    for words in ("mappo (2 runs)", "mean over the episodes of 10,000 steps", ZERG, "(seconds)"):
        assert words in text
    assert "StarCraft" not in text


def test_the_json_holds_the_numbers_of_the_figure(runs, tmp_path):
    assert plot(tmp_path, runs) == 0
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert (numbers["metric"], numbers["statistic"]) == (WIN_RATE, "mean")
    group = numbers["environments"][ZERG]["groups"]["mappo"]
    first = group["runs"][0]
    assert first["seed"] == 1
    assert (first["wall_clock_seconds"], first["steps_per_second"]) == (40, 10_000)
    assert first["steps"][:2] == [5000, 15_000]
    assert first["values"][:2] == pytest.approx([0.1025, 0.105])
    assert group["over_steps"]["centre"][0] == pytest.approx((0.1025 + 0.105) / 2)
    assert group["over_steps"]["low"][0] == pytest.approx(0.1025)
    assert group["final_interval"] == pytest.approx([0.19875, 0.2975])
    assert numbers["environments"][ZERG]["published"] == {}


def test_published_curves_are_drawn_with_their_own_lines_and_names(runs, tmp_path, capsys):
    assert plot(tmp_path, runs, "--published") == 0
    text = (tmp_path / "out.svg").read_text()
    for name in ("MAPPO", "QMIX", "open-loop MAPPO"):
        assert f"{name}: published, real StarCraft II" in text
    assert "stroke-dasharray" in text
    assert capsys.readouterr().out.count("published QMIX") == 2
    drawn = json.loads((tmp_path / "out.json").read_text())["environments"][ZERG]["published"]
    assert drawn["qmix"]["steps"][0] == 125_000


def test_the_interquartile_mean_can_be_drawn_instead(runs, tmp_path, capsys):
    assert plot(tmp_path, runs, "--statistic", "iqm", "--bin-steps", 50_000) == 0
    assert re.search(r"final by seed +iqm +95 % interval", capsys.readouterr().out)
    found = json.loads((tmp_path / "out.json").read_text())["environments"][ZERG]
    assert found["bin_steps"] == 50_000


def test_a_single_run_has_no_interval_and_null_in_the_json(tmp_path, capsys):
    run = write_run(tmp_path / "run", battle_rows([0.5, 0.5]))
    assert plot(tmp_path, run) == 0
    assert re.search(r"mappo +1 +0.5 +0.5 +– +0.5", capsys.readouterr().out)
    (environment,) = json.loads((tmp_path / "out.json").read_text())["environments"].values()
    assert environment["groups"]["mappo"]["final_interval"] == [None, None]


def test_runs_that_are_left_out_are_named_with_the_reason(runs, tmp_path, capsys):
    write_run(runs / "empty", [], seed=3)
    write_run(runs / "other", [{"global_step": 5, "losses/entropy": 1.0}], seed=4)
    write_run(runs / "short", battle_rows([0.1], every=100), seed=5)
    rows = battle_rows([0.1] * 40, every=10_000)
    write_run(runs / "twice", [*rows[:3], "{", *rows[3:]], seed=1)
    assert plot(tmp_path, runs) == 0
    said = capsys.readouterr().out
    assert f"1 run of 12: nothing logged yet: {runs / 'empty'}" in said
    assert f"1 run of 12: no charts/win_rate: {runs / 'other'}" in said
    assert f"1 run of 12: shorter than half a bin: {runs / 'short'}" in said
    assert f"{runs / 'twice' / 'metrics.jsonl'}: 1 damaged line left out" in said
    assert "smacv2/terran_5_vs_5-v0, mappo: a seed comes twice" in said


def test_out_may_be_a_folder_or_one_of_the_files(runs, tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    assert main(["plot", str(runs), "--out", str(folder)]) == 0
    assert (folder / "learning_curves.svg").exists()
    assert main(["plot", str(runs), "--out", str(tmp_path / "new" / "x.v2.png")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "x.v2.svg",
        "x.v2.png",
        "x.v2.json",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "at least one run folder"),
        (["nowhere"], "nowhere: not a run folder"),
        (["RUNS", "--metric", "charts/win_rates"], "Did you mean 'charts/win_rate'?"),
        (["RUNS", "--label", "learning_rat"], "Did you mean 'learning_rate'?"),
        (["RUNS", "--bin-steps", "-1"], "--bin-steps -1: it must be at least 0"),
        (["RUNS", "--bin-steps", "9000000"], "shorter than half a bin"),
        (["RUNS", "--metric", "charts/episodes", "--published"], "not charts/episodes"),
        (["ATARI", "--published"], "only SMACv2's 15 scenarios are published, not ALE/Phoenix-v5"),
        (["RUNS", "--out", "file/x"], "--out file"),
    ],
)
def test_bad_input_gives_an_error_of_one_line(
    runs, tmp_path, capsys, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "atari", battle_rows([0.1]), env="ALE/Phoenix-v5", algorithm="ppo")
    (tmp_path / "file").write_text("")
    places = {"RUNS": str(runs), "ATARI": "atari"}
    assert main(["plot", *(places.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("learning_curves*"))


def test_without_matplotlib_one_line_says_what_to_install(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot(tmp_path, runs) == 2
    assert "pip install 'smacv2-suite[plots]'" in capsys.readouterr().err


def test_the_command_runs_from_the_shell(runs, tmp_path, baselines_command):
    done = baselines_command("plot", runs, "--published", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("figure: ")
