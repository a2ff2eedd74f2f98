"""Observations and rewards as the learner sees them, against Gymnasium's wrappers and by hand."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from baselines.config import PpoConfig
from baselines.experience.episodes import make_vector_env
from baselines.experience.preprocess import RANDOM_STEPS, Preprocessor
from baselines.networks.normalise import RunningMoments

CARTPOLE = PpoConfig(env="CartPole-v1", source="gymnasium")


def preprocessor(**changes):
    """Return one for CartPole, whose environment is only asked for its sizes."""
    config = dataclasses.replace(CARTPOLE, **changes)
    seeds = [10 * seed + env for seed in range(config.seeds) for env in range(config.num_envs)]
    env = make_vector_env(config, seeds)
    return Preprocessor(config, env), env


def play(env, steps, seed=0):
    """Yield what random play gives, and whether each step was a transition."""
    rng, valid = np.random.default_rng(seed), np.ones(env.num_envs, bool)
    env.reset()
    for _ in range(steps):
        given = env.step(rng.integers(2, size=env.num_envs))
        yield given, valid
        valid = ~given.resets


@pytest.mark.parametrize("num_envs", [1, 3])
def test_running_observations_are_gymnasiums(num_envs):
    ours, env = preprocessor(num_envs=num_envs)
    theirs = gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="sync")
    theirs = gymnasium.wrappers.vector.NormalizeObservation(theirs)
    none = np.zeros(num_envs)
    wanted, _ = theirs.reset(seed=list(range(num_envs)))
    found = ours.observe(env.reset(), none)
    rng = np.random.default_rng(0)
    for _ in range(100):
        np.testing.assert_allclose(found[0], np.clip(wanted, -10, 10), rtol=1e-4, atol=1e-5)
        actions = rng.integers(2, size=num_envs)
        wanted, *_ = theirs.step(actions)
        found = ours.observe(env.step(actions).obs, none)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_running_rewards_are_gymnasiums_which_skip_reset_rows(num_envs):
    ours, env = preprocessor(num_envs=num_envs, gamma=0.9)
    theirs = gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="sync")
    theirs = gymnasium.wrappers.vector.NormalizeReward(theirs, gamma=0.9)
    theirs.reset(seed=list(range(num_envs)))
    rng = np.random.default_rng(0)
    resets = 0
    for given, valid in play(env, 150):
        _, wanted, *_ = theirs.step(rng.integers(2, size=num_envs))
        found = ours.reward(given.reward, given.terminated, valid)
        np.testing.assert_allclose(found[0], np.clip(wanted, -10, 10), rtol=1e-4, atol=1e-5)
        resets += (~valid).sum()
    assert resets > 3


def test_running_rewards_are_divided_by_the_deviation_of_discounted_sums_by_hand():
    ours, _ = preprocessor(gamma=0.5)
    always = np.ones(1, bool)
    rewards = [4.0, 2.0, 8.0]
    sums = [4.0, 4.0, 8.0]  # 4; 0.5 * 4 + 2; the third step is the first after an end: 8
    for step, reward in enumerate(rewards):
        terminated = np.array([step == 2])
        found = ours.reward(np.array([reward], np.float32), terminated, always)
    # Count 1e-4 with mean 0 and variance 1 stands before the three.
    count, mean = 3 + 1e-4, sum(sums) / (3 + 1e-4)
    variance = (sum(x * x for x in sums) + 1e-4) / count - mean**2
    assert found[0, 0] == pytest.approx(8 / np.sqrt(variance + 1e-8), rel=1e-9)


def test_rewards_and_observations_are_clipped():
    ours, _ = preprocessor(obs_clip=0.5, reward_clip=0.25)
    rng = np.random.default_rng(0)
    for _ in range(20):
        obs = ours.observe(rng.normal(size=(1, 4)).astype(np.float32), np.zeros(1))
        reward = ours.reward(rng.normal(size=1), np.zeros(1, bool), np.ones(1, bool))
        assert obs.abs().max() <= 0.5
        assert abs(reward[0, 0]) <= 0.25
    unbounded, _ = preprocessor(obs_clip=0.0, reward_clip=0.0)
    unbounded.observe(np.zeros((1, 4), np.float32), np.zeros(1))
    unbounded.reward(np.zeros(1), np.zeros(1, bool), np.ones(1, bool))
    far = unbounded.observe(np.full((1, 4), 1e6, np.float32), np.zeros(1), learn=False)
    assert far.min() > 1e6
    assert unbounded.moments.count.item() == pytest.approx(1 + 1e-4)


def test_signs_of_rewards_and_rewards_themselves():
    raw = np.array([-400.0, 0.0, 0.5], np.float32)
    done, valid = np.zeros(3, bool), np.ones(3, bool)
    ours, _ = preprocessor(num_envs=3, reward_norm="sign")
    np.testing.assert_array_equal(ours.reward(raw, done, valid), [[-1, 0, 1]])
    ours, _ = preprocessor(num_envs=3, reward_norm="none")
    np.testing.assert_array_equal(ours.reward(raw, done, valid), [raw])


def test_time_runs_from_minus_one_to_one():
    ours, env = preprocessor(num_envs=3, time_feature=True, obs_norm="none")
    assert ours.obs_shape == (5,)
    raw = np.arange(12, dtype=np.float32).reshape(3, 4)
    obs = ours.observe(raw, np.array([0, 250, 500]))  # CartPole's limit is 500
    assert env.max_episode_steps == 500
    np.testing.assert_allclose(obs[0, :, -1], [-1, 0, 1])
    np.testing.assert_array_equal(obs[0, :, :-1], raw)


def test_frozen_statistics_are_those_of_random_play_and_never_change():
    ours, env = preprocessor(num_envs=2, obs_norm="frozen", obs_clip=0.0)
    ours.estimate(env, [np.random.default_rng(5)])
    rng, seen = np.random.default_rng(5), [env.reset()]
    for _ in range(RANDOM_STEPS):
        seen.append(env.step(rng.integers(2, size=2)).obs)
    seen = np.concatenate(seen).astype(np.float64)
    assert len(seen) == 2 * 1001
    np.testing.assert_allclose(ours.moments.mean[0], seen.mean(0))
    np.testing.assert_allclose(ours.moments.variance[0], seen.var(0))
    raw = np.full((2, 4), 3.0, np.float32)
    wanted = (3.0 - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-8)
    for _ in range(2):
        np.testing.assert_allclose(ours.observe(raw, np.zeros(2))[0, 1], wanted, rtol=1e-6)


def test_random_play_of_continuous_actions_stays_within_their_bounds():
    pytest.importorskip("mujoco")
    config = PpoConfig(env="Hopper-v5", source="gymnasium", obs_norm="frozen", seeds=2)
    env = make_vector_env(config, [3, 4])
    ours = Preprocessor(config, env)
    ours.estimate(env, [np.random.default_rng(seed) for seed in (3, 4)])
    assert (ours.moments.variance > 0).all()
    assert not np.allclose(ours.moments.mean[0], ours.moments.mean[1])


def test_each_seed_has_the_statistics_it_would_have_alone():
    rng = np.random.default_rng(0)
    together, _ = preprocessor(seeds=2, num_envs=3)
    alone = [preprocessor(num_envs=3)[0] for _ in range(2)]
    for step in range(30):
        raw = rng.normal(size=(6, 4)).astype(np.float32)
        reward, terminated = rng.normal(size=6).astype(np.float32), rng.random(6) < 0.2
        valid = rng.random(6) < 0.8 if step % 3 else np.array([False] * 3 + [True] * 3)
        obs = together.observe(raw, np.zeros(6))
        rewards = together.reward(reward, terminated, valid)
        for seed, own in enumerate(alone):
            part = slice(3 * seed, 3 * seed + 3)
            assert torch.equal(own.observe(raw[part], np.zeros(3))[0], obs[seed])
            found = own.reward(reward[part], terminated[part], valid[part])
            np.testing.assert_array_equal(found[0], rewards[seed])


def test_statistics_come_back_from_their_state():
    rng = np.random.default_rng(0)
    ours, _ = preprocessor(seeds=2, num_envs=2)

    def advance(own, rng):
        obs = own.observe(rng.normal(size=(4, 4)).astype(np.float32), np.zeros(4))
        return obs, own.reward(rng.normal(size=4), rng.random(4) < 0.2, rng.random(4) < 0.9)

    for _ in range(5):
        advance(ours, rng)
    again, _ = preprocessor(seeds=2, num_envs=2)
    for seed in range(2):
        again.load_state_dict(seed, ours.state_dict(seed))
    saved = ours.state_dict(0)["discounted"].clone()
    obs, rewards = advance(ours, np.random.default_rng(1))
    same, equal = advance(again, np.random.default_rng(1))
    assert torch.equal(obs, same)
    np.testing.assert_array_equal(rewards, equal)
    assert not torch.equal(ours.state_dict(0)["discounted"], saved)


def test_running_moments_are_mean_and_variance_of_all_rows_that_count():
    rng = np.random.default_rng(0)
    moments = RunningMoments(2, (3,))
    moments.count[:] = 0.0  # without the first guess they are exact
    samples = [rng.normal(seed, 2, (2, rows, 3)) for seed, rows in enumerate((1, 4, 7))]
    counts = [None, None, rng.random((2, 7)) < 0.5]
    for sample, count in zip(samples, counts, strict=True):
        moments.update(sample, count)
    for seed in range(2):
        rows = [
            s[seed] if c is None else s[seed][c[seed]] for s, c in zip(samples, counts, strict=True)
        ]
        rows = np.concatenate(rows)
        np.testing.assert_allclose(moments.mean[seed], rows.mean(0))
        np.testing.assert_allclose(moments.variance[seed], rows.var(0))
        assert moments.count[seed].item() == len(rows)


def test_pixels_stay_bytes():
    pytest.importorskip("ale_py")
    config = PpoConfig(env="ALE/Pong-v5", obs_norm="none", num_envs=2)
    env = make_vector_env(config, [3, 4])
    ours, raw = Preprocessor(config, env), env.reset()
    obs = ours.observe(raw, np.zeros(2))
    assert obs.dtype == torch.uint8
    assert obs.shape == (1, 2, 4, 84, 84)
    np.testing.assert_array_equal(obs[0], raw)
    env.close()
