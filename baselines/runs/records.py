"""What run folders record of themselves. It imports no PyTorch, so that errors are quick."""

import contextlib
import json
from pathlib import Path
from typing import Any

from baselines.errors import UsageError

RECORD = {"algorithm": str, "config": dict, "environment": dict, "resumed": list}  # always there


def run_folders(path: Path) -> list[Path]:
    """Return the run folders that a path names: itself, or those of its group by seed.

    Raises:
        UsageError: it is neither.
    """
    if (path / "config.json").exists():
        return [path]
    found = [folder for folder in path.glob("seed*") if (folder / "config.json").exists()]
    if not found:
        raise UsageError(f"{path}: not a run folder (no readable config.json in it)")
    return sorted(found, key=lambda folder: read_record(folder)["config"]["seed"])


def find_runs(path: Path) -> list[Path]:
    """Return the run folders that a path names, or those of the folders right below it.

    Raises:
        UsageError: there are none.
    """
    try:
        return run_folders(path)
    except UsageError:
        if not path.is_dir():
            raise
    found = []
    for folder in sorted(path.iterdir()):
        with contextlib.suppress(UsageError):
            found += run_folders(folder)
    if not found:
        raise UsageError(f"{path}: neither a run folder nor a folder of runs (no config.json)")
    return found


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
