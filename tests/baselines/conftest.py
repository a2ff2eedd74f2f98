"""The toy environment is imported by name, here and in the commands that tests start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does, before PyTorch is loaded

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

torch.set_num_threads(1)  # the games are tiny


@pytest.fixture
def command_environment() -> dict[str, str]:
    paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "80"}


@pytest.fixture
def baselines_command(command_environment, tmp_path):
    """Run `python -m baselines ...` in an empty folder; return the finished process."""

    def run(*arguments: object, timeout: float = 60) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "baselines", *map(str, arguments)],
            cwd=tmp_path,
            env=command_environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
