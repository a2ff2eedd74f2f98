"""Measure the speed of battles, and the time of each stage."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smacv2.engine.backend import EngineBackend
from smacv2.engine.cpu import CpuDriver
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.policies import random_legal

if TYPE_CHECKING:
    from smacv2.engine.cuda import CudaDriver

REPEATS = 5
WARM_UP_STEPS = 64
"""Steps before timing starts, after which battles that began together are at different stages."""

NOISE_SETS = 8
"""Sets of random numbers, drawn once and used in rotation: only the masks must be new."""

STAGE_SHARE = 0.25
"""Time for measuring the stages, relative to the time for measuring whole steps."""


@dataclass(frozen=True)
class Speed:
    """The result of a measurement. Resets take time but do not count as steps."""

    scenario: str
    num_envs: int
    threads: int
    device: str
    num_agents: int
    repeats: tuple[float, ...]
    """Environment steps per second of each repeat."""
    compile_seconds: float
    """Time of the first reset and step: compilation, or loading the cache."""
    stages: dict[str, float]
    """Microseconds per environment step. simulate: orders, game loops, reward; observe:
    observations, state, mask. The rest of a step is resets. Empty on CUDA."""
    peak_memory_mb: float
    """Peak resident memory of the whole process."""

    @property
    def env_steps_per_second(self) -> float:
        """Median of the repeats."""
        return float(np.median(self.repeats))

    def summary(self) -> dict[str, object]:
        """Return the figures that ``smacv2 speed --json`` prints."""
        return {
            "scenario": self.scenario,
            "num_envs": self.num_envs,
            "threads": self.threads,
            "device": self.device,
            "env_steps_per_second": round(self.env_steps_per_second, 1),
            "agent_steps_per_second": round(self.env_steps_per_second * self.num_agents, 1),
            "compile_seconds": round(self.compile_seconds, 3),
            "stages": {name: round(value, 4) for name, value in self.stages.items()},
            "peak_memory_mb": round(self.peak_memory_mb, 1),
        }


def measure(
    scenario: str | Path,
    *,
    num_envs: int = 1024,
    threads: int | None = None,
    device: str = "cpu",
    seconds: float = 5.0,
) -> Speed:
    """Time steps with random legal actions, including observations, state and mask.

    Args:
        scenario: A name or the path of a TOML file.
        num_envs: Battles at once.
        threads: CPU threads; None uses every core.
        device: "cpu" or "cuda".
        seconds: Timed seconds, divided among the repeats; the stages take another quarter.
    """
    threads = threads or len(os.sched_getaffinity(0))
    envs = SMACv2VectorEnv(scenario, num_envs, device=device, num_threads=threads)
    choose = _chooser(envs)
    began = time.perf_counter()
    envs.reset(seed=0)
    _step(envs, next(choose))
    compile_seconds = time.perf_counter() - began
    _warm_up(envs, choose, seconds)
    repeats = tuple(_repeat(envs, choose, seconds / REPEATS) for _ in range(REPEATS))
    stages = _stages(envs, choose, seconds * STAGE_SHARE)
    envs.close()
    return Speed(
        scenario=envs.scenario.name,
        num_envs=num_envs,
        threads=threads,
        device=device,
        num_agents=envs.num_agents,
        repeats=repeats,
        compile_seconds=compile_seconds,
        stages=stages,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _chooser(envs: SMACv2VectorEnv) -> Iterator[np.ndarray]:
    """Yield random legal actions in the battles' present state."""
    mask = envs.buffers["action_mask"]
    generator = np.random.default_rng(0)
    noise = [1 - generator.random(mask.shape, np.float32) for _ in range(NOISE_SETS)]
    while True:
        for numbers in noise:
            yield random_legal(mask, numbers)


def _warm_up(envs: SMACv2VectorEnv, choose: Iterator[np.ndarray], seconds: float) -> None:
    began = time.perf_counter()
    for _ in range(WARM_UP_STEPS):
        _step(envs, next(choose))
        if time.perf_counter() - began > seconds:
            return


def _repeat(envs: SMACv2VectorEnv, choose: Iterator[np.ndarray], seconds: float) -> float:
    """Return environment steps per second; the choice of actions is not timed."""
    steps, spent = 0, 0.0
    while spent < seconds:
        actions = next(choose)
        steps += _running(envs)
        spent += _step(envs, actions)
    return steps / spent


def _step(envs: SMACv2VectorEnv, actions: np.ndarray) -> float:
    """Play one step and return its seconds.

    On CUDA the battles stay on the device, as for a learner there, and only the kernels are timed:
    the copies around them let the host choose the next actions.
    """
    backend, driver = envs.backend, _driver(envs)
    if driver is None or isinstance(driver, CpuDriver):
        return _timed(backend.step, actions)
    driver.arrays["actions"].copy_(driver.torch.from_numpy(actions))
    spent = _timed(_launch, driver)
    backend.outputs.action_mask[...] = driver.arrays["action_mask"].cpu().numpy()
    backend.state.world[...] = driver.arrays["world"].cpu().numpy()
    return spent


def _driver(envs: SMACv2VectorEnv) -> "CpuDriver | CudaDriver | None":
    """Return the embedded engine's driver; None if another backend plays the battles."""
    return envs.backend.driver if isinstance(envs.backend, EngineBackend) else None


def _launch(driver: "CudaDriver") -> None:
    """Run the kernels of a step to their end."""
    driver.launch()
    driver.torch.cuda.synchronize()


def _stages(
    envs: SMACv2VectorEnv, choose: Iterator[np.ndarray], seconds: float
) -> dict[str, float]:
    """Return microseconds per environment step of each stage; empty unless the CPU driver plays.

    The stages are compiled separately from the whole step, which takes a while the first time.
    """
    driver = _driver(envs)
    if not isinstance(driver, CpuDriver):
        return {}
    driver.simulate(next(choose))
    driver.show()
    simulated, shown = 0, 0
    simulate, observe = 0.0, 0.0
    while simulate + observe < seconds:
        actions = next(choose)
        simulated += _running(envs)
        simulate += _timed(driver.simulate, actions)
        shown += envs.num_envs
        observe += _timed(driver.show)
        over = envs.backend.state.over != 0
        if over.any():
            envs.backend.reset(over, None)
    return {"simulate": 1e6 * simulate / max(simulated, 1), "observe": 1e6 * observe / shown}


def _running(envs: SMACv2VectorEnv) -> int:
    """Return the number of battles that the next step plays; it resets the others."""
    return int((envs.backend.state.over == 0).sum())


def _timed(function: Callable[..., None], *arguments: Any) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began
