"""The CUDA driver: translated rules in three kernels per step, on arrays that PyTorch owns.

A step plays the battles that are not over (a unit is a lane), starts new episodes of the others
(beside the first kernel, on a stream of its own), and shows all of them to the agents (a row of an
observation is a lane). Nothing waits for the host, so a step can be captured in a CUDA graph.

Kernels are compiled for one scenario with its options, by NVRTC, and stored on disk.
"""

import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smacv2 import battle
from smacv2.battle import OVER, BattleState, Outputs, set_seeds
from smacv2.engine import loop, observe, orders
from smacv2.engine.compile import Rule, cache_folder
from smacv2.engine.loop import LEAVE_COMMAND, RESET_COMMAND, STEP_COMMAND
from smacv2.engine.sizes import battle_types
from smacv2.engine.tables import OBS_AS_STATE, SHARE_SIGHTS, Tables
from smacv2.engine.translate import PRELUDE, translate

KERNELS = Path(__file__).with_name("kernels.cuh")
OPTIONS: dict[str, Any] = {"std": "c++17", "fma": False}
"""Of the compiler. No fused multiply-add: observations must round as on the CPU."""

MISSING = (
    "device='cuda' needs an NVIDIA GPU with its driver, PyTorch for CUDA and the extra: "
    "pip install 'smacv2-suite[cuda]' (smacv2 doctor says what is missing)"
)

WARP = 32

MOST_WARPS = 28
"""Warps of a multiprocessor that play; more would leave each thread too few registers."""

MANY_UNITS = 22
"""Units of a battle above which a multiprocessor keeps only the hottest rows at hand."""

TABLE_NAMES = ("kinds", "teams", "points", "spiral", "cone", "pathing")
ARRAY_NAMES = (
    "commands", "units", "world", "sights", "actions", "obs", "state", "action_mask", "reward",
    "terminated", "truncated",
)  # fmt: skip
"""Arrays in the order of ``struct Arrays`` in ``kernels.cuh``; tables follow."""


class Card(NamedTuple):
    """The facts about a GPU on which the kernels' settings depend."""

    arch: str
    """Such as "sm_90"."""
    multiprocessors: int
    shared_bytes: int
    """Shared memory of a multiprocessor that one block may have."""


@dataclass(frozen=True)
class Kernel:
    """A kernel to compile, and how it divides its threads among battles."""

    name: str
    """Of the section of ``kernels.cuh``."""
    rules: tuple[Rule, ...]
    """The rules that the section calls."""
    battles: int
    """Battles of a block."""
    warps: int
    """Warps of a block."""
    lanes: int = 1
    """Threads of a battle."""
    blocks: int = 1
    """Blocks that a multiprocessor should hold at once."""
    hot_rows: int = battle.BEAM_TOUCHED
    """Rows of a battle's units in shared memory."""
    meet: str = "__syncthreads()"
    """The barrier between two phases."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a scenario's arrays, by the names of ``kernels.cuh``, and the types of rules."""

    numbers: dict[str, int]
    types: dict[str, Any]

    @classmethod
    def of(cls, state: BattleState, tables: Tables, outputs: Outputs) -> "Sizes":
        """Return the sizes of a batch's battles."""
        _, unit_rows, num_units = state.units.shape
        _, num_agents, num_actions = outputs.action_mask.shape
        shapes = {name: getattr(tables, name).shape for name in TABLE_NAMES}
        numbers = {
            "NUM_UNITS": num_units, "UNIT_ROWS": unit_rows,
            "NUM_AGENTS": num_agents, "NUM_ENEMIES": num_units - num_agents,
            "NUM_ACTIONS": num_actions, "WORLD_SIZE": state.world.shape[1],
            "OBS_SIZE": outputs.obs.shape[2], "STATE_SIZE": outputs.state.shape[1],
            "KIND_ROWS": shapes["kinds"][0], "KIND_SIZE": shapes["kinds"][1],
            "TEAM_ROWS": shapes["teams"][0], "TEAM_SIZE": shapes["teams"][1],
            "POINT_ROWS": shapes["points"][0], "POINT_SIZE": shapes["points"][1],
            "SPIRAL_ROWS": shapes["spiral"][0], "CONE_ROWS": shapes["cone"][0],
            "GRID_WIDTH": shapes["pathing"][0], "GRID_HEIGHT": shapes["pathing"][1],
            "OVER": OVER, "OUTCOME": battle.OUTCOME, "OUTCOME_TIMEOUT": battle.OUTCOME_TIMEOUT,
            "LEAVE_COMMAND": LEAVE_COMMAND, "STEP_COMMAND": STEP_COMMAND,
            "RESET_COMMAND": RESET_COMMAND,
        }  # fmt: skip
        return cls(numbers, battle_types(state, tables, outputs))

    def shared_bytes(self, kernel: Kernel) -> int:
        """Return the shared memory of a block: ``sizeof(Shared)`` of ``kernels.cuh``."""
        numbers = self.numbers
        if kernel.name == "SHOW":
            words = numbers["NUM_AGENTS"] * numbers["OBS_SIZE"] + numbers["STATE_SIZE"]
        else:
            words = kernel.hot_rows * numbers["NUM_UNITS"]
            words += (kernel.lanes - words) % WARP + (numbers["WORLD_SIZE"] | 1)
        return 4 * (numbers["KIND_ROWS"] * numbers["KIND_SIZE"] + kernel.battles * words)


# --- Kernels ---


def play_kernel(sizes: Sizes, num_battles: int, card: Card) -> Kernel:
    """Return the kernel that steps battles; all battles of a block pass the phases together.

    Blocks are as large as memory and registers allow, but no larger than it takes to spread the
    batch evenly over the multiprocessors, wave by wave.
    """
    num_units = sizes.numbers["NUM_UNITS"]
    lanes = lanes_of(num_units)
    per_warp = WARP // lanes
    large = num_units > MANY_UNITS
    kernel = Kernel(
        "PLAY", (loop.play_step,), battles=per_warp, warps=1, lanes=lanes, blocks=2 if large else 1,
        hot_rows=battle.HOTTEST_ROWS if large else battle.HOT_ROWS,
    )  # fmt: skip

    def with_warps(warps: int) -> Kernel:
        return replace(kernel, warps=warps, battles=warps * per_warp)

    most = MOST_WARPS // kernel.blocks
    while sizes.shared_bytes(with_warps(most)) * kernel.blocks > card.shared_bytes and most > 1:
        most -= 1
    places = card.multiprocessors * kernel.blocks * per_warp
    waves = -(-num_battles // (places * most))
    return with_warps(-(-num_battles // (places * waves)))


def lanes_of(num_units: int) -> int:
    """Return the lanes per battle that leave the fewest idle, at least a third of a warp."""
    least = min(num_units, WARP // 3)
    return min(
        range(min(num_units, WARP), least - 1, -1),
        key=lambda lanes: -(-num_units // lanes) / (WARP // lanes),
    )


def reset_kernel(sizes: Sizes) -> Kernel:
    """Return the kernel that starts episodes: a warp per battle, as few battles are over."""
    lanes = min(sizes.numbers["NUM_UNITS"], WARP)
    meet = f"__syncwarp({hex(2**lanes - 1)}u)"
    return Kernel("RESET", (loop.start_episode,), battles=1, warps=1, lanes=lanes, meet=meet)


def show_kernel(sizes: Sizes, rules: np.ndarray, card: Card) -> Kernel:
    """Return the kernel that writes masks, observations and the state."""
    in_turn = Kernel("SHOW_IN_TURN", (loop.show,), battles=WARP, warps=1, hot_rows=0)
    if rules[SHARE_SIGHTS] or rules[OBS_AS_STATE]:
        return in_turn
    parts = (orders.is_available, observe.count_items, observe.write_item)
    kernel = Kernel("SHOW", parts, battles=8, warps=8, blocks=4)
    while sizes.shared_bytes(kernel) * kernel.blocks > card.shared_bytes and kernel.battles > 1:
        kernel = replace(kernel, battles=kernel.battles - 1)
    # Views of very many units do not fit in shared memory.
    return kernel if sizes.shared_bytes(kernel) <= card.shared_bytes else in_turn


def source_of(kernel: Kernel, sizes: Sizes) -> str:
    """Return the CUDA C++ of a kernel."""
    numbers = {
        **sizes.numbers, "LANES": kernel.lanes, "WARPS": kernel.warps, "BLOCKS": kernel.blocks,
        "BATTLES": kernel.battles, "BATTLES_PER_WARP": max(kernel.battles // kernel.warps, 1),
        "HOT_ROWS": kernel.hot_rows, "SHARED_BYTES": sizes.shared_bytes(kernel),
        f"KERNEL_{kernel.name}": 1,
    }  # fmt: skip
    macros = {"MEET()": kernel.meet, "RULE": "__device__ __forceinline__", **numbers}
    rules = translate(kernel.rules, sizes.types)
    # The macros follow the translation, whose variables may have the same names as sizes.
    first = "".join(f"#define {name} {macros.pop(name)}\n" for name in ("MEET()", "RULE"))
    later = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    return "\n".join([first, PRELUDE.read_text(), rules, later, KERNELS.read_text()])


def compile_kernel(kernel: Kernel, sizes: Sizes, arch: str) -> bytes:
    """Return the machine code of a kernel for an architecture such as "sm_90"."""
    from cuda.core import Program, ProgramOptions

    source = source_of(kernel, sizes)
    options = f"{arch} {sorted(OPTIONS.items())} {_compiler_version()}"
    name = hashlib.sha256(f"{options}\n{source}".encode()).hexdigest()[:16]
    path = cache_folder() / f"cuda-{kernel.name.lower()}-{name}.cubin"
    if not path.exists():
        program = Program(source, "c++", ProgramOptions(arch=arch, **OPTIONS))
        scratch = path.with_suffix(f".{np.random.default_rng().integers(1 << 62):x}")
        scratch.write_bytes(program.compile("cubin").code)
        scratch.replace(path)
    return path.read_bytes()


def _compiler_version() -> str:
    from cuda.bindings import nvrtc

    return str(nvrtc.nvrtcVersion())


class Launcher:
    """A kernel in the GPU's memory with its launch settings.

    Args:
        kernel: What has been compiled.
        code: The machine code.
        shared_bytes: Shared memory of a block.
        num_battles: Battles of the batch.
    """

    def __init__(self, kernel: Kernel, code: bytes, shared_bytes: int, num_battles: int):
        from cuda.bindings import driver

        self._module = _result(driver.cuModuleLoadData(code))
        self._function = _result(driver.cuModuleGetFunction(self._module, b"run"))
        self._launch = driver.cuLaunchKernel
        self._grid = -(-num_battles // kernel.battles)
        self._block = WARP * kernel.warps
        self._shared = shared_bytes
        names = driver.CUfunction_attribute
        attributes = {
            names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: self._shared,
            # Kernels with different divisions of the memory could not run beside each other.
            names.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: 100,
        }
        for attribute, value in attributes.items():
            _result(driver.cuFuncSetAttribute(self._function, attribute, value))

    def __call__(self, stream: Any, arguments: np.ndarray) -> None:
        """Start the kernel on a stream of PyTorch, with the bytes of ``struct Arrays``."""
        addresses = np.array([arguments.ctypes.data], np.uint64)
        _result(
            self._launch(
                self._function, self._grid, 1, 1, self._block, 1, 1, self._shared,
                stream.cuda_stream, addresses.ctypes.data, 0,
            )
        )  # fmt: skip


def _result(returned: Any) -> Any:
    """Return the value that a call of the CUDA driver gave beside its error code.

    Raises:
        RuntimeError: The call has failed.
    """
    error, *values = returned
    if int(error) != 0:
        raise RuntimeError(f"CUDA: {error.name}")
    return values[0] if values else None


# --- The driver ---


class CudaDriver:
    """Run the rules on tensors in device memory.

    ``arrays`` are tensors of PyTorch with the battle axis first, and always current: ``units``,
    ``world``, ``sights``, ``actions``, ``obs``, ``state``, ``action_mask``, ``reward``,
    ``terminated``, ``truncated``. Learners on the same device write ``arrays["actions"]``, call
    ``launch`` and read the others in place. ``reset`` and ``step`` also copy them to host memory,
    as NumPy users expect; after a ``launch`` the host's copy is outdated until ``download``.

    Raises:
        RuntimeError: There is no usable GPU.
    """

    device = "cuda"

    def __init__(self, state: BattleState, tables: Tables, outputs: Outputs):
        self.torch = torch = _import_torch()
        self._hosts = {
            "units": state.units, "world": state.world, "sights": state.sights,
            **outputs.arrays(),
        }  # fmt: skip
        num_envs, num_agents = outputs.action_mask.shape[:2]
        self.arrays: dict[str, Any] = {
            name: torch.from_numpy(host).to("cuda") for name, host in self._hosts.items()
        }
        self.arrays["actions"] = torch.zeros((num_envs, num_agents), dtype=torch.int32).cuda()
        self._tables = [
            torch.from_numpy(np.ascontiguousarray(getattr(tables, name))).cuda()
            for name in TABLE_NAMES
        ]
        self._commands = torch.zeros(num_envs, dtype=torch.int32, device="cuda")
        self._beside = torch.cuda.Stream()
        sizes = Sizes.of(state, tables, outputs)
        card = _card()
        kernels = (
            play_kernel(sizes, num_envs, card),
            reset_kernel(sizes),
            show_kernel(sizes, tables.rules, card),
        )
        with ThreadPoolExecutor() as pool:
            codes = list(pool.map(lambda kernel: compile_kernel(kernel, sizes, card.arch), kernels))
        self.play, self.start, self.shown = (
            Launcher(kernel, code, sizes.shared_bytes(kernel), num_envs)
            for kernel, code in zip(kernels, codes, strict=True)
        )

    def reset(self, chosen: np.ndarray, seeds: np.ndarray | None = None) -> None:
        """Start the next episode of chosen battles, or with ``seeds`` episode 0 of these."""
        torch = self.torch
        if seeds is not None:
            world = self.arrays["world"].cpu().numpy()
            set_seeds(world, chosen, seeds)
            self.arrays["world"].copy_(torch.from_numpy(world))
        commands = np.where(chosen, RESET_COMMAND, LEAVE_COMMAND).astype(np.int32)
        self.launch(torch.from_numpy(commands).cuda())
        self.download()

    def step(self, actions: np.ndarray) -> None:
        """Play one step of every battle with ``actions`` ``(num_envs, num_agents)`` int32."""
        self.arrays["actions"].copy_(self.torch.from_numpy(actions))
        self.launch()
        self.download()

    def launch(self, commands: Any = None) -> None:
        """Start the kernels of a step on PyTorch's current stream; they run asynchronously.

        Args:
            commands: Tensor ``(num_envs,)`` int32 on the device with a command per battle; None
                steps every battle, or resets it if it is over.
        """
        torch = self.torch
        if commands is None:
            over = self.arrays["world"][:, OVER]
            torch.add(over, STEP_COMMAND, out=self._commands)  # RESET_COMMAND if it is over
        else:
            self._commands.copy_(commands)
        stream = torch.cuda.current_stream()
        arguments = self._arguments()
        self._beside.wait_stream(stream)
        # Resets are few and long, so they begin first; otherwise they would wait for a place.
        self.start(self._beside, arguments)
        self.play(stream, arguments)
        stream.wait_stream(self._beside)
        self.shown(stream, arguments)

    def kernels(self) -> tuple[Callable[[], None], ...]:
        """Return functions that start each kernel of a step alone, in order, for timing them."""
        stream, arguments = self.torch.cuda.current_stream(), self._arguments()
        over = self.arrays["world"][:, OVER]
        self.torch.add(over, STEP_COMMAND, out=self._commands)
        kernels = (self.play, self.start, self.shown)
        return tuple(functools.partial(kernel, stream, arguments) for kernel in kernels)

    def show(self) -> None:
        """Observe every battle in its present state, on the device."""
        self._commands.fill_(STEP_COMMAND)
        self.shown(self.torch.cuda.current_stream(), self._arguments())

    def upload(self) -> None:
        """Copy the host's arrays to the device."""
        for name, host in self._hosts.items():
            self.arrays[name].copy_(self.torch.from_numpy(host))

    def download(self) -> None:
        """Copy the device's arrays to the host, waiting for the kernels."""
        for name, host in self._hosts.items():
            self.torch.from_numpy(host).copy_(self.arrays[name])

    def close(self) -> None:
        """Release the device arrays."""
        self.arrays.clear()

    def _arguments(self) -> np.ndarray:
        """Return the bytes of ``struct Arrays``: addresses, then the number of battles."""
        arrays = {"commands": self._commands, **self.arrays}
        tensors = [arrays[name] for name in ARRAY_NAMES] + self._tables
        addresses = [tensor.data_ptr() for tensor in tensors]
        return np.array([*addresses, len(self._commands)], np.uint64)


def _import_torch() -> Any:
    """Return PyTorch if it has a GPU and what compiles kernels is installed."""
    try:
        import cuda.core  # noqa: F401
        import torch
    except ImportError as error:
        raise RuntimeError(MISSING) from error
    if not torch.cuda.is_available():
        raise RuntimeError(MISSING)
    return torch


def _card() -> Card:
    """Return the facts about PyTorch's current GPU."""
    from cuda.core import Device

    device = Device()  # the current one
    device.set_current()
    facts = device.properties
    return Card(
        f"sm_{device.arch}", facts.multiprocessor_count, facts.max_shared_memory_per_block_optin
    )
