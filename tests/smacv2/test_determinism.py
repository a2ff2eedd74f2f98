"""Equal seeds and actions give equal bytes for every batch size, thread count and process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.scenario import load_scenario, parse_scenario
from tests.smacv2.golden import FILE, SCENARIOS, digest_of, legal_actions

ROOT = Path(__file__).parents[2]


def play(scenario, num_envs, num_steps, *, seed=11, num_threads=1, action_seed=0):
    """Return the bytes of every step: obs, state, mask, reward and flags of each battle."""
    env = SMACv2VectorEnv(scenario, num_envs, num_threads=num_threads)
    rng = np.random.default_rng(action_seed)
    obs, info = env.reset(seed=seed)
    rows = []
    for _ in range(num_steps):
        actions = legal_actions(info["action_mask"], rng)
        obs, reward, terminated, truncated, info = env.step(actions)
        results = (obs, info["state"], info["action_mask"], reward, terminated, truncated)
        rows.append(b"".join(np.ascontiguousarray(array).tobytes() for array in results))
    return rows


@pytest.mark.parametrize("scenario", ["terran_5_vs_5", "protoss_10_vs_11", "zerg_10_vs_10"])
def test_equal_seeds_and_actions_give_equal_bytes_for_200_steps(scenario):
    first = play(scenario, 4, 200)
    assert first == play(scenario, 4, 200)
    assert first != play(scenario, 4, 200, seed=12)


@pytest.mark.parametrize(("num_envs", "num_threads"), [(64, 2), (71, 5)])
def test_the_number_of_threads_changes_nothing(num_envs, num_threads):
    alone = play("terran_10_vs_11", num_envs, 40)
    assert alone == play("terran_10_vs_11", num_envs, 40, num_threads=num_threads)


@pytest.mark.parametrize(
    "scenario", ["terran_5_vs_5", "zerg_6_vs_5_epo_05", "protoss_5_vs_5_conic"]
)
@pytest.mark.parametrize("num_envs", [1, 7, 64])
def test_battle_i_of_n_equals_a_lone_battle_with_the_seed_plus_i(scenario, num_envs):
    batch = SMACv2VectorEnv(scenario, num_envs, num_threads=2)
    chosen = sorted({0, num_envs // 2, num_envs - 1})
    lone = [SMACv2VectorEnv(scenario, 1) for _ in chosen]
    rng = np.random.default_rng(5)
    obs, info = batch.reset(seed=100)
    alone = [env.reset(seed=100 + index) for env, index in zip(lone, chosen, strict=True)]
    for _ in range(60):
        actions = legal_actions(info["action_mask"], rng)
        for index, (lone_obs, *_, lone_info) in zip(chosen, alone, strict=True):
            assert np.array_equal(obs[index], lone_obs[0])
            for name in ("state", "action_mask", "battle_won", "dead_allies", "dead_enemies"):
                assert np.array_equal(info[name][index], lone_info[name][0])
        obs, rewards, terminated, truncated, info = batch.step(actions)
        alone = [
            env.step(actions[index : index + 1]) for env, index in zip(lone, chosen, strict=True)
        ]
        for index, (_, *flags, _) in zip(chosen, alone, strict=True):
            for array, flag in zip((rewards, terminated, truncated), flags, strict=True):
                assert array[index] == flag[0]


def hashes_elsewhere(code, **environment):
    """Return the output of a new Python process."""
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split()


def test_two_processes_agree():
    code = "from tests.smacv2.golden import digest_of; print(digest_of('terran_5_vs_5'))"
    assert hashes_elsewhere(code) == [digest_of("terran_5_vs_5")]


def small(race):
    """Return a 3v3 scenario of one race."""
    source = load_scenario(f"{race}_5_vs_5").source
    source = {**source, "num_agents": 3, "num_enemies": 3}
    return parse_scenario(source, name=f"{race}_3_vs_3", file=race)


UNCOMPILED = """
import numba
assert numba.config.DISABLE_JIT
from tests.smacv2.golden import digest_of
from tests.smacv2.test_determinism import small
for race in ("terran", "protoss", "zerg"):
    print(digest_of(small(race), num_envs=1, num_steps=60))
"""


def test_uncompiled_rules_equal_compiled_ones_and_never_overflow():
    races = ("terran", "protoss", "zerg")
    compiled = [digest_of(small(race), num_envs=1, num_steps=60) for race in races]
    assert hashes_elsewhere(UNCOMPILED, NUMBA_DISABLE_JIT="1") == compiled


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_rules_have_not_changed(scenario):
    # After a deliberate change: python -m tests.smacv2.golden
    assert digest_of(scenario) == json.loads(FILE.read_text())[scenario]
