"""Upstream's defects that a rules mode keeps, and the repaired rules (interface 3)."""

from math import atan, cos, pi, sin

import numpy as np
import pytest

from smacv2.battle import CHANCE_ONE, OUTCOME_RUNNING, SIGHT_MASKED
from smacv2.engine.backend import EngineBackend
from smacv2.engine.cpu import compiled_loops
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit
from smacv2.engine.tables import START_TICKS
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.rules_modes import DEFECTS, keeps
from smacv2.scenario import load_scenario, parse_scenario

STOP = 1


def scenario_with(base, **changes):
    """Return a built-in scenario with some keys of its file replaced."""
    return parse_scenario({**load_scenario(base).source, **changes}, name=base, file=base)


def test_fixed_keeps_no_defect_and_the_other_modes_keep_those_of_their_time():
    assert not any(keeps("fixed", defect) for defect in DEFECTS)
    for mode, repaired in {"may_2022": {"B1"}, "paper": {"B1", "B30"}, "upstream": {"B30"}}.items():
        assert {defect for defect in DEFECTS if not keeps(mode, defect)} == repaired


# --- B1: erased rows ------------------------------------------------------------------------------


def rows_seen(rules):
    """Return, per enemy row, whether a lone marine sees it: only enemy 1 is out of sight."""
    enemies = [Unit("marine", 16 + dx, 16) for dx in (3, 12, 5, 6)]
    box = Sandbox([Unit("marine", 16, 16)], enemies, rules=rules)
    box.backend.driver.show()
    layout = box.backend.layout
    rows = box.backend.outputs.obs[0, 0, layout.obs_enemies.offset : layout.obs_enemies.end]
    return rows.reshape(4, -1).any(axis=1).tolist()


def test_b1_an_unseen_enemy_erases_the_rows_before_its_own():
    assert rows_seen("fixed") == [True, False, True, True]
    assert rows_seen("paper") == [True, False, True, True]
    assert rows_seen("upstream") == [False, False, True, True]


def test_b1_a_dead_enemy_out_of_sight_erases_rows_too_and_a_corpse_in_sight_does_not():
    enemies = [Unit("marine", 16 + dx, 16) for dx in (3, 5, 6)]
    for distance, expected in ((12, [False, False, True]), (4, [True, False, True])):
        box = Sandbox([Unit("marine", 16, 16)], enemies, rules="upstream")
        box.state.health[:, 2] = 0
        box.state.x[:, 2] = (16 + distance) * ONE
        box.state.sights[:] = 0
        box.state.spotter[:] = -1
        box.backend.driver.show()
        layout = box.backend.layout
        rows = box.backend.outputs.obs[0, 0, layout.obs_enemies.offset : layout.obs_enemies.end]
        assert rows.reshape(3, -1).any(axis=1).tolist() == expected


# --- B2: the scale of the first episode -----------------------------------------------------------

# Item 0: two marines; item 1: two marauders. Health 90 and 250, plus 2 * 10 + 200 points.
TWO_TEAMS = {
    "num_agents": 2,
    "num_enemies": 2,
    "team": {
        "kind": "fixed",
        "unit_types": ["marine", "marauder"],
        "items": [
            {"ally": ["marine"] * 2, "enemy": ["marine"] * 2},
            {"ally": ["marine"] * 2, "enemy": ["marauder"] * 2},
        ],
    },
}
SCALES = {"marine": 220 + 90, "marauder": 220 + 250}


def scale_and_enemy(env):
    state = env.backend.state
    kinds = {4: "marine", 3: "marauder"}
    return state.max_reward[0] / ONE, kinds[int(state.unit_type[0, 2])]


@pytest.mark.parametrize("rules", ["fixed", "paper"])
def test_b2_the_first_episodes_enemies_set_the_scale_of_all_episodes(rules):
    env = SMACv2VectorEnv(scenario_with("terran_5_vs_5", **TWO_TEAMS), 1, rules=rules)
    env.reset(seed=3)
    first_scale, first_enemy = scale_and_enemy(env)
    assert first_scale == SCALES[first_enemy]
    seen = {first_enemy}
    for _ in range(12):
        env.backend.state.health[:, 2:] = 0
        env.step(np.full((1, 2), STOP))  # won
        env.step(np.full((1, 2), STOP))  # reset
        scale, enemy = scale_and_enemy(env)
        assert scale == (SCALES[enemy] if rules == "fixed" else first_scale)
        seen.add(enemy)
    assert seen == {"marine", "marauder"}


def test_b2_resets_before_the_first_episode_has_ended_add_up():
    fixed, paper = (
        SMACv2VectorEnv(scenario_with("terran_5_vs_5", **TWO_TEAMS), 1, rules=rules)
        for rules in ("fixed", "paper")
    )
    life = 0
    for env in (fixed, paper):
        env.reset(seed=3)
    for _ in range(3):
        scale, enemy = scale_and_enemy(fixed)
        assert scale == SCALES[enemy]
        life += SCALES[enemy] - 220
        assert scale_and_enemy(paper)[0] == 220 + life
        for env in (fixed, paper):
            env.reset()


# --- B6: the cone ---------------------------------------------------------------------------------


def upstream_accepts(view, angle):
    """Return upstream's test for a target at an angle, as written there (12 directions)."""
    tiny = 1e-7
    view_x, view_y = cos(view), sin(view)
    dx, dy = cos(angle), sin(angle)
    dx = max(dx, tiny) if dx > 0 else min(dx, -tiny)
    view_x = max(view_x, tiny) if dx > 0 else min(view_x, -tiny)
    return abs(atan(dy / dx) - atan(view_y / view_x)) < pi / 12


def accepted_degrees(direction, rules):
    """Return the angles, in half degrees off the limits, that a view direction accepts."""
    box = Sandbox(
        [Unit("marine", 16, 16)], [Unit("marine", 20, 16)], num_envs=360, conic_fov=True,
        rules=rules,
    )  # fmt: skip
    angles = np.radians(np.arange(360) + 0.5)
    box.state.x[:, 1] = np.round((16 + 4 * np.cos(angles)) * ONE)
    box.state.y[:, 1] = np.round((16 + 4 * np.sin(angles)) * ONE)
    box.state.looking[:, 0] = direction
    box.backend.driver.show()
    return box.backend.outputs.action_mask[:, 0, 18] != 0


@pytest.mark.parametrize("direction", range(12))
def test_b6_the_cone_accepts_what_upstreams_formula_accepts(direction):
    accepted = accepted_degrees(direction, "upstream")
    view = 2 * pi * direction / 12
    expected = [upstream_accepts(view, np.radians(degree + 0.5)) for degree in range(360)]
    assert accepted.tolist() == expected
    assert np.array_equal(accepted, accepted_degrees(direction, "paper"))
    # Interface 2.7: north and south 30 degrees, east and west 60, all others 45.
    assert accepted.sum() == {0: 60, 3: 30, 6: 60, 9: 30}.get(direction, 45)


@pytest.mark.parametrize("direction", range(12))
def test_b6_the_repaired_cone_accepts_30_degrees_around_its_direction(direction):
    accepted = accepted_degrees(direction, "fixed")
    off = (np.arange(360) + 0.5 - 30 * direction + 180) % 360 - 180
    assert np.array_equal(accepted, abs(off) < 15)


# --- B7: late deaths ------------------------------------------------------------------------------


@pytest.mark.parametrize(("rules", "dies_in_step"), [("fixed", 1), ("paper", 2)])
def test_b7_agents_die_by_the_health_of_the_last_observation(rules, dies_in_step):
    level = {"kind": "per_agent_uniform", "lower": 0.5, "upper": 0.5}
    scenario = scenario_with(
        "terran_5_vs_5", **TWO_TEAMS, health=level, start_positions={"kind": "points"}
    )
    env = SMACv2VectorEnv(scenario, 1, rules=rules)
    env.reset(seed=3)
    state = env.backend.state
    assert state.health_level[0, 0] == CHANCE_ONE // 2
    state.health[0, 0] = 20 * ONE  # below 22.5, but seen as 45
    for step in (1, 2):
        env.step(np.full((1, 2), STOP))
        assert (state.health[0, 0] == 0) == (step >= dies_in_step)
    assert state.health[0, 1] == 45 * ONE


# --- B11 and B22 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rules", "chance"), [("fixed", 0.1), ("paper", 0.9), ("upstream", 0.9)])
def test_b11_mask_probability_is_the_chance_not_to_be_masked(rules, chance):
    mask = {"kind": "mask", "mask_probability": 0.1}
    env = SMACv2VectorEnv(scenario_with("protoss_5_vs_5", enemy_mask=mask), 200, rules=rules)
    env.reset(seed=0)
    masked = (env.backend.state.sights & SIGHT_MASKED) != 0
    assert abs(masked.sum() - chance * masked.size) < 5 * np.sqrt(masked.size * 0.09)


@pytest.mark.parametrize(
    ("rules", "points"), [("fixed", 1), ("paper", 20 / 310), ("upstream", 20 / 310)]
)
def test_b22_the_sparse_reward_is_divided_by_the_scale_of_the_shaped_one(rules, points):
    enemies = [Unit("marine", 13, 16), Unit("marine", 14, 16)]
    for winner, sign in ((0, 1), (1, -1)):
        box = Sandbox([Unit("marine", 2, 2)], enemies, reward_sparse=True, rules=rules)
        losers = slice(1, 3) if winner == 0 else slice(0, 1)
        box.backend.step(np.array([[STOP]], np.int32))
        assert box.backend.outputs.reward[0] == 0
        assert box.state.outcome[0] == OUTCOME_RUNNING
        box.state.health[:, losers] = 0
        actions = np.array([[STOP]], np.int32)
        box.backend.step(actions)
        assert box.backend.outputs.reward[0] == pytest.approx(sign * points)


# --- B30: the surrounded start --------------------------------------------------------------------

FIVE_MARINES = {
    "kind": "fixed",
    "unit_types": ["marine"],
    "items": [{"ally": ["marine"] * 5, "enemy": ["marine"] * 5}],
}
CORNER = [(0.375, 0.375), (1.25, 0.375)]
"""Two marines (radius 0.375) ask for (0, 0). The first is clamped into the map; the second gets the
nearest lattice point that keeps 0.75 cells from the first, (1.25, 0), and its y is clamped."""

OVERWRITTEN = {"dddcc": "ccdaa", "bbbbc": "cbbba", "bbbcc": "ccbaa", "cddab": "bdaaa"}
"""Quadrants of five enemies by hand, without and with the defect; "a" is the south-west one."""


def enemy_starts(rules, num_envs=320):
    """Return where five enemy marines are put: cells ``(num_envs, 5, 2)``."""
    start = {"kind": "surrounded"}
    scenario = scenario_with("terran_5_vs_5", team=FIVE_MARINES, start_positions=start)
    backend = EngineBackend(scenario, scenario.options.replace(rules=rules), num_envs)
    backend.driver.use(compiled_loops()[1])  # of any game: the rules change here
    backend.tables.rules[START_TICKS] = 0
    backend.reset(np.ones(num_envs, np.bool_), np.arange(num_envs, dtype=np.uint64))
    return np.stack([backend.state.x[:, 5:], backend.state.y[:, 5:]], axis=-1) / ONE


def quadrants(points):
    """Return the letter of each point's quadrant of the 32 x 32 map, as one word."""
    return "".join("abcd"[int(x > 16) + 2 * int(y > 16)] for x, y in points)


def test_b30_each_group_overwrites_the_first_enemies_and_the_rest_ask_for_the_corner():
    words = set()
    for fixed, defective in zip(enemy_starts("fixed"), enemy_starts("may_2022"), strict=True):
        word = quadrants(fixed)
        words.add(word)
        if word in OVERWRITTEN:
            assert quadrants(defective) == OVERWRITTEN[word]
        if word == "dddcc":
            assert [tuple(point) for point in defective[3:]] == CORNER
        if len(set(word)) == 1:  # a lone group overwrites nobody
            assert np.array_equal(fixed, defective)
    assert words >= OVERWRITTEN.keys()


@pytest.mark.parametrize("rules", ["paper", "upstream"])
def test_b30_is_repaired_in_later_modes(rules):
    assert np.array_equal(enemy_starts(rules), enemy_starts("fixed"))
