"""The seam between environments and backends: whatever fulfils `Backend` can play the battles."""

import dataclasses
import inspect

import numpy as np
import pytest

from smacv2 import gymnasium_env, play, policies
from smacv2.battle import OUTCOME_RUNNING, OUTCOME_WON, Backend, BattleState, Outputs
from smacv2.gymnasium_env import IllegalAction, SMACv2Env, SMACv2VectorEnv
from smacv2.layout import Layout

NO_OP, STOP = 0, 1
LENGTH = 3  # steps of every battle, which the agents win


class CountingBackend:
    """Battles in plain NumPy: every step, time passes and each agent observes seed and time."""

    def __init__(self, scenario, options, num_envs, *, device, num_threads):
        self.layout = Layout.of(scenario, options)
        self.state = BattleState.empty(num_envs, scenario.num_agents, scenario.num_enemies)
        self.outputs = Outputs.empty(num_envs, self.layout)
        self.fingerprint = {"backend": "counting", "scenario": scenario.name}
        self.closed = False

    def reset(self, mask, seeds):
        if seeds is not None:
            self.state.seed_low[mask] = seeds[mask]
            self.state.episode[mask] = -1
        self._start(mask)
        self._show()

    def step(self, actions):
        ended = self.state.over != 0
        self.state.step[~ended] += 1
        self.state.illegal_actions[:] = (actions != STOP).sum(axis=1)
        self._start(ended)
        won = self.state.step == LENGTH
        self.state.over[:] = won
        self.state.outcome[:] = np.where(won, OUTCOME_WON, OUTCOME_RUNNING)
        self.outputs.reward[:] = won
        self.outputs.terminated[:] = won
        self._show()

    def _start(self, mask):
        self.state.episode[mask] += 1
        self.state.step[mask] = 0
        self.state.over[mask] = 0
        self.state.health[mask] = 1

    def _show(self):
        self.outputs.obs[..., 0] = self.state.seed_low[:, None]
        self.outputs.obs[..., 1] = self.state.step[:, None]
        self.outputs.action_mask[..., STOP] = 1

    def _arrays(self):
        return dataclasses.asdict(self.state) | self.outputs.arrays()

    def checkpoint(self):
        return {name: array.copy() for name, array in self._arrays().items()}

    def restore(self, saved):
        for name in ("units", "world", "sights"):
            getattr(self.state, name)[...] = saved[name]
        for name, array in self.outputs.arrays().items():
            array[...] = saved[name]

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    monkeypatch.setattr(gymnasium_env, "make_backend", CountingBackend)


def make(num_envs=3, **options):
    return SMACv2VectorEnv("terran_5_vs_5", num_envs, **options)


def stop(envs):
    return np.full((envs.num_envs, envs.num_agents), STOP)


def test_the_backend_of_these_tests_offers_the_protocol_and_nothing_else():
    promised = {name for name in vars(Backend) if not name.startswith("_")}
    offered = {name for name in vars(make().backend) if not name.startswith("_")}
    offered |= {name for name, _ in inspect.getmembers(CountingBackend) if not name.startswith("_")}
    assert offered - {"closed"} == promised


def test_an_environment_resets_and_steps_on_any_backend():
    envs = make()
    obs, info = envs.reset(seed=7)
    assert obs[:, 0, 0].tolist() == [7, 8, 9]
    assert info["alive"].all()
    for turn in range(1, LENGTH + 1):
        obs, reward, terminated, truncated, info = envs.step(stop(envs))
        assert (obs[..., 1] == turn).all()
        assert (reward == (turn == LENGTH)).all()
        assert (terminated == (turn == LENGTH)).all()
        assert not truncated.any()
    assert info["battle_won"].all()
    obs, *_ = envs.step(stop(envs))
    assert (obs[..., 1] == 0).all()
    assert envs.backend.state.episode.tolist() == [1, 1, 1]


def test_a_reset_mask_reaches_the_backend():
    envs = make()
    envs.reset(seed=7)
    envs.step(stop(envs))
    obs, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert obs[:, 0, 1].tolist() == [1, 0, 1]
    assert envs.backend.state.episode.tolist() == [0, 1, 0]
    obs, _ = envs.reset(seed=20, options={"reset_mask": np.array([True, False, False])})
    assert obs[:, 0, 0].tolist() == [20, 8, 9]


def test_the_environment_saves_and_restores_the_backends_checkpoint():
    envs, other = make(), make()
    envs.reset(seed=7)
    envs.step(stop(envs))
    other.restore(envs.checkpoint())
    assert np.array_equal(envs.last()[0], other.last()[0])
    for left, right in zip(envs.step(stop(envs))[:4], other.step(stop(other))[:4], strict=True):
        assert np.array_equal(left, right)


def test_strict_actions_fingerprint_and_close_need_no_more_than_the_protocol():
    envs = make(strict=True)
    envs.reset(seed=7)
    with pytest.raises(IllegalAction, match="allowed: 1"):
        envs.step(np.full((3, 5), NO_OP))
    assert envs.fingerprint["backend"] == "counting"
    assert envs.action_masks().shape == (3, 5 * envs.num_actions)
    backend = envs.backend
    envs.close()
    assert backend.closed


def test_the_single_environment_plays_on_any_backend():
    env = SMACv2Env("terran_5_vs_5")
    obs, info = env.reset(seed=7)
    for _ in range(LENGTH):
        obs, _, terminated, _, info = env.step([STOP] * 5)
    assert terminated
    assert info["battle_won"]
    assert obs[0].tolist()[:2] == [7, LENGTH]


@pytest.mark.parametrize("name", policies.POLICIES)
def test_scripted_policies_play_on_any_backend(name):
    envs = make(2)
    battles = play.collect(envs, policies.POLICIES[name](envs), episodes=4, first_seed=0)
    assert battles.battle_won.all()
    assert battles.episodic_length.tolist() == [LENGTH] * 4
