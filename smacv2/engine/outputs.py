"""What a step writes: observations, state, masks, reward and flags, allocated once."""

from dataclasses import dataclass

import numpy as np

from smacv2.layout import Layout


@dataclass(frozen=True)
class Outputs:
    """The arrays a backend fills in place at every step and reset."""

    obs: np.ndarray  # (num_envs, num_agents, obs_size) float32
    state: np.ndarray  # (num_envs, state_size) float32
    action_mask: np.ndarray  # (num_envs, num_agents, num_actions) int8
    reward: np.ndarray  # (num_envs,) float32
    terminated: np.ndarray  # (num_envs,) bool
    truncated: np.ndarray  # (num_envs,) bool

    @classmethod
    def empty(cls, num_envs: int, layout: Layout) -> "Outputs":
        """Return zeroed arrays for a batch."""
        agents = layout.num_agents
        return cls(
            obs=np.zeros((num_envs, agents, layout.obs_size), np.float32),
            state=np.zeros((num_envs, layout.state_size), np.float32),
            action_mask=np.zeros((num_envs, agents, layout.num_actions), np.int8),
            reward=np.zeros(num_envs, np.float32),
            terminated=np.zeros(num_envs, np.bool_),
            truncated=np.zeros(num_envs, np.bool_),
        )
