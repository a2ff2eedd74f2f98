"""A tiny cooperative game that keeps the vector contract of a battle.

Each step shows a cue; every live agent should choose the action of that number. Agents die at
random steps, battles end at random steps, some only at the episode limit. With `memory=True` the
cue is drawn once a battle and shown in its first step only. `poison` is the reward of every step
from each env's fourth battle on. `pause` is the time that a step takes, in seconds.
"""

import time
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

TOY = "toy:toy/coordination-v0"


class CoordinationVectorEnv(gymnasium.vector.VectorEnv):
    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}

    def __init__(
        self,
        num_envs=1,
        *,
        num_agents=3,
        num_actions=4,
        obs_size=8,
        state_size=10,
        memory=False,
        poison=None,
        pause=0.0,
        episode_limit=10,
        max_episode_steps=None,
    ):
        if num_agents < 1:
            raise ValueError(f"num_agents={num_agents}: at least one agent must play")
        self.num_envs, self.num_agents, self.num_actions = num_envs, num_agents, num_actions
        self.num_enemies, self.obs_size, self.state_size = 1, obs_size, state_size
        self.episode_limit, self.memory = episode_limit, memory
        self.poison, self.pause = poison, pause
        self.fingerprint = {"engine_version": "toy-1", "memory": int(memory)}
        self.single_action_space = gymnasium.spaces.MultiDiscrete([num_actions] * num_agents)
        self.single_observation_space = gymnasium.spaces.Box(
            0.0, 1.0, (num_agents, obs_size), np.float32
        )
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )

    def reset(self, *, seed=None, options=None):
        self.seeds = np.uint64(seed or 0) + np.arange(self.num_envs, dtype=np.uint64)
        self.episode = np.zeros(self.num_envs, np.uint64)
        self.tick = np.zeros(self.num_envs, np.int64)
        self.hits = np.zeros((self.num_envs, 2))
        self.done = np.zeros(self.num_envs, bool)
        self.won = np.zeros(self.num_envs, bool)
        self.illegal = np.zeros(self.num_envs, np.int32)
        return self.last()

    def step(self, actions):
        time.sleep(self.pause)
        begins = self.done.copy()
        alive, cue = self._alive(), self._cue()
        legal = np.take_along_axis(self._mask(), np.asarray(actions)[..., None], -1)[..., 0]
        hit = ((actions == cue[:, None]) & alive).sum(1) / alive.sum(1)
        pay = hit if self.poison is None else np.where(self.episode < 3, hit, self.poison)
        self.hits += np.where(begins, 0.0, [hit, np.ones_like(hit)]).T
        self.illegal = np.where(begins, 0, (legal == 0).sum(1)).astype(np.int32)
        self.tick += ~begins
        truncated = (self.tick >= self.episode_limit) & ~begins
        terminated = (self.tick >= self._length()) & ~truncated & ~begins
        self.done = terminated | truncated
        self.won = self.done & (self.hits[:, 0] >= 0.8 * self.hits[:, 1])
        self.episode[begins] += np.uint64(1)
        self.tick[begins], self.hits[begins] = 0, 0.0
        reward = np.where(begins, 0.0, pay).astype(np.float32)
        obs, info = self.last()
        return obs, reward, terminated, truncated, info

    def last(self):
        alive, cue, rows = self._alive(), self._cue(), np.arange(self.num_envs)
        shown = (self.tick == 0) | (not self.memory)
        obs = np.zeros((self.num_envs, self.num_agents, self.obs_size), np.float32)
        obs[rows, :, cue] = alive * shown[:, None]
        obs[:, :, self.num_actions :] = self._uniform(7)[:, None, None] * alive[..., None]
        state = np.zeros((self.num_envs, self.state_size), np.float32)
        state[rows, cue] = 1.0
        state[:, self.num_actions] = self.tick / self.episode_limit
        state[:, self.num_actions + 1 : self.num_actions + 1 + self.num_agents] = alive
        info = {
            "state": state,
            "action_mask": self._mask(),
            "alive": alive,
            "battle_won": self.won.copy(),
            "draw": np.zeros(self.num_envs, bool),
            "dead_allies": (~alive).sum(1).astype(np.int32),
            "dead_enemies": np.zeros(self.num_envs, np.int32),
            "illegal_actions": self.illegal.copy(),
        }
        return obs, info

    def checkpoint(self):
        names = ("seeds", "episode", "tick", "hits", "done", "won", "illegal")
        return {name: getattr(self, name).copy() for name in names}

    def restore(self, saved):
        for name, value in saved.items():
            setattr(self, name, value.copy())

    def _uniform(self, purpose, per_step=True):
        """Draw (num_envs,) numbers in [0, 1) from seed, episode, step and purpose alone."""
        with np.errstate(over="ignore"):
            mixed = self.seeds * np.uint64(0x9E3779B97F4A7C15)
            mixed = _mix(mixed + self.episode)
            mixed = _mix(mixed + self.tick.astype(np.uint64) * np.uint64(per_step))
            mixed = _mix(mixed + np.uint64(purpose))
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _cue(self):
        drawn = self._uniform(1, per_step=not self.memory)
        return 1 + (drawn * (self.num_actions - 1)).astype(np.int64)

    def _length(self):
        return (self.episode_limit * (0.3 + self._uniform(2, per_step=False))).astype(np.int64)

    def _alive(self):
        alive = np.ones((self.num_envs, self.num_agents), bool)
        for agent in range(1, self.num_agents):
            dies = 1 + self._uniform(10 + agent, per_step=False) * 1.5 * self.episode_limit
            alive[:, agent] = self.tick < dies
        return alive

    def _mask(self):
        alive, cue = self._alive(), self._cue()
        mask = np.repeat(alive[..., None], self.num_actions, -1)
        wrong = 1 + (cue - 1 + 1) % (self.num_actions - 1)
        mask[np.arange(self.num_envs), :, wrong] = False
        mask[..., 0] = ~alive
        return mask.astype(np.int8)


def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


if "toy/coordination-v0" not in gymnasium.registry:
    gymnasium.register("toy/coordination-v0", vector_entry_point=CoordinationVectorEnv)
