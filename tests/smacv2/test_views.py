"""Observations, state and masks of battles with known numbers (interface 2.3 to 2.8)."""

from math import cos, hypot, pi, sin

import numpy as np
import pytest

from smacv2.battle import ORDER_ATTACK, SIGHT_MASKED, SIGHT_SHARED, SPOTTER
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.layout import Layout

NO_OP, STOP, NORTH, SOUTH, EAST, WEST = range(6)

TERRANS = (
    [
        Unit("marauder", 16, 16, health=100),
        Unit("marine", 8, 16, health=9),
        Unit("medivac", 10, 16, energy=100),
    ],
    [Unit("marine", 12, 19, health=45), Unit("medivac", 10, 12, health=75)],
)
PROTOSS = (
    [
        Unit("colossus", 16, 16, health=50, shield=75),
        Unit("stalker", 20, 19, health=80, shield=0),
        Unit("zealot", 31, 1, health=25, shield=10),
    ],
    [Unit("zealot", 16, 23, health=100, shield=50), Unit("stalker", 16, 26, shield=20)],
)


def battle(sides, num_steps=0, **options):
    """Return a sandbox battle as the agents see it, optionally after some steps were counted."""
    box = Sandbox(*sides, **options)
    box.state.step[:] = num_steps
    box.backend.driver.show()
    return box


def observed(box, agent):
    """Return an agent's observation as {name: value}; zeros are left out."""
    layout = box.backend.layout
    names = layout.obs_feature_names()
    # Names are agent 0's: ally rows of other agents leave out these agents.
    allies = layout.obs_allies
    for row, ally in enumerate(other for other in range(layout.num_agents) if other != agent):
        first = allies.offset + row * allies.width
        for column, feature in enumerate(allies.row):
            names[first + column] = feature.format(unit=ally)
    vector = box.backend.outputs.obs[0, agent]
    assert len(names) == vector.size
    return {name: value for name, value in zip(names, vector, strict=True) if value != 0}


def state_of(box):
    """Return the state as {name: value}; zeros are left out."""
    names = box.backend.layout.state_feature_names()
    vector = box.backend.outputs.state[0]
    return {name: value for name, value in zip(names, vector, strict=True) if value != 0}


def approximately(expected):
    """Compare up to the rounding of distances to 1/4096 cell."""
    return pytest.approx({name: value for name, value in expected.items() if value}, abs=5e-5)


MOVES = {f"move_action_{way}": 1 for way in ("north", "south", "east", "west")}


# --- Every number ---------------------------------------------------------------------------------


def test_the_numbers_of_a_terran_observation_match_their_names():
    # Types in order: marauder, marine, medivac (the sandbox sorts them). Sight 10, reach 6.
    assert observed(battle(TERRANS), 0) == approximately(
        {
            **MOVES,
            "enemy_shootable_0": 1,  # 5 away
            "enemy_distance_0": 0.5,
            "enemy_relative_x_0": -0.4,
            "enemy_relative_y_0": 0.3,
            "enemy_health_0": 1,
            "enemy_unit_type_0_bit_1": 1,
            "enemy_shootable_1": 0,  # 7.2 away
            "enemy_distance_1": hypot(6, 4) / 10,
            "enemy_relative_x_1": -0.6,
            "enemy_relative_y_1": -0.4,
            "enemy_health_1": 0.5,
            "enemy_unit_type_1_bit_2": 1,
            "ally_visible_1": 1,
            "ally_distance_1": 0.8,
            "ally_relative_x_1": -0.8,
            "ally_health_1": 0.2,
            "ally_unit_type_1_bit_1": 1,
            "ally_visible_2": 1,
            "ally_distance_2": 0.6,
            "ally_relative_x_2": -0.6,
            "ally_health_2": 1,
            "ally_unit_type_2_bit_2": 1,
            "own_health": 0.8,
            "own_pos_x": 0.5,
            "own_pos_y": 0.5,
            "own_unit_type_bit_0": 1,
        }
    )


def test_the_first_column_of_enemy_rows_tells_a_medivac_which_allies_it_can_heal():
    # Sight 11, healing reach 4: ally 0 is 6 away, ally 1 is 2 away.
    seen = observed(battle(TERRANS), 2)
    assert "enemy_shootable_0" not in seen
    assert seen["enemy_shootable_1"] == 1
    assert seen["enemy_distance_1"] == pytest.approx(4 / 11)
    assert seen["ally_distance_0"] == pytest.approx(6 / 11)
    assert seen["ally_relative_x_1"] == pytest.approx(-2 / 11)
    assert seen["own_unit_type_bit_2"] == 1


def test_a_protoss_observation_has_shields_and_zeros_for_units_out_of_sight():
    # Types in order: colossus, stalker, zealot. Sight 10: the second enemy is exactly 10 away.
    seen = observed(battle(PROTOSS), 0)
    assert seen == approximately(
        {
            **MOVES,
            "enemy_shootable_0": 1,  # 7 away: the wrapper's reach of a colossus
            "enemy_distance_0": 0.7,
            "enemy_relative_y_0": 0.7,
            "enemy_health_0": 1,
            "enemy_shield_0": 1,
            "enemy_unit_type_0_bit_2": 1,
            "ally_visible_1": 1,
            "ally_distance_1": 0.5,
            "ally_relative_x_1": 0.4,
            "ally_relative_y_1": 0.3,
            "ally_health_1": 1,
            "ally_unit_type_1_bit_1": 1,
            "own_health": 0.25,
            "own_shield": 0.5,
            "own_pos_x": 0.5,
            "own_pos_y": 0.5,
            "own_unit_type_bit_0": 1,
        }
    )


def test_a_unit_in_a_corner_sees_that_it_cannot_leave_the_map():
    seen = observed(battle(PROTOSS), 2)  # at (31, 1)
    assert "move_action_east" not in seen
    assert seen["move_action_south"] == 1  # cell (31, 0)
    assert seen["own_shield"] == pytest.approx(0.2)


def test_the_numbers_of_a_terran_state_match_their_names():
    box = battle(TERRANS)
    box.state.cooldown[:, 0] = 20 * ONE
    box.backend.driver.show()
    assert state_of(box) == approximately(
        {
            "ally_health_0": 0.8,
            "ally_cooldown_0": 0.8,  # of 25
            "ally_unit_type_0_bit_0": 1,
            "ally_health_1": 0.2,
            "ally_relative_x_1": -0.25,
            "ally_unit_type_1_bit_1": 1,
            "ally_health_2": 1,
            "ally_cooldown_2": 0.5,  # energy of 200
            "ally_relative_x_2": -6 / 32,
            "ally_unit_type_2_bit_2": 1,
            "enemy_health_0": 1,
            "enemy_relative_x_0": -4 / 32,
            "enemy_relative_y_0": 3 / 32,
            "enemy_unit_type_0_bit_1": 1,
            "enemy_health_1": 0.5,
            "enemy_relative_x_1": -6 / 32,
            "enemy_relative_y_1": -4 / 32,
            "enemy_unit_type_1_bit_2": 1,
        }
    )


def test_a_protoss_state_has_shields_and_the_dead_are_all_zero():
    box = battle(PROTOSS)
    box.state.health[:, 1] = 0
    box.state.health[:, 4] = 0
    box.backend.driver.show()
    assert state_of(box) == approximately(
        {
            "ally_health_0": 0.25,
            "ally_shield_0": 0.5,
            "ally_unit_type_0_bit_0": 1,
            "ally_health_2": 0.25,
            "ally_relative_x_2": 15 / 32,
            "ally_relative_y_2": -15 / 32,
            "ally_shield_2": 0.2,
            "ally_unit_type_2_bit_2": 1,
            "enemy_health_0": 1,
            "enemy_relative_y_0": 7 / 32,
            "enemy_shield_0": 1,
            "enemy_unit_type_0_bit_2": 1,
        }
    )
    assert observed(box, 1) == {}


# --- Options --------------------------------------------------------------------------------------


def test_last_actions_are_one_hots_and_empty_right_after_a_reset():
    fresh = battle(TERRANS, obs_last_action=True)
    assert not any("last_action" in name for name in {**observed(fresh, 0), **state_of(fresh)})
    box = battle(TERRANS, num_steps=1, obs_last_action=True)
    box.state.last_action[:, :3] = [EAST, STOP, 7]
    box.backend.driver.show()
    seen = {name: value for name, value in observed(box, 0).items() if "last_action" in name}
    assert seen == {"ally_last_action_1_action_1": 1, "ally_last_action_2_action_7": 1}
    names = {name: value for name, value in state_of(box).items() if "last_action" in name}
    assert names == {
        "ally_last_action_0_action_4": 1,
        "ally_last_action_1_action_1": 1,
        "ally_last_action_2_action_7": 1,
    }


def test_pathing_and_height_around_an_agent_follow_the_flat_map():
    box = battle(PROTOSS, obs_pathing_grid=True, obs_terrain_height=True)
    centre, corner = observed(box, 0), observed(box, 2)
    for seen in (centre, corner):  # upstream counts points beyond the map as free
        assert [seen[f"pathing_grid_{n}"] for n in range(8)] == [1] * 8
    heights = [centre[f"terrain_height_{n}"] for n in range(9)]
    assert len(set(heights)) == 1
    # (31, 1): north 4, west 4, north-west 2 and its own cell are on the map; others count as 255.
    inside = {0, 3, 7, 8}
    for n in range(9):
        expected = heights[0] if n in inside else 1
        assert corner[f"terrain_height_{n}"] == pytest.approx(expected)


def test_the_timestep_is_a_fraction_of_the_limit_for_the_dead_too():
    box = battle(TERRANS, num_steps=50, obs_timestep_number=True, state_timestep_number=True)
    assert observed(box, 0)["timestep"] == 0.25
    assert state_of(box)["timestep"] == 0.25
    box.state.health[:, 1] = 0
    box.backend.driver.show()
    assert observed(box, 1) == {"timestep": 0.25}


def test_open_loop_agents_see_the_time_only():
    box = battle(TERRANS, num_steps=20, obs_starcraft=False, obs_timestep_number=True)
    assert box.backend.outputs.obs[0].tolist() == [[pytest.approx(0.1)]] * 3


def test_without_all_health_an_agent_sees_only_its_own_health():
    seen = observed(battle(PROTOSS, obs_all_health=False), 0)
    health = {name for name in seen if "health" in name or "shield" in name}
    assert health == {"own_health", "own_shield"}
    neither = observed(battle(PROTOSS, obs_all_health=False, obs_own_health=False), 0)
    assert not any("health" in name or "shield" in name for name in neither)


def test_without_own_position_nothing_else_changes():
    with_position = observed(battle(TERRANS), 0)
    without = observed(battle(TERRANS, obs_own_pos=False), 0)
    assert set(with_position) - set(without) == {"own_pos_x", "own_pos_y"}
    assert all(with_position[name] == value for name, value in without.items())


def test_fully_observable_agents_see_everything_alive_at_any_distance():
    seen = observed(battle(PROTOSS, fully_observable=True), 0)
    assert seen["enemy_distance_1"] == pytest.approx(1.0)
    assert seen["ally_distance_2"] == pytest.approx(hypot(15, 15) / 10, abs=5e-5)
    assert "enemy_shootable_1" not in seen


def test_the_state_can_be_the_concatenated_observations():
    box = battle(PROTOSS, obs_instead_of_state=True)
    assert np.array_equal(box.backend.outputs.state[0], box.backend.outputs.obs[0].ravel())
    assert len(box.backend.layout.state_feature_names()) == box.backend.layout.state_size


def test_common_ranges_replace_those_of_the_types():
    seen = observed(battle(TERRANS, use_unit_ranges=False), 0)
    assert seen["enemy_distance_0"] == pytest.approx(5 / 9)
    assert seen["enemy_shootable_0"] == 1
    marine = observed(battle(TERRANS, use_unit_ranges=False), 1)
    assert marine["enemy_shootable_0"] == 1  # 5 away, common reach 6; exactly its own reach too
    assert marine["enemy_shootable_1"] == 1  # 4.47 away


# --- The view cone --------------------------------------------------------------------------------


def looking(direction, *, rules="fixed", angle=None):
    """Return a battle with a cone: a marine that looks somewhere, and an enemy at an angle."""
    angle = 2 * pi * direction / 12 if angle is None else angle
    enemy = Unit("marine", 16 + 4 * cos(angle), 16 + 4 * sin(angle))
    box = Sandbox([Unit("marine", 16, 16)], [enemy], conic_fov=True, rules=rules)
    box.state.looking[:, 0] = direction
    box.backend.driver.show()
    return box


@pytest.mark.parametrize("direction", range(12))
def test_a_cone_of_30_degrees_sees_and_shoots_along_its_direction_only(direction):
    for offset, inside in ((-14.5, 1), (0, 1), (14.5, 1), (-15.5, 0), (15.5, 0), (180, 0)):
        angle = 2 * pi * direction / 12 + np.radians(offset)
        box = looking(direction, angle=angle)
        seen = observed(box, 0)
        assert ("enemy_distance_0" in seen) == inside
        assert box.backend.outputs.action_mask[0, 0, 18] == inside
        assert seen.get("own_fov_x", 0) == pytest.approx(cos(direction * pi / 6), abs=1e-6)
        assert seen.get("own_fov_y", 0) == pytest.approx(sin(direction * pi / 6), abs=1e-6)


def test_look_actions_are_always_available_to_the_living_and_keep_the_order():
    box = looking(0)
    mask = box.backend.outputs.action_mask[0, 0]
    assert mask[6:18].tolist() == [1] * 12
    box.backend.step(np.array([[18]], np.int32))  # attack
    order = box.state.order[0, 0].copy()
    box.backend.step(np.array([[6 + 6]], np.int32))  # look west
    assert box.state.looking[0, 0] == 6
    assert box.state.order[0, 0] == order
    assert box.backend.outputs.action_mask[0, 0, 18] == 0


# --- Capabilities and hidden enemies --------------------------------------------------------------


def capable(**distributions):
    """Return a vector environment of one 5v5 protoss battle with capability distributions."""
    from smacv2.scenario import load_scenario, parse_scenario

    source = {**load_scenario("protoss_5_vs_5").source, **distributions}
    scenario = parse_scenario(source, name="capable", file="capable")
    env = SMACv2VectorEnv(scenario, 1)
    env.reset(seed=0)
    return env


def test_attack_chances_and_health_levels_are_observed_and_rescale_health():
    span = {"kind": "per_agent_uniform", "lower": 0.2, "upper": 0.6}
    env = capable(attack=span, health=span)
    state = env.backend.state
    chances = state.attack_chance[0, :5] / 2**24
    levels = state.health_level[0, :5] / 2**24
    assert ((chances >= 0.2) & (chances < 0.6)).all()
    assert ((levels >= 0.2) & (levels < 0.6)).all()
    assert len(set(chances) | set(levels)) == 10
    full = state.health[0, 0].copy()
    state.health[0, 0] = int(0.9 * full)
    env.backend.driver.show()
    names = env.layout.obs_feature_names()
    seen = dict(zip(names, env.buffers["obs"][0, 0], strict=True))
    assert seen["own_attack_prob"] == pytest.approx(chances[0])
    assert seen["own_health_level"] == pytest.approx(levels[0])
    expected = (0.9 - levels[0]) / (1 - levels[0])
    assert seen["own_health"] == pytest.approx(expected, abs=1e-3)
    state_names = env.layout.state_feature_names()
    state = dict(zip(state_names, env.buffers["state"][0], strict=True))
    assert state["ally_attack_prob_3"] == pytest.approx(chances[3])
    assert state["ally_health_level_3"] == pytest.approx(levels[3])


def test_unobserved_capabilities_keep_their_columns_at_zero():
    span = {"kind": "per_agent_uniform", "lower": 0.2, "upper": 0.6, "observe": False}
    env = capable(attack=span)
    names = env.layout.obs_feature_names()
    columns = [n for n, name in enumerate(names) if "attack_prob" in name]
    assert len(columns) == 5
    assert not env.buffers["obs"][0][:, columns].any()


def test_the_enemy_mask_hides_health_shield_and_type_but_not_the_place():
    box = battle(PROTOSS)
    box.state.sights[0, 0, 0] = SIGHT_MASKED
    box.backend.driver.show()
    seen = {name for name in observed(box, 0) if name.startswith("enemy") and "_0" in name}
    assert seen == {"enemy_shootable_0", "enemy_distance_0", "enemy_relative_y_0"}


def test_mask_probability_is_the_chance_to_be_masked():
    from smacv2.scenario import load_scenario, parse_scenario

    source = {
        **load_scenario("protoss_5_vs_5").source,
        "enemy_mask": {"kind": "mask", "mask_probability": 0.2},
    }
    scenario = parse_scenario(source, name="masked", file="masked")
    for rules, chance in (("fixed", 0.2), ("upstream", 0.8)):
        env = SMACv2VectorEnv(scenario, 400, rules=rules, num_threads=1)
        env.reset(seed=0)
        masked = (env.backend.state.sights & SIGHT_MASKED).astype(bool)
        spread = np.sqrt(masked.size * 0.16)
        assert abs(masked.sum() - masked.size * chance) < 5 * spread


def test_a_spotted_enemy_is_seen_by_its_spotter_and_by_others_with_the_given_chance():
    agents = [Unit("marine", 16, 16 + n) for n in range(3)]
    box = Sandbox(agents, [Unit("marine", 19, 17)], num_envs=2000, prob_obs_enemy=0.25)
    box.backend.driver.show()
    shared = (box.state.sights[:, :, 0] & SIGHT_SHARED) != 0  # (copies, agents)
    spotter = box.state.units[:, SPOTTER, 3]
    assert (spotter >= 0).all()
    assert shared[np.arange(2000), spotter].all()
    others = shared.sum() - 2000
    assert abs(others - 4000 * 0.25) < 5 * np.sqrt(4000 * 0.25 * 0.75)
    distance = box.backend.layout.obs_enemies.offset + 1
    assert np.array_equal(box.backend.outputs.obs[:, :, distance] != 0, shared)


def test_when_the_spotter_dies_a_living_agent_spots_the_enemy_again():
    agents = [Unit("marine", 16, 16), Unit("marine", 16, 17)]
    box = Sandbox(agents, [Unit("marine", 19, 17)], num_envs=64, prob_obs_enemy=0.0)
    box.backend.driver.show()
    first = box.state.units[:, SPOTTER, 2].copy()
    assert set(first) == {0, 1}
    copies = np.arange(64)
    box.state.health[copies, first] = 0
    box.state.step[:] = 1
    box.backend.driver.show()
    assert (box.state.units[:, SPOTTER, 2] == 1 - first).all()
    shared = (box.state.sights[:, :, 0] & SIGHT_SHARED) != 0
    assert (shared[copies, 1 - first]).all()
    assert not shared[copies, first].any()


# --- Masks ----------------------------------------------------------------------------------------


def legal(box, agent):
    return np.flatnonzero(box.backend.outputs.action_mask[0, agent]).tolist()


def test_living_targets_are_available_up_to_and_including_the_reach():
    box = battle(TERRANS)
    # Enemies are actions 6 and 7; three target slots, as medivacs aim at the three allies.
    assert box.backend.layout.num_actions == 9
    assert legal(box, 0) == [STOP, NORTH, SOUTH, EAST, WEST, 6]
    assert legal(box, 1) == [STOP, NORTH, SOUTH, EAST, WEST, 6, 7]  # both within 5
    assert legal(box, 2) == [STOP, NORTH, SOUTH, EAST, WEST, 7]  # the marine, not itself
    box.state.health[:, 3] = 0
    box.backend.driver.show()
    assert legal(box, 0) == [STOP, NORTH, SOUTH, EAST, WEST]


def test_no_op_is_the_only_action_of_the_dead_and_not_available_to_the_living():
    box = battle(TERRANS)
    box.state.health[:, 1] = 0
    box.backend.driver.show()
    assert legal(box, 1) == [NO_OP]
    assert all(NO_OP not in legal(box, agent) for agent in (0, 2))


def test_a_move_is_available_if_the_cell_one_away_is_on_the_map():
    corners = [Unit("marine", 0.5, 0.5), Unit("marine", 31.5, 31.5), Unit("marine", 1.0, 30.9)]
    box = battle((corners, [Unit("marine", 16, 16)]))
    # Upstream truncates towards zero, so from 0.5 the cell "-0.5" is cell 0.
    assert legal(box, 0) == [STOP, NORTH, SOUTH, EAST, WEST]
    assert legal(box, 1) == [STOP, SOUTH, WEST]
    assert legal(box, 2) == [STOP, NORTH, SOUTH, EAST, WEST]


def test_without_an_action_mask_every_living_target_is_available():
    box = battle(PROTOSS, action_mask=False)
    for agent in range(3):
        assert {6, 7} <= set(legal(box, agent))
    assert observed(box, 0)["enemy_shootable_0"] == 1  # still the true reach
    # Out of reach: the attack is not sent, the old order continues, nothing is counted.
    box.backend.step(np.array([[7, STOP, STOP]], np.int32))
    assert box.state.order[0, 0] != ORDER_ATTACK
    assert box.state.illegal_actions[0] == 0


def test_without_an_action_mask_a_medivac_may_heal_every_ally_except_medivacs():
    box = battle(TERRANS, action_mask=False)
    assert legal(box, 2) == [STOP, NORTH, SOUTH, EAST, WEST, 6, 7]


@pytest.mark.parametrize("race", ["terran", "protoss", "zerg"])
def test_names_and_sizes_of_the_vectors_agree(race):
    env = SMACv2VectorEnv(f"{race}_5_vs_5", 1)
    layout = env.layout
    assert isinstance(layout, Layout)
    assert len(layout.obs_feature_names()) == layout.obs_size == env.buffers["obs"].shape[-1]
    assert len(layout.state_feature_names()) == layout.state_size
    assert len(set(layout.obs_feature_names())) == layout.obs_size
    assert len(layout.action_names()) == layout.num_actions
