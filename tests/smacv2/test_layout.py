"""Sizes, offsets and names of observation, state and actions."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smacv2.engine.tables import Tables
from smacv2.layout import Layout
from smacv2.options import OptionError, Options
from smacv2.scenario import PerAgentUniform, load_scenario, scenario_names
from smacv2.schema import HUGE

# name: actions, observation, state; then the same with a cone of 12 directions (upstream, executed)
SIZES = {
    "terran_5_vs_5": (11, 82, 120, 23, 84, 190),
    "terran_10_vs_10": (16, 162, 290, 28, 164, 430),
    "terran_10_vs_11": (17, 170, 306, 29, 172, 446),
    "terran_20_vs_20": (26, 322, 780, 38, 324, 1060),
    "terran_20_vs_23": (29, 346, 858, 41, 348, 1138),
    "zerg_5_vs_5": (11, 82, 120, 23, 84, 190),
    "zerg_10_vs_10": (16, 162, 290, 28, 164, 430),
    "zerg_10_vs_11": (17, 170, 306, 29, 172, 446),
    "zerg_20_vs_20": (26, 322, 780, 38, 324, 1060),
    "zerg_20_vs_23": (29, 346, 858, 41, 348, 1138),
    "protoss_5_vs_5": (11, 92, 130, 23, 94, 200),
    "protoss_10_vs_10": (16, 182, 310, 28, 184, 450),
    "protoss_10_vs_11": (17, 191, 327, 29, 193, 467),
    "protoss_20_vs_20": (26, 362, 820, 38, 364, 1100),
    "protoss_20_vs_23": (29, 389, 901, 41, 391, 1181),
}
EPO_SIZES = {"terran": (12, 90, 144), "zerg": (11, 90, 138), "protoss": (11, 101, 149)}


def layout_of(name, **options):
    scenario = load_scenario(name)
    return Layout.of(scenario, scenario.options.replace(**options))


def sizes(layout):
    return (layout.num_actions, layout.obs_size, layout.state_size)


@pytest.mark.parametrize("name", SIZES)
def test_a_benchmark_scenario_has_upstreams_sizes(name):
    assert sizes(layout_of(name)) == SIZES[name][:3]
    assert sizes(layout_of(f"{name}_conic")) == SIZES[name][3:]


@pytest.mark.parametrize("race", EPO_SIZES)
@pytest.mark.parametrize("label", ["0", "05", "1"])
def test_extended_partial_observability_has_upstreams_sizes(race, label):
    assert sizes(layout_of(f"{race}_6_vs_5_epo_{label}")) == EPO_SIZES[race]


@pytest.mark.parametrize(
    ("options", "obs_size"),
    [
        ({"obs_own_pos": False}, 80),
        ({"obs_timestep_number": True}, 83),
        ({"obs_starcraft": False, "obs_timestep_number": True}, 1),
        ({"obs_last_action": True}, 126),
        ({"obs_pathing_grid": True, "obs_terrain_height": True}, 99),
        ({"obs_pathing_grid": True}, 90),
        ({"obs_terrain_height": True}, 91),
        ({"obs_all_health": False}, 73),  # 82 - 5 enemies - 4 allies
        ({"obs_all_health": False, "obs_own_health": False}, 72),
        ({"obs_own_health": False}, 82),  # obs_all_health includes the agent's own
    ],
)
def test_an_option_changes_the_observation_of_terran_5_vs_5_by_its_features(options, obs_size):
    assert layout_of("terran_5_vs_5", **options).obs_size == obs_size


@pytest.mark.parametrize(
    ("options", "state_size"),
    [
        ({"state_last_action": False}, 65),  # 120 - 5 agents x 11 actions
        ({"state_timestep_number": True}, 121),
        ({"obs_instead_of_state": True}, 410),  # 5 agents x 82
        ({"obs_instead_of_state": True, "state_timestep_number": True}, 410),
        ({"obs_all_health": False, "obs_own_health": False, "obs_own_pos": False}, 120),
    ],
)
def test_an_option_changes_the_state_of_terran_5_vs_5_by_its_features(options, state_size):
    assert layout_of("terran_5_vs_5", **options).state_size == state_size


def test_hiding_health_also_hides_shields():
    # 9 other units and the agent itself lose health and shield: 92 - 10 x 2
    layout = layout_of("protoss_5_vs_5", obs_all_health=False, obs_own_health=False)
    assert layout.obs_size == 72


def test_random_attack_and_health_add_a_column_for_every_agent():
    scenario = dataclasses.replace(
        load_scenario("protoss_5_vs_5_conic"),
        attack=PerAgentUniform(),
        health=PerAgentUniform(upper=0.5),
    )
    layout = Layout.of(scenario)
    assert (layout.obs_size, layout.state_size, layout.capability_size) == (104, 210, 5)


@pytest.mark.parametrize("name", scenario_names())
def test_capabilities_are_the_unit_type_alone(name):
    assert layout_of(name).capability_size == 3


@pytest.mark.parametrize(
    ("race", "expected"),
    [("terran", (16, 146, 278)), ("zerg", (14, 146, 258)), ("protoss", (14, 164, 276))],
)
def test_only_terrans_have_a_target_action_per_ally_in_ten_against_eight(race, expected):
    scenario = dataclasses.replace(load_scenario(f"{race}_10_vs_10"), num_enemies=8)
    assert sizes(Layout.of(scenario)) == expected


def test_the_blocks_of_terran_5_vs_5_are_upstreams():
    layout = layout_of("terran_5_vs_5")
    blocks = (layout.obs_move, layout.obs_enemies, layout.obs_allies, layout.obs_own)
    found = [(block.offset, block.rows, block.width) for block in blocks]
    assert found == [(0, 1, 4), (4, 5, 8), (44, 4, 8), (76, 1, 6)]
    assert layout.obs_timestep.size == 0


def test_the_blocks_of_protoss_5_vs_5_are_upstreams():
    layout = layout_of("protoss_5_vs_5")
    blocks = (layout.obs_move, layout.obs_enemies, layout.obs_allies, layout.obs_own)
    found = [(block.offset, block.rows, block.width) for block in blocks]
    assert found == [(0, 1, 4), (4, 5, 9), (49, 4, 9), (85, 1, 7)]
    state = (layout.state_allies, layout.state_enemies, layout.state_last_actions)
    found = [(block.offset, block.rows, block.width) for block in state]
    assert found == [(0, 5, 8), (40, 5, 7), (75, 5, 11)]


def test_a_row_reads_health_shield_capabilities_type_last_action():
    scenario = dataclasses.replace(
        load_scenario("protoss_5_vs_5"),
        num_agents=2,
        num_enemies=1,
        attack=PerAgentUniform(),
        health=PerAgentUniform(upper=0.5),
    )
    options = Options(obs_last_action=True, obs_timestep_number=True, conic_fov=True)
    names = Layout.of(scenario, options.replace(num_fov_actions=1)).obs_feature_names()
    assert names[:4] == [f"move_action_{way}" for way in ("north", "south", "east", "west")]
    assert names[4:13] == [
        "enemy_shootable_0", "enemy_distance_0", "enemy_relative_x_0", "enemy_relative_y_0",
        "enemy_health_0", "enemy_shield_0",
        "enemy_unit_type_0_bit_0", "enemy_unit_type_0_bit_1", "enemy_unit_type_0_bit_2",
    ]  # fmt: skip
    assert names[13:24] == [
        "ally_visible_1", "ally_distance_1", "ally_relative_x_1", "ally_relative_y_1",
        "ally_health_1", "ally_shield_1", "ally_attack_prob_1", "ally_health_level_1",
        "ally_unit_type_1_bit_0", "ally_unit_type_1_bit_1", "ally_unit_type_1_bit_2",
    ]  # fmt: skip
    assert names[24:32] == [f"ally_last_action_1_action_{action}" for action in range(8)]
    assert names[32:] == [
        "own_health", "own_shield", "own_attack_prob", "own_health_level",
        "own_pos_x", "own_pos_y", "own_fov_x", "own_fov_y",
        "own_unit_type_bit_0", "own_unit_type_bit_1", "own_unit_type_bit_2",
        "timestep",
    ]  # fmt: skip


def test_a_state_row_reads_health_cooldown_position_shield_cone_type():
    names = layout_of("protoss_5_vs_5_conic").state_feature_names()
    assert names[:10] == [
        "ally_health_0", "ally_cooldown_0", "ally_relative_x_0", "ally_relative_y_0",
        "ally_shield_0", "ally_fov_x_0", "ally_fov_y_0",
        "ally_unit_type_0_bit_0", "ally_unit_type_0_bit_1", "ally_unit_type_0_bit_2",
    ]  # fmt: skip
    assert names[50:57] == [
        "enemy_health_0", "enemy_relative_x_0", "enemy_relative_y_0", "enemy_shield_0",
        "enemy_unit_type_0_bit_0", "enemy_unit_type_0_bit_1", "enemy_unit_type_0_bit_2",
    ]  # fmt: skip
    assert names[85] == "ally_last_action_0_action_0"
    assert names[-1] == "ally_last_action_4_action_22"


def test_actions_are_named_in_order():
    names = layout_of("terran_6_vs_5_epo_0", conic_fov=True, num_fov_actions=2).action_names()
    assert names == [
        "no_op", "stop", "north", "south", "east", "west", "look_0", "look_1",
        "target_0", "target_1", "target_2", "target_3", "target_4", "target_5",
    ]  # fmt: skip


def test_the_first_target_follows_six_basic_actions_and_the_looks():
    assert layout_of("zerg_5_vs_5").num_actions_no_attack == 6
    assert layout_of("zerg_5_vs_5_conic").num_actions_no_attack == 18


def test_a_state_of_observations_names_its_numbers_by_agent():
    layout = layout_of("zerg_5_vs_5", obs_instead_of_state=True)
    names = layout.state_feature_names()
    assert names[0] == "agent_0_move_action_north"
    assert names[layout.obs_size] == "agent_1_move_action_north"
    assert layout.state_timestep.end == 0


def test_an_agent_must_have_something_to_observe():
    with pytest.raises(OptionError, match="switch obs_timestep_number on"):
        layout_of("terran_5_vs_5", obs_starcraft=False)


FLAGS = [
    field.name
    for field in dataclasses.fields(Options)
    if isinstance(field.default, bool) and field.name.startswith(("obs_", "state_", "conic_"))
]


@given(st.sampled_from(scenario_names()), st.fixed_dictionaries({f: st.booleans() for f in FLAGS}))
def test_every_number_has_a_name_of_its_own_whatever_the_options(name, flags):
    if not flags["obs_starcraft"]:
        flags = {**flags, "obs_timestep_number": True}
    layout = layout_of(name, **flags)
    for names, size in (
        (layout.obs_feature_names(), layout.obs_size),
        (layout.state_feature_names(), layout.state_size),
        (layout.action_names(), layout.num_actions),
    ):
        assert len(names) == len(set(names)) == size


@pytest.mark.parametrize("field", dataclasses.fields(Options), ids=lambda field: field.name)
def test_an_option_at_its_bounds_still_fits_the_tables(field):
    scenario = load_scenario("zerg_20_vs_23")
    entry = field.metadata.get("entry")
    numeric = isinstance(field.default, int | float)
    for bound in (entry.low, entry.high) if entry and numeric else ():
        if abs(bound) < HUGE and bound > entry.above:
            options = scenario.options.replace(**{field.name: type(field.default)(bound)})
            Tables.build(scenario, options, Layout.of(scenario, options))
