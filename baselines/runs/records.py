"""The records of run folders: finding and reading config.json.

Nothing here imports PyTorch, so errors come quickly.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from baselines.errors import UsageError

RECORD_FIELDS = {"algorithm": str, "config": dict, "environment": dict, "resumed": list}
ENVIRONMENT_FIELDS = {"id": str, "fingerprint": dict}


def run_folders(path: Path) -> list[Path]:
    """Return the run folders at a path: the path itself, or the runs of its group by seed.

    Raises:
        UsageError: the path is neither a run folder nor the folder of a group.
    """
    if (path / "config.json").exists():
        return [path]
    found = [folder for folder in path.glob("seed*") if (folder / "config.json").exists()]
    if not found:
        raise UsageError(f"{path}: not a run folder (no readable config.json in it)")
    return sorted(found, key=lambda folder: read_record(folder)["config"]["seed"])


def find_runs(path: Path) -> list[Path]:
    """Return the run folders at a path, or else those in the folders directly below it.

    Raises:
        UsageError: there are no run folders.
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
        UsageError: `path` is not a run folder, or its record lacks a field.
    """
    try:
        record = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a run folder (no readable config.json in it)") from error
    lacking = _lacking(record, RECORD_FIELDS, "")
    if not lacking:
        lacking = _lacking(record["environment"], ENVIRONMENT_FIELDS, "environment.")
    if lacking:
        raise UsageError(f"{path}: its config.json is damaged: no {' and no '.join(lacking)}")
    return record


def _lacking(content: Any, fields: dict[str, type], prefix: str) -> list[str]:
    """Return the names of fields that are missing or of another type."""
    found = content if isinstance(content, dict) else {}
    return [prefix + name for name, kind in fields.items() if not isinstance(found.get(name), kind)]
