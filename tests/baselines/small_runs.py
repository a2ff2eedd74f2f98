"""Runs on the toy game that tests start, cut, kill, resume and compare."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from toy import TOY

from baselines.algorithms import ALGORITHMS
from baselines.cli import resumed_config
from baselines.runs import checkpoints, loop, state

# command: what makes its runs small; a run of STEPS steps has checkpoints about every EVERY
SMALL = {
    "mappo": {"num_steps": 16, "num_minibatches": 2},
    "pqn": {"num_steps": 16, "num_minibatches": 2, "epsilon_steps": 1000},
    "qmix": {
        "batch_episodes": 8,
        "buffer_episodes": 40,
        "updates_per_rollout": 2,
        "target_update_episodes": 30,
        "epsilon_steps": 1000,
        "mixer_size": 8,
        "hypernet_size": 8,
    },
}
STEPS, EVERY = 1686, 330  # seeds 1 and 2 do not finish in the same iteration


def config(command, folder, **changes):
    """Return the config of a small run on the toy game."""
    fields = {
        "env": TOY,
        "runs_dir": str(folder),
        "total_steps": STEPS,
        "checkpoint_steps": EVERY,
        "checkpoint_minutes": 0.0,
        "num_envs": 8,
        "hidden_size": 16,
        "num_threads": 1,
        **SMALL[command],
    }
    return ALGORITHMS[command].config(**fields | changes)


def learner_of(command, **changes):
    """Return the learner of a small run, before its first iteration."""
    return make_learner(command, config(command, "", **changes))


def make_learner(command, config):
    """Return the learner of a config of one seed."""
    return ALGORITHMS[command].load("make_group")(config).learners[0]


def environment_of(learner):
    """Return a learner's environment as run folders record it."""
    return {"id": learner.battles.id, "fingerprint": learner.battles.fingerprint}


def train(command, config):
    """Train; return the run folders and the signal that stopped them."""
    return loop.train(command, config)


def resume(command, path, *flags):
    """Resume a run or a group from its last good checkpoints."""
    flags = ["--resume", str(path), *map(str, flags)]
    return train(command, resumed_config(command, str(path), flags))


def last_checkpoint(path):
    return checkpoints.load(checkpoints.step_folders(path / "checkpoints")[-1])


def metrics(path):
    """Return the lines of metrics.jsonl without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            name: value
            for name, value in line.items()
            if not name.startswith("time/") and name != "charts/SPS"
        }
        for line in lines
    ]


def assert_same_run(first, second):
    """Two runs share metrics, last weights, trainer state, environment and replay, bit for bit."""
    assert metrics(first) == metrics(second)
    left, right = last_checkpoint(first), last_checkpoint(second)
    assert left.global_step == right.global_step
    assert_same_state(left.weights, right.weights)
    assert_same_state(left.env, right.env)
    assert_same_state(left.trainer, right.trainer)
    assert_same_state(replay_of(first, left), replay_of(second, right))


def replay_of(path, checkpoint):
    """Return the episodes in a checkpoint's replay, by field; nothing where it has none."""
    if checkpoint.replay_path is None:
        return {}
    record = json.loads((path / "config.json").read_text())
    fields = record["config"] | {"env": TOY, "env_option": tuple(record["config"]["env_option"])}
    fields["intervention"] = tuple(fields["intervention"])
    command = record["algorithm"]
    learner = make_learner(command, ALGORITHMS[command].config(**fields))
    state.restore_learner(learner, checkpoint)
    replay = learner.replay
    slots = np.array(replay.ended, np.int64)
    if len(slots) == 0:
        return {}
    return vars(replay.batch(slots[np.argsort(-replay.length[slots], kind="stable")]))


def assert_same_state(first, second):
    """Nested containers hold equal tensors, arrays and numbers; NaN equals NaN.

    The entry `random` is left out: a resumed process draws nothing from global generators.
    """
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first.keys() - {"random"}:
            assert_same_state(first[name], second[name])
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, np.ndarray):
        np.testing.assert_array_equal(first, second)
    elif isinstance(first, list | tuple):
        for left, right in zip(first, second, strict=True):
            assert_same_state(left, right)
    else:
        assert first == second or (first != first and second != second)


def cut(path, source, *, keep=2):
    """Copy a run as it would be had it died after some checkpoints, metrics half-written."""
    (path / "checkpoints").mkdir(parents=True)
    for folder in checkpoints.step_folders(source / "checkpoints")[:keep]:
        target = path / "checkpoints" / folder.name
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    (path / "config.json").write_bytes((source / "config.json").read_bytes())
    text = (source / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(text[: len(text) * 3 // 4])
    return path


def flags_of(made):
    """Return the flags that give a config."""
    defaults, flags = type(made)(), []
    for name, value in dataclasses.asdict(made).items():
        flag = name.replace("_", "-")
        if value == getattr(defaults, name):
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            for item in value if isinstance(value, tuple) else (value,):
                flags += [f"--{flag}", str(item)]
    return flags


def start_command(environment, command, folder, **changes):
    """Start `python -m baselines COMMAND` on a small run."""
    return start(environment, command, *flags_of(config(command, folder, **changes)))


def start(environment, command, *flags):
    """Start `python -m baselines COMMAND FLAGS`; both outputs go to one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "baselines", command, *map(str, flags)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(folder, number):
    """Return the run folder in `folder` once it has so many checkpoints."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for run in Path(folder).glob("toy*"):
            if len(checkpoints.step_folders(run / "checkpoints")) >= number:
                return run
        time.sleep(0.02)
    raise TimeoutError(f"no {number} checkpoints in {folder}")


def wait_for_metrics(path):
    """Return once a run has logged an iteration."""
    while not (path / "metrics.jsonl").exists() or not (path / "metrics.jsonl").read_text():
        time.sleep(0.02)
