"""Checkpoint folders: written whole or not at all, verified before they are read.

step_000001234/
  policy.safetensors   weights; metadata names the algorithm and the environment
  trainer.pt           optimizer, random states, counters (loads with weights_only=True)
  env.safetensors      the environment's own checkpoint
  replay.bin           episodes to learn from, if the learner has a replay
  manifest.json        size and SHA-256 of the others, written last
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from baselines.errors import UsageError

FILES = ("policy.safetensors", "trainer.pt", "env.safetensors")
REPLAY = "replay.bin"


class Replay(Protocol):
    """Experience of a checkpoint, written by a thread while training continues."""

    def write(self, file: BinaryIO) -> None:
        """Write all experience to a file."""

    def release(self) -> None:
        """Let the learner overwrite the experience, whether it was written or not."""


@dataclasses.dataclass
class Checkpoint:
    """Saved state of a run: enough to resume bit for bit, with weights in a portable form."""

    global_step: int
    weights: dict[str, torch.Tensor]
    trainer: dict[str, Any]  # tensors, numbers, strings and containers of them
    env: dict[str, np.ndarray]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    replay: Replay | None = None  # to be written
    replay_path: Path | None = None  # file of the replay in a checkpoint that was read


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `folder` and remove all but the latest `keep`.

    Files go to a temporary folder that is renamed when complete, so that a process killed at any
    moment leaves either the whole checkpoint or none.
    """
    folder.mkdir(exist_ok=True)
    target = folder / f"step_{checkpoint.global_step:012d}"
    temporary = Path(tempfile.mkdtemp(prefix=".tmp_", dir=folder))
    _write_files(temporary, checkpoint)
    files = {path.name: _describe(path) for path in sorted(temporary.iterdir())}
    manifest = {"global_step": checkpoint.global_step, "files": files}
    write_json(temporary / "manifest.json", manifest)
    temporary.chmod(0o755)
    if target.exists():  # the old checkpoint stays whole until the new one replaces it
        target.rename(tempfile.mkdtemp(prefix=".tmp_old_", dir=folder))
    temporary.rename(target)
    _sync(folder)
    for old in folder.glob(".tmp_old_*"):
        shutil.rmtree(old)
    for old in step_folders(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def save_snapshot(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the weights alone, whole or not at all, as `step_000001234.safetensors`."""
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{checkpoint.global_step:012d}.safetensors"
    temporary = path.with_name(f".tmp_{path.name}")
    _write_weights(temporary, checkpoint)
    _sync(temporary)
    temporary.replace(path)
    return path


def drop_after(folder: Path, global_step: int) -> None:
    """Remove checkpoints or snapshots of later steps, and the files of a killed writer."""
    later = [path for path in folder.glob("step_*") if int(path.stem[5:]) > global_step]
    for path in [*later, *folder.glob(".tmp_*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def load(path: Path, *, replay: bool = True) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Args:
        path: the folder.
        replay: verify its replay too, which only training needs.

    Raises:
        UsageError: the checkpoint is damaged; the one line names the folder, the file and the
            fault.
    """
    verify(path, replay=replay)
    with safetensors.safe_open(path / "policy.safetensors", "pt") as file:
        metadata = file.metadata()
    trainer = torch.load(path / "trainer.pt", map_location="cpu", weights_only=True)
    return Checkpoint(
        global_step=trainer["global_step"],
        weights=safetensors.torch.load_file(path / "policy.safetensors"),
        trainer=trainer,
        env=safetensors.numpy.load_file(path / "env.safetensors"),
        metadata=metadata or {},
        replay_path=path / REPLAY if (path / REPLAY).exists() else None,
    )


def load_latest(folder: Path, *, replay: bool = True) -> tuple[Checkpoint, Path]:
    """Read the latest good checkpoint of `folder`; print the name of each damaged one to stderr.

    Args:
        folder: the checkpoints of a run.
        replay: see `load`.

    Raises:
        UsageError: there is no good checkpoint.
    """
    refused = 0
    for path in reversed(step_folders(folder)):
        try:
            checkpoint = load(path, replay=replay)
        except UsageError as error:
            print(f"refused checkpoint {error}", file=sys.stderr)
            refused += 1
            continue
        if refused:
            print(f"using {path}", file=sys.stderr)
        return checkpoint, path
    raise UsageError(f"{folder}: it holds no {'undamaged ' if refused else ''}checkpoint")


def step_folders(folder: Path) -> list[Path]:
    """Return the checkpoint folders in `folder`, earliest first."""
    return sorted(path for path in folder.glob("step_*") if path.name[5:].isdecimal())


def verify(path: Path, *, replay: bool = True) -> None:
    """Raise `UsageError` unless every file has the size and SHA-256 of the manifest."""
    try:
        files = json.loads((path / "manifest.json").read_text())["files"]
        names = {*FILES, *files} - (set() if replay else {REPLAY})
        wanted = {name: files[name] for name in sorted(names)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: manifest.json is missing or unreadable") from error
    for name, expectation in wanted.items():
        if not (path / name).is_file():
            raise UsageError(f"{path}: {name} is missing")
        found = _describe(path / name)
        for key in ("bytes", "sha256"):
            if found[key] != expectation[key]:
                raise UsageError(
                    f"{path}: {name} has {key} {found[key]}, its manifest says {expectation[key]}"
                )


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    temporary = path.with_name(f".tmp_{path.name}")
    with temporary.open("w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    _write_weights(folder / "policy.safetensors", checkpoint)
    trainer = checkpoint.trainer | {"global_step": checkpoint.global_step}
    torch.save(trainer, folder / "trainer.pt")
    arrays = {name: np.array(value, order="C") for name, value in checkpoint.env.items()}
    safetensors.numpy.save_file(arrays, folder / "env.safetensors")
    if checkpoint.replay is not None:
        with (folder / REPLAY).open("wb") as file:
            checkpoint.replay.write(file)
    for path in folder.iterdir():
        _sync(path)


def _write_weights(path: Path, checkpoint: Checkpoint) -> None:
    weights = {name: value.contiguous().cpu() for name, value in checkpoint.weights.items()}
    metadata = checkpoint.metadata | {"global_step": str(checkpoint.global_step)}
    safetensors.torch.save_file(weights, path, metadata)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
