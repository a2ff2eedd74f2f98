"""Preprocessing for single-agent learners: normalised observations and scaled rewards.

The environment itself is not wrapped, so logged returns are raw.
"""

import numpy as np
import torch
from torch import Tensor

from baselines.config import PpoConfig
from baselines.errors import UsageError
from baselines.experience.episodes import VectorEnv
from baselines.networks.normalise import RunningMoments

RANDOM_STEPS = 1000  # per env, for the estimate of frozen statistics (Moalla et al. 2024)


class Preprocessor:
    """Preprocess observations and rewards of all seeds, each seed with its own statistics.

    Args:
        config: settings of the preprocessing.
        env: seeds * num_envs environments.
    """

    def __init__(self, config: PpoConfig, env: VectorEnv) -> None:
        self.config = config
        self.seeds, self.num_envs = config.seeds, config.num_envs
        self.raw_shape: tuple[int, ...] = env.obs_space.shape
        self.pixels = env.obs_dtype == np.uint8
        self.limit = env.max_episode_steps
        self._check(env)
        self.moments = RunningMoments(self.seeds, self.raw_shape)
        self.reward_moments = RunningMoments(self.seeds, ())
        self.discounted = np.zeros((self.seeds, self.num_envs))

    def _check(self, env: VectorEnv) -> None:
        """Refuse settings that do not suit this environment."""
        if self.config.time_feature and (self.pixels or self.limit is None):
            reason = "observations are pixels" if self.pixels else "it has no episode limit"
            raise UsageError(f"--time-feature: not for {env.id}, {reason}")
        bounds = () if env.discrete else (env.action_space.low, env.action_space.high)
        if self.config.obs_norm == "frozen" and not np.isfinite(bounds).all():
            raise UsageError(f"--obs-norm frozen: actions of {env.id} have no bounds to draw from")

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Shape of one observation as the networks see it."""
        if not self.config.time_feature:
            return self.raw_shape
        return (self.raw_shape[0] + 1,)

    def observe(self, raw: np.ndarray, steps: np.ndarray, *, learn: bool = True) -> Tensor:
        """Return preprocessed observations (seeds, num_envs, *obs_shape); pixels stay uint8.

        Args:
            raw: (seeds * num_envs, *raw_shape).
            steps: (seeds * num_envs,) steps of each episode so far, for the time feature.
            learn: update running statistics with the observations first.
        """
        obs = raw.reshape(self.seeds, self.num_envs, *self.raw_shape)  # (seeds, num_envs, ...)
        if self.pixels:
            return torch.from_numpy(obs)
        if self.config.obs_norm != "none":
            obs = obs.astype(np.float64)
            if self.config.obs_norm == "running" and learn:
                self.moments.update(obs)
            obs -= self.moments.mean[:, None]  # (seeds, 1, *raw_shape)
            obs /= self.moments.deviation()[:, None]  # (seeds, 1, *raw_shape)
            if self.config.obs_clip:
                np.maximum(obs, -self.config.obs_clip, out=obs)
                np.minimum(obs, self.config.obs_clip, out=obs)
        if self.config.time_feature:
            elapsed = steps.reshape(self.seeds, self.num_envs, 1)  # (seeds, num_envs, 1)
            share = elapsed * (2.0 / self.limit) - 1.0
            obs = np.concatenate([obs, share], -1)  # (seeds, num_envs, raw_size + 1)
        return torch.from_numpy(obs.astype(np.float32))

    def reward(self, raw: np.ndarray, terminated: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return rewards (seeds, num_envs) as the learner sees them.

        Args:
            raw: (seeds * num_envs,) raw rewards.
            terminated: (seeds * num_envs,) bool.
            valid: (seeds * num_envs,) bool, False on steps that only reset.
        """
        reward = raw.reshape(self.seeds, self.num_envs)  # (seeds, num_envs)
        if self.config.reward_norm == "sign":
            return np.sign(reward)
        if self.config.reward_norm == "none":
            return reward
        continues = ~terminated.reshape(reward.shape)  # (seeds, num_envs)
        discounted = self.discounted * self.config.gamma * continues + reward
        counts = None if valid.all() else valid.reshape(reward.shape)  # (seeds, num_envs)
        before = self.discounted
        self.discounted = discounted if counts is None else np.where(counts, discounted, before)
        self.reward_moments.update(self.discounted, counts)
        reward = reward / self.reward_moments.deviation()[:, None]  # (seeds, num_envs)
        if self.config.reward_clip:
            reward = np.minimum(
                np.maximum(reward, -self.config.reward_clip), self.config.reward_clip
            )
        return reward

    def estimate(self, env: VectorEnv, generators: list[np.random.Generator]) -> None:
        """Estimate frozen statistics from random play; the caller must reset the environments."""
        shape = (self.seeds, self.num_envs, *self.raw_shape)
        seen = [env.reset().reshape(shape)]  # each (seeds, num_envs, *raw_shape)
        for _ in range(RANDOM_STEPS):
            seen.append(env.step(self._random_actions(env, generators)).obs.reshape(shape))
        samples = np.concatenate(seen, 1).astype(np.float64)  # (seeds, samples, *raw_shape)
        self.moments.mean, self.moments.variance = samples.mean(1), samples.var(1)

    def _random_actions(self, env: VectorEnv, generators: list[np.random.Generator]) -> np.ndarray:
        if env.discrete:
            drawn = [rng.integers(env.num_actions, size=self.num_envs) for rng in generators]
            return np.concatenate(drawn)  # (seeds * num_envs,)
        low, high = env.action_space.low, env.action_space.high
        size = (self.num_envs, env.num_actions)
        drawn = [rng.uniform(low, high, size) for rng in generators]
        return np.concatenate(drawn)  # (seeds * num_envs, num_actions)

    def state_dict(self, seed: int) -> dict[str, Tensor]:
        """Return one seed's statistics."""
        parts = {"obs": self.moments, "reward": self.reward_moments}
        saved = {
            f"{name}_{key}": value
            for name, moments in parts.items()
            for key, value in moments.state_dict(seed).items()
        }
        return saved | {"discounted": torch.from_numpy(self.discounted[seed].copy())}

    def load_state_dict(self, seed: int, saved: dict[str, Tensor]) -> None:
        """Restore the statistics that `state_dict` returned."""
        for name, moments in (("obs", self.moments), ("reward", self.reward_moments)):
            keys = ("mean", "variance", "count")
            moments.load_state_dict(seed, {key: saved[f"{name}_{key}"] for key in keys})
        self.discounted[seed] = saved["discounted"].numpy()
