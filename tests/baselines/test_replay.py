"""The replay keeps what the environment showed, and is written while it changes."""

import dataclasses
import io
import threading

import gymnasium
import numpy as np
import pytest
import torch
from small_runs import assert_same_state, learner_of

from baselines.cli import main
from baselines.errors import UsageError
from baselines.experience.collect import Clock
from baselines.experience.replay import EpisodeReplay


class Recorder(gymnasium.vector.VectorWrapper):
    """Keep each episode as lists, in the order in which they end."""

    def reset(self, **keywords):
        obs, info = self.env.reset(**keywords)
        self.playing = [self._new(env, obs, info) for env in range(self.num_envs)]
        self.ended, self.done = [], np.zeros(self.num_envs, bool)
        return obs, info

    def step(self, actions):
        obs, reward, terminated, truncated, info = self.env.step(actions)
        for env, begins in enumerate(self.done):
            if begins:
                self.playing[env] = self._new(env, obs, info)
                continue
            episode = self.playing[env]
            episode["actions"].append(actions[env].copy())
            episode["rewards"].append(reward[env])
            self._see(episode, env, obs, info)
            if terminated[env] or truncated[env]:
                self.ended.append({**episode, "terminated": bool(terminated[env])})
        self.done = terminated | truncated
        return obs, reward, terminated, truncated, info

    def _new(self, env, obs, info):
        episode = {name: [] for name in ("obs", "state", "action_mask", "actions", "rewards")}
        self._see(episode, env, obs, info)
        return episode

    def _see(self, episode, env, obs, info):
        episode["obs"].append(obs[env].copy())
        for name in ("state", "action_mask"):
            episode[name].append(info[name][env].copy())


def played(steps, **changes):
    """Return a learner that has collected random play, and the recorder of it."""
    learner = learner_of("qmix", **changes)
    recorder = learner.battles.env = Recorder(learner.battles.env)
    learner.battles.reset(1)
    while learner.global_step < steps:
        learner.collect(0.5, Clock())
    return learner, recorder


def in_order(replay):
    """Return a batch of one episode each for those that have ended, oldest first."""
    return [replay.batch(np.array([slot])) for slot in replay.ended]


def assert_same_episode(batch, recorded):
    length = len(recorded["rewards"])
    assert batch.sizes == [1] * (length + 1)
    for name in ("obs", "state", "action_mask", "actions", "rewards"):
        found = getattr(batch, name).numpy()
        np.testing.assert_array_equal(found, np.array(recorded[name]))
    np.testing.assert_array_equal(batch.last_actions[0], -1)
    np.testing.assert_array_equal(batch.last_actions[1:], batch.actions)
    assert batch.taken.tolist() == list(range(length))
    assert batch.following.tolist() == list(range(1, length + 1))
    assert batch.done.tolist() == [False] * (length - 1) + [True]
    assert batch.terminated.tolist() == [False] * (length - 1) + [recorded["terminated"]]


@pytest.mark.parametrize("rollout_episodes", [0, 1])
def test_it_keeps_the_last_episodes_exactly_as_the_environment_showed_them(rollout_episodes):
    """Iterations of one episode cut those of all other envs, which must not matter."""
    learner, recorder = played(2000, buffer_episodes=30, rollout_episodes=rollout_episodes)
    replay = learner.replay
    recorded = recorder.ended[-30:]
    assert len(replay.ended) == 30 < len(recorder.ended)
    for batch, episode in zip(in_order(replay), recorded, strict=True):
        assert_same_episode(batch, episode)
    assert {episode["terminated"] for episode in recorded} == {True, False}


def test_before_it_is_full_it_keeps_all():
    learner, recorder = played(300, buffer_episodes=500)
    assert len(learner.replay.ended) == len(recorder.ended) > 20


def test_a_batch_packs_episodes_longest_first_and_no_row_more():
    replay = played(600)[0].replay
    slots = np.array(replay.ended)[:8]
    slots = slots[np.argsort(-replay.length[slots], kind="stable")]
    batch, lengths = replay.batch(slots), replay.length[slots]
    assert lengths[0] > lengths[-1]
    assert batch.sizes == [int((lengths >= step).sum()) for step in range(lengths[0] + 1)]
    assert len(batch.obs) == sum(batch.sizes) == sum(lengths) + 8
    assert len(batch.rewards) == sum(lengths)
    for episode, slot in enumerate(slots):
        alone, rows = replay.batch(np.array([slot])), batch.episode == episode
        steps = rows[batch.taken]
        assert batch.step[rows].tolist() == list(range(lengths[episode] + 1))
        assert torch.equal(batch.following[steps], torch.nonzero(rows)[1:, 0])
        for name in ("obs", "state", "action_mask", "last_actions"):
            assert torch.equal(getattr(batch, name)[rows], getattr(alone, name)), name
        for name in ("actions", "rewards", "terminated", "done"):
            assert torch.equal(getattr(batch, name)[steps], getattr(alone, name)), name


def test_episodes_are_drawn_without_replacement_and_each_equally_often():
    learner, _ = played(800)
    replay, generator = learner.replay, torch.Generator().manual_seed(0)
    firsts = {batch.obs.numpy().tobytes(): 0 for batch in in_order(replay)}
    assert len(firsts) == len(replay.ended) == 40
    for _ in range(200):
        batch = replay.sample(20, generator)
        drawn = {batch.obs[batch.episode == index].numpy().tobytes() for index in range(20)}
        assert len(drawn) == 20
        for episode in drawn:
            firsts[episode] += 1
    # each is drawn 100 times on average, with deviation sqrt(200 / 4) = 7
    assert min(firsts.values()) > 70
    assert max(firsts.values()) < 130


def test_the_memory_estimate_is_what_is_allocated(capsys):
    learner = learner_of("qmix", buffer_episodes=5000)
    allocated = sum(tensor.nbytes for tensor in learner.replay.data.values())
    # (5,000 + 8) episodes of 11 rows: 3 * 8 + 10 floats seen, 12 bytes of mask, 3 int16, a reward
    assert allocated == learner.replay.nbytes == 5008 * 11 * (4 * 34 + 12 + 6 + 4)
    said = capsys.readouterr().out
    assert said == (
        "replay of 5,000 episodes of at most 10 steps: up to 0.01 GB on cpu, and on disk in"
        " each checkpoint\n"
    )


def test_the_estimate_comes_before_the_memory_is_taken():
    replay = EpisodeReplay(learner_of("qmix").battles, 10**9)
    assert "1,000,000,000 episodes" in replay.describe()
    assert not replay.data
    with pytest.raises(UsageError, match=r"--buffer-episodes 1000000000: .* at most \d+ fit"):
        replay.allocate()


def test_a_buffer_that_does_not_fit_gets_one_line(tmp_path, capsys):
    flags = ["--env", "toy:toy/coordination-v0", "--runs-dir", str(tmp_path)]
    assert main(["qmix", *flags, "--buffer-episodes", "1000000000"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "GB on cpu" in said
    assert not list(tmp_path.iterdir())


# --- Writing while training continues ------------------------------------------------------------


class Gate(io.BytesIO):
    """A slow file: each write waits for a permit."""

    def __init__(self):
        super().__init__()
        self.permits = threading.Semaphore(0)

    def write(self, content):
        assert self.permits.acquire(timeout=30)
        return super().write(content)

    def writelines(self, contents):
        for content in contents:
            self.write(content)

    def open(self, permits=10**6):
        self.permits.release(permits)


def episodes_of(replay):
    """Return copies of all ended episodes, oldest first."""
    return [dataclasses.asdict(batch) for batch in in_order(replay)]


def loaded(learner, state, file):
    """Return the episodes that a new replay reads from a file."""
    replay = EpisodeReplay(learner.battles, learner.config.buffer_episodes)
    replay.allocate()
    replay.load(state, io.BytesIO(file.getvalue()))
    return replay


def start_writing(learner):
    """Save: return state, episodes at this moment, the slow file and the thread that writes it."""
    replay, file = learner.replay, Gate()
    state, now, writer = replay.state_dict(), episodes_of(replay), replay.writer()
    thread = threading.Thread(target=writer.write, args=(file,))
    thread.start()
    return state, now, file, thread


def test_what_is_written_is_what_is_read():
    learner, _ = played(700)
    state, now, file, thread = start_writing(learner)
    file.open()
    thread.join()
    replay = loaded(learner, state, file)
    assert_same_state(episodes_of(replay), now)
    assert_same_state(replay.state_dict(), learner.replay.state_dict())
    for old, new in zip(learner.replay.open, replay.open, strict=True):
        for name in ("obs", "actions"):
            seen = learner.replay._rows(name, old, ended=False)
            assert torch.equal(seen, replay._rows(name, new, ended=False))
    again = io.BytesIO()
    replay.writer().write(again)
    assert again.getvalue() == file.getvalue()  # nothing that no one wrote


def test_training_goes_on_while_a_stuck_file_is_written():
    learner, recorder = played(100, buffer_episodes=200)
    state, now, file, thread = start_writing(learner)
    before = len(recorder.ended)
    while len(recorder.ended) < before + 50:  # not one byte is written meanwhile
        learner.collect(0.5, Clock())
    learner.replay.sample(8, learner.sampler)
    assert thread.is_alive()
    assert file.getvalue() == b""
    file.open()
    thread.join()
    assert_same_state(episodes_of(loaded(learner, state, file)), now)


def test_episodes_that_are_overwritten_meanwhile_do_not_leak_into_the_file():
    learner, recorder = played(1500)
    assert len(learner.replay.ended) == 40  # full: each new episode takes an old one's slot
    state, now, file, thread = start_writing(learner)
    before, fields = len(recorder.ended), len(learner.replay.fields)
    file.open(fields * (8 + 20))  # the episodes being played, and twenty of the ended
    while len(recorder.ended) < before + 10:
        learner.collect(0.5, Clock())
    assert thread.is_alive()
    file.open()
    thread.join()
    assert_same_state(episodes_of(loaded(learner, state, file)), now)
    kept, old = episodes_of(learner.replay), now[0]
    assert not any(torch.equal(old["obs"], batch["obs"]) for batch in kept)


def test_the_learner_waits_for_a_slot_that_is_not_written_yet():
    learner, recorder = played(1500)
    state, now, file, thread = start_writing(learner)
    goal = len(recorder.ended) + 20

    def learn():
        while len(recorder.ended) < goal:
            learner.collect(0.5, Clock())

    learning = threading.Thread(target=learn)
    learning.start()
    learning.join(timeout=1)
    assert learning.is_alive()
    file.open()
    learning.join(timeout=30)
    assert not learning.is_alive()
    thread.join()
    assert_same_state(episodes_of(loaded(learner, state, file)), now)


def test_a_writer_that_gives_up_lets_the_learner_go_on():
    learner, recorder = played(1500)
    writer = learner.replay.writer()
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(ValueError, match="closed file"):
        writer.write(closed)
    writer.release()
    before = len(recorder.ended)
    while len(recorder.ended) < before + 60:
        learner.collect(0.5, Clock())
