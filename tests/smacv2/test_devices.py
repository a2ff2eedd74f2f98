"""One source, three ways to run it: compiled for the CPU, uncompiled, and as a CUDA kernel."""

import os
import subprocess
import sys

import pytest

from tests.smacv2.device_hash import play

SCENARIOS = ("terran_5_vs_5", "protoss_5_vs_5", "zerg_5_vs_5_conic", "terran_6_vs_5_epo_05")
STEPS = 30
SIMULATOR = {"NUMBA_DISABLE_JIT": "1", "NUMBA_ENABLE_CUDASIM": "1"}


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


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_cuda_kernel_in_the_simulator_plays_the_same_bytes_as_the_cpu(scenario: str) -> None:
    assert play_elsewhere("cuda", scenario, **SIMULATOR) == play("cpu", scenario, STEPS)


def test_steps_that_the_host_has_not_seen_survive_a_masked_reset_and_a_checkpoint() -> None:
    code = """
import numpy as np
from smacv2.engine.backend import EngineBackend
from smacv2.scenario import load_scenario

scenario = load_scenario("zerg_5_vs_5")
cpu, gpu = (EngineBackend(scenario, scenario.options, 3, device=d) for d in ("cpu", "cuda"))
seeds, actions = np.arange(3, dtype=np.uint64), np.full((3, 5), 3, np.int32)
for backend in (cpu, gpu):
    backend.reset(np.ones(3, np.bool_), seeds)
gpu.driver.arrays["actions"].copy_to_device(np.ascontiguousarray(actions.T))
for seeds in (None, seeds + 9):
    cpu.step(actions)
    gpu.driver.launch()
    ours, theirs = cpu.checkpoint(), gpu.checkpoint()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    cpu.step(actions)
    gpu.driver.launch()
    for backend in (cpu, gpu):
        backend.reset(np.array([False, True, False]), seeds)
    assert np.array_equal(cpu.state.units, gpu.state.units)
    assert np.array_equal(cpu.state.world, gpu.state.world)
    assert np.array_equal(cpu.outputs.obs, gpu.outputs.obs)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env={**os.environ, **SIMULATOR}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_asking_for_cuda_without_a_gpu_says_what_is_missing() -> None:
    from numba import cuda

    if cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match=r"NVIDIA GPU .* pip install"):
        play("cuda", "terran_5_vs_5", 1)
