"""Collection of experience from NEXT_STEP vector environments."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.experience.buffers import RolloutBuffer

Shown = tuple[Tensor, Tensor, Tensor, Tensor]
"""To a policy, of one vector environment: obs, action_mask, hidden state, noise."""
Choice = tuple[Tensor, Tensor | None, Tensor]
"""Actions, their log-probabilities or None, the hidden state after."""


class Clock:
    """Seconds spent in each part of an iteration since the last `lap`."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("env", "inference", "learn", "probe"), 0.0)
        self._last = time.perf_counter()

    def spent(self, part: str) -> None:
        """Book the time since the last call under `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def lap(self) -> dict[str, float]:
        """Return the seconds of each part and start again."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return seconds


@dataclasses.dataclass
class Stream:
    """Where a vector environment stands between two steps.

    After the step that ends a battle, the next row is a reset row: the policy sees the true last
    observation once more, its action is ignored, and nothing of that row counts. `previous_done`
    marks it; `valid = ~previous_done`.
    """

    obs: np.ndarray  # (num_envs, num_agents, obs_size) float32
    info: dict[str, Any]
    previous_done: np.ndarray  # (num_envs,) bool
    hidden: Tensor  # (num_envs, num_agents, memory_size) float32
    episodic_return: np.ndarray  # (num_envs,) float64, of the battle being played
    episodic_length: np.ndarray  # (num_envs,) int64, its steps so far

    @classmethod
    def start(cls, obs: np.ndarray, info: dict[str, Any], hidden: Tensor) -> "Stream":
        """Begin with what `env.reset` returned and a zero hidden state."""
        num_envs = len(obs)
        zeros = np.zeros(num_envs)
        return cls(obs, info, np.zeros(num_envs, bool), hidden, zeros, zeros.astype(np.int64))

    def advance(
        self, env: Any, actions: np.ndarray, hidden: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Step the environment once.

        Returns:
            Reward, terminated, truncated, each (num_envs,), and the battles that ended with this
            step: `env, episodic_return, episodic_length, battle_won, draw, truncated`.
        """
        valid = ~self.previous_done
        self.obs, reward, terminated, truncated, self.info = env.step(actions)
        self.hidden = hidden * torch.from_numpy(valid).to(hidden.device).view(-1, 1, 1)
        self.episodic_return = np.where(valid, self.episodic_return + reward, 0.0)
        self.episodic_length = np.where(valid, self.episodic_length + 1, 0)
        self.previous_done = terminated | truncated
        ended = np.flatnonzero(self.previous_done)
        episodes = {
            "env": ended,
            "episodic_return": self.episodic_return[ended],
            "episodic_length": self.episodic_length[ended],
            "battle_won": self.info["battle_won"][ended].astype(bool),
            "draw": self.info["draw"][ended].astype(bool),
            "truncated": truncated[ended].astype(bool),
        }
        return reward, terminated, truncated, episodes

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything but obs and info, which `env.last()` gives again."""
        return {
            "previous_done": torch.from_numpy(self.previous_done.copy()),
            "hidden": self.hidden.cpu(),
            "episodic_return": torch.from_numpy(self.episodic_return.copy()),
            "episodic_length": torch.from_numpy(self.episodic_length.copy()),
        }

    def restore(self, env: Any, saved_env: dict[str, np.ndarray], saved: dict[str, Tensor]) -> None:
        """Put back the environment's `checkpoint` and what `state_dict` returned with it."""
        env.unwrapped.restore(saved_env)
        self.obs, self.info = env.unwrapped.last()
        self.load_state_dict(saved)

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Put back what `state_dict` returned."""
        self.previous_done = saved["previous_done"].numpy()
        self.hidden = saved["hidden"].to(self.hidden.device)
        self.episodic_return = saved["episodic_return"].numpy()
        self.episodic_length = saved["episodic_length"].numpy()


@dataclasses.dataclass
class Collector:
    """One vector environment while its rollout is collected.

    Args:
        env: vector environment.
        stream: where it stands; advanced in place.
        noise: (steps, num_envs, num_agents, num_actions) for `act`.
        buffer: filled in place, after the rows of its history.
    """

    env: Any
    stream: Stream
    noise: Tensor
    buffer: RolloutBuffer
    ended: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)

    def observe(self, step: int) -> None:
        """Write what is seen at a row of the buffer."""
        self.buffer.observe(step, self.stream.obs, self.stream.info, ~self.stream.previous_done)
        if self.buffer.memory_size:
            self.buffer.memory[step].copy_(self.stream.hidden)

    def shown(self, step: int) -> Shown:
        """Return what a policy gets at a row of the buffer."""
        buffer = self.buffer
        noise = self.noise[step - buffer.history]
        return buffer.obs[step], buffer.action_mask[step], self.stream.hidden, noise

    def act(self, step: int, choice: Choice, orders: np.ndarray) -> None:
        """Step the environment; write what was chosen at a row and what came of it.

        Args:
            step: the row.
            choice: of the policy.
            orders: its actions (num_envs, num_agents).
        """
        actions, log_probs, hidden = choice
        self.buffer.actions[step].copy_(actions)
        if log_probs is not None:
            self.buffer.log_probs[step].copy_(log_probs)
        result = self.stream.advance(self.env, orders, hidden)
        reward, terminated, truncated, episodes = result
        self.buffer.record(step, reward, terminated, truncated)
        self.ended.append(episodes)


def collect(
    act: Callable[[list[Shown]], Sequence[Choice]], collectors: Sequence[Collector], clock: Clock
) -> list[dict[str, np.ndarray]]:
    """Fill the buffers of vector environments of one shape with their next steps.

    Args:
        act: chooses for all of them.
        collectors: the environments.
        clock: books env and inference time.

    Returns:
        The battles that ended meanwhile in each, see `Stream.advance`.
    """
    buffer = collectors[0].buffer
    for step in range(buffer.history, buffer.num_steps):
        for one in collectors:
            one.observe(step)
        with torch.inference_mode():
            choices = act([one.shown(step) for one in collectors])
            orders = [actions.cpu().numpy() for actions, _, _ in choices]
            clock.spent("inference")
            for one, choice, order in zip(collectors, choices, orders, strict=True):
                one.act(step, choice, order)
            clock.spent("env")
    for one in collectors:
        one.observe(buffer.num_steps)
    clock.spent("inference")
    return [concatenate(one.ended) for one in collectors]


def each(act: Callable[..., Choice]) -> Callable[[list[Shown]], list[Choice]]:
    """Return what lets a policy such as `Agent.act` choose for one environment after the other."""
    return lambda shown: [act(*one) for one in shown]


def concatenate(ended: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the battles of several steps as one."""
    return {name: np.concatenate([episodes[name] for episodes in ended]) for name in ended[0]}


def iteration_metrics(
    episodes: dict[str, np.ndarray],
    steps: int,
    optimizer: torch.optim.Optimizer,
    seconds: dict[str, float],
    metrics: dict[str, float],
) -> dict[str, float]:
    """Return what a learner of battles logs of an iteration.

    Args:
        episodes: battles that ended in it.
        steps: environment steps that it took.
        optimizer: tells the learning rate.
        seconds: of each part of it, see `Clock.lap`; of all seeds that shared it.
        metrics: of the update.
    """
    return {
        **episode_metrics(episodes),
        "charts/SPS": steps / sum(seconds.values()),
        "charts/learning_rate": float(optimizer.param_groups[0]["lr"]),
        **metrics,
        **{f"time/{name}_seconds": spent for name, spent in seconds.items()},
    }


def episode_metrics(episodes: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the `charts/*` means over finished battles; empty when none finished."""
    if len(episodes["env"]) == 0:
        return {"charts/episodes": 0}
    return {
        "charts/episodes": len(episodes["env"]),
        "charts/win_rate": float(episodes["battle_won"].mean()),
        "charts/episodic_return": float(episodes["episodic_return"].mean()),
        "charts/episodic_length": float(episodes["episodic_length"].mean()),
        "charts/draw_rate": float(episodes["draw"].mean()),
        "charts/timeout_rate": float(episodes["truncated"].mean()),
    }
