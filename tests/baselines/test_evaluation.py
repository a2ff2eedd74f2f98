"""Evaluation: fixed shares, reserved seeds, numbers that can be checked."""

import json
import shutil

import numpy as np
import pytest
from toy import TOY

import smacv2
from baselines.cli import main
from baselines.config import EvaluateConfig, MappoConfig
from baselines.evaluation import evaluate_run
from baselines.runs import loop
from smacv2.stats import wilson_interval


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = MappoConfig(
        env=TOY,
        runs_dir=str(tmp_path_factory.mktemp("runs")),
        total_steps=2000,
        num_envs=8,
        num_steps=16,
        hidden_size=16,
        num_threads=1,
    )
    (path,), _ = loop.train("mappo", config)
    return path


def test_each_env_plays_its_fixed_share(run):
    result, _ = evaluate_run(EvaluateConfig(str(run), num_threads=1, episodes=50, num_envs=16))
    shares = np.bincount(result["battles"]["env"], minlength=16)
    np.testing.assert_array_equal(shares, [4, 4] + [3] * 14)
    assert result["first_seed"] == smacv2.EVALUATION_SEED
    assert result["episodes"] == 50


def test_numbers_follow_from_the_battles(run):
    result, path = evaluate_run(EvaluateConfig(str(run), num_threads=1, episodes=40))
    battles = result["battles"]
    wins = sum(battles["battle_won"])
    assert result["wins"] == wins
    assert result["win_rate"] == wins / 40
    assert tuple(result["win_rate_interval_95"]) == wilson_interval(wins, 40)
    assert result["episodic_return"] == pytest.approx(np.mean(battles["episodic_return"]))
    assert result["episodic_length"] == pytest.approx(np.mean(battles["episodic_length"]))
    assert result["timeouts"] == sum(battles["truncated"])
    assert max(battles["episodic_length"]) <= 10
    assert json.loads(path.read_text()) == result


def test_greedy_evaluation_repeats_itself_and_sampling_differs(run):
    first, _ = evaluate_run(EvaluateConfig(str(run), num_threads=1, episodes=30))
    second, _ = evaluate_run(EvaluateConfig(str(run), num_threads=1, episodes=30))
    sampled, path = evaluate_run(
        EvaluateConfig(str(run), num_threads=1, episodes=30, stochastic=True)
    )
    assert first["battles"] == second["battles"]
    assert first["battles"] != sampled["battles"]
    assert "stochastic" in path.name


def test_battles_do_not_depend_on_how_many_are_played(run):
    few, _ = evaluate_run(EvaluateConfig(str(run), num_threads=1, episodes=16, num_envs=8))
    more, _ = evaluate_run(EvaluateConfig(str(run), num_threads=1, episodes=32, num_envs=8))
    for env in range(8):
        returns = [
            [
                value
                for value, where in zip(
                    result["battles"]["episodic_return"], result["battles"]["env"], strict=True
                )
                if where == env
            ]
            for result in (few, more)
        ]
        assert returns[1][:2] == returns[0]


def test_evaluate_command_prints_rate_and_interval(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "20"]) == 0
    said = capsys.readouterr().out
    assert "win rate" in said
    assert "95 % interval" in said
    assert "of 20 battles" in said


def test_a_named_checkpoint_can_be_evaluated(run):
    first = sorted((run / "checkpoints").iterdir())[0]
    result, _ = evaluate_run(EvaluateConfig(str(first), num_threads=1, episodes=8))
    assert result["checkpoint"] == first.name == "step_000000000000"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda record: record.pop("environment"), "no environment"),
        (lambda record: record["environment"].pop("id"), "no environment.id"),
        (lambda record: record.update(algorithm="mapo"), "Did you mean 'mappo'?"),
        (lambda record: record["config"].pop("network"), "network is missing"),
        (lambda record: record["config"].update(dropout=1), "dropout is unknown"),
        (lambda record: record["config"].update(hidden_size="64"), "hidden_size is '64'"),
        (lambda record: record["config"].update(env_option=None), "env_option is None"),
    ],
)
def test_a_damaged_record_gets_one_line_and_status_two(run, tmp_path, capsys, damage, words):
    folder = shutil.copytree(run, tmp_path / "run")
    record = json.loads((folder / "config.json").read_text())
    damage(record)
    (folder / "config.json").write_text(json.dumps(record))
    assert main(["evaluate", str(folder), "--episodes", "4"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said


def test_results_of_different_num_envs_lie_side_by_side(run):
    paths = [
        evaluate_run(EvaluateConfig(str(run), num_threads=1, episodes=12, num_envs=num_envs))[1]
        for num_envs in (3, 4)
    ]
    assert paths[0] != paths[1]
    assert "__envs3__" in paths[0].name
