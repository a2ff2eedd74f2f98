"""The run folder: what ran, how it went, and enough to go on.

runs/<env>__<algorithm>__seed<seed>__<utc>/
  config.json      resolved config, versions, git state, engine fingerprint; before step one
  metrics.jsonl    one line an iteration
  events.out.*     the same for TensorBoard
  checkpoints/     see `baselines.checkpoints`
  evaluations/     see `baselines.evaluate`
"""

import ctypes
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from baselines import checkpoints
from baselines.checkpoints import Checkpoint, write_json
from baselines.errors import UsageError

PACKAGES = ("gymnasium", "numba", "numpy", "safetensors", "tensorboard", "torch", "tyro")
RECORD = {"algorithm": str, "config": dict, "environment": dict, "resumed": list}  # always there


class Run:
    """A run folder that is being written.

    Args:
        path: the folder, with its config.json.
        record: the content of config.json.
        lock: what `lock_folder` returned; held until `close`.
        global_step: environment steps done; later metrics on disk are dropped.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: int, global_step: int = 0) -> None:
        self.path, self.record, self._lock = path, record, lock
        self.config = record["config"]
        self._saved_step, self._saved_time = global_step, time.monotonic()
        drop_metrics_after(path / "metrics.jsonl", global_step)
        self._metrics = (path / "metrics.jsonl").open("a")
        self._writer = SummaryWriter(str(path), purge_step=global_step + 1 if global_step else None)
        if not global_step:
            self._writer.add_text("config", f"```json\n{json.dumps(record, indent=2)}\n```")

    @classmethod
    def start(cls, algorithm: str, config: Any, env: Any) -> "Run":
        """Make a new run folder and write its config.json.

        Raises:
            UsageError: the folder cannot be made.
        """
        record = describe_run(algorithm, config, env)
        slug = env.spec.id.replace("/", "_")
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        name = f"{slug}__{algorithm}__seed{config.seed}__{stamp}"
        try:
            path = _new_folder(Path(config.runs_dir), name)
        except OSError as error:
            raise UsageError(f"--runs-dir {config.runs_dir}: {error}") from error
        lock = lock_folder(path)
        write_json(path / "config.json", record)
        return cls(path, record, lock)

    @classmethod
    def resume(cls, path: Path, config: Any, env: Any) -> tuple["Run", Checkpoint]:
        """Open a run folder to go on from its last good checkpoint, which is returned too.

        Raises:
            UsageError: it is no run folder, is in use, has no good checkpoint, or its engine was
                another.
        """
        record = read_record(path)
        fingerprint = plain(env.unwrapped.fingerprint)
        if fingerprint != record["environment"]["fingerprint"]:
            old = record["environment"]["fingerprint"]
            changed = [key for key in {*old, *fingerprint} if old.get(key) != fingerprint.get(key)]
            raise UsageError(
                f"{path}: the environment has changed since ({', '.join(sorted(changed))});"
                " start a new run"
            )
        lock = lock_folder(path)
        try:
            checkpoint, _ = checkpoints.load_latest(path / "checkpoints", clean=True)
        except UsageError:
            os.close(lock)
            raise
        record["config"] = dataclasses.asdict(config)
        resumed = {"global_step": checkpoint.global_step, **_circumstances()}
        record["resumed"] = [*record["resumed"], resumed]
        write_json(path / "config.json", record)
        return cls(path, record, lock, checkpoint.global_step), checkpoint

    def log(self, global_step: int, metrics: dict[str, float]) -> None:
        """Write one iteration's scalars to metrics.jsonl and TensorBoard."""
        self._metrics.write(json.dumps({"global_step": global_step, **metrics}) + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step)

    def checkpoint_due(self, global_step: int) -> bool:
        """Say whether the config's cadence asks for a checkpoint now."""
        steps, minutes = self.config["checkpoint_steps"], self.config["checkpoint_minutes"]
        passed = (time.monotonic() - self._saved_time) / 60
        by_steps = steps > 0 and global_step // steps > self._saved_step // steps
        return by_steps or (minutes > 0 and passed >= minutes)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; all metrics up to it reach the disk first."""
        self._writer.flush()
        os.fsync(self._metrics.fileno())
        self._saved_step, self._saved_time = checkpoint.global_step, time.monotonic()
        keep = self.config["keep_checkpoints"]
        return checkpoints.save(self.path / "checkpoints", checkpoint, keep)

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._writer.close()
        os.close(self._lock)


class StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a flag that the loop reads between iterations.

    `signal` is None, or the number of the signal that came. A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: object) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)


def prepare_torch(num_threads: int, device: str) -> int:
    """Set threads and allocator for small networks; return the number of threads.

    Raises:
        UsageError: the device does not exist here.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device}: not usable here ({reason}); cpu always is") from error
    threads = num_threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    return threads


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks: an update reuses the same tens of megabytes each time.

    Without it glibc returns them to the kernel, and page faults take a quarter of an update.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)


def derive_seeds(seed: int) -> tuple[int, int]:
    """Return the seeds of environment and learner for a run's seed.

    Env i of a vector environment plays stream `seed + i`, so neighbouring run seeds would share
    almost all battles; hashed, they are far apart. `seed + i` stays below 2**32 for 2**16 envs.
    """
    environment, learner = np.random.SeedSequence(seed).generate_state(2, np.uint32).tolist()
    return environment % (2**32 - 2**16), learner


def random_states() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and PyTorch, as plain data."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_states(state: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a run's config.json.

    Raises:
        UsageError: `path` is not a run folder, or its record lacks something.
    """
    try:
        record = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a run folder (no readable config.json in it)") from error
    lacking = _lacking(record, RECORD, "")
    lacking = lacking or _lacking(
        record["environment"], {"id": str, "fingerprint": dict}, "environment."
    )
    if lacking:
        raise UsageError(f"{path}: its config.json is damaged: no {' and no '.join(lacking)}")
    return record


def _lacking(content: Any, promised: dict[str, type], prefix: str) -> list[str]:
    found = content if isinstance(content, dict) else {}
    return [
        prefix + name for name, kind in promised.items() if not isinstance(found.get(name), kind)
    ]


def describe_run(algorithm: str, config: Any, env: Any) -> dict[str, Any]:
    """Return what config.json holds."""
    unwrapped = env.unwrapped
    return {
        "algorithm": algorithm,
        "config": dataclasses.asdict(config),
        "environment": {"id": env.spec.id, "fingerprint": plain(unwrapped.fingerprint)},
        **_circumstances(),
        "resumed": [],
    }


def plain(content: Any) -> Any:
    """Return content as JSON would give it back."""
    return json.loads(json.dumps(content))


def drop_metrics_after(path: Path, global_step: int) -> None:
    """Cut metrics.jsonl after `global_step`, and a line that a killed process left half-written."""
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
    """Return commit and dirtiness of the checkout this package lies in; None where unknown."""
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


def _new_folder(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"_{number}" for number in range(2, 1000))):
        try:
            (parent / (name + suffix)).mkdir()
        except FileExistsError:
            continue
        return parent / (name + suffix)
    raise FileExistsError(f"{parent / name} and its numbered successors exist")
