"""Runs that stop, are killed, and go on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import TOY

from baselines import checkpoints, mappo
from baselines.cli import resumed_config
from baselines.config import MappoConfig
from baselines.errors import UsageError
from baselines.run import drop_metrics_after, lock_folder

STEPS, EVERY = 3000, 700


def config(folder, **changes):
    fields = {
        "env": TOY,
        "runs_dir": str(folder),
        "total_steps": STEPS,
        "checkpoint_steps": EVERY,
        "checkpoint_minutes": 0.0,
        "num_envs": 8,
        "num_steps": 16,
        "hidden_size": 16,
        "num_minibatches": 2,
        "num_threads": 1,
    }
    return MappoConfig(**fields | changes)


def resume(path):
    return mappo.train(resumed_config("mappo", MappoConfig, str(path), ["--resume", str(path)]))


def final(path):
    """Return all that two equal runs must share: last weights, trainer state, env, metrics."""
    last = checkpoints.load(checkpoints.step_folders(path / "checkpoints")[-1])
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in [name for name in line if name.startswith("time/") or name == "charts/SPS"]:
            del line[name]
    return last, lines


def assert_same_run(first, second):
    (one, lines), (two, others) = final(first), final(second)
    assert lines == others
    assert one.global_step == two.global_step
    assert one.weights.keys() == two.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, two.weights[name]), name
    for name, value in one.env.items():
        np.testing.assert_array_equal(value, two.env[name])
    assert_same_state(one.trainer, two.trainer)


def assert_same_state(one, two):
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one.keys() - {"random"}:
            assert_same_state(one[name], two[name])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, list | tuple):
        for left, right in zip(one, two, strict=True):
            assert_same_state(left, right)
    else:
        assert one == two or (one != one and two != two)  # NaN: nothing measured yet


def cut(path, source):
    """Copy a run as it would be had it died at its second checkpoint, metrics half-written."""
    os.makedirs(path / "checkpoints")
    first, second = checkpoints.step_folders(source / "checkpoints")[:2]
    for folder in (first, second):
        target = path / "checkpoints" / folder.name
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    (path / "config.json").write_bytes((source / "config.json").read_bytes())
    text = (source / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(text[: len(text) * 3 // 4])
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of an uninterrupted run with all its checkpoints."""
    (path,), stopped = mappo.train(config(tmp_path_factory.mktemp("runs"), keep_checkpoints=99))
    assert stopped is None
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


def test_same_seed_gives_the_same_run_and_another_seed_another(finished, tmp_path):
    (again,), _ = mappo.train(config(tmp_path))
    assert_same_run(finished, again)
    (other,), _ = mappo.train(config(tmp_path, seed=2))
    assert final(other)[1] != final(again)[1]


def test_resumed_run_equals_the_uninterrupted_run(finished, tmp_path):
    path = cut(tmp_path / "run", finished)
    resume(path)
    assert_same_run(finished, path)


def test_truncated_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    finished, tmp_path, capsys
):
    path = cut(tmp_path / "run", finished)
    before, damaged = checkpoints.step_folders(path / "checkpoints")
    weights = damaged / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    resume(path)
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
        resume(path)


def test_checkpoints_are_pruned_and_hold_plain_data_only(finished, tmp_path):
    (path,), _ = mappo.train(config(tmp_path, keep_checkpoints=2))
    folders = checkpoints.step_folders(path / "checkpoints")
    assert len(folders) == 2
    assert not list((path / "checkpoints").glob(".tmp*"))
    assert len(checkpoints.step_folders(finished / "checkpoints")) > 3
    torch.load(folders[-1] / "trainer.pt", weights_only=True)


def test_resume_refuses_flags_that_change_the_course_of_the_run(finished):
    arguments = ["--resume", str(finished), "--gamma", "0.5"]
    with pytest.raises(UsageError, match=r"--gamma 0.5: the run was started with 0.99"):
        resumed_config("mappo", MappoConfig, str(finished), arguments)
    longer = ["--resume", str(finished), "--total-steps", "9000"]
    assert resumed_config("mappo", MappoConfig, str(finished), longer).total_steps == 9000


def test_resume_refuses_another_engine(finished, tmp_path):
    path = cut(tmp_path / "run", finished)
    record = json.loads((path / "config.json").read_text())
    record["environment"]["fingerprint"]["engine_version"] = "toy-0"
    (path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"has changed since \(engine_version\)"):
        resume(path)


def test_a_run_in_use_is_refused(finished, tmp_path):
    path = cut(tmp_path / "run", finished)
    lock = lock_folder(path)
    with pytest.raises(UsageError, match="another process is writing this run"):
        resume(path)
    os.close(lock)
    resume(path)


def test_metrics_are_cut_at_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"global_step": 5}\n{"global_step": 9}\n{"global_step": 12}\n{"glob')
    drop_metrics_after(path, 9)
    assert path.read_text() == '{"global_step": 5}\n{"global_step": 9}\n'


def start_command(environment, folder, **changes):
    fields = dataclasses.asdict(config(folder, **changes))
    flags = []
    for name in ("env", "runs_dir", "total_steps", "checkpoint_steps", "checkpoint_minutes"):
        flags += [f"--{name.replace('_', '-')}", str(fields[name])]
    for name in ("num_envs", "num_steps", "hidden_size", "num_minibatches", "num_threads"):
        flags += [f"--{name.replace('_', '-')}", str(fields[name])]
    command = [sys.executable, "-m", "baselines", "mappo", *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_checkpoint(folder, number):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for run in Path(folder).glob("toy*"):
            if len(checkpoints.step_folders(run / "checkpoints")) >= number:
                return run
        time.sleep(0.02)
    raise TimeoutError(f"no {number} checkpoints in {folder}")


def test_killed_run_resumes_as_if_never_stopped(command_environment, finished, tmp_path):
    process = start_command(command_environment, tmp_path)
    path = wait_for_checkpoint(tmp_path, 2)
    process.kill()
    process.communicate()
    resume(path)
    assert_same_run(finished, path)


def test_sigterm_saves_and_exits_cleanly(command_environment, tmp_path):
    process = start_command(
        command_environment, tmp_path, total_steps=10**9, checkpoint_steps=10**9
    )
    path = wait_for_checkpoint(tmp_path, 1)
    while not (path / "metrics.jsonl").exists() or not (path / "metrics.jsonl").read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"baselines mappo --resume {path}" in output
    last, lines = final(path)
    assert last.global_step == lines[-1]["global_step"] > 0
