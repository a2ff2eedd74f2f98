"""Replay of whole episodes, on the learner's device, and its part of checkpoints."""

import dataclasses
import os
import threading
from collections import deque
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from baselines.errors import UsageError
from baselines.experience.battles import Battles, Observation, Outcome

SEEN = ("obs", "state", "action_mask")  # fields that the row after the last step has too


@dataclasses.dataclass
class EpisodeBatch:
    """Episodes to learn from, longest first, as packed rows: ordered by time, without padding.

    An episode of L steps has L + 1 rows, the last one for its final observation. The rows of step t
    are adjacent: one for each of the `sizes[t]` episodes that last so long, always in one order.
    """

    obs: Tensor  # (rows, num_agents, obs_size)
    state: Tensor  # (rows, state_size)
    action_mask: Tensor  # (rows, num_agents, num_actions) bool
    last_actions: Tensor  # (rows, num_agents) int64; -1 in the first row of an episode
    sizes: list[int]  # rows of each step
    step: Tensor  # (rows,) int64, time of each row
    episode: Tensor  # (rows,) int64, episode of each row
    taken: Tensor  # (steps,) int64 rows in which an action was taken
    following: Tensor  # (steps,) int64 row after each of these, of the same episode
    actions: Tensor  # (steps, num_agents) int64
    rewards: Tensor  # (steps,) float32
    terminated: Tensor  # (steps,) bool
    done: Tensor  # (steps,) bool


class EpisodeReplay:
    """The last `capacity` ended episodes, and those being played.

    Every episode has a slot of `episode_limit + 1` rows. Its env writes into the slot while it
    plays, so that nothing is copied when the episode ends. When more than `capacity` episodes have
    ended, the oldest slot is reused. A replay takes no memory before `allocate`.

    Args:
        battles: environments, which give the sizes, with `episode_limit`, and the device.
        capacity: ended episodes to keep.
    """

    def __init__(self, battles: Battles, capacity: int) -> None:
        sizes, self.num_envs = battles.sizes, battles.num_envs
        self.capacity, self.device = capacity, battles.device
        self.num_rows = sizes.episode_limit + 1
        self.num_slots = capacity + self.num_envs
        self.fields = fields_of(sizes)
        self.data: dict[str, Tensor] = {}  # (num_slots * num_rows, ...) by name
        self.ended: deque[int] = deque()  # slots of ended episodes, oldest first
        self.open = np.arange(self.num_envs)  # slot of each env's episode
        self._writing: ReplayWriter | None = None

    @property
    def nbytes(self) -> int:
        """Maximum size of the episodes in bytes."""
        row = sum(
            int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            for shape, dtype in self.fields.values()
        )
        return row * self.num_rows * self.num_slots

    def describe(self) -> str:
        """Return the line that is printed before the first episode."""
        return (
            f"replay of {self.capacity:,} episodes of at most {self.num_rows - 1} steps:"
            f" up to {self.nbytes / 1e9:.2f} GB on {self.device}, and on disk in each checkpoint"
        )

    def allocate(self, replays: int = 1) -> None:
        """Allocate the memory.

        Args:
            replays: number of replays of this size that must fit.

        Raises:
            UsageError: there is not enough memory for all replays.
        """
        self._check_memory(replays)
        self.length = np.zeros(self.num_slots, np.int64)
        self.terminated = np.zeros(self.num_slots, bool)
        self._free = deque(range(self.num_envs, self.num_slots))
        rows = self.num_slots * self.num_rows
        try:
            for name, (shape, dtype) in self.fields.items():
                self.data[name] = torch.empty(rows, *shape, dtype=dtype, device=self.device)
        except torch.OutOfMemoryError as error:
            text = f"--buffer-episodes {self.capacity}: {self.describe()}; there is less memory"
            raise UsageError(text) from error

    def _check_memory(self, replays: int) -> None:
        if self.device.type == "cuda":
            room = torch.cuda.mem_get_info(self.device)[1]  # total: other replays may exist already
        else:
            room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if replays * self.nbytes > room:
            share = room / replays
            raise UsageError(
                f"--buffer-episodes {self.capacity}: {self.describe()}; the device has"
                f" {share / 1e9:.2f} GB per seed: at most"
                f" {int(self.capacity * share / self.nbytes)} fit"
            )

    def observe(self, seen: Observation, envs: Tensor | None = None) -> None:
        """Write the current observation of all envs, or of `envs` (num_selected,)."""
        slots = self.open if envs is None else self.open[envs.cpu().numpy()]
        rows = self._next_rows(slots)
        for name in SEEN:
            value = getattr(seen, name)
            value = value if envs is None else value.index_select(0, envs)  # (num_selected, ...)
            self.data[name][rows] = value.to(self.fields[name][1])

    def record(self, actions: Tensor, valid: Tensor, outcome: Outcome) -> None:
        """Write one step of all envs, except of envs that only reset: those are not valid."""
        flags = valid.cpu().numpy()
        slots = self.open[flags]
        rows = self._next_rows(slots)
        for name, value in {"actions": actions, "rewards": outcome.reward}.items():
            self.data[name][rows] = value[valid].to(self.fields[name][1])
        self.length[slots] += 1
        self.terminated[slots] = outcome.terminated.cpu().numpy()[flags]

    def _next_rows(self, slots: np.ndarray) -> Tensor:
        return torch.from_numpy(slots * self.num_rows + self.length[slots]).to(self.device)

    def close(self, envs: Tensor) -> None:
        """End the episodes of envs whose final observation is written; assign new slots to them."""
        for env in envs.tolist():
            self.ended.append(int(self.open[env]))
            if len(self.ended) > self.capacity:
                self._free.append(self.ended.popleft())
            slot = self._free.popleft()
            if self._writing is not None:
                self._writing.wait_for(slot)
            self.open[env], self.length[slot], self.terminated[slot] = slot, 0, False

    def sample(self, batch_size: int, generator: torch.Generator) -> EpisodeBatch:
        """Draw ended episodes without replacement.

        Args:
            batch_size: number of episodes, at most as many as have ended.
            generator: generator of the CPU.
        """
        drawn = torch.randperm(len(self.ended), generator=generator)[:batch_size].numpy()
        slots = np.array(self.ended)[drawn]
        slots = slots[np.argsort(-self.length[slots], kind="stable")]
        return self.batch(slots)

    def batch(self, slots: np.ndarray) -> EpisodeBatch:
        """Return the episodes of some slots, which are ordered by length, longest first."""
        length = self.length[slots]  # (episodes,)
        exists = np.arange(length[0] + 1)[:, None] <= length  # (length[0] + 1, episodes)
        step, episode = np.nonzero(exists)  # (rows,) each, ordered by time
        row = np.full(exists.shape, -1)  # (length[0] + 1, episodes)
        row[step, episode] = np.arange(len(step))
        taken = np.flatnonzero(step < length[episode])  # (steps,)
        done = step[taken] + 1 == length[episode[taken]]  # (steps,)

        def send(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        rows = send(slots[episode] * self.num_rows + step)  # (rows,) indices into the data
        before = send(slots[episode] * self.num_rows + np.maximum(step - 1, 0))  # (rows,)
        last_actions = self.data["actions"].index_select(0, before).long()  # (rows, num_agents)
        first = send(step == 0).unsqueeze(-1)  # (rows, 1)
        taken_rows = rows[send(taken)]  # (steps,)
        return EpisodeBatch(
            obs=self.data["obs"].index_select(0, rows),
            state=self.data["state"].index_select(0, rows),
            action_mask=self.data["action_mask"].index_select(0, rows),
            last_actions=last_actions.masked_fill_(first, -1),
            sizes=exists.sum(1).tolist(),
            step=send(step),
            episode=send(episode),
            taken=send(taken),
            following=send(row[step[taken] + 1, episode[taken]]),
            actions=self.data["actions"].index_select(0, taken_rows).long(),
            rewards=self.data["rewards"].index_select(0, taken_rows),
            terminated=send(done & self.terminated[slots][episode[taken]]),
            done=send(done),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the slots of the episodes and their lengths; `writer` writes the rows."""
        return {
            "ended": list(self.ended),
            "open": torch.from_numpy(self.open.copy()),
            "free": list(self._free),
            "length": torch.from_numpy(self.length.copy()),
            "terminated": torch.from_numpy(self.terminated.copy()),
        }

    def writer(self) -> "ReplayWriter":
        """Return a writer of the episodes as they are now, which works while training continues."""
        self._writing = ReplayWriter(self)
        return self._writing

    def load(self, state: dict[str, Any], file: BinaryIO) -> None:
        """Restore the state that `state_dict` returned, and the rows that `writer` wrote."""
        self.ended = deque(state["ended"])
        self._free = deque(state["free"])
        self.open = state["open"].numpy().copy()
        self.length = state["length"].numpy().copy()
        self.terminated = state["terminated"].numpy().copy()
        ended = set(self.ended)
        for slot in [*self.open, *self.ended]:
            for name, (shape, dtype) in self.fields.items():
                rows = self._rows(name, slot, ended=slot in ended)
                count = len(rows) * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
                if count:
                    found = torch.frombuffer(bytearray(file.read(count)), dtype=dtype)
                    rows.copy_(found.view(len(rows), *shape))  # (rows of the slot, ...)

    def _rows(self, name: str, slot: int, *, ended: bool) -> Tensor:
        """Return the written rows of a slot, with the final observation of an ended episode."""
        start = int(slot) * self.num_rows
        count = int(self.length[slot]) + (ended and name in SEEN)
        return self.data[name][start : start + count]


class ReplayWriter:
    """Writer of the episodes of a replay, oldest first, while the learner continues.

    Ended episodes do not change until their slot is reused, and the oldest slot is reused first.
    The learner waits for the writer only if it needs a slot that is not written yet. The episodes
    being played are few and are copied at once.
    """

    def __init__(self, replay: EpisodeReplay) -> None:
        self._replay, self._ended = replay, list(replay.ended)
        self._position = {slot: index for index, slot in enumerate(self._ended)}
        self._open = [self._bytes(slot, ended=False) for slot in replay.open]
        self._written = 0
        self._progress = threading.Condition()

    def _bytes(self, slot: int, *, ended: bool) -> list[bytes]:
        """Return the rows of a slot as bytes, per field."""
        replay = self._replay
        fields = (replay._rows(name, slot, ended=ended) for name in replay.fields)
        return [rows.cpu().numpy().tobytes() for rows in fields]

    def write(self, file: BinaryIO) -> None:
        """Write everything; called by the thread that writes the checkpoint."""
        for fields in self._open:
            file.writelines(fields)
        for index, slot in enumerate(self._ended):
            file.writelines(self._bytes(slot, ended=True))
            self._advance(index + 1)

    def release(self) -> None:
        """Let the learner overwrite all episodes: the file is complete or given up."""
        self._advance(len(self._ended))

    def _advance(self, written: int) -> None:
        with self._progress:
            self._written = written
            self._progress.notify_all()

    def wait_for(self, slot: int) -> None:
        """Wait until a slot may be overwritten."""
        position = self._position.get(slot, -1)
        with self._progress:
            self._progress.wait_for(lambda: self._written > position)


def fields_of(sizes: Any) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape and type of the fields of a row, by name.

    Args:
        sizes: an environment's `num_agents`, `obs_size`, `state_size`, `num_actions`.
    """
    agents = sizes.num_agents
    return {
        "obs": ((agents, sizes.obs_size), torch.float32),
        "state": ((sizes.state_size,), torch.float32),
        "action_mask": ((agents, sizes.num_actions), torch.bool),
        "actions": ((agents,), torch.int16),
        "rewards": ((), torch.float32),
    }
