"""The life of a training command: start or resume, iterate, log, save, stop."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from baselines.algorithms import ALGORITHMS, Algorithm
from baselines.config import BattleConfig, RunConfig
from baselines.errors import TrainingError
from baselines.runs import state
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.console import Progress
from baselines.runs.folder import RunGroup, alone
from baselines.runs.process import StopRequest, prepare_torch
from baselines.runs.seeding import random_states, set_random_states
from baselines.runs.state import Saved

DIVERGED = 1e9  # a larger loss means that training has diverged


class Learner(Saved, Protocol):
    """One seed of a multi-agent learner, with all its state."""

    def iterate(self) -> dict[str, float]:
        """Collect and learn once; return the metrics."""


class Group(Protocol):
    """Seeds that train at once, in ascending order."""

    environment: dict[str, Any]  # `id` and `fingerprint`, for the run's record
    global_steps: Sequence[int]
    iterations: Sequence[int]
    finished: bool
    snapshot_due: bool

    def iterate(self) -> Sequence[dict[str, float] | None]:
        """Collect and learn once with each seed; None for a seed that is finished."""

    def save_state(self) -> list[Checkpoint]:
        """Return each seed's checkpoint."""

    def load_state(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Restore each seed from its checkpoint."""

    def close(self) -> None:
        """Close the environments."""


class Seeds:
    """A `Group` of independent learners that take turns.

    Each learner sees the global random numbers that it would see in a run of its own. Seeds are not
    batched, because each has different valid rows: a batch would compute rows that a single-seed
    run skips. PQN's seeds have equally many rows, and run as one on a GPU (`learners.pqn_stack`).

    Args:
        make: function from the config of one seed to its learner.
        config: settings of all seeds.
    """

    snapshot_due = False

    def __init__(self, make: Callable[[Any], Learner], config: BattleConfig) -> None:
        self.total_steps = config.total_steps
        self.learners: list[Learner] = []
        self._states: list[dict[str, Any]] = []
        for index in range(config.seeds):
            self.learners.append(make(alone(config, index)))
            self._states.append(random_states())
        battles = self.learners[0].battles
        self.environment = {"id": battles.id, "fingerprint": battles.fingerprint}

    @property
    def global_steps(self) -> list[int]:
        """Environment steps done, per seed."""
        return [learner.global_step for learner in self.learners]

    @property
    def iterations(self) -> list[int]:
        """Iterations done, per seed."""
        return [learner.iteration for learner in self.learners]

    @property
    def finished(self) -> bool:
        """Whether each seed has done `total_steps`."""
        return min(self.global_steps) >= self.total_steps

    def iterate(self) -> list[dict[str, float] | None]:
        """Collect and learn once with each seed; None for a seed that is finished."""
        metrics: list[dict[str, float] | None] = []
        for index, learner in enumerate(self.learners):
            with self._turn(index):
                done = learner.global_step >= self.total_steps
                metrics.append(None if done else learner.iterate())
        return metrics

    def save_state(self) -> list[Checkpoint]:
        """Return each seed's checkpoint, its global random numbers included."""
        saved = []
        for index, learner in enumerate(self.learners):
            with self._turn(index):
                checkpoint = state.checkpoint_of(learner)
                checkpoint.trainer["random"] = random_states()
                saved.append(checkpoint)
        return saved

    def load_state(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Restore each seed from its checkpoint."""
        for index, checkpoint in enumerate(checkpoints):
            with self._turn(index):
                state.restore_learner(self.learners[index], checkpoint)
                set_random_states(checkpoint.trainer["random"])

    def close(self) -> None:
        """Close the environments."""
        for learner in self.learners:
            learner.battles.close()

    @contextlib.contextmanager
    def _turn(self, index: int) -> Iterator[None]:
        if len(self.learners) == 1:
            yield
            return
        set_random_states(self._states[index])
        yield
        self._states[index] = random_states()


def train(name: str, config: RunConfig) -> tuple[list[Path], int | None]:
    """Train an algorithm, or resume the run or group of runs `config.resume`.

    Args:
        name: key of the algorithm in `algorithms.ALGORITHMS`.
        config: its settings.

    Returns:
        The run folders, one per seed, and the signal that stopped them (None when complete).

    Raises:
        UsageError: the config cannot be run on this machine.
    """
    threads = prepare_torch(config.num_threads, config.device)
    config = dataclasses.replace(config, num_threads=threads)
    found = find_checkpoints(Path(config.resume), ALGORITHMS[name]) if config.resume else []
    group = ALGORITHMS[name].load("make_group")(config, found)
    runs = open_runs(name, config, group.environment, found)
    if found:
        group.load_state(found)
    else:
        runs.save(group.save_state())
    progress = Progress(config.total_steps * config.seeds, steps_done(group))
    try:
        with StopRequest() as stop:
            loop(group, runs, progress, stop)
        if stop.signal is not None:
            progress.say(runs.how_to_continue(name, stop.signal))
    finally:
        progress.close()
        runs.close()
        group.close()
    return runs.paths, stop.signal


def find_checkpoints(path: Path, algorithm: Algorithm) -> list[Checkpoint]:
    """Return the checkpoints from which the seeds of a run or group resume, one per seed."""
    if algorithm.seeds_in_step:
        return RunGroup.common_checkpoints(path)
    return RunGroup.latest_checkpoints(path)


def open_runs(
    command: str, config: Any, environment: dict[str, Any], found: Sequence[Checkpoint]
) -> RunGroup:
    """Open the run folders of the checkpoints found, or make new folders if there are none."""
    if found:
        return RunGroup.resume(Path(config.resume), config, environment, found)
    return RunGroup.start(command, config, environment)


def loop(group: Group, runs: RunGroup, progress: Progress, stop: StopRequest) -> None:
    """Iterate until the end, or until a signal asks to stop; the last state is saved."""
    progress.say(f"run folder {runs.path}")
    if not any(group.iterations) and group.snapshot_due:
        runs.snapshot(group.save_state())
    saved, done = True, steps_done(group)
    while not group.finished and stop.signal is None:
        before, began = done, time.perf_counter()
        metrics, saved = group.iterate(), False
        runs.log(group.global_steps, metrics)
        done = steps_done(group)
        speed = {"charts/SPS": (done - before) / (time.perf_counter() - began)}
        progress.update(done, over_seeds(metrics) | speed)
        refuse(group, runs, broken_losses(metrics))
        if group.snapshot_due:
            runs.snapshot(group.save_state())
        if runs.checkpoint_due(group.global_steps):
            save_group(group, runs)
            saved = True
    if not saved:
        save_group(group, runs)
    runs.wait()  # here, because a second SIGTERM must not end the process while a thread writes


def steps_done(group: Group) -> int:
    """Return the environment steps of all seeds together."""
    return sum(map(int, group.global_steps))


def save_group(group: Group, runs: RunGroup) -> None:
    """Save each seed's state.

    Raises:
        TrainingError: a weight is not finite.
    """
    saved = group.save_state()
    refuse(group, runs, broken_weights(saved))
    runs.save(saved)


def broken_losses(metrics: Sequence[dict[str, float] | None]) -> dict[int, str]:
    """Describe, per seed, the first loss that is NaN or has diverged."""
    broken: dict[int, str] = {}
    for index, values in enumerate(metrics):
        for name, value in (values or {}).items():
            if name.startswith("losses/") and not abs(value) < DIVERGED:
                broken.setdefault(index, f"{name} is {value:g}")
    return broken


def broken_weights(saved: Sequence[Checkpoint]) -> dict[int, str]:
    """Describe, per seed, a weight that is not finite."""
    broken: dict[int, str] = {}
    for index, checkpoint in enumerate(saved):
        for name, value in checkpoint.weights.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                broken.setdefault(index, f"weight {name} is not finite")
    return broken


def refuse(group: Group, runs: RunGroup, broken: dict[int, str]) -> None:
    """Stop if a seed is broken; the other seeds are saved and can be resumed alone.

    Raises:
        TrainingError: a seed is broken; the line names each broken seed, its metric and iteration,
            and its last good checkpoint.
    """
    if not broken:
        return
    saved = group.save_state()
    broken = broken_weights(saved) | broken
    runs.save([None if index in broken else good for index, good in enumerate(saved)])
    raise TrainingError(
        "; ".join(
            f"seed {runs.runs[index].config['seed']}: {what} in iteration"
            f" {group.iterations[index]}; the last good checkpoint is {runs.last_checkpoint(index)}"
            for index, what in sorted(broken.items())
        )
    )


def over_seeds(metrics: Sequence[dict[str, float] | None]) -> dict[str, float]:
    """Return the means of the metrics over the seeds, for the progress line."""
    present = [values for values in metrics if values is not None]
    names = [name for name in present[0] if all(name in values for values in present)]
    return {name: sum(values[name] for values in present) / len(present) for name in names}
