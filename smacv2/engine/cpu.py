"""The CPU driver: batches are cut into chunks, one per thread, with a compiled loop over each.

The loops are compiled by the machine's C++ compiler if there is one (``native.py``), else by Numba;
battles are the same. Large batches get loops that are compiled for their game alone.

The compiled loops release the GIL, so ordinary Python threads run them in parallel. Compared with
Numba's own parallel loops, threads cost less per call, compile faster, need no OpenMP (which must
not be forked), and a single build serves all batch sizes.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from smacv2.battle import (
    OUTCOME,
    OUTCOME_TIMEOUT,
    OVER,
    BattleState,
    Outputs,
    set_seeds,
)
from smacv2.engine.compile import config, entry_point
from smacv2.engine.expressions import Type
from smacv2.engine.loop import (
    LEAVE_COMMAND,
    RESET_COMMAND,
    STEP_COMMAND,
    play_battle,
    run_battle,
    show,
)
from smacv2.engine.native import NativeError, NativeLoop, build, compiler_version
from smacv2.engine.sizes import batch_types
from smacv2.engine.tables import Tables
from smacv2.engine.translate import BATCH

LARGE_BATCH = 64
"""Battles of a batch from which a library of its game pays; it takes about 2 s to compile."""

UNITS_PER_CHUNK = 160
"""Smaller chunks cost more to hand over than another thread saves (16 battles of 5 against 5)."""


@entry_point
def run_range(
    first, last, commands, units, world, sights, kinds, rules, teams, points, spiral, cone, pathing,
    actions, obs, state, mask, reward, terminated, truncated,
):  # fmt: skip
    """Step or reset battles [first, last) according to their commands."""
    for b in range(first, last):
        if commands[b] != LEAVE_COMMAND:
            reward[b] = run_battle(
                commands[b], units[b], world[b], sights[b], kinds, rules, teams, points, spiral,
                cone, pathing, actions[b], obs[b], state[b], mask[b],
            )  # fmt: skip
            truncated[b] = world[b, OUTCOME] == OUTCOME_TIMEOUT
            terminated[b] = world[b, OVER] != 0 and not truncated[b]


@entry_point
def simulate_range(
    first, last, units, world, sights, kinds, rules, teams, points, spiral, cone, pathing, actions,
    mask,
):  # fmt: skip
    """Step battles [first, last) that are not over, without showing them (for timing)."""
    for b in range(first, last):
        if not world[b, OVER]:
            play_battle(
                STEP_COMMAND, units[b], world[b], sights[b], kinds, rules, teams, points, spiral,
                cone, pathing, actions[b], mask[b],
            )  # fmt: skip


@entry_point
def show_range(first, last, units, world, sights, kinds, rules, cone, pathing, obs, state, mask):
    """Observe battles [first, last) in their present state."""
    for b in range(first, last):
        show(units[b], world[b], sights[b], kinds, rules, cone, pathing, obs[b], state[b], mask[b])


LOOPS = (run_range, simulate_range, show_range)

ENGINES = ("native", "numba")
"""Values of the environment variable ``SMACV2_CPU``, which forces a compiler."""

Loop = Callable[..., None]


def compiled_loops(types: Mapping[str, Type] = BATCH) -> tuple[str, Sequence[Loop]]:
    """Return the name and reason of the compiler in use, and its loops in the order of ``LOOPS``.

    Args:
        types: Types of the loops' parameters: ``BATCH`` for any game, or those of one game.

    Raises:
        NativeError: ``SMACV2_CPU=native``, and no library could be compiled or loaded.
        ValueError: ``SMACV2_CPU`` has an unknown value.
    """
    forced = os.environ.get("SMACV2_CPU", "")
    if forced not in ("", *ENGINES):
        raise ValueError(f"SMACV2_CPU must be {' or '.join(ENGINES)}, not {forced!r}")
    if config.DISABLE_JIT:
        return "uncompiled (NUMBA_DISABLE_JIT)", LOOPS
    if forced == "numba":
        return "numba (SMACV2_CPU)", LOOPS
    loops, reason = native_loops(types)
    if loops is not None:
        return f"native ({reason})", loops
    if forced == "native":
        raise NativeError(reason)
    return f"numba ({reason})", LOOPS


def native_loops(types: Mapping[str, Type]) -> tuple[Sequence[Loop] | None, str]:
    """Return the loops of a driver's own from a native library, and the compiler's name.

    The library for any game replaces one that cannot be compiled. Without both, the loops are None,
    and the second value says why.
    """
    for known in (types, BATCH):
        library = _library(tuple(known.items()))
        if isinstance(library, Path):
            name = compiler_version() + (", for one game" if known is not BATCH else "")
            return [NativeLoop(library, loop, known) for loop in LOOPS], name
    return None, str(library)


@functools.cache
def _library(types: tuple[tuple[str, Type], ...]) -> Path | str:
    """Return the native library, or why there is none; failures are not tried again."""
    try:
        library = build(LOOPS, types=dict(types))
        try:
            NativeLoop(library, run_range)
        except NativeError:  # a damaged file
            library.unlink(missing_ok=True)
            NativeLoop(build(LOOPS, types=dict(types)), run_range)
    except (NativeError, OSError) as error:
        return str(error)
    return library


class CpuDriver:
    """Run the rules on arrays in host memory.

    Args:
        num_threads: Threads that share a step; results do not depend on their number.
    """

    device = "cpu"

    def __init__(self, state: BattleState, tables: Tables, outputs: Outputs, num_threads: int):
        self.state = state
        self.outputs = outputs
        self.num_threads = num_threads
        large = len(state.units) >= LARGE_BATCH
        types = batch_types(state, tables, outputs) if large else BATCH
        self.engine, loops = compiled_loops(types)
        self.use(loops)
        self._battle = (state.units, state.world, state.sights)
        self._tables = (
            tables.kinds, tables.rules, tables.teams, tables.points, tables.spiral, tables.cone,
            tables.pathing,
        )  # fmt: skip
        self._brief_tables = (tables.kinds, tables.rules, tables.cone)
        self._pathing = tables.pathing
        self._views = (outputs.obs, outputs.state, outputs.action_mask)
        self._flags = (outputs.reward, outputs.terminated, outputs.truncated)
        num_envs, num_agents = outputs.action_mask.shape[:2]
        self._all_step = np.full(num_envs, STEP_COMMAND, np.int8)
        self._no_actions = np.zeros((num_envs, num_agents), np.int32)
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = 0

    def use(self, loops: Sequence[Loop]) -> None:
        """Play with other loops, in the order of ``LOOPS``."""
        self._run_range, self._simulate_range, self._show_range = loops

    def reset(self, chosen: np.ndarray, seeds: np.ndarray | None = None) -> None:
        """Start the next episode of chosen battles, or with ``seeds`` episode 0 of these."""
        if seeds is not None:
            set_seeds(self.state.world, chosen, seeds)
        self._play(np.where(chosen, RESET_COMMAND, LEAVE_COMMAND).astype(np.int8), self._no_actions)

    def step(self, actions: np.ndarray) -> None:
        """Play one step of every battle with ``actions`` ``(num_envs, num_agents)`` int32."""
        self._play(self._all_step, actions)

    def _play(self, commands: np.ndarray, actions: np.ndarray) -> None:
        arrays = (*self._battle, *self._tables, actions, *self._views, *self._flags)
        self._run(self._run_range, commands, *arrays)

    def simulate(self, actions: np.ndarray) -> None:
        """Play one step of every battle that is not over, without observing it."""
        mask = self.outputs.action_mask
        self._run(self._simulate_range, *self._battle, *self._tables, actions, mask)

    def show(self) -> None:
        """Observe every battle in its present state."""
        self._run(self._show_range, *self._battle, *self._brief_tables, self._pathing, *self._views)

    def upload(self) -> None:
        """Do nothing: the host's arrays are the only ones (the CUDA driver has copies)."""

    def download(self) -> None:
        """Do nothing, as ``upload``."""

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _run(self, loop: Loop, *arrays: np.ndarray) -> None:
        """Run a compiled loop over all battles, in one chunk per thread if there are enough."""
        num_envs, _, num_units = self.state.units.shape
        chunks = min(self.num_threads, num_envs * num_units // UNITS_PER_CHUNK)
        if chunks <= 1:
            loop(0, num_envs, *arrays)
            return
        ends = [num_envs * (chunk + 1) // chunks for chunk in range(chunks)]
        pool = self._threads()
        ranges = zip([0, *ends], ends, strict=False)
        pending = [pool.submit(loop, first, last, *arrays) for first, last in ranges]
        for future in pending:
            future.result()

    def _threads(self) -> ThreadPoolExecutor:
        """Return the thread pool of this process; a forked child creates its own."""
        if self._pool is None or self._pool_pid != os.getpid():
            self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="smacv2")
            self._pool_pid = os.getpid()
        return self._pool
