"""Scripted policies, and the count of the battles that they play."""

import numpy as np
import pytest

from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.play import collect, play
from smacv2.policies import POLICIES, NearestPolicy, StopPolicy, random_legal
from smacv2.scenario import load_unit_types
from smacv2.stats import wilson_interval

MEDIVAC = load_unit_types()["medivac"].index
CELL = 4096


def test_nearest_beats_random_clearly():
    nearest, random = (play("terran_5_vs_5", policy, 64) for policy in ("nearest", "random"))
    assert nearest["win_rate_interval_95"][0] > random["win_rate_interval_95"][1]
    assert nearest["episodic_return"] > 2 * random["episodic_return"]


def test_stop_never_wins():
    result = play("terran_5_vs_5", "stop", 64)
    assert result["wins"] == 0
    assert result["episodic_return"] == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "scenario", ["terran_10_vs_11", "protoss_5_vs_5_conic", "zerg_6_vs_5_epo_0"]
)
def test_policies_only_choose_legal_actions(policy, scenario):
    envs = SMACv2VectorEnv(scenario, num_envs=4, num_threads=1, strict=True)
    chosen = POLICIES[policy](envs)
    envs.reset(seed=0)
    for _ in range(120):
        envs.step(chosen.act())


def test_random_actions_are_legal_and_equally_likely():
    mask = np.tile(np.array([0, 1, 1, 0, 1], np.int8), (30_000, 1))
    noise = 1 - np.random.default_rng(0).random(mask.shape, np.float32)
    counts = np.bincount(random_legal(mask, noise), minlength=5)
    assert counts[[0, 3]].sum() == 0
    assert np.all(np.abs(counts[[1, 2, 4]] - 10_000) < 400)


def arranged(positions, **changes):
    """Return a terran battle with units at the given cells, all healthy marines."""
    envs = SMACv2VectorEnv("terran_5_vs_5", num_threads=1)
    envs.reset(seed=0)
    state = envs.backend.state
    marine = load_unit_types()["marine"]
    state.unit_type[:] = marine.index
    state.health[:] = int(marine.health_max) * CELL
    state.x[0], state.y[0] = np.array(positions).T * CELL
    for name, value in changes.items():
        getattr(state, name)[0] = value
    envs.backend.driver.show()
    return envs, state


FAR = [(1, 1), (1, 3), (1, 5), (1, 7)]


def test_the_nearest_enemy_in_reach_is_attacked():
    envs, _ = arranged([(16, 16), *FAR, (20, 16), (18, 16), (30, 30), (30, 28), (30, 26)])
    first_target = envs.layout.num_actions_no_attack
    assert NearestPolicy(envs).act()[0, 0] == first_target + 1


def test_a_target_is_kept_until_it_dies():
    envs, state = arranged([(16, 16), *FAR, (20, 16), (19, 16), (30, 30), (30, 28), (30, 26)])
    policy = NearestPolicy(envs)
    first_target = envs.layout.num_actions_no_attack
    state.step[0] = 1  # step 0 would be a new episode
    assert policy.act()[0, 0] == first_target + 1
    state.x[0, 5] = 17 * CELL  # another enemy comes nearer
    envs.backend.driver.show()
    assert policy.act()[0, 0] == first_target + 1
    state.health[0, 6] = 0
    envs.backend.driver.show()
    assert policy.act()[0, 0] == first_target


@pytest.mark.parametrize(
    ("enemy", "action"),
    [
        ((26, 18), "east"),
        ((6, 18), "west"),
        ((18, 26), "north"),
        ((18, 6), "south"),
        ((24, 24), "north"),
    ],
)
def test_out_of_reach_an_agent_walks_along_the_larger_gap(enemy, action):
    envs, _ = arranged([(16, 16), *FAR, enemy, *[(31, 31)] * 4])
    assert envs.layout.action_names()[NearestPolicy(envs).act()[0, 0]] == action


def test_a_medivac_heals_the_nearest_hurt_ally_that_is_not_a_medivac():
    kinds = [MEDIVAC, MEDIVAC, *[load_unit_types()["marine"].index] * 8]
    health = [100 * CELL, 10 * CELL, 10 * CELL, 10 * CELL, 45 * CELL, *[45 * CELL] * 5]
    allies = [(16, 16), (16.5, 16), (18, 16), (17, 16), (15.5, 16)]
    envs, state = arranged([*allies, *[(31, 31)] * 5], unit_type=kinds, health=health)
    policy = NearestPolicy(envs)
    first_target = envs.layout.num_actions_no_attack
    state.step[0] = 1
    assert policy.act()[0, 0] == first_target + 3
    state.health[0, 3] = 45 * CELL  # healed
    envs.backend.driver.show()
    assert policy.act()[0, 0] == first_target + 2
    state.health[0, 2] = 45 * CELL
    envs.backend.driver.show()
    assert envs.layout.action_names()[policy.act()[0, 0]] == "stop"


def test_every_environment_plays_a_fixed_share_of_the_battles():
    lengths = []
    for num_envs in (1, 3):
        envs = SMACv2VectorEnv("zerg_5_vs_5", num_envs, num_threads=1)
        lengths.append(collect(envs, StopPolicy(envs), 2 * num_envs, 7).episodic_length)
    assert len(lengths[1]) == 6
    # Battles are in the order of their environment: those of the first do not depend on the others.
    np.testing.assert_array_equal(lengths[0], lengths[1][:2])


def test_returns_and_lengths_leave_out_the_reset_rows():
    envs = SMACv2VectorEnv("terran_5_vs_5", 2, num_threads=1, max_episode_steps=3)
    battles = collect(envs, StopPolicy(envs), 6, 0)
    np.testing.assert_array_equal(battles.episodic_length, 3)
    assert battles.timeout.all()


@pytest.mark.parametrize(
    ("wins", "trials", "interval"),
    [(0, 10, (0.0, 0.27753)), (5, 10, (0.23659, 0.76341)), (10, 10, (0.72247, 1.0))],
)
def test_wilson_intervals_match_published_values(wins, trials, interval):
    assert wilson_interval(wins, trials) == pytest.approx(interval, abs=1e-5)
