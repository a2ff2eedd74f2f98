"""Files of results: their paths, and writing each of them whole or not at all."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from baselines.errors import UsageError


def base_path(out: str, name: str, endings: Sequence[str]) -> Path:
    """Return the path of a group of files, without their endings.

    Args:
        out: that path, one of the files, or a folder.
        name: of the files if `out` is a folder.
        endings: of the files.
    """
    path = Path(out)
    if path.suffix in endings:
        return path.with_suffix("")
    return path / name if path.is_dir() or out.endswith("/") else path


def file_name(text: str) -> str:
    """Return a text, such as an environment's id, as a file name."""
    return re.sub(r"[^\w.-]+", "_", text)


def write_files(base: Path, contents: Mapping[str, bytes]) -> None:
    """Write a group of files, each of them whole or not at all.

    Args:
        base: their path without endings; missing folders are made.
        contents: of each file, by its ending.

    Raises:
        UsageError: a file cannot be written.
    """
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        for ending, content in contents.items():
            temporary = base.with_name(f".tmp_{base.name}{ending}")
            temporary.write_bytes(content)
            temporary.replace(base.with_name(base.name + ending))
    except OSError as error:
        raise UsageError(f"--out {base.parent}: {error}") from error
