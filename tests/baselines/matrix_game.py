"""The two-step game of Rashid et al. (2018, section 5) as a battle of two agents.

In the first step the first agent's action alone decides which payoffs the second step has: `safe`
whatever both do, or 8 if both choose action 1, 1 if one does, 0 if none does. Only 8 is a victory.
"""

from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

MATRIX_GAME = "matrix_game:toy/two_step-v0"
START, SAFE, RISKY = range(3)
PAYOFFS = (0.0, 1.0, 8.0)  # by how many choose action 1


class TwoStepVectorEnv(gymnasium.vector.VectorEnv):
    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}
    num_agents, num_enemies, num_actions = 2, 1, 2
    obs_size = state_size = 3
    episode_limit = 2

    def __init__(self, num_envs=1, *, safe=2.0):
        self.num_envs, self.safe = num_envs, safe
        self.fingerprint = {"engine_version": "two_step-1", "safe": str(safe)}
        self.single_action_space = gymnasium.spaces.MultiDiscrete([2, 2])
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, (2, 3), np.float32)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )

    def reset(self, *, seed=None, options=None):
        self.place = np.full(self.num_envs, START)
        self.done = np.zeros(self.num_envs, bool)
        self.won = np.zeros(self.num_envs, bool)
        return self.last()

    def step(self, actions):
        begins, first = self.done, ~self.done & (self.place == START)
        chosen = (actions == 1).sum(1)
        payoff = np.where(self.place == RISKY, np.take(PAYOFFS, chosen), self.safe)
        self.done = ~begins & ~first
        self.won = self.done & (self.place == RISKY) & (chosen == 2)
        reward = np.where(self.done, payoff, 0.0).astype(np.float32)
        self.place = np.where(first, SAFE + (actions[:, 0] == 1), self.place)
        self.place[begins] = START
        obs, info = self.last()
        return obs, reward, self.done.copy(), np.zeros(self.num_envs, bool), info

    def last(self):
        place = np.eye(3, dtype=np.float32)[self.place]
        info = {
            "state": place,
            "action_mask": np.ones((self.num_envs, 2, 2), np.int8),
            "alive": np.ones((self.num_envs, 2), bool),
            "battle_won": self.won.copy(),
            "draw": np.zeros(self.num_envs, bool),
            **{
                name: np.zeros(self.num_envs, np.int32)
                for name in ("dead_allies", "dead_enemies", "illegal_actions")
            },
        }
        return np.repeat(place[:, None], 2, 1), info

    def checkpoint(self):
        return {name: getattr(self, name).copy() for name in ("place", "done", "won")}

    def restore(self, saved):
        for name, value in saved.items():
            setattr(self, name, value.copy())


if "toy/two_step-v0" not in gymnasium.registry:
    gymnasium.register("toy/two_step-v0", vector_entry_point=TwoStepVectorEnv)
