"""The run folder: settings and metrics of a run, and enough state to resume it.

runs/<env>__<algorithm>__seed<seed>__<utc>/
  config.json      resolved config, versions, git state, engine fingerprint; before step one
  metrics.jsonl    one line per iteration
  events.out.*     the same metrics for TensorBoard
  checkpoints/     see `baselines.runs.checkpoints`
  snapshots/       weights alone, kept for good, if `--snapshots` asked for them
  evaluations/     see `baselines.evaluation`
"""

import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from baselines.errors import UsageError
from baselines.runs import checkpoints
from baselines.runs.checkpoints import Checkpoint, write_json
from baselines.runs.records import read_record, run_folders

PACKAGES = ("gymnasium", "numba", "numpy", "safetensors", "tensorboard", "torch", "tyro")


class Run:
    """A run folder that is being written.

    Args:
        path: the folder, with its config.json.
        record: the content of config.json.
        lock: descriptor that `lock_folder` returned; held until `close`.
        global_step: environment steps done; later metrics on disk are dropped.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: int, global_step: int = 0) -> None:
        self.path, self.record, self._lock = path, record, lock
        self.config = record["config"]
        self._saved_step, self._saved_time = global_step, time.monotonic()
        self._saved_iteration: int | None = None
        drop_metrics_after(path / "metrics.jsonl", global_step)
        self._metrics = (path / "metrics.jsonl").open("a")
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None
        self._writer = SummaryWriter(str(path), purge_step=global_step + 1 if global_step else None)
        if not global_step:
            self._writer.add_text("config", f"```json\n{json.dumps(record, indent=2)}\n```")

    @classmethod
    def start(
        cls, algorithm: str, config: Any, environment: dict[str, Any], parent: Path | None = None
    ) -> "Run":
        """Make a new run folder and write its config.json.

        Args:
            algorithm: name of its training command.
            config: its settings.
            environment: `id` and `fingerprint` of the environment.
            parent: folder of the group to which the run belongs; None: `config.runs_dir`.

        Raises:
            UsageError: the folder cannot be made.
        """
        record = describe_run(algorithm, config, environment)
        if parent is None:
            path = new_run_folder(algorithm, config, environment["id"], f"seed{config.seed}")
        else:
            path = _new_folder(parent, f"seed{config.seed}")
        lock = lock_folder(path)
        write_json(path / "config.json", record)
        return cls(path, record, lock)

    @classmethod
    def resume(
        cls, path: Path, config: Any, environment: dict[str, Any], global_step: int
    ) -> "Run":
        """Open a run folder to resume from its checkpoint of `global_step`.

        Later checkpoints, snapshots and metrics are removed.

        Raises:
            UsageError: it is not a run folder, it is in use, or the environment has changed.
        """
        record = read_record(path)
        fingerprint = plain(environment["fingerprint"])
        if fingerprint != record["environment"]["fingerprint"]:
            changed = changed_keys(record["environment"]["fingerprint"], fingerprint)
            raise UsageError(
                f"{path}: the environment has changed since ({', '.join(changed)}); start a new run"
            )
        lock = lock_folder(path)
        for name in ("checkpoints", "snapshots"):
            checkpoints.drop_after(path / name, global_step)
        record["config"] = dataclasses.asdict(config)
        record["resumed"] = [*record["resumed"], {"global_step": global_step, **_circumstances()}]
        write_json(path / "config.json", record)
        return cls(path, record, lock, global_step)

    def log(self, global_step: int, metrics: dict[str, float]) -> None:
        """Write one iteration's scalars to metrics.jsonl and TensorBoard.

        A value that is not finite, such as the mean of nothing, is null in metrics.jsonl and absent
        in TensorBoard.
        """
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        line = {"global_step": global_step, **dict.fromkeys(metrics), **finite}
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        for name, value in finite.items():
            self._writer.add_scalar(name, value, global_step)

    def checkpoint_due(self, global_step: int) -> bool:
        """Return whether a checkpoint is due now, by steps or by minutes."""
        steps, minutes = self.config["checkpoint_steps"], self.config["checkpoint_minutes"]
        passed = (time.monotonic() - self._saved_time) / 60
        by_steps = steps > 0 and global_step // steps > self._saved_step // steps
        return by_steps or (minutes > 0 and passed >= minutes)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; all metrics up to it reach the disk first.

        A checkpoint that is on disk already, as that of a seed that finished before the others, is
        not written again. A thread writes a checkpoint with a replay; the next `save` or `close`
        raises the thread's error.
        """
        self.wait()
        self._writer.flush()
        os.fsync(self._metrics.fileno())
        before = self._saved_step, self._saved_iteration
        self._saved_step, self._saved_time = checkpoint.global_step, time.monotonic()
        self._saved_iteration = checkpoint.trainer["iteration"]
        if before == (self._saved_step, self._saved_iteration):
            if checkpoint.replay is not None:
                checkpoint.replay.release()
            return
        folder, keep = self.path / "checkpoints", self.config["keep_checkpoints"]
        if checkpoint.replay is None:
            checkpoints.save(folder, checkpoint, keep)
        else:
            self._writing = self._pool.submit(checkpoints.save, folder, checkpoint, keep)
            self._writing.add_done_callback(lambda _: checkpoint.replay.release())

    @property
    def is_writing(self) -> bool:
        """Whether a thread still writes a checkpoint."""
        return self._writing is not None and not self._writing.done()

    def last_checkpoint(self) -> Path:
        """Return the latest checkpoint folder."""
        self.wait()
        return checkpoints.step_folders(self.path / "checkpoints")[-1]

    def close(self) -> None:
        """Wait for a checkpoint that is being written, and close the files."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._metrics.close()
            self._writer.close()
            os.close(self._lock)

    def wait(self) -> None:
        """Wait until no checkpoint is being written; raise the error of the writing thread."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()


class RunGroup:
    """The runs of several seeds that train at once, each with its own folder.

    A single seed has a plain run folder. Several seeds have `seed<seed>` folders in one group
    folder, each a full run folder that can be resumed alone.

    Args:
        path: the run folder, or the folder of the group.
        runs: one per seed.
    """

    def __init__(self, path: Path, runs: Sequence[Run]) -> None:
        self.path, self.runs = path, list(runs)

    @classmethod
    def start(cls, algorithm: str, config: Any, environment: dict[str, Any]) -> "RunGroup":
        """Make the run folder of one seed, or the group folder of several."""
        if config.seeds == 1:
            run = Run.start(algorithm, config, environment)
            return cls(run.path, [run])
        seeds = f"seeds{config.seed}-{config.seed + config.seeds - 1}"
        path = new_run_folder(algorithm, config, environment["id"], seeds)
        configs = [alone(config, index) for index in range(config.seeds)]
        return cls(path, [Run.start(algorithm, own, environment, path) for own in configs])

    @classmethod
    def resume(
        cls, path: Path, config: Any, environment: dict[str, Any], found: Sequence[Checkpoint]
    ) -> "RunGroup":
        """Open the folders to resume from `common_checkpoints` or `latest_checkpoints`."""
        runs = []
        for index, (folder, checkpoint) in enumerate(zip(run_folders(path), found, strict=True)):
            step = checkpoint.global_step
            runs.append(Run.resume(folder, alone(config, index), environment, step))
        return cls(path, runs)

    @staticmethod
    def common_checkpoints(path: Path) -> list[Checkpoint]:
        """Return each run's checkpoint of the latest iteration that all runs have.

        Stacked seeds resume from these.

        Raises:
            UsageError: there is no such iteration.
        """
        stores = [folder / "checkpoints" for folder in run_folders(path)]
        found = RunGroup.latest_checkpoints(path)
        iteration = min(checkpoint.trainer["iteration"] for checkpoint in found)
        for index, store in enumerate(stores):  # a kill between two saves leaves some ahead
            earlier = reversed(checkpoints.step_folders(store))
            while found[index].trainer["iteration"] != iteration:
                folder = next(earlier, None)
                if folder is None:
                    raise UsageError(f"{store}: it has no checkpoint of iteration {iteration}")
                found[index] = checkpoints.load(folder)
        return found

    @staticmethod
    def latest_checkpoints(path: Path) -> list[Checkpoint]:
        """Return each run's last good checkpoint, from which independent seeds resume.

        Raises:
            UsageError: a run has no good checkpoint.
        """
        stores = [folder / "checkpoints" for folder in run_folders(path)]
        return [checkpoints.load_latest(store)[0] for store in stores]

    @property
    def paths(self) -> list[Path]:
        """The run folders."""
        return [run.path for run in self.runs]

    def log(self, global_steps: Sequence[int], metrics: Sequence[dict[str, float] | None]) -> None:
        """Write one iteration's scalars of each run; None: that run is finished."""
        for run, step, values in zip(self.runs, global_steps, metrics, strict=True):
            if values is not None:
                run.log(int(step), values)

    def checkpoint_due(self, global_steps: Sequence[int]) -> bool:
        """Return whether a checkpoint of any run is due; never while a thread writes one."""
        if any(run.is_writing for run in self.runs):
            return False
        pairs = zip(self.runs, global_steps, strict=True)
        return any(run.checkpoint_due(int(step)) for run, step in pairs)

    def save(self, saved: Sequence[Checkpoint | None]) -> None:
        """Write each run's checkpoint; None leaves a run out."""
        for run, checkpoint in zip(self.runs, saved, strict=True):
            if checkpoint is not None:
                run.save(checkpoint)

    def snapshot(self, saved: Sequence[Checkpoint]) -> None:
        """Write each run's weights to its snapshots, which are kept for good."""
        for run, checkpoint in zip(self.runs, saved, strict=True):
            checkpoints.save_snapshot(run.path / "snapshots", checkpoint)

    def last_checkpoint(self, index: int) -> Path:
        """Return the latest checkpoint folder of one run."""
        return self.runs[index].last_checkpoint()

    def wait(self) -> None:
        """Wait until no checkpoint is being written."""
        for run in self.runs:
            run.wait()

    def how_to_continue(self, command: str, number: int) -> str:
        """Return the text to print when a signal has stopped the runs."""
        name = signal.Signals(number).name
        return f"{name}: saved; continue with\n  baselines {command} --resume {self.path}"

    def close(self) -> None:
        """Close the files."""
        for run in self.runs:
            run.close()


def alone(config: Any, index: int) -> Any:
    """Return the config of one seed of several."""
    return dataclasses.replace(config, seed=config.seed + index, seeds=1)


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the sorted keys at which two fingerprints of an environment differ."""
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def describe_run(algorithm: str, config: Any, environment: dict[str, Any]) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "algorithm": algorithm,
        "config": dataclasses.asdict(config),
        "environment": plain(environment),
        **_circumstances(),
        "resumed": [],
    }


def plain(content: Any) -> Any:
    """Return content as plain JSON types."""
    return json.loads(json.dumps(content))


def drop_metrics_after(path: Path, global_step: int) -> None:
    """Remove the lines of metrics.jsonl after `global_step`, and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            step = json.loads(line)["global_step"]
        except (ValueError, KeyError):
            break
        if step > global_step:
            break
        kept.append(line + "\n")
    temporary = path.with_name(".tmp_metrics.jsonl")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _circumstances() -> dict[str, Any]:
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "git": git_state(),
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
    }


def git_state() -> dict[str, Any]:
    """Return the commit and dirtiness of this package's checkout; None if unknown."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def lock_folder(path: Path) -> int:
    """Claim a run folder for this process until the returned descriptor is closed.

    Raises:
        UsageError: another process writes to it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"{path}: another process is writing this run") from error
    return descriptor


def new_run_folder(algorithm: str, config: Any, env_id: str, seeds: str) -> Path:
    """Make an empty folder in `config.runs_dir`.

    Raises:
        UsageError: the folder cannot be made.
    """
    slug = env_id.replace("/", "_")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        return _new_folder(Path(config.runs_dir), f"{slug}__{algorithm}__{seeds}__{stamp}")
    except OSError as error:
        raise UsageError(f"--runs-dir {config.runs_dir}: {error}") from error


def _new_folder(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"_{number}" for number in range(2, 1000))):
        try:
            (parent / (name + suffix)).mkdir()
        except FileExistsError:
            continue
        return parent / (name + suffix)
    raise FileExistsError(f"{parent / name} and its numbered successors exist")
