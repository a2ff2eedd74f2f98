"""Battles on the CPU by native loops, Numba's loops, or native loops that check themselves.

    python -m tests.smacv2.native_battles              # play every case with the checked loops
    python -m tests.smacv2.native_battles --own        # the same, with loops of each game
    python -m tests.smacv2.native_battles overflow     # call a function of this file, checked

Checked loops abort at an overflow, a bad index, or a number too large for its place.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from smacv2.engine import cpu
from smacv2.engine.backend import EngineBackend
from smacv2.engine.native import (
    CHECKED_FLAGS,
    FAST_FLAGS,
    LIBRARY_FLAGS,
    NativeLoop,
    build,
    compile_library,
    source_text,
)
from smacv2.engine.sizes import batch_types
from smacv2.gymnasium_env import SMACv2VectorEnv

NUM_ENVS = 3
NUM_STEPS = 60

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "terran": ("terran_5_vs_5", {}),
    "zerg": ("zerg_5_vs_5", {}),
    "protoss": ("protoss_5_vs_5", {}),
    "more enemies": ("protoss_10_vs_11", {}),
    "many zerg": ("zerg_20_vs_23", {}),
    "many terran": ("terran_20_vs_20", {}),
    "many protoss": ("protoss_20_vs_23", {}),
    "conic": ("zerg_5_vs_5_conic", {}),
    "hidden enemies": ("terran_6_vs_5_epo_05", {}),
    "upstream": ("zerg_10_vs_10", {"rules": "upstream"}),
    "upstream conic": ("terran_5_vs_5_conic", {"rules": "upstream"}),
    "paper": ("terran_10_vs_11", {"rules": "paper"}),
    "shared sights": ("protoss_5_vs_5", {"prob_obs_enemy": 0.5}),
    "obs as state": ("terran_5_vs_5", {"obs_instead_of_state": True}),
    "ground": ("terran_5_vs_5", {"obs_pathing_grid": True, "obs_terrain_height": True}),
    "all columns": (
        "protoss_5_vs_5",
        {"obs_last_action": True, "obs_timestep_number": True, "state_timestep_number": True},
    ),
    "no action mask": ("zerg_5_vs_5", {"action_mask": False, "fully_observable": True}),
    "sparse": ("terran_5_vs_5", {"reward_sparse": True}),
    "loss counts": ("zerg_5_vs_5", {"reward_only_positive": False, "reward_scale": False}),
}


def arrays_of(backend: EngineBackend) -> dict[str, np.ndarray]:
    """Return every array that a step writes, by name."""
    state = backend.state
    blocks = {"units": state.units, "world": state.world, "sights": state.sights}
    return {**blocks, **backend.outputs.arrays()}


def play(case: str, prepare: Callable[[EngineBackend], None] = lambda backend: None) -> list[str]:
    """Play random legal actions, and attacks whenever possible in every other step.

    Returns:
        A hash of every array after each step, a step without observing it, and an observation.
    """
    scenario, options = CASES[case]
    env = SMACv2VectorEnv(scenario, NUM_ENVS, num_threads=1, **options)
    prepare(env.backend)
    rng = np.random.default_rng(5)
    env.reset(seed=11)
    hashes = []
    for step in range(NUM_STEPS):
        mask = env.backend.outputs.action_mask
        chances = rng.random(mask.shape)
        if step % 2:
            chances *= np.arange(mask.shape[-1]) + 1
        actions = (chances * (mask != 0)).argmax(-1).astype(np.int32)
        env.backend.step(actions)
        hashes.append(digest(env.backend))
    env.backend.driver.simulate(actions)
    hashes.append(digest(env.backend))
    env.backend.driver.show()
    return [*hashes, digest(env.backend)]


def digest(backend: EngineBackend) -> str:
    """Return a hash of every array."""
    found = hashlib.sha256()
    for array in arrays_of(backend).values():
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def checked(backend: EngineBackend) -> None:
    """Let a driver play with the checked loops."""
    library = build(cpu.LOOPS, CHECKED_FLAGS)
    backend.driver.use([NativeLoop(library, function) for function in cpu.LOOPS])


def with_own_loops(backend: EngineBackend, flags: tuple[str, ...] = FAST_FLAGS) -> None:
    """Let a driver play with loops that are compiled for its game alone."""
    types = batch_types(backend.state, backend.tables, backend.outputs)
    library = build(cpu.LOOPS, flags, types)
    backend.driver.use([NativeLoop(library, function, types) for function in cpu.LOOPS])


def with_own_checked_loops(backend: EngineBackend) -> None:
    """Let a driver play with checked loops that are compiled for its game alone."""
    with_own_loops(backend, CHECKED_FLAGS)


def compiled(functions: list[Callable[..., None]], flags: tuple[str, ...]) -> list[NativeLoop]:
    """Return functions with parameters as those of a driver's loops, compiled."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        text = source_text(functions, lines=True)
        compile_library(text, library, (*LIBRARY_FLAGS, *flags))
        return [NativeLoop(library, function) for function in functions]


def overflow(first, last, world):
    for b in range(first, last):
        world[b, 0] = world[b, 0] * 65536


def index_before_start(first, last, world):
    for b in range(first, last):
        world[b, 0] = world[b, b - 1]


def number_too_large(first, last, world):
    for b in range(first, last):
        world[b, 0] = int(world[b, 0]) * 65536


def main(names: list[str]) -> None:
    """Call functions of this file once each, or play every case, with checks."""
    if names in ([], ["--own"]):
        for case in CASES:
            prepare = with_own_checked_loops if names else checked
            print(case, play(case, prepare)[-1], flush=True)
        return
    for name in names:
        (loop,) = compiled([globals()[name]], CHECKED_FLAGS)
        loop(0, 1, np.full((1, 2), 1 << 20, np.int32))


if __name__ == "__main__":
    os.environ["SMACV2_CPU"] = "native"
    main(sys.argv[1:])
