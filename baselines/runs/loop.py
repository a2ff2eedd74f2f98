"""The life of a training command: start or go on, iterate, log, save, stop."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from baselines.config import BattleConfig
from baselines.errors import TrainingError
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.console import Progress
from baselines.runs.folder import (
    RunGroup,
    StopRequest,
    alone,
    describe_environment,
    exit_status,
    prepare_torch,
    random_states,
    set_random_states,
)

EXPLODED = 1e9  # no loss of a learner that learns is as large
Metrics = dict[str, float]


class Learner(Protocol):
    """One seed of a learner of battles: all that changes while it trains."""

    env: Any
    global_step: int
    iteration: int

    def iterate(self) -> Metrics:
        """Collect and learn once; return what is logged."""

    def save_state(self) -> Checkpoint:
        """Return everything that `load_state` needs to go on bit for bit."""

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Put back what `save_state` returned."""


class Group(Protocol):
    """The seeds that train at once, in the order of their numbers."""

    global_steps: Sequence[int]
    iterations: Sequence[int]
    finished: bool
    snapshot_due: bool

    def iterate(self) -> Sequence[Metrics | None]:
        """Collect and learn once with each seed; None for one that is finished."""

    def save_state(self) -> list[Checkpoint]:
        """Return each seed's checkpoint."""

    def close(self) -> None:
        """Close the environments."""


class Learners:
    """A `Group` of learners that know nothing of each other and take turns.

    Each sees the global random numbers that it would see alone. Nothing is batched over seeds:
    where the rows that count differ from seed to seed, that would compute what a lone run leaves
    out. PQN's, which do not, run as one on a GPU (`pqn.Seeds`).

    Args:
        make: a lone seed's config to its learner.
        config: of all seeds.
    """

    snapshot_due = False

    def __init__(self, make: Callable[[Any], Learner], config: BattleConfig) -> None:
        self.total_steps = config.total_steps
        self.learners: list[Learner] = []
        self._states: list[dict[str, Any]] = []
        for index in range(config.seeds):
            self.learners.append(make(alone(config, index)))
            self._states.append(random_states())

    @property
    def global_steps(self) -> list[int]:
        """Environment steps that each seed has done."""
        return [learner.global_step for learner in self.learners]

    @property
    def iterations(self) -> list[int]:
        """Iterations that each seed has done."""
        return [learner.iteration for learner in self.learners]

    @property
    def finished(self) -> bool:
        """Whether all seeds have done their steps."""
        return min(self.global_steps) >= self.total_steps

    def iterate(self) -> list[Metrics | None]:
        """Let each seed that is not finished collect and learn once."""
        metrics: list[Metrics | None] = []
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
                checkpoint = learner.save_state()
                checkpoint.trainer["random"] = random_states()
                saved.append(checkpoint)
        return saved

    def load_state(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Put back what `save_state` returned."""
        for index, checkpoint in enumerate(checkpoints):
            with self._turn(index):
                self.learners[index].load_state(checkpoint)
                set_random_states(checkpoint.trainer["random"])

    def close(self) -> None:
        """Close the environments."""
        for learner in self.learners:
            learner.env.close()

    @contextlib.contextmanager
    def _turn(self, index: int) -> Iterator[None]:
        if len(self.learners) == 1:
            yield
            return
        set_random_states(self._states[index])
        yield
        self._states[index] = random_states()


def train_battles(
    command: str,
    config: BattleConfig,
    make: Callable[[Any], Learner],
    group_class: type[Learners] = Learners,
) -> tuple[list[Path], int | None]:
    """Train a learner of battles, or continue the run or group of runs `config.resume`.

    Args:
        command: its name.
        config: its settings.
        make: a lone seed's config to its learner.
        group_class: how its seeds train at once.

    Returns:
        The run folders, one a seed, and the signal that stopped them (None when complete).

    Raises:
        UsageError: the config cannot be run here.
    """
    config = prepare(config)
    found = RunGroup.latest_checkpoints(Path(config.resume)) if config.resume else []
    group = group_class(make, config)
    runs = open_runs(command, config, describe_environment(group.learners[0].env), found)
    if found:
        group.load_state(found)
    else:
        runs.save(group.save_state())
    return runs.paths, train_group(command, config, group, runs)


def open_runs(
    command: str, config: Any, environment: dict[str, Any], found: Sequence[Checkpoint]
) -> RunGroup:
    """Open the run folders to go on from the checkpoints found, or make new ones if none are."""
    if found:
        return RunGroup.resume(Path(config.resume), config, environment, found)
    return RunGroup.start(command, config, environment)


def prepare(config: Any) -> Any:
    """Set PyTorch up; return the config with the number of threads that it means."""
    threads = prepare_torch(config.num_threads, config.device)
    return dataclasses.replace(config, num_threads=threads)


def train_group(command: str, config: Any, group: Group, runs: RunGroup) -> int | None:
    """Train a group whose first state is saved; return the signal that stopped it, if any."""
    progress = Progress(config.total_steps * config.seeds, steps_done(group))
    try:
        with StopRequest() as stop:
            loop(group, runs, progress, stop)
        if stop.signal is not None:
            progress.say(runs.how_to_continue(command, stop.signal))
    finally:
        progress.close()
        runs.close()
        group.close()
    return stop.signal


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
            save(group, runs)
            saved = True
    if not saved:
        save(group, runs)
    runs.wait()  # a second SIGTERM must not end the process meanwhile


def steps_done(group: Group) -> int:
    """Return the environment steps of all seeds together."""
    return sum(map(int, group.global_steps))


def save(group: Group, runs: RunGroup) -> None:
    """Save each seed's state.

    Raises:
        TrainingError: see `refuse`.
    """
    saved = group.save_state()
    refuse(group, runs, broken_weights(saved))
    runs.save(saved)


def broken_losses(metrics: Sequence[Metrics | None]) -> dict[int, str]:
    """Return what is wrong with the losses of each seed whose losses are no numbers, or explode."""
    broken: dict[int, str] = {}
    for index, values in enumerate(metrics):
        for name, value in (values or {}).items():
            if name.startswith("losses/") and not abs(value) < EXPLODED:
                broken.setdefault(index, f"{name} is {value:g}")
    return broken


def broken_weights(saved: Sequence[Checkpoint]) -> dict[int, str]:
    """Return what is wrong with the weights of each seed that has some that are no numbers."""
    broken: dict[int, str] = {}
    for index, checkpoint in enumerate(saved):
        for name, value in checkpoint.weights.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                broken.setdefault(index, f"weight {name} is not finite")
    return broken


def refuse(group: Group, runs: RunGroup, broken: dict[int, str]) -> None:
    """Stop where a seed is broken; the other seeds are saved and can go on alone.

    Raises:
        TrainingError: its one line names each broken seed, its metric and iteration, and its last
            good checkpoint.
    """
    if not broken:
        return
    saved = group.save_state()
    broken = broken_weights(saved) | broken
    runs.save([None if index in broken else one for index, one in enumerate(saved)])
    raise TrainingError(
        "; ".join(
            f"seed {runs.runs[index].config['seed']}: {what} in iteration"
            f" {group.iterations[index]}; the last good checkpoint is {runs.last_checkpoint(index)}"
            for index, what in sorted(broken.items())
        )
    )


def over_seeds(metrics: Sequence[Metrics | None]) -> Metrics:
    """Return means over the seeds for the progress line."""
    present = [values for values in metrics if values is not None]
    names = [name for name in present[0] if all(name in values for values in present)]
    return {name: sum(values[name] for values in present) / len(present) for name in names}


def anneal(config: BattleConfig, optimizer: torch.optim.Optimizer, global_step: int) -> None:
    """Lower the learning rate linearly to zero over the run, where the config asks for it."""
    if config.anneal_lr:
        left = max(0.0, 1.0 - global_step / config.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * left


def finish(paths: Sequence[Path], stopped: int | None) -> int:
    """Say how to evaluate complete runs; return the command's exit status."""
    if stopped is None:
        print("evaluate with")
        for path in paths:
            print(f"  baselines evaluate {path}")
    return exit_status(stopped)
