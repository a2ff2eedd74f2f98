"""One source, several ways to run it: compiled for the CPU, uncompiled, and as CUDA kernels."""

import os
import subprocess
import sys

import pytest
import torch

from tests.smacv2.device_hash import play

SCENARIOS = ("terran_5_vs_5", "protoss_5_vs_5", "zerg_5_vs_5_conic", "terran_6_vs_5_epo_05")
STEPS = 30


def play_elsewhere(device: str, scenario: str, **environment: str) -> str:
    """Return the hash of the same battles in a process with other environment variables."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "tests.smacv2.device_hash"]
    result = subprocess.run(
        [*command, device, scenario, str(STEPS)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_uncompiled_rules_play_the_same_bytes(scenario: str) -> None:
    assert play_elsewhere("cpu", scenario, NUMBA_DISABLE_JIT="1") == play("cpu", scenario, STEPS)


def test_asking_for_cuda_without_a_gpu_says_what_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match=r"NVIDIA GPU .* pip install"):
        play("cuda", "terran_5_vs_5", 1)
