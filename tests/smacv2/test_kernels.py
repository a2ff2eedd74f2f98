"""The CUDA kernels, compiled for the CPU, play the bytes of the CPU; launch settings fit a GPU."""

import dataclasses
import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smacv2.battle import EPISODE, STEP, BattleState, Outputs
from smacv2.engine import cuda
from smacv2.engine.backend import EngineBackend
from smacv2.engine.native import compiler
from smacv2.engine.tables import Tables
from smacv2.layout import Layout
from smacv2.scenario import load_scenario
from tests.smacv2.compilers import needs_compiler
from tests.smacv2.kernels_on_cpu import KernelsOnCpu, random_actions

NUM_ENVS = 5

CASES = {
    "terran_5_vs_5": 40,  # steps: allies die out
    "zerg_10_vs_11": 12,  # 21 units share 21 lanes, 11 lanes of a warp are idle
    "protoss_5_vs_5_conic": 12,
    "terran_6_vs_5_epo_05": 12,  # agents are shown in turn
    "terran_20_vs_23": 12,  # more units than threads of a warp
}


def differing(cpu: EngineBackend, kernels: KernelsOnCpu) -> list[str]:
    """Return the names of arrays whose bytes differ."""
    blocks = {"units": cpu.state.units, "world": cpu.state.world, "sights": cpu.state.sights}
    return [
        name
        for name, array in (blocks | cpu.outputs.arrays()).items()
        if array.tobytes() != kernels.arrays[name].tobytes()
    ]


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_kernels_play_the_bytes_of_the_cpu(name, tmp_path):
    scenario = load_scenario(name)
    cpu = EngineBackend(scenario, scenario.options, NUM_ENVS, num_threads=1)
    kernels = KernelsOnCpu(cpu, tmp_path)

    def reset(chosen, seeds=None):
        for either in (cpu, kernels):
            either.reset(chosen, seeds)
        assert differing(cpu, kernels) == []

    reset(np.ones(NUM_ENVS, np.bool_), np.arange(NUM_ENVS))
    # Two battles soon reach the episode limit, so that they are reset beside others' steps.
    for world in (cpu.state.world, kernels.arrays["world"]):
        world[[1, 4], STEP] = scenario.episode_limit - np.array([3, 8])
    rng = np.random.default_rng(3)
    ends = {"terminated": 0, "truncated": 0}
    for step in range(CASES[name]):
        actions = random_actions(rng, cpu.outputs.action_mask)
        cpu.step(actions)
        kernels.step(actions, resets_first=step % 2 == 0)
        assert differing(cpu, kernels) == [], f"step {step}"
        for end in ends:
            ends[end] += kernels.arrays[end].sum()
    assert ends["truncated"] == 2
    assert ends["terminated"] >= 1 or CASES[name] < 40

    before = {name: array.copy() for name, array in kernels.arrays.items()}
    chosen = np.arange(NUM_ENVS) % 2 == 1
    reset(chosen)
    reset(chosen, np.arange(NUM_ENVS) + 7)
    for array, old in zip(kernels.arrays.values(), before.values(), strict=True):
        assert np.array_equal(array[~chosen], old[~chosen])
    assert (kernels.arrays["world"][chosen, EPISODE] == 0).all()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["terran_5_vs_5", "zerg_10_vs_11"])
def test_the_threads_of_kernels_never_race(name):
    command = [*compiler(), "-print-file-name=libtsan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip(f"{command[0]} has no ThreadSanitizer")
    result = subprocess.run(
        [sys.executable, "-m", "tests.smacv2.kernels_on_cpu", name],
        env={**os.environ, "LD_PRELOAD": library, "TSAN_OPTIONS": "halt_on_error=1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]


# --- Launch settings ---

CARDS = (
    cuda.Card("sm_90", multiprocessors=132, shared_bytes=227 * 1024),
    cuda.Card("sm_86", multiprocessors=28, shared_bytes=99 * 1024),
    cuda.Card("sm_75", multiprocessors=1, shared_bytes=64 * 1024),
)
MOST_THREADS = 1024
"""Of a block, on every GPU."""


sides = st.integers(1, 43)


@functools.cache
def terran_tables(**options: Any) -> Tables:
    scenario = load_scenario("terran_5_vs_5")
    chosen = scenario.options.replace(**options)
    return Tables.build(scenario, chosen, Layout.of(scenario, chosen))


def sizes_of(num_agents: int, num_enemies: int, **options: Any) -> cuda.Sizes:
    """Return the sizes of a terran scenario with other numbers of units."""
    base = load_scenario("terran_5_vs_5")
    scenario = dataclasses.replace(base, num_agents=num_agents, num_enemies=num_enemies)
    outputs = Outputs.empty(1, Layout.of(scenario, base.options.replace(**options)))
    state = BattleState.empty(1, num_agents, num_enemies)
    return cuda.Sizes.of(state, terran_tables(**options), outputs)


@given(sides, sides, st.integers(1, 100_000), st.sampled_from(CARDS))
def test_blocks_that_play_fit_a_gpu_and_their_lanes_fit_warps_and_units(
    num_agents, num_enemies, num_battles, card
):
    sizes = sizes_of(num_agents, num_enemies)
    for kernel in (cuda.play_kernel(sizes, num_battles, card), cuda.reset_kernel(sizes)):
        assert 1 <= kernel.lanes <= num_agents + num_enemies
        assert kernel.battles % kernel.warps == 0
        assert kernel.lanes * kernel.battles // kernel.warps <= cuda.WARP
        assert 1 <= kernel.warps <= kernel.battles
        assert kernel.warps <= MOST_THREADS // cuda.WARP
        assert sizes.shared_bytes(kernel) <= card.shared_bytes


@given(sides, sides, st.integers(1, 100_000), st.sampled_from(CARDS))
def test_a_block_that_plays_is_no_larger_than_the_batch_needs(
    num_agents, num_enemies, num_battles, card
):
    play = cuda.play_kernel(sizes_of(num_agents, num_enemies), num_battles, card)
    per_warp = play.battles // play.warps
    assert play.battles < num_battles + per_warp


@given(sides, sides)
def test_blocks_that_show_fit_a_data_centre_gpu(num_agents, num_enemies):
    sizes = sizes_of(num_agents, num_enemies)
    kernel = cuda.show_kernel(sizes, terran_tables().rules, CARDS[0])
    assert 1 <= kernel.battles
    assert sizes.shared_bytes(kernel) <= CARDS[0].shared_bytes


@pytest.mark.parametrize(("side", "card"), [(64, CARDS[0]), (40, CARDS[1]), (30, CARDS[2])])
def test_blocks_that_show_many_units_fit_every_gpu(side, card):
    sizes = sizes_of(side, side)
    kernel = cuda.show_kernel(sizes, terran_tables().rules, card)
    assert sizes.shared_bytes(kernel) <= card.shared_bytes


@pytest.mark.parametrize(("sides", "card"), [((20, 23), CARDS[0]), ((10, 11), CARDS[1])])
def test_blocks_that_show_many_units_in_turn_fit_every_gpu(sides, card):
    sizes = sizes_of(*sides, obs_instead_of_state=True)
    kernel = cuda.show_kernel(sizes, terran_tables(obs_instead_of_state=True).rules, card)
    assert sizes.shared_bytes(kernel) <= card.shared_bytes
