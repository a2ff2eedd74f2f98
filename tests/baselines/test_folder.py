"""Run folders: what they record, what is refused, and what is left of damage."""

import json
import os

import pytest
import torch
from small_runs import assert_same_run, config, cut, resume, train

from baselines.cli import resumed_config
from baselines.errors import UsageError
from baselines.learners import mappo
from baselines.runs import checkpoints
from baselines.runs.folder import drop_metrics_after, lock_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of an uninterrupted run with all its checkpoints."""
    made = config("mappo", tmp_path_factory.mktemp("runs"), keep_checkpoints=99)
    (path,), _ = train("mappo", made)
    return path


def test_config_json_tells_what_ran(finished):
    record = json.loads((finished / "config.json").read_text())
    assert record["algorithm"] == "mappo"
    assert record["config"]["num_envs"] == 8
    assert record["environment"]["id"] == "toy/coordination-v0"
    assert record["environment"]["fingerprint"]["engine_version"] == "toy-1"
    assert {"torch", "numpy", "gymnasium", "python"} <= record["versions"].keys()
    assert {"commit", "dirty"} == record["git"].keys()
    assert record["command"]
    assert finished.name.startswith("toy_coordination-v0__mappo__seed1__")


def test_metrics_have_the_documented_names(finished):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    names = set().union(*(json.loads(line) for line in lines))
    assert names == {
        "global_step",
        *(f"charts/{name}" for name in ("episodes", "win_rate", "SPS", "learning_rate")),
        *(f"charts/{name}" for name in ("episodic_return", "episodic_length")),
        *(f"charts/{name}" for name in ("draw_rate", "timeout_rate")),
        *mappo.LOSSES,
        "losses/explained_variance",
        *(f"time/{name}_seconds" for name in ("env", "inference", "learn", "probe")),
    }
    assert any(path.name.startswith("events.out") for path in finished.iterdir())


def test_truncated_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    finished, tmp_path, capsys
):
    path = cut(tmp_path / "run", finished)
    before, damaged = checkpoints.step_folders(path / "checkpoints")
    weights = damaged / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    resume("mappo", path)
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert f"refused checkpoint {damaged}: policy.safetensors has bytes" in said
    assert f"using {before}" in said
    assert_same_run(finished, path)


@pytest.mark.parametrize("damage", ["missing", "flipped", "manifest"])
def test_other_damage_is_refused_too(finished, tmp_path, damage):
    path = cut(tmp_path / "run", finished)
    folder = checkpoints.step_folders(path / "checkpoints")[-1]
    if damage == "missing":
        (folder / "env.safetensors").unlink()
    elif damage == "flipped":
        content = bytearray((folder / "trainer.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "trainer.pt").write_bytes(content)
    else:
        (folder / "manifest.json").write_text('{"files": ')
    with pytest.raises(UsageError, match=folder.name):
        checkpoints.load(folder)


def test_no_good_checkpoint_is_an_error_that_names_the_folder(finished, tmp_path):
    path = cut(tmp_path / "run", finished)
    for folder in checkpoints.step_folders(path / "checkpoints"):
        (folder / "trainer.pt").unlink()
    with pytest.raises(UsageError, match="holds no undamaged checkpoint"):
        resume("mappo", path)


def test_checkpoints_are_pruned_and_hold_plain_data_only(finished, tmp_path):
    (path,), _ = train("mappo", config("mappo", tmp_path, keep_checkpoints=2))
    folders = checkpoints.step_folders(path / "checkpoints")
    assert len(folders) == 2
    assert not list((path / "checkpoints").glob(".tmp*"))
    assert len(checkpoints.step_folders(finished / "checkpoints")) > 3
    torch.load(folders[-1] / "trainer.pt", weights_only=True)


def test_resume_refuses_flags_that_change_the_course_of_the_run(finished):
    arguments = ["--resume", str(finished), "--gamma", "0.5"]
    with pytest.raises(UsageError, match=r"--gamma 0.5: the run was started with 0.99"):
        resumed_config("mappo", str(finished), arguments)
    longer = ["--resume", str(finished), "--total-steps", "9000"]
    assert resumed_config("mappo", str(finished), longer).total_steps == 9000


def test_resume_refuses_another_engine(finished, tmp_path):
    path = cut(tmp_path / "run", finished)
    record = json.loads((path / "config.json").read_text())
    record["environment"]["fingerprint"]["engine_version"] = "toy-0"
    (path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"has changed since \(engine_version\)"):
        resume("mappo", path)


def test_a_run_in_use_is_refused(finished, tmp_path):
    path = cut(tmp_path / "run", finished)
    lock = lock_folder(path)
    with pytest.raises(UsageError, match="another process is writing this run"):
        resume("mappo", path)
    os.close(lock)
    resume("mappo", path)


def test_metrics_are_cut_at_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"global_step": 5}\n{"global_step": 9}\n{"global_step": 12}\n{"glob')
    drop_metrics_after(path, 9)
    assert path.read_text() == '{"global_step": 5}\n{"global_step": 9}\n'
