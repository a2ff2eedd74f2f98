"""Checkpoints with a replay: written while training continues, whole or not at all."""

import dataclasses
import random
import signal
import threading
import time

import pytest
from small_runs import (
    assert_same_run,
    assert_same_state,
    config,
    cut,
    environment_of,
    last_checkpoint,
    learner_of,
    metrics,
    replay_of,
    resume,
    start,
    start_command,
    train,
    wait_for_checkpoint,
)

from baselines.runs import checkpoints, state
from baselines.runs.folder import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of an uninterrupted run with all its checkpoints."""
    made = config("qmix", tmp_path_factory.mktemp("runs"), keep_checkpoints=99)
    (path,), _ = train("qmix", made)
    return path


def test_a_truncated_replay_is_refused_by_name_and_the_checkpoint_before_is_used(
    finished, tmp_path, capsys
):
    path = cut(tmp_path / "run", finished, keep=3)
    *_, before, damaged = checkpoints.step_folders(path / "checkpoints")
    replay = damaged / "replay.bin"
    replay.write_bytes(replay.read_bytes()[:-1])
    resume("qmix", path)
    refused, using = capsys.readouterr().err.splitlines()
    assert refused.startswith(f"refused checkpoint {damaged}: replay.bin has bytes")
    assert using == f"using {before}"
    assert_same_run(finished, path)


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_other_damage_to_a_replay_is_refused_too(finished, tmp_path, capsys, damage):
    path = cut(tmp_path / "run", finished, keep=3)
    replay = checkpoints.step_folders(path / "checkpoints")[-1] / "replay.bin"
    content = bytearray(replay.read_bytes())
    replay.unlink()
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        replay.write_bytes(content)
    resume("qmix", path)
    assert "replay.bin" in capsys.readouterr().err
    assert_same_run(finished, path)


# --- While training continues --------------------------------------------------------------------


@dataclasses.dataclass
class Held:
    """A replay whose writing waits until it may begin, and fails where it should."""

    writer: object
    may_begin: threading.Event = dataclasses.field(default_factory=threading.Event)
    fails: bool = False

    def write(self, file):
        assert self.may_begin.wait(30)
        if self.fails:
            raise OSError("no space left on device")
        self.writer.write(file)

    def release(self):
        self.writer.release()


@pytest.fixture
def running(tmp_path):
    """Return a learner with room for more episodes, and its run."""
    made = config("qmix", tmp_path, keep_checkpoints=9, buffer_episodes=200)
    learner = learner_of("qmix", buffer_episodes=200)
    while learner.episodes < 60:
        learner.iterate()
    run = Run.start("qmix", made, environment_of(learner))
    yield learner, run
    run.close()


def test_the_learner_goes_on_and_what_is_written_is_of_the_moment_of_the_save(running, tmp_path):
    learner, run = running
    apart = tmp_path / "apart"
    apart.mkdir()
    checkpoints.save(apart / "checkpoints", state.checkpoint_of(learner), 1)
    reference = last_checkpoint(apart)  # of the same moment, written at once
    episodes = replay_of(run.path, reference)

    checkpoint = state.checkpoint_of(learner)
    held = checkpoint.replay = Held(checkpoint.replay)
    run.save(checkpoint)
    for _ in range(5):
        assert "losses/td_loss" in learner.iterate()
    assert run.is_writing
    held.may_begin.set()
    run.wait()
    assert not run.is_writing
    written = last_checkpoint(run.path)
    assert_same_state(written.weights, reference.weights)
    assert_same_state(written.trainer, reference.trainer)
    assert_same_state(written.env, reference.env)
    assert_same_state(replay_of(run.path, written), episodes)


def test_a_state_that_is_on_disk_already_is_not_written_again(running):
    learner, run = running
    run.save(state.checkpoint_of(learner))
    run.wait()
    (folder,) = checkpoints.step_folders(run.path / "checkpoints")
    written = folder.stat().st_ino
    run.save(state.checkpoint_of(learner))
    run.wait()
    assert folder.stat().st_ino == written
    learner.iterate()
    run.save(state.checkpoint_of(learner))
    run.wait()
    assert len(checkpoints.step_folders(run.path / "checkpoints")) == 2


def test_a_checkpoint_that_waits_to_be_written_shares_nothing_with_the_learner(running):
    learner, run = running
    waiting = state.checkpoint_of(learner)
    run.save(state.checkpoint_of(learner))
    run.wait()
    now = last_checkpoint(run.path)
    for _ in range(5):
        learner.iterate()
    assert_same_state(waiting.weights, now.weights)
    assert_same_state(waiting.trainer | {"global_step": now.global_step}, now.trainer)
    assert_same_state(waiting.env, now.env)


def test_a_save_waits_for_the_one_before_it(running):
    learner, run = running
    checkpoint = state.checkpoint_of(learner)
    held = checkpoint.replay = Held(checkpoint.replay)
    run.save(checkpoint)
    second = threading.Thread(target=lambda: run.save(state.checkpoint_of(learner)))
    second.start()
    second.join(timeout=0.5)
    assert second.is_alive()
    held.may_begin.set()
    second.join(timeout=30)
    assert not second.is_alive()


@pytest.mark.parametrize("before_the_replay", [True, False])
def test_a_checkpoint_that_cannot_be_written_stops_the_run_not_the_learner(
    running, before_the_replay
):
    learner, run = running
    folder = run.path / "checkpoints"
    checkpoint = state.checkpoint_of(learner)
    checkpoint.replay = Held(checkpoint.replay, fails=True)
    checkpoint.replay.may_begin.set()
    if before_the_replay:
        folder.write_text("in the way")
    run.save(checkpoint)
    episodes = learner.episodes
    while learner.episodes < episodes + 250:  # more than the replay holds
        learner.iterate()
    with pytest.raises(OSError, match=r"File exists|no space"):
        run.save(state.checkpoint_of(learner))
    if not before_the_replay:
        assert not checkpoints.step_folders(folder)


# --- Killed in mid-write -------------------------------------------------------------------------

# Episodes of about 100 kB: a checkpoint of 20 MB takes longer than an iteration.
BIG = {
    "env_option": ("obs_size=512", "state_size=512", "episode_limit=20"),
    "buffer_episodes": 200,
    "checkpoint_steps": 1,
    "keep_checkpoints": 2,
}


def wait_for_writing(path):
    """Return once a replay is being written."""
    deadline = time.monotonic() + 60
    while not list(path.glob("checkpoints/.tmp_*/replay.bin")):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.slow
def test_a_run_killed_in_mid_write_again_and_again_ends_as_if_never_stopped(
    command_environment, tmp_path
):
    (whole,), _ = train("qmix", config("qmix", tmp_path / "whole", total_steps=6000, **BIG))
    process = start_command(
        command_environment, "qmix", tmp_path / "killed", total_steps=6000, **BIG
    )
    path = wait_for_checkpoint(tmp_path / "killed", 1)
    pauses, in_write, steps = random.Random(0), 0, []
    for number in range(6):
        while last_step(path) in steps:
            time.sleep(0.001)
        wait_for_writing(path)
        time.sleep(number % 2 * pauses.uniform(0, 0.1))
        process.kill()
        process.communicate()
        in_write += bool(list(path.glob("checkpoints/.tmp_*")))
        steps.append(last_step(path))
        process = start(command_environment, "qmix", "--resume", path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert in_write >= 3
    assert steps == sorted(set(steps))
    assert not list(path.glob("checkpoints/.tmp_*"))
    assert_same_run(whole, path)


def last_step(path):
    return int(checkpoints.step_folders(path / "checkpoints")[-1].name[5:])


def test_saved_is_said_when_the_checkpoint_is_there_however_often_the_signal_comes(
    command_environment, tmp_path
):
    process = start_command(command_environment, "qmix", tmp_path, total_steps=10**6, **BIG)
    path = wait_for_checkpoint(tmp_path, 2)
    wait_for_writing(path)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    while "SIGTERM: saved" not in process.stdout.readline():
        assert process.poll() is None
    assert last_step(path) == metrics(path)[-1]["global_step"] > 0
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not list(path.glob("checkpoints/.tmp_*"))
