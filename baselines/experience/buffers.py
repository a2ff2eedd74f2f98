"""Preallocated storage for one rollout, time first, written in place."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class RolloutBuffer:
    """All that one iteration needs of `num_steps` steps of `num_envs` battles.

    Row `step` holds what the policy saw, what it did and what came of it. `valid[step]` is False on
    reset rows (see `rollout.Stream`). The `+ 1` row is what the policy sees next: it bootstraps.
    The first `history` rows repeat the end of the rollout before (at the start: reset rows).

        obs           (num_steps + 1, num_envs, num_agents, obs_size) float32
        state         (num_steps + 1, num_envs, state_size) float32
        alive         (num_steps + 1, num_envs, num_agents) bool
        valid         (num_steps + 1, num_envs) bool
        action_mask   (num_steps + 1, num_envs, num_agents, num_actions) bool
        actions       (num_steps, num_envs, num_agents) int64
        log_probs     (num_steps, num_envs, num_agents) float32
        memory        (num_steps + 1, num_envs, num_agents, memory_size) float32
        rewards       (num_steps, num_envs) float32
        terminated    (num_steps, num_envs) bool
        truncated     (num_steps, num_envs) bool

    Args:
        env: vector environment whose sizes count.
        num_steps: rollout length, `history` included.
        device: PyTorch device.
        history: rows kept from the rollout before.
        memory_size: numbers that the policy carries from step to step, kept when not 0.
    """

    def __init__(
        self,
        env: Any,
        num_steps: int,
        device: str = "cpu",
        *,
        history: int = 0,
        memory_size: int = 0,
    ) -> None:
        unwrapped, num_envs = env.unwrapped, env.num_envs
        per_agent = (num_envs, unwrapped.num_agents)
        self.num_steps, self.history, self.memory_size = num_steps, history, memory_size

        def empty(steps: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(steps, *shape, dtype=dtype, device=device)

        self.obs = empty(num_steps + 1, *per_agent, unwrapped.obs_size)
        self.state = empty(num_steps + 1, num_envs, unwrapped.state_size)
        self.alive = empty(num_steps + 1, *per_agent, dtype=torch.bool)
        self.valid = empty(num_steps + 1, num_envs, dtype=torch.bool)
        self.action_mask = empty(num_steps + 1, *per_agent, unwrapped.num_actions, dtype=torch.bool)
        self.actions = empty(num_steps, *per_agent, dtype=torch.int64)
        self.log_probs = empty(num_steps, *per_agent)
        self.memory = empty(num_steps + 1, *per_agent, memory_size)
        self.rewards = empty(num_steps, num_envs)
        self.terminated = empty(num_steps, num_envs, dtype=torch.bool)
        self.truncated = empty(num_steps, num_envs, dtype=torch.bool)

    def observe(self, step: int, obs: np.ndarray, info: dict[str, Any], valid: np.ndarray) -> None:
        """Write what the policy sees at `step` (0 to num_steps)."""
        self.obs[step].copy_(torch.from_numpy(obs))
        self.state[step].copy_(torch.from_numpy(info["state"]))
        self.alive[step].copy_(torch.from_numpy(info["alive"]))
        self.action_mask[step].copy_(torch.from_numpy(info["action_mask"]))
        self.valid[step].copy_(torch.from_numpy(valid))

    def record(
        self, step: int, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        """Write what came of the actions of `step` (0 to num_steps - 1)."""
        self.rewards[step].copy_(torch.from_numpy(reward))
        self.terminated[step].copy_(torch.from_numpy(terminated))
        self.truncated[step].copy_(torch.from_numpy(truncated))

    def repeat_end(self) -> None:
        """Begin a rollout: let the first `history` rows be the last ones of the rollout before."""
        for tensor in self._tensors().values():
            last = tensor[self.num_steps - self.history : self.num_steps].clone()
            tensor[: self.history] = last

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows that the next rollout begins with."""
        rows = slice(self.num_steps - self.history, self.num_steps)
        return {name: tensor[rows].cpu() for name, tensor in self._tensors().items()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Put back what `state_dict` returned."""
        for name, tensor in self._tensors().items():
            tensor[self.num_steps - self.history : self.num_steps] = saved[name]

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def keep(self) -> Tensor:
        """Return (num_steps + 1, num_envs) float32: 0.0 where a step begins a new episode.

        A reset row still sees the last observation of its episode with the hidden state of its
        episode, as V(s_T) needs it; the row after it starts from zero.
        """
        keep = torch.ones_like(self.valid, dtype=torch.float32)
        keep[1:] = self.valid[:-1]
        return keep
