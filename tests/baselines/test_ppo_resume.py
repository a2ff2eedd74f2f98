"""PPO runs, alone and in groups, resume from the files of a killed process."""

import json
import shutil

import pytest

from baselines.cli import main, resumed_config
from baselines.config import PpoConfig
from baselines.evaluation import find
from baselines.runs import checkpoints, loop


def config(folder, **changes):
    fields = {
        "env": "CartPole-v1",
        "num_envs": 2,
        "num_steps": 32,
        "hidden_size": 16,
        "num_minibatches": 2,
        "update_epochs": 2,
        "num_threads": 1,
        "total_steps": 640,
        "checkpoint_steps": 128,
        "checkpoint_minutes": 0.0,
        "keep_checkpoints": 99,
        "snapshots": 6,
        "runs_dir": str(folder),
    }
    return PpoConfig(**fields | changes)


def resume(path, *arguments):
    flags = ["--resume", str(path), *arguments]
    return loop.train("ppo", resumed_config("ppo", str(path), flags))


def steps(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["global_step"] for line in lines]


def iteration(run):
    checkpoint, _ = checkpoints.load_latest(run / "checkpoints")
    return checkpoint.trainer["iteration"]


def keep_first_checkpoints(run, count):
    for folder in checkpoints.step_folders(run / "checkpoints")[count:]:
        shutil.rmtree(folder)


def test_a_resumed_run_ends_where_it_should_and_counts_no_step_twice(tmp_path):
    (run,), _ = loop.train("ppo", config(tmp_path, intervention=("l2_init",), probe=2))
    keep_first_checkpoints(run, 3)
    resume(run)
    assert iteration(run) == 10
    assert len(steps(run)) == 10
    assert steps(run) == sorted(set(steps(run)))


def test_snapshots_of_the_time_after_the_checkpoint_are_dropped(tmp_path):
    (run,), _ = loop.train("ppo", config(tmp_path))
    keep_first_checkpoints(run, 2)
    resume(run)
    kept = [int(path.stem[5:]) for path in sorted((run / "snapshots").iterdir())]
    assert len(kept) == 6
    assert set(kept) <= {0, *steps(run)}


def test_a_group_goes_on_from_the_latest_iteration_that_all_its_seeds_have(tmp_path):
    runs, _ = loop.train("ppo", config(tmp_path, seeds=3))
    keep_first_checkpoints(runs[1], 2)  # as if killed between two saves
    keep_first_checkpoints(runs[2], 3)
    resume(runs[0].parent)
    for run in runs:
        assert iteration(run) == 10
        assert len(steps(run)) == 10


def test_a_seed_of_a_group_can_go_on_alone_and_keeps_its_seed(tmp_path):
    runs, _ = loop.train("ppo", config(tmp_path, seed=10, seeds=2))
    resume(runs[1], "--total-steps", "768")
    assert iteration(runs[1]) == 12
    assert iteration(runs[0]) == 10
    assert json.loads((runs[1] / "config.json").read_text())["config"]["seed"] == 11


def test_a_group_that_lacks_a_seed_is_refused(tmp_path, capsys):
    runs, _ = loop.train("ppo", config(tmp_path, seed=10, seeds=3, snapshots=0))
    shutil.rmtree(runs[1])
    capsys.readouterr()
    assert main(["ppo", "--resume", str(runs[0].parent)]) == 2
    assert "no run of seed 11; resume each alone" in capsys.readouterr().err


def test_evaluating_a_group_names_its_runs(tmp_path):
    runs, _ = loop.train("ppo", config(tmp_path, seeds=2, snapshots=0, total_steps=64))
    with pytest.raises(ValueError, match="a group of runs; name one of its folders: seed1, seed2"):
        find(runs[0].parent)
