"""Preallocated storage for one rollout, time first, written in place."""

import torch
from torch import Tensor

from baselines.experience.battles import Battles, Observation, Outcome


class RolloutBuffer:
    """`num_steps` steps of `num_envs` battles.

    Row `step` holds observations, actions and outcomes. `valid[step]` is False on reset rows (see
    `battles.Battles`). The last row holds the observations after the last step, for bootstrapping.
    The first `history` rows repeat the end of the previous rollout (reset rows in the first one).

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
        battles: environments, which give the sizes and the device.
        num_steps: rollout length, `history` included.
        history: rows repeated from the previous rollout.
        memory_size: size of the policy's hidden state, which is stored if it is not 0.
    """

    def __init__(
        self,
        battles: Battles,
        num_steps: int,
        *,
        history: int = 0,
        memory_size: int = 0,
    ) -> None:
        sizes, num_envs, device = battles.sizes, battles.num_envs, battles.device
        per_agent = (num_envs, sizes.num_agents)
        self.num_steps, self.history, self.memory_size = num_steps, history, memory_size

        def empty(steps: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(steps, *shape, dtype=dtype, device=device)

        self.obs = empty(num_steps + 1, *per_agent, sizes.obs_size)
        self.state = empty(num_steps + 1, num_envs, sizes.state_size)
        self.alive = empty(num_steps + 1, *per_agent, dtype=torch.bool)
        self.valid = empty(num_steps + 1, num_envs, dtype=torch.bool)
        self.action_mask = empty(num_steps + 1, *per_agent, sizes.num_actions, dtype=torch.bool)
        self.actions = empty(num_steps, *per_agent, dtype=torch.int64)
        self.log_probs = empty(num_steps, *per_agent)
        self.memory = empty(num_steps + 1, *per_agent, memory_size)
        self.rewards = empty(num_steps, num_envs)
        self.terminated = empty(num_steps, num_envs, dtype=torch.bool)
        self.truncated = empty(num_steps, num_envs, dtype=torch.bool)

    def observe(self, step: int, seen: Observation, hidden: Tensor) -> None:
        """Write the observation of `step` (0 to num_steps), and the policy's hidden state."""
        self.obs[step].copy_(seen.obs)
        self.state[step].copy_(seen.state)
        self.alive[step].copy_(seen.alive)
        self.action_mask[step].copy_(seen.action_mask)
        self.valid[step].copy_(seen.valid)
        if self.memory_size:
            self.memory[step].copy_(hidden)

    def record(
        self, step: int, actions: Tensor, log_probs: Tensor | None, outcome: Outcome
    ) -> None:
        """Write the actions of `step` (0 to num_steps - 1) and their outcome."""
        self.actions[step].copy_(actions)
        if log_probs is not None:
            self.log_probs[step].copy_(log_probs)
        self.rewards[step].copy_(outcome.reward)
        self.terminated[step].copy_(outcome.terminated)
        self.truncated[step].copy_(outcome.truncated)

    @property
    def done(self) -> Tensor:
        """Whether the episode ends with the step, (num_steps, num_envs) bool."""
        return self.terminated | self.truncated

    def count_valid(self) -> int:
        """Return the number of steps in the rollout, reset rows and history left out."""
        return int(self.valid[self.history : -1].sum())

    def repeat_end(self) -> None:
        """Begin a rollout: copy the last `history` rows of the previous rollout to the front."""
        for tensor in self._tensors().values():
            last = tensor[self.num_steps - self.history : self.num_steps].clone()  # (history, ...)
            tensor[: self.history] = last

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows with which the next rollout begins."""
        rows = slice(self.num_steps - self.history, self.num_steps)
        return {name: tensor[rows].cpu() for name, tensor in self._tensors().items()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore the rows that `state_dict` returned."""
        for name, tensor in self._tensors().items():
            tensor[self.num_steps - self.history : self.num_steps] = saved[name]

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def carry(self) -> Tensor:
        """Return factors of the hidden state (num_steps + 1, num_envs) float32: 0.0 zeroes it.

        A reset row still sees the last observation of its episode with the hidden state of its
        episode, as V(s_T) needs it. The row after it begins a new episode, from zero.
        """
        carry = torch.ones_like(self.valid, dtype=torch.float32)  # (num_steps + 1, num_envs)
        carry[1:] = self.valid[:-1]
        return carry
