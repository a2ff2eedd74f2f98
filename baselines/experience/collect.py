"""Collection of experience: the one loop that plays battles, and statistics of episodes."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.experience.battles import Battles, Observation, Outcome
from baselines.experience.buffers import RolloutBuffer

Metrics = dict[str, float]


class Clock:
    """Seconds spent in each part of an iteration since the last `lap`."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("env", "inference", "learn", "probe"), 0.0)
        self._last = time.perf_counter()

    def spent(self, part: str) -> None:
        """Add the time since the last call to `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def lap(self) -> dict[str, float]:
        """Return the seconds of each part, and reset them to zero."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return seconds


class Tally:
    """Statistics of episodes: running sums of each env's episode, and totals of ended episodes.

    All tensors stay on the device. `read` makes the one transfer of an iteration.

    Args:
        num_envs: parallel battles.
        device: PyTorch device.
    """

    TOTALS = ("episodes", "episodic_return", "episodic_length", "win_rate", "draw_rate")
    TOTALS += ("timeout_rate",)

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.episodic_return = torch.zeros(num_envs, dtype=torch.float64, device=device)
        self.episodic_length = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.totals = torch.zeros(len(self.TOTALS), dtype=torch.float64, device=device)
        self._ones = torch.ones_like(self.episodic_return)

    def add(self, valid: Tensor, outcome: Outcome) -> None:
        """Add one step.

        Args:
            valid: (num_envs,) bool, False on reset rows.
            outcome: results of the step.
        """
        resets = ~valid
        self.episodic_return.add_(outcome.reward).masked_fill_(resets, 0.0)
        self.episodic_length.add_(1).masked_fill_(resets, 0)
        running = (self._ones, self.episodic_return, self.episodic_length)
        columns = (*running, outcome.battle_won, outcome.draw, outcome.truncated)  # as in TOTALS
        table = torch.stack([column.double() for column in columns])  # (totals, num_envs)
        self.totals.add_(table.masked_fill_(~outcome.ended, 0.0).sum(1))  # (totals,)

    def read(self) -> Metrics:
        """Return the `charts/*` means over the episodes that ended since the last call."""
        episodes, *totals = self.totals.tolist()
        self.totals.zero_()
        if not episodes:
            return {"charts/episodes": 0}
        means = {
            f"charts/{name}": total / episodes
            for name, total in zip(self.TOTALS[1:], totals, strict=True)
        }
        return {"charts/episodes": int(episodes), **means}


class Seen(NamedTuple):
    """Inputs of a policy for one step."""

    obs: Tensor  # (num_envs, num_agents, obs_size)
    action_mask: Tensor  # (num_envs, num_agents, num_actions) bool
    hidden: Tensor  # (num_envs, num_agents, memory_size)
    noise: Tensor | None  # (num_envs, num_agents, num_actions); None: greedy


class Choice(NamedTuple):
    """Outputs of a policy for one step."""

    actions: Tensor  # (num_envs, num_agents) int64
    log_probs: Tensor | None  # (num_envs, num_agents); None for a policy without probabilities
    hidden: Tensor  # (num_envs, num_agents, memory_size) after the step


class Collector:
    """Plays battles with a policy, and writes each step into a rollout buffer.

    Args:
        battles: environments that were just reset.
        hidden: (num_envs, num_agents, memory_size) at the start of episodes.
        buffer: filled in place, after the rows of its history; None for a learner with a replay.

    Attributes:
        hidden: the policy's hidden state before the next step.
        tally: statistics of the episodes.
    """

    def __init__(
        self, battles: Battles, hidden: Tensor, buffer: RolloutBuffer | None = None
    ) -> None:
        self.battles, self.hidden, self.buffer = battles, hidden, buffer
        self.tally = Tally(battles.num_envs, battles.device)

    def collect(self, act: Callable[..., Choice], noise: Tensor, clock: Clock) -> None:
        """Fill the buffer with the next steps of every env.

        Args:
            act: the policy, a function from the fields of `Seen` to a `Choice`.
            noise: (steps, num_envs, num_agents, num_actions) for `act`.
            clock: counts env and inference time.
        """
        for row, step_noise in enumerate(noise, self.buffer.history):
            with torch.inference_mode():
                choice = Choice(*act(*self.look(row, step_noise)))
                self.advance(row, choice, clock)
        self.finish(clock)

    def look(self, row: int, noise: Tensor | None) -> Seen:
        """Write the observation into a row of the buffer; return the inputs of the policy."""
        self.buffer.observe(row, self.battles.observe(), self.hidden)
        return Seen(self.buffer.obs[row], self.buffer.action_mask[row], self.hidden, noise)

    def advance(self, row: int, choice: Choice, clock: Clock) -> None:
        """Play one step, and write it into a row of the buffer."""
        outcome = self.step(choice, clock)[1]
        self.buffer.record(row, choice.actions, choice.log_probs, outcome)
        clock.spent("env")

    def finish(self, clock: Clock) -> None:
        """Write the observation after the last step into the last row of the buffer."""
        self.buffer.observe(self.buffer.num_steps, self.battles.observe(), self.hidden)
        clock.spent("inference")

    def step(self, choice: Choice, clock: Clock) -> tuple[Observation, Outcome]:
        """Play one step without a buffer; return the observation before it and its outcome."""
        seen = self.battles.observe()
        clock.spent("inference")
        outcome = self.battles.step(choice.actions)
        self.hidden = choice.hidden * seen.valid.view(-1, 1, 1)  # flags (num_envs, 1, 1)
        self.tally.add(seen.valid, outcome)
        return seen, outcome

    def state_dict(self) -> dict[str, Tensor]:
        """Return the collector's state, without the environment's own."""
        return {
            "previous_done": ~self.battles.observe().valid.cpu(),
            "hidden": self.hidden.cpu(),
            "episodic_return": self.tally.episodic_return.clone().cpu(),
            "episodic_length": self.tally.episodic_length.clone().cpu(),
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned, after the environment's own."""
        self.battles.mark_resets(saved["previous_done"])
        self.hidden = saved["hidden"].to(self.hidden.device)
        self.tally.episodic_return.copy_(saved["episodic_return"])
        self.tally.episodic_length.copy_(saved["episodic_length"])


def iteration_metrics(
    played: Metrics,
    steps: int,
    optimizer: torch.optim.Optimizer,
    seconds: dict[str, float],
    learned: Metrics,
) -> Metrics:
    """Return the metrics that a learner logs per iteration, for one seed.

    Args:
        played: metrics of the episodes that ended in the iteration.
        steps: environment steps of the iteration, of this seed.
        optimizer: optimizer, which holds the learning rate.
        seconds: time of each part, see `Clock.lap`, for all seeds that shared the iteration.
        learned: metrics of the update.
    """
    return {
        **played,
        "charts/SPS": steps / sum(seconds.values()),
        "charts/learning_rate": float(optimizer.param_groups[0]["lr"]),
        **learned,
        **{f"time/{name}_seconds": spent for name, spent in seconds.items()},
    }
