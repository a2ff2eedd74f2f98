"""Scenarios, unit types and options: the numbers of the game, and helpful errors."""

import dataclasses
import pickle
import tomllib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smacv2.options import OptionError, Options
from smacv2.scenario import (
    ArenaPoints,
    FixedPositions,
    FixedTeams,
    Mask,
    PerAgentUniform,
    ScenarioError,
    SurroundedAndReflect,
    UnknownScenario,
    WeightedTeams,
    load_scenario,
    load_unit_types,
    maps_folder,
    parse_scenario,
    scenario_names,
)

RACES = ("terran", "protoss", "zerg")
SIZES = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")
BENCHMARK = [f"{race}_{size}" for race in RACES for size in SIZES]
EPO = [f"{race}_6_vs_5_epo_{label}" for race in RACES for label in ("0", "05", "1")]

SMALL = """
summary = "two marines against one"
race = "terran"
num_agents = 2
num_enemies = 1
episode_limit = 60
arena = "32x32_flat"

[team]
kind = "weighted_teams"
unit_types = ["marine", "marauder"]
weights = [0.5, 0.5]
"""


def small(**changes):
    """A minimal valid scenario table, with keys replaced."""
    return {**tomllib.loads(SMALL), **changes}


def small_team(**changes):
    table = small()
    return {**table, "team": {**table["team"], **changes}}


def parse(table):
    return parse_scenario(table, name="mine", file="mine.toml")


def message_of(table):
    with pytest.raises(ScenarioError) as caught:
        parse(table)
    return str(caught.value)


# --- Built-in scenarios --------------------------------------------------------------------------


def test_the_built_in_scenarios_are_the_15_their_conic_views_and_9_of_partial_observability():
    assert scenario_names() == sorted([*BENCHMARK, *(f"{name}_conic" for name in BENCHMARK), *EPO])


@pytest.mark.parametrize("name", BENCHMARK)
def test_a_benchmark_scenario_is_what_its_name_says(name):
    race, agents, _, enemies = name.split("_")
    scenario = load_scenario(name)
    assert (scenario.name, scenario.race) == (name, race)
    assert (scenario.num_agents, scenario.num_enemies) == (int(agents), int(enemies))
    assert scenario.episode_limit == 200
    assert scenario.start_positions == SurroundedAndReflect(p=0.5)
    assert scenario.options == Options()
    assert (scenario.attack, scenario.health, scenario.enemy_mask) == (None, None, None)


@pytest.mark.parametrize(
    ("race", "unit_types", "exceptions"),
    [
        ("terran", ("marine", "marauder", "medivac"), ("medivac",)),
        ("protoss", ("stalker", "zealot", "colossus"), ()),
        ("zerg", ("zergling", "hydralisk", "baneling"), ("baneling",)),
    ],
)
def test_the_rare_third_unit_has_weight_0_1(race, unit_types, exceptions):
    scenario = load_scenario(f"{race}_5_vs_5")
    assert scenario.team == WeightedTeams(
        unit_types=unit_types, weights=(0.45, 0.45, 0.1), exceptions=exceptions
    )
    assert scenario.unit_types == unit_types
    assert scenario.has_shields is (race == "protoss")
    assert scenario.has_healers is (race == "terran")


@pytest.mark.parametrize("name", BENCHMARK)
def test_a_conic_scenario_differs_by_its_cone_of_30_degrees_only(name):
    conic = load_scenario(f"{name}_conic")
    assert conic.options == Options(conic_fov=True, num_fov_actions=12)
    plain = dataclasses.replace(conic, options=Options())
    assert plain.hash == load_scenario(name).hash


@pytest.mark.parametrize("race", RACES)
@pytest.mark.parametrize(("label", "probability"), [("0", 0.0), ("05", 0.5), ("1", 1.0)])
def test_extended_partial_observability_is_6_against_5_without_action_mask(
    race, label, probability
):
    scenario = load_scenario(f"{race}_6_vs_5_epo_{label}")
    assert (scenario.num_agents, scenario.num_enemies) == (6, 5)
    assert scenario.options == Options(prob_obs_enemy=probability, action_mask=False)


def test_the_flat_arena_is_32_cells_square_and_free_everywhere():
    arena = load_scenario("terran_5_vs_5").arena
    assert arena.pathing == ("." * 32,) * 32
    assert (arena.width, arena.height, arena.terrain_height) == (32, 32, 191)
    assert (arena.ally_point, arena.enemy_point) == ((8.0, 16.0), (24.0, 16.0))
    assert arena.reorder_seconds == 0.5


# --- Unit types ----------------------------------------------------------------------------------


def test_unit_types_are_indexed_alphabetically_as_upstream_sorts_agents():
    names = [
        "baneling", "colossus", "hydralisk", "marauder", "marine",
        "medivac", "stalker", "zealot", "zergling",
    ]  # fmt: skip
    assert {name: unit.index for name, unit in load_unit_types().items()} == {
        name: index for index, name in enumerate(names)
    }


@pytest.mark.parametrize(
    ("name", "health", "shield", "armor", "speed", "radius", "collision", "sight", "divisor"),
    [
        ("marine", 45, 0, 0, 2.25, 0.375, 0.375, 9, 15),
        ("marauder", 125, 0, 1, 2.25, 0.5625, 0.375, 10, 25),
        ("medivac", 150, 0, 1, 2.75, 0.75, 0.75, 11, 200),
        ("stalker", 80, 80, 1, 2.9531, 0.625, 0.5, 10, 35),
        ("zealot", 100, 50, 1, 2.25, 0.5, 0.375, 9, 22),
        ("colossus", 200, 150, 1, 2.25, 1.0, 0.5625, 10, 24),
        ("zergling", 35, 0, 0, 2.9531, 0.375, 0.375, 8, 11),
        ("hydralisk", 80, 0, 0, 2.25, 0.625, 0.375, 9, 10),
        ("baneling", 30, 0, 0, 2.5, 0.375, 0.375, 8, 1),
    ],
)
def test_a_body_has_the_liberty_numbers(
    name, health, shield, armor, speed, radius, collision, sight, divisor
):
    unit = load_unit_types()[name]
    assert (unit.health_max, unit.shield_max, unit.armor) == (health, shield, armor)
    assert (unit.speed, unit.radius, unit.collision_radius) == (speed, radius, collision)
    assert (unit.sight_range, unit.cooldown_divisor) == (sight, divisor)


@pytest.mark.parametrize(
    ("name", "weapon", "damage", "bonus", "period", "damage_point", "backswing", "reach", "scan"),
    [
        ("marine", 0, 6, {}, 0.8608, 0.05, 0.75, 5, 5),
        ("marauder", 0, 10, {"armored": 10}, 1.5, 0, 0, 6, 6),
        ("stalker", 0, 10, {"armored": 4}, 1.44, 0.167, 0.5, 6, 6),
        ("zealot", 0, 8, {}, 1.2, 0, 0.5, 0.1, 5),
        ("colossus", 0, 20, {}, 2.2, 0.0832, 0.5, 6, 6),
        ("zergling", 0, 5, {}, 0.696, 0.167, 0.5, 0.1, 5),
        ("hydralisk", 0, 12, {}, 0.83, 0.3, 0.5, 0.5, 5),
        ("hydralisk", 1, 12, {}, 0.83, 0.208, 0.5, 5, 5),
        ("baneling", 0, 20, {"light": 15}, 0.833, 0, 0.5, 0.25, 5),
    ],
)
def test_a_weapon_has_the_liberty_numbers_not_the_ladders(
    name, weapon, damage, bonus, period, damage_point, backswing, reach, scan
):
    unit = load_unit_types()[name]
    found = unit.weapons[weapon]
    assert (found.damage, found.bonus, found.period_seconds) == (damage, bonus, period)
    assert (found.damage_point_seconds, found.backswing_seconds) == (damage_point, backswing)
    assert (found.range, unit.scan_range) == (reach, scan)
    assert found.cooldown_jitter_seconds == (-0.0625, 0.125)
    assert found.range_slop == (0 if name == "colossus" else 1)


def test_only_missiles_have_a_speed():
    speeds = {
        weapon.name: weapon.missile_speed
        for unit in load_unit_types().values()
        for weapon in unit.weapons
        if weapon.delivery == "missile"
    }
    assert speeds == {"punisher_grenades": 20, "particle_disruptors": 18.75, "needle_spines": 40}


def test_only_three_types_can_hit_a_medivac():
    can_hit_air = {
        name
        for name, unit in load_unit_types().items()
        if any("air" in weapon.targets for weapon in unit.weapons)
    }
    assert can_hit_air == {"marine", "stalker", "hydralisk"}


def test_a_colossus_sweeps_11_points_over_ten_32nds_of_a_second():
    beam = load_unit_types()["colossus"].weapons[0].beam
    assert (beam.points - 1) * beam.spacing == 2.5  # cells, from -1.25 to +1.25
    assert beam.points * beam.point_seconds + beam.expire_delay_seconds == 0.71875  # 11.5 loops


def test_a_medivac_heals_9_life_per_second_for_a_third_of_an_energy_each():
    medivac = load_unit_types()["medivac"]
    assert (medivac.heal.health_per_second, medivac.heal.energy_per_health) == (9, 0.33)
    assert (medivac.energy_start, medivac.energy_max, medivac.energy_regen) == (50, 200, 0.5625)
    assert medivac.weapons == ()
    assert medivac.always_threatens


def test_only_zerg_health_and_protoss_shields_regenerate():
    for unit in load_unit_types().values():
        assert unit.health_regen == (0.2734 if unit.race == "zerg" else 0)
        shields = (unit.shield_regen, unit.shield_delay_seconds)
        assert shields == ((2, 10) if unit.race == "protoss" else (0, 0))


def test_a_colossus_walks_over_ground_units_and_is_hit_on_both_planes():
    units = load_unit_types()
    assert units["colossus"].planes == ("ground", "air")
    assert not set(units["colossus"].layers) & set(units["zergling"].layers)
    assert set(units["colossus"].layers) & set(units["medivac"].layers) == {"flying"}


@pytest.mark.parametrize(
    ("name", "attack_range"),
    [
        ("marine", 5), ("marauder", 6), ("medivac", 4), ("stalker", 6), ("zealot", 2),
        ("colossus", 7), ("zergling", 2), ("hydralisk", 5), ("baneling", 2),
    ],
)  # fmt: skip
def test_the_masks_attack_ranges_are_upstreams_after_their_floor(name, attack_range):
    floor = Options().min_attack_range
    assert max(load_unit_types()[name].attack_range, floor) == attack_range


# --- Identity ------------------------------------------------------------------------------------


def test_names_and_summaries_do_not_change_the_hash():
    mine = parse_scenario(small(), name="mine", file="mine.toml")
    yours = parse_scenario(small(summary="other words"), name="yours", file="yours.toml")
    assert mine.hash == yours.hash
    assert len(mine.hash) == 16


def test_every_built_in_scenario_has_a_hash_of_its_own():
    hashes = {load_scenario(name).hash for name in scenario_names()}
    assert len(hashes) == len(scenario_names())


@pytest.mark.parametrize(
    "changes",
    [
        {"num_enemies": 2},
        {"episode_limit": 61},
        {"start_positions": {"kind": "surrounded"}},
        {"attack": {"kind": "per_agent_uniform", "lower": 0.5}},
        {"options": {"reward_win": 100}},
    ],
)
def test_whatever_changes_the_game_changes_the_hash(changes):
    assert parse(small(**changes)).hash != parse(small()).hash


def test_a_scenario_is_frozen_hashable_and_survives_pickling():
    scenario = load_scenario("protoss_10_vs_11")
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    assert {scenario: 1}[load_scenario("protoss_10_vs_11")] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        scenario.num_agents = 3


# --- Your own files ------------------------------------------------------------------------------


def test_a_scenario_of_your_own_loads_by_its_path(tmp_path):
    path = tmp_path / "ambush.toml"
    path.write_text(SMALL)
    for given_path in (path, str(path)):
        scenario = load_scenario(given_path)
        assert (scenario.name, scenario.num_agents) == ("ambush", 2)
        assert scenario.source["episode_limit"] == 60
    assert scenario.start_positions == ArenaPoints()


def test_an_arena_of_your_own_loads_from_beside_the_scenario(tmp_path):
    flat = (maps_folder() / "arenas" / "32x32_flat.toml").read_text()
    (tmp_path / "walled.toml").write_text(flat.replace("." * 32, "#" * 32, 1))
    path = tmp_path / "ambush.toml"
    path.write_text(SMALL.replace("32x32_flat", "walled.toml"))
    assert load_scenario(path).arena.pathing[0] == "#" * 32


def test_every_distribution_can_be_read_from_a_file():
    scenario = parse(
        small(
            team={
                "kind": "fixed",
                "unit_types": ["marine", "zealot"],
                "items": [{"ally": ["marine", "marine"], "enemy": ["zealot"]}],
            },
            start_positions={
                "kind": "fixed",
                "items": [{"ally_points": [[8, 16], [9, 16]], "enemy_points": [[24, 16]]}],
            },
            attack={"kind": "per_agent_uniform", "lower": 0.7, "upper": 1.0},
            health={"kind": "per_agent_uniform", "lower": 0, "upper": 0.5, "observe": False},
            enemy_mask={"kind": "mask", "mask_probability": 0.25},
        )
    )
    assert isinstance(scenario.team, FixedTeams)
    assert scenario.team.items[0].enemy == ("zealot",)
    assert isinstance(scenario.start_positions, FixedPositions)
    assert scenario.start_positions.items[0].ally_points == ((8.0, 16.0), (9.0, 16.0))
    assert scenario.attack == PerAgentUniform(lower=0.7, upper=1.0)
    assert scenario.health == PerAgentUniform(lower=0.0, upper=0.5, observe=False)
    assert scenario.enemy_mask == Mask(mask_probability=0.25)
    assert scenario.has_shields


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_name", "message"),
    [
        (
            "terran_5v5",
            'unknown scenario "terran_5v5": did you mean "terran_5_vs_5"? '
            "(smacv2 list shows all 39)",
        ),
        ("chess", 'unknown scenario "chess" (smacv2 list shows all 39)'),
        ("../units", 'unknown scenario "../units" (smacv2 list shows all 39)'),
        ("nowhere/mine.toml", "nowhere/mine.toml: no such file"),
    ],
)
def test_an_unknown_scenario_is_answered_with_the_nearest_name(given_name, message):
    with pytest.raises(UnknownScenario) as caught:
        load_scenario(given_name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            small_team(unit_typs=[]),
            "mine.toml: team.unit_typs is not a key of [team]; allowed: kind, unit_types, weights, "
            'exceptions, observe; did you mean "unit_types"?',
        ),
        (
            small_team(unit_types=["marine", "maruader"]),
            'mine.toml: team.unit_types "maruader" is not a unit type; allowed: baneling, '
            "colossus, hydralisk, marauder, marine, medivac, stalker, zealot, zergling; "
            'did you mean "marauder"?',
        ),
        (small_team(weights=[0.5, 0.6]), "mine.toml: team.weights must sum to 1, not 1.1"),
        (
            small_team(weights=[1.0]),
            "mine.toml: team.weights must be 2 numbers, one for each of unit_types, not 1",
        ),
        (
            small_team(weights=[1.5, -0.5]),
            "mine.toml: team.weights[1] must be at least 0, not -0.5",
        ),
        (
            small_team(weights=[1.0, 0.0], exceptions=["marine"]),
            "mine.toml: team.exceptions must leave a unit type with a weight above 0",
        ),
        (
            small_team(exceptions=["marin"]),
            'mine.toml: team.exceptions "marin" is not one of marine, marauder; '
            'did you mean "marine"?',
        ),
        (
            small_team(kind="weighted"),
            "mine.toml: team.kind must be one of weighted_teams, all_teams, fixed, "
            'not "weighted"; did you mean "weighted_teams"?',
        ),
        (
            small(team={"unit_types": ["marine"]}),
            "mine.toml: team.kind is missing; it must be one of weighted_teams, all_teams, fixed",
        ),
        (
            small(team={"kind": "all_teams"}),
            "mine.toml: team.unit_types is missing; it must be a list, each item a string",
        ),
        (
            small(team={"kind": "all_teams", "unit_types": ["marine"], "exceptions": ["marine"]}),
            "mine.toml: team.exceptions must leave a unit type to draw",
        ),
        (small(num_agents=65), "mine.toml: num_agents must be at least 1 and at most 64, not 65"),
        (small(num_agents="2"), 'mine.toml: num_agents must be a whole number, not "2"'),
        (small(num_agents=True), "mine.toml: num_agents must be a whole number, not true"),
        (
            small(episode_limit=0),
            "mine.toml: episode_limit must be at least 1 and at most 100000, not 0",
        ),
        (
            small(race="human"),
            'mine.toml: race must be one of terran, protoss, zerg, not "human"',
        ),
        (
            small(arena="32x32_falt"),
            'mine.toml: arena "32x32_falt" is neither a built-in arena (32x32_flat) nor a .toml '
            'file beside the scenario; did you mean "32x32_flat"?',
        ),
        (
            small(start_positions={"kind": "surrounded_and_reflect", "p": 2}),
            "mine.toml: start_positions.p must be at least 0 and at most 1, not 2",
        ),
        (
            small(attack={"kind": "per_agent_uniform", "lower": 0.9, "upper": 0.1}),
            "mine.toml: attack.lower must not exceed upper, which is 0.1",
        ),
        (
            small(health={"kind": "per_agent_uniform"}),
            "mine.toml: health upper must be below 1: an agent at level 1 is dead from the start",
        ),
        (
            small(options={"step_mull": 4, "conic_fov": True}),
            'did you mean "step_mul"?',
        ),
        (
            small(options={"rules": "papre"}),
            "mine.toml: options.rules must be one of fixed, may_2022, paper, upstream, "
            'not "papre"; did you mean "paper"?',
        ),
        (
            small(
                team={
                    "kind": "fixed",
                    "unit_types": ["marine"],
                    "items": [{"ally": ["marine"], "enemy": ["marine"]}],
                }
            ),
            "mine.toml: team item 0 must have 2 allies and 1 enemies, not 1 and 1",
        ),
        (
            small(
                start_positions={
                    "kind": "fixed",
                    "items": [{"ally_points": [[8, 16], [33, 16]], "enemy_points": [[24, 16]]}],
                }
            ),
            "mine.toml: start_positions point [33.0, 16.0] lies outside the arena",
        ),
    ],
)
def test_a_mistake_names_file_key_value_and_remedy(table, message):
    found = message_of(table)
    assert found.endswith(message)
    assert "\n" not in found


def test_a_file_that_is_not_toml_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("summary = \n")
    with pytest.raises(ScenarioError, match=r"mine\.toml: not valid TOML: .*line 1"):
        load_scenario(path)


@given(st.sampled_from(sorted(small())))
def test_a_missing_key_is_named(key):
    table = small()
    del table[key]
    assert message_of(table).startswith(f"mine.toml: {key} is missing; it must be ")


@given(st.sampled_from(sorted(small())), st.data())
def test_a_misspelt_key_is_answered_with_its_correct_spelling(key, data):
    position = data.draw(st.integers(0, len(key) - 1))
    misspelt = key[:position] + "_" + key[position:]
    table = small()
    table[misspelt] = table.pop(key)
    assert f"mine.toml: {misspelt} is not a key of mine.toml" in message_of(table)
    assert message_of(table).endswith(f'did you mean "{key}"?')


TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted({*small(), "start_positions", "attack", "options"})), TOML_VALUES)
def test_any_wrong_value_is_a_scenario_error_that_names_the_file(key, value):
    try:
        parse(small(**{key: value}))
    except ScenarioError as error:
        assert str(error).startswith("mine.toml: ")  # noqa: PT017


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_weights_are_accepted_only_if_they_sum_to_1(weights):
    assume(abs(abs(sum(weights) - 1) - 1e-6) > 1e-9)
    if abs(sum(weights) - 1) <= 1e-6:
        assert parse(small_team(weights=weights)).team.weights == tuple(weights)
    else:
        assert "team.weights must sum to 1" in message_of(small_team(weights=weights))


# --- Options -------------------------------------------------------------------------------------


def test_replacing_an_option_leaves_the_others_and_the_original():
    options = Options()
    changed = options.replace(conic_fov=True, move_amount=1)
    assert changed == dataclasses.replace(options, conic_fov=True, move_amount=1.0)
    assert options == Options()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conic_fv": True}, 'did you mean "conic_fov"?'),
        ({"step_mul": 0}, "options: step_mul must be at least 1 and at most 1000, not 0"),
        ({"step_mul": 2.5}, "options: step_mul must be a whole number, not 2.5"),
        ({"conic_fov": 1}, "options: conic_fov must be true or false, not 1"),
        (
            {"prob_obs_enemy": 1.5},
            "options: prob_obs_enemy must be at least 0 and at most 1, not 1.5",
        ),
        ({"reward_win": float("nan")}, "options: reward_win must be finite, not NaN"),
        ({"reward_win": 10**400}, f"options: reward_win must be finite, not {10**400}"),
        (
            {"reward_scale_rate": 0},
            "options: reward_scale_rate must be above 0 and at most 100000, not 0",
        ),
        (
            {"rules": "strict"},
            'options: rules must be one of fixed, may_2022, paper, upstream, not "strict"',
        ),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(changes, message):
    with pytest.raises(OptionError) as caught:
        Options().replace(**changes)
    assert str(caught.value).endswith(message)
    assert "\n" not in str(caught.value)
