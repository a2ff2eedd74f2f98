"""Rollouts of single-agent environments: all seeds of a learner at once, time before envs."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from baselines.config import PpoConfig
from baselines.experience.collect import Clock
from baselines.experience.episodes import VectorEnv
from baselines.experience.preprocess import Preprocessor
from baselines.networks.distributions import Distribution


@dataclasses.dataclass
class Rollout:
    """One iteration's experience of all seeds.

    `valid` is False on rows that only reset an env. Row `num_steps` of `obs` comes after the last
    step. Results of the environments are NumPy arrays, which are faster to write step by step.
    """

    obs: Tensor  # (seeds, num_steps + 1, num_envs, *obs_shape) float32 or uint8
    raw_actions: Tensor  # (seeds, num_steps, num_envs, raw_size) float32, see distributions
    rewards: np.ndarray  # (seeds, num_steps, num_envs) float32, preprocessed
    terminated: np.ndarray  # (seeds, num_steps, num_envs) bool
    truncated: np.ndarray  # (seeds, num_steps, num_envs) bool
    valid: np.ndarray  # (seeds, num_steps, num_envs) bool

    @classmethod
    def empty(cls, config: PpoConfig, preprocessor: Preprocessor, raw_size: int) -> "Rollout":
        """Return a rollout of zeros."""
        steps, shape = config.num_steps, (config.seeds, config.num_steps, config.num_envs)
        obs_shape = (config.seeds, steps + 1, config.num_envs, *preprocessor.obs_shape)
        dtype = torch.uint8 if preprocessor.pixels else torch.float32
        return cls(
            torch.zeros(obs_shape, dtype=dtype, device=config.device),
            torch.zeros(*shape, raw_size, device=config.device),
            np.zeros(shape, np.float32),
            *(np.zeros(shape, bool) for _ in range(3)),
        )

    def rows(self) -> Tensor:
        """Return obs (seeds, num_steps * num_envs, *obs_shape), without the last step's."""
        return self.obs[:, :-1].flatten(1, 2)  # (seeds, num_steps * num_envs, *obs_shape)

    def valid_rows(self, seed: int) -> Tensor:
        """Return one seed's observations (rows, *obs_shape) of transitions."""
        valid = torch.from_numpy(self.valid[seed].flatten())  # (num_steps * num_envs,)
        return self.rows()[seed][valid]  # (rows, *obs_shape)


class EpisodeCollector:
    """Plays the episodes of all seeds, and writes each step into a rollout.

    Args:
        config: sizes of the rollout.
        env: seeds * num_envs environments.
        preprocessor: turns raw observations and rewards into the learner's.
        distribution: distribution of the actions.

    Attributes:
        rollout: filled by `collect`.
    """

    def __init__(
        self,
        config: PpoConfig,
        env: VectorEnv,
        preprocessor: Preprocessor,
        distribution: Distribution,
    ) -> None:
        self.config, self.env, self.preprocessor = config, env, preprocessor
        self.distribution = distribution
        self.rollout = Rollout.empty(config, preprocessor, distribution.raw_size)
        self.ended: list[tuple[int, float, int]] = []  # (env, return, length) of the last rollout

    def start(self) -> None:
        """Reset all environments."""
        count = self.env.num_envs
        self.elapsed = np.zeros(count, np.int64)  # steps of each episode so far
        self.episodic_return = np.zeros(count)  # of each episode so far, raw rewards
        self.valid = np.ones(count, bool)  # whether the next step is a transition
        self.obs = self.preprocessor.observe(self.env.reset(), self.elapsed)

    @torch.inference_mode()
    def collect(self, act: Callable[[Tensor], Tensor], noise: Tensor, clock: Clock) -> None:
        """Fill the rollout with the next `num_steps` steps of every env.

        Args:
            act: the policy, a function from obs (seeds, num_envs, *obs_shape) to the outputs of its
                network.
            noise: (seeds, num_steps, num_envs, ...) for `Distribution.sample`.
            clock: counts env and inference time.
        """
        rollout, distribution = self.rollout, self.distribution
        self.ended.clear()
        columns = (rollout.obs[:, :-1], rollout.raw_actions, noise)
        steps = zip(*(column.unbind(1) for column in columns), strict=True)  # (seeds, envs, ...)
        for step, (seen, chosen, randomness) in enumerate(steps):
            seen.copy_(self.obs)
            raw_actions = distribution.sample(act(seen), randomness)
            chosen.copy_(raw_actions)
            actions = distribution.to_env(raw_actions).flatten(0, 1)  # (seeds * num_envs, ...)
            actions = actions.cpu().numpy()
            clock.spent("inference")
            self._advance(step, actions)
            clock.spent("env")
        rollout.obs[:, -1] = self.obs

    def _advance(self, step: int, actions: np.ndarray) -> None:
        """Step the environments, and write the outcome into row `step`."""
        rollout, seeds, valid = self.rollout, self.config.seeds, self.valid
        steps = self.env.step(actions)
        rewards = self.preprocessor.reward(steps.reward, steps.terminated, valid)
        rollout.rewards[:, step] = rewards
        rollout.terminated[:, step] = steps.terminated.reshape(seeds, -1)  # (seeds, num_envs)
        rollout.truncated[:, step] = steps.truncated.reshape(seeds, -1)  # (seeds, num_envs)
        rollout.valid[:, step] = valid.reshape(seeds, -1)  # (seeds, num_envs)
        self.elapsed = self.elapsed + valid
        self.episodic_return = self.episodic_return + steps.reward
        self.obs = self.preprocessor.observe(steps.obs, self.elapsed)
        if steps.ended.any():
            for env in np.flatnonzero(steps.ended):
                episode = (int(env), float(self.episodic_return[env]), int(self.elapsed[env]))
                self.ended.append(episode)
            self.elapsed = np.where(steps.ended, 0, self.elapsed)
            self.episodic_return = np.where(steps.ended, 0.0, self.episodic_return)
        self.valid = ~steps.resets

    def metrics(self, seed: int) -> dict[str, float]:
        """Return one seed's `charts/*` over the episodes that ended in the rollout; raw returns."""
        envs = self.config.num_envs
        ended = [episode for episode in self.ended if episode[0] // envs == seed]
        if not ended:
            return {"charts/episodes": 0}
        _, returns, lengths = zip(*ended, strict=True)
        return {
            "charts/episodes": len(ended),
            "charts/episodic_return": float(np.mean(returns)),
            "charts/episodic_return_max": max(returns),
            "charts/episodic_length": float(np.mean(lengths)),
        }
