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

SEEN = ("obs", "state", "action_mask")  # fields that agents see at the end of an episode too


@dataclasses.dataclass
class EpisodeBatch:
    """Episodes to learn from, longest first, packed: only steps that happened, ordered by time.

    An episode of L steps has L + 1 rows, the last one for what it ended in. At step t the rows of
    the `sizes[t]` episodes that are still there stand together, always in the same order.
    """

    obs: Tensor  # (rows, num_agents, obs_size)
    state: Tensor  # (rows, state_size)
    action_mask: Tensor  # (rows, num_agents, num_actions) bool
    last_actions: Tensor  # (rows, num_agents) int64; -1 in the first row of an episode
    sizes: list[int]
    step: Tensor  # (rows,) int64, time of each row
    episode: Tensor  # (rows,) int64, episode of each row
    taken: Tensor  # (steps,) int64 rows that an action was taken in
    following: Tensor  # (steps,) int64 the row that each of them led to
    actions: Tensor  # (steps, num_agents) int64
    rewards: Tensor  # (steps,) float32
    terminated: Tensor  # (steps,) bool
    done: Tensor  # (steps,) bool


class EpisodeReplay:
    """The last `capacity` episodes, and those being played.

    Every episode has a slot of `episode_limit + 1` rows that its env writes into while it is
    played; there is no copy when it ends. When more than `capacity` have ended, the oldest slot is
    given to the env that needs one. It takes no memory before `allocate`.

    Args:
        battles: whose sizes, with `episode_limit`, and device count.
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
        """Bytes that the episodes take at most."""
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
        """Take the memory.

        Args:
            replays: how many of this size there will be.

        Raises:
            UsageError: there is not as much for all of them.
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
            text = f"--buffer-episodes {self.capacity}: {self.describe()}; there is less"
            raise UsageError(text) from error

    def _check_memory(self, replays: int) -> None:
        if self.device.type == "cuda":
            room = torch.cuda.mem_get_info(self.device)[1]  # of all of them, made or not
        else:
            room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if replays * self.nbytes > room:
            share = room / replays
            raise UsageError(
                f"--buffer-episodes {self.capacity}: {self.describe()}; the device has"
                f" {share / 1e9:.2f} GB for each seed's: at most"
                f" {int(self.capacity * share / self.nbytes)} fit"
            )

    def observe(self, seen: Observation, envs: Tensor | None = None) -> None:
        """Write what the agents of all envs see now, or of some envs (num_selected,)."""
        slots = self.open if envs is None else self.open[envs.cpu().numpy()]
        rows = self._next_rows(slots)
        for name in SEEN:
            value = getattr(seen, name)
            value = value if envs is None else value.index_select(0, envs)
            self.data[name][rows] = value.to(self.fields[name][1])

    def record(self, actions: Tensor, valid: Tensor, outcome: Outcome) -> None:
        """Write one step of the envs; rows that are not valid only reset their env."""
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
        """End the episodes of envs whose last observation is written; they get new slots."""
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
            batch_size: how many, at most as many as have ended.
            generator: of a CPU.
        """
        drawn = torch.randperm(len(self.ended), generator=generator)[:batch_size].numpy()
        slots = np.array(self.ended)[drawn]
        slots = slots[np.argsort(-self.length[slots], kind="stable")]
        return self.batch(slots)

    def batch(self, slots: np.ndarray) -> EpisodeBatch:
        """Return the episodes of some slots, longest first."""
        length = self.length[slots]
        there = np.arange(length[0] + 1)[:, None] <= length
        step, episode = np.nonzero(there)
        row = np.full(there.shape, -1)
        row[step, episode] = np.arange(len(step))
        is_taken = step < length[episode]
        taken = np.flatnonzero(is_taken)
        done = step[taken] + 1 == length[episode[taken]]

        def send(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        rows = send(slots[episode] * self.num_rows + step)
        first = step == 0
        before = send(slots[episode] * self.num_rows + np.maximum(step - 1, 0))
        last_actions = self.data["actions"].index_select(0, before).long()
        taken_rows = rows[send(taken)]
        return EpisodeBatch(
            obs=self.data["obs"].index_select(0, rows),
            state=self.data["state"].index_select(0, rows),
            action_mask=self.data["action_mask"].index_select(0, rows),
            last_actions=last_actions.masked_fill_(send(first).unsqueeze(-1), -1),
            sizes=there.sum(1).tolist(),
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
        """Return where everything lies; `writer` writes what lies there."""
        return {
            "ended": list(self.ended),
            "open": torch.from_numpy(self.open.copy()),
            "free": list(self._free),
            "length": torch.from_numpy(self.length.copy()),
            "terminated": torch.from_numpy(self.terminated.copy()),
        }

    def writer(self) -> "ReplayWriter":
        """Return what writes the episodes as they are now, while training goes on."""
        self._writing = ReplayWriter(self)
        return self._writing

    def load(self, state: dict[str, Any], file: BinaryIO) -> None:
        """Put back what `state_dict` returned and `writer` wrote."""
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
                    rows.copy_(found.view(len(rows), *shape))

    def _rows(self, name: str, slot: int, *, ended: bool) -> Tensor:
        """Return the rows of a slot that mean something: also what the agents saw at the end."""
        start = int(slot) * self.num_rows
        count = int(self.length[slot]) + (ended and name in SEEN)
        return self.data[name][start : start + count]


class ReplayWriter:
    """Writes the episodes of a replay, oldest first, while the learner goes on.

    Ended episodes do not change until their slot is given away, and the oldest goes first; the
    learner waits for the writer only if it wants a slot that is not written yet. The episodes being
    played are few and are copied at once.
    """

    def __init__(self, replay: EpisodeReplay) -> None:
        self._replay, self._ended = replay, list(replay.ended)
        self._position = {slot: index for index, slot in enumerate(self._ended)}
        self._open = [self._texts(slot, ended=False) for slot in replay.open]
        self._written = 0
        self._progress = threading.Condition()

    def _texts(self, slot: int, *, ended: bool) -> list[bytes]:
        replay = self._replay
        rows = (replay._rows(name, slot, ended=ended) for name in replay.fields)
        return [one.cpu().numpy().tobytes() for one in rows]

    def write(self, file: BinaryIO) -> None:
        """Write everything; called by the thread that writes the checkpoint."""
        for texts in self._open:
            file.writelines(texts)
        for index, slot in enumerate(self._ended):
            file.writelines(self._texts(slot, ended=True))
            self._advance(index + 1)

    def release(self) -> None:
        """Let the learner write over everything: the file is complete, or was given up."""
        self._advance(len(self._ended))

    def _advance(self, written: int) -> None:
        with self._progress:
            self._written = written
            self._progress.notify_all()

    def wait_for(self, slot: int) -> None:
        """Return once a slot may be written over."""
        position = self._position.get(slot, -1)
        with self._progress:
            self._progress.wait_for(lambda: self._written > position)


def fields_of(sizes: Any) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of what a row holds, by name.

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
