"""The CUDA kernels on the CPU: a C++ compiler builds their source, threads play their blocks.

    python -m tests.smacv2.kernels_on_cpu terran_5_vs_5   # play two steps and look for races

The second use needs ThreadSanitizer's library to be loaded first (``LD_PRELOAD``).
"""

import ctypes
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from smacv2.battle import OVER, set_seeds
from smacv2.engine import cuda
from smacv2.engine.backend import EngineBackend
from smacv2.engine.loop import LEAVE_COMMAND, RESET_COMMAND, STEP_COMMAND
from smacv2.engine.native import LIBRARY_FLAGS, compile_library
from smacv2.scenario import load_scenario

CARD = cuda.Card("sm_90", multiprocessors=2, shared_bytes=227 * 1024)
"""So few multiprocessors that a handful of battles fills several warps of a block."""

SPARE = 32
"""Spare battles: as many as any block holds here, so that a block that ignores the end is found."""

EQUIVALENTS = Path(__file__).with_name("cuda_on_cpu.h")
FLAGS = (*LIBRARY_FLAGS, "-std=c++20", "-O1", "-pthread")
RACE_FLAGS = ("-fsanitize=thread", "-g")

LAUNCHER = """
namespace smacv2 { int32 memory[SHARED_BYTES / 4]; }

extern "C" void launch(const smacv2::Arrays* arrays, int grid) {
    const auto kernel = [=] { run(*arrays); };
    cuda_on_cpu::run_blocks(grid, THREADS, smacv2::memory, SHARED_BYTES / 4, kernel);
}
"""


class KernelsOnCpu:
    """A CUDA driver without a GPU: the kernels and launch settings of ``smacv2.engine.cuda``.

    ``arrays`` has the names of ``CudaDriver.arrays``. In memory, spare battles of zeros follow the
    batch, with commands of their own; kernels must leave them alone.

    Args:
        like: A backend whose tables are used and whose arrays are copied.
        folder: A folder for the libraries.
        flags: Further flags of the C++ compiler.

    Raises:
        NativeError: There is no C++ compiler, or it fails.
    """

    def __init__(self, like: EngineBackend, folder: Path, flags: tuple[str, ...] = ()):
        state, tables, outputs = like.state, like.tables, like.outputs
        num_envs, num_agents = outputs.action_mask.shape[:2]
        blocks = {"units": state.units, "world": state.world, "sights": state.sights}
        hosts = {
            **blocks,
            **outputs.arrays(),
            "actions": np.zeros((num_envs, num_agents), np.int32),
        }
        self._wholes = {
            name: np.concatenate([host, np.zeros((SPARE, *host.shape[1:]), host.dtype)])
            for name, host in hosts.items()
        }
        self.arrays = {name: whole[:num_envs] for name, whole in self._wholes.items()}
        self._tables = [np.ascontiguousarray(getattr(tables, name)) for name in cuda.TABLE_NAMES]
        sizes = cuda.Sizes.of(state, tables, outputs)
        self._play, self._start, self._show = kernels = (
            cuda.play_kernel(sizes, num_envs, CARD),
            cuda.reset_kernel(sizes),
            cuda.show_kernel(sizes, tables.rules, CARD),
        )
        with ThreadPoolExecutor() as pool:
            libraries = pool.map(lambda kernel: compiled(kernel, sizes, folder, flags), kernels)
            self._libraries = dict(zip(kernels, libraries, strict=True))

    def reset(self, chosen: np.ndarray, seeds: np.ndarray | None = None) -> None:
        """Start the next episode of chosen battles, or with ``seeds`` episode 0 of these."""
        if seeds is not None:
            set_seeds(self.arrays["world"], chosen, seeds)
        commands = np.where(chosen, RESET_COMMAND, LEAVE_COMMAND)
        self._launch(commands, self._start, self._play, self._show)

    def step(self, actions: np.ndarray, *, resets_first: bool = True) -> None:
        """Play one step of every battle that is not over, and reset the others.

        Args:
            actions: ``(num_envs, num_agents)`` int32.
            resets_first: The order of two kernels that a GPU runs beside each other.
        """
        self.arrays["actions"][:] = actions
        commands = np.where(self.arrays["world"][:, OVER], RESET_COMMAND, STEP_COMMAND)
        beside = (self._start, self._play) if resets_first else (self._play, self._start)
        self._launch(commands, *beside, self._show)

    def _launch(self, commands: np.ndarray, *kernels: cuda.Kernel) -> None:
        """Run kernels one after the other, with the bytes of ``struct Arrays``."""
        num_envs = len(commands)
        spare = np.resize([STEP_COMMAND, RESET_COMMAND], SPARE)
        wholes = {**self._wholes, "commands": np.append(commands, spare).astype(np.int32)}
        arrays = [wholes[name] for name in cuda.ARRAY_NAMES] + self._tables
        addresses = [array.ctypes.data for array in arrays]
        arguments = np.array([*addresses, num_envs], np.uint64)
        for kernel in kernels:
            grid = -(-num_envs // kernel.battles)
            self._libraries[kernel].launch(ctypes.c_void_p(arguments.ctypes.data), grid)
        for name, whole in self._wholes.items():
            assert not whole[num_envs:].any(), f"{name}: a kernel wrote beyond the batch"


def compiled(
    kernel: cuda.Kernel, sizes: cuda.Sizes, folder: Path, flags: tuple[str, ...]
) -> ctypes.CDLL:
    """Return the library of a kernel, whose function ``launch`` takes arrays and a grid."""
    text = "\n".join([EQUIVALENTS.read_text(), cuda.source_of(kernel, sizes), LAUNCHER])
    library = folder / f"{kernel.name.lower()}.so"
    compile_library(text, library, (*FLAGS, *flags))
    return ctypes.CDLL(str(library))


def random_actions(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Return legal actions ``(num_envs, num_agents)`` int32 for a mask with an axis of actions."""
    return (rng.random(mask.shape) * (mask != 0)).argmax(-1).astype(np.int32)


def main(scenario_name: str, num_envs: int = 2, num_steps: int = 2) -> None:
    """Play steps after a reset with kernels that ThreadSanitizer watches."""
    scenario = load_scenario(scenario_name)
    backend = EngineBackend(scenario, scenario.options, num_envs, num_threads=1)
    with tempfile.TemporaryDirectory() as folder:
        kernels = KernelsOnCpu(backend, Path(folder), RACE_FLAGS)
        kernels.reset(np.ones(num_envs, np.bool_), np.arange(num_envs))
        for _ in range(num_steps):
            mask = kernels.arrays["action_mask"]
            kernels.step(random_actions(np.random.default_rng(1), mask))


if __name__ == "__main__":
    main(sys.argv[1])
