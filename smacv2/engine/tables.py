"""A scenario with its options as the integer tables that rules read.

``kinds`` has a row per unit type, weapons included; ``rules`` holds sizes, switches and scales;
the other tables are listed in ``Tables``.
"""

from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np

from smacv2.battle import CHANCE_ONE, SPLASH_SLOTS
from smacv2.engine.compile import inline_rule
from smacv2.engine.fixed import to_fixed
from smacv2.layout import Layout
from smacv2.options import Options
from smacv2.rules_modes import keeps
from smacv2.scenario import (
    AllTeams,
    FixedPositions,
    FixedTeams,
    ReflectPosition,
    Scenario,
    Surrounded,
    SurroundedAndReflect,
    UnitType,
    Weapon,
    WeightedTeams,
    load_unit_types,
)

TICKS_PER_SECOND = 16
"""Game loops per game second (mechanics 1.1)."""

# Columns of a unit type. Distances and speeds are fixed cells (per tick), times fixed ticks.
(
    K_HEALTH, K_SHIELD, K_ARMOR, K_ENERGY, K_START_ENERGY, K_ENERGY_REGEN, K_HEALTH_REGEN,
    K_SHIELD_REGEN, K_SHIELD_DELAY, K_RADIUS, K_COLLISION, K_LAYERS, K_PLANES, K_HITS, K_SPEED,
    K_ACCELERATION, K_TURN_COS, K_TURN_SIN, K_SCAN, K_THREATENS, K_BIOLOGICAL, K_BURSTS,
    K_HEALS, K_HEAL_RANGE, K_HEAL_SLOP, K_HEAL_ARC_COS, K_HEAL_RATE, K_HEAL_COST,
    K_AUTOCAST_RANGE, K_AUTOCAST_ENERGY, K_SIGHT, K_SHOOT, K_COOLDOWN_DIVISOR, K_TYPE_BIT,
    K_NUM_WEAPONS, K_TURRET, K_WEAPONS,
) = range(37)  # fmt: skip

# Columns of a weapon, relative to the weapon's own offset.
(
    W_PLANES, W_DELIVERY, W_RANGE, W_SLOP, W_ARC_COS, W_PERIOD, W_JITTER_LOW, W_JITTER_SPAN,
    W_DAMAGE_POINT, W_BACKSWING, W_HITS, W_SECOND_HIT, W_SPEED, W_BURST_RADIUS,
    W_BEAM_POINTS, W_BEAM_SPACING, W_BEAM_POINT_TICKS, W_BEAM_RADIUS, W_BEAM_SPLASH_TICKS,
    W_BEAM_EXPIRE_TICKS, W_DAMAGE,
) = range(21)  # fmt: skip

DELIVER_INSTANT, DELIVER_MISSILE, DELIVER_BEAM, DELIVER_BURST = range(4)
DELIVERIES = ("instant", "missile", "beam", "burst")
PLANE_GROUND, PLANE_AIR = 1, 2
PLANES = {"ground": PLANE_GROUND, "air": PLANE_AIR}
LAYERS = {"ground": 1, "colossus": 2, "structure": 4, "flying": 8}

TEAM_WEIGHTED, TEAM_ALL, TEAM_FIXED = range(3)
TEAM_KINDS = {WeightedTeams: TEAM_WEIGHTED, AllTeams: TEAM_ALL, FixedTeams: TEAM_FIXED}
POSITION_POINTS, POSITION_REFLECT, POSITION_SURROUNDED, POSITION_EITHER, POSITION_FIXED = range(5)
POSITION_KINDS = {
    ReflectPosition: POSITION_REFLECT,
    Surrounded: POSITION_SURROUNDED,
    SurroundedAndReflect: POSITION_EITHER,
    FixedPositions: POSITION_FIXED,
}

# Game constants of the core data (mechanics 6.7).
CALL_FOR_HELP_RADIUS_CELLS = 4.0
CALL_FOR_HELP_PERIOD_SECONDS = 2.0

COMMON_SIGHT_RANGE = 9.0
COMMON_ATTACK_RANGE = 6.0
"""Ranges of every unit type when ``use_unit_ranges`` is off (upstream's SMAC v1 constants)."""

CONE_ONE = 1 << 20
"""Unit length of the view directions in ``cone``."""

SPIRAL_STEP = 0.25
SPIRAL_RADIUS = 13.0
"""Cells: spacing and reach of the points tried around an occupied one (mechanics 11.7)."""

SEED_BITS = 31
"""Bits of the thresholds that divide random words among unit types."""

# Entries of ``rules``. Names contain a unit of measure where two are possible.
(
    NUM_AGENTS, NUM_ENEMIES, NUM_ACTIONS, FIRST_TARGET, EPISODE_LIMIT, TICKS_PER_STEP,
    TICKS_AFTER_KILL, WIDTH, HEIGHT, TRIGGER_PERIOD, NUM_TYPES, TYPE_BITS, HAS_SHIELDS, HAS_HEALERS,
    HAS_BEAMS, HAS_BURSTS, MOVE_AMOUNT, MOVE_CHECK, ACTION_MASK, FULLY_OBSERVABLE, SHARE_SIGHTS,
    SHARE_CHANCE, ERASE_ROWS, CONE, CONE_DIRECTIONS, CONE_COS, UPSTREAM_CONE, OBS_ALL_HEALTH,
    OBS_OWN_HEALTH, OBS_LAST_ACTION, OBS_PATHING, OBS_HEIGHT, OBS_OWN_POS, OBS_TIMESTEP,
    OBS_STARCRAFT, OBS_AS_STATE, OBS_SIZE, STATE_SIZE, STATE_LAST_ACTION, STATE_TIMESTEP,
    TERRAIN_HEIGHT, HAS_ATTACK_CHANCE, SHOW_ATTACK_CHANCE, SHOW_ALLY_TYPES, ATTACK_LOW, ATTACK_SPAN,
    HAS_HEALTH_LEVEL, SHOW_HEALTH_LEVEL, HEALTH_LOW, HEALTH_SPAN, HAS_ENEMY_MASK, MASK_CHANCE,
    SPARSE, ONLY_POSITIVE, REWARD_SCALED, FIRST_SCALE, STALE_KILL, TEAM_KIND, TEAM_ITEMS,
    POSITION_KIND, POSITION_ITEMS, REFLECT_CHANCE, ALLY_X, ALLY_Y, ENEMY_X, ENEMY_Y, START_TICKS,
    CALL_RADIUS, CALL_PERIOD, DEATH_POINTS, WIN_POINTS, DEFEAT_POINTS, NEGATIVE_SCALE, SCALE_RATE,
    HEALERS_FOLLOW, START_BUG, NUM_RULES,
) = range(77)  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """Arrays that a battle reads but never writes."""

    kinds: np.ndarray  # (num_unit_types, columns) int32
    rules: np.ndarray  # (NUM_RULES,) int32
    teams: np.ndarray  # weighted: types, odds, exceptions (3, U); fixed: (items, num_units) int32
    points: np.ndarray  # fixed starts (items, 2 * num_units) int32, x and y alternating
    spiral: np.ndarray  # (points, 2) int32, fixed cells, nearest first
    cone: np.ndarray  # (directions, 2) int32, view directions times CONE_ONE
    pathing: np.ndarray  # (width, height) int8, 1 where a ground unit may stand

    @classmethod
    def build(cls, scenario: Scenario, options: Options, layout: Layout) -> "Tables":
        """Translate one scenario with its options."""
        kinds = list(load_unit_types().values())
        return cls(
            kinds=kind_table(kinds, scenario, options),
            rules=rule_table(scenario, options, layout),
            teams=team_table(scenario),
            points=point_table(scenario),
            spiral=spiral_table(),
            cone=cone_table(options),
            pathing=pathing_table(scenario),
        )


@inline_rule
def weapon_offset(weapon, kinds):
    """Return the first column of a weapon; its last ones are the damage to each unit type."""
    return K_WEAPONS + weapon * (W_DAMAGE + kinds.shape[0])


def to_ticks(seconds: float) -> int:
    """Return a time in fixed ticks; the game stores seconds in steps of 1/4096."""
    return to_fixed(seconds) * TICKS_PER_SECOND


def per_tick(per_second: float) -> int:
    """Return a rate in fixed units per tick."""
    return round(to_fixed(per_second) / TICKS_PER_SECOND)


def flags(names: tuple[str, ...], bits: dict[str, int]) -> int:
    """Return the union of named bits."""
    return sum(bits[name] for name in names)


def kind_table(kinds: list[UnitType], scenario: Scenario, options: Options) -> np.ndarray:
    """Return the unit types as integers, one row each, ordered by ``UnitType.index``."""
    num_weapons = max(len(kind.weapons) for kind in kinds)
    table = np.zeros((len(kinds), K_WEAPONS + num_weapons * (W_DAMAGE + len(kinds))), np.int32)
    for kind in kinds:
        row = table[kind.index]
        for column, value in kind_columns(kind, scenario, options).items():
            row[column] = value
        for index, weapon in enumerate(kind.weapons):
            offset = K_WEAPONS + index * (W_DAMAGE + len(kinds))
            for column, value in weapon_columns(weapon).items():
                row[offset + column] = value
            for victim in kinds:
                bonus = sum(weapon.bonus.get(name, 0.0) for name in victim.attributes)
                row[offset + W_DAMAGE + victim.index] = to_fixed(weapon.damage + bonus)
    return table


def kind_columns(kind: UnitType, scenario: Scenario, options: Options) -> dict[int, int]:
    """Return the columns of one unit type, without its weapons."""
    turn = radians(kind.turn_degrees_per_second / TICKS_PER_SECOND)
    own_ranges = options.use_unit_ranges
    shoot = max(kind.attack_range, options.min_attack_range) if own_ranges else COMMON_ATTACK_RANGE
    bursting = [i + 1 for i, weapon in enumerate(kind.weapons) if weapon.delivery == "burst"]
    in_scenario = kind.name in scenario.unit_types
    columns = {
        K_HEALTH: to_fixed(kind.health_max),
        K_SHIELD: to_fixed(kind.shield_max),
        K_ARMOR: to_fixed(kind.armor),
        K_ENERGY: to_fixed(kind.energy_max),
        K_START_ENERGY: to_fixed(kind.energy_start),
        K_ENERGY_REGEN: per_tick(kind.energy_regen),
        K_HEALTH_REGEN: per_tick(kind.health_regen),
        K_SHIELD_REGEN: per_tick(kind.shield_regen),
        K_SHIELD_DELAY: to_ticks(kind.shield_delay_seconds),
        K_RADIUS: to_fixed(kind.radius),
        K_COLLISION: to_fixed(kind.collision_radius),
        K_LAYERS: flags(kind.layers, LAYERS),
        K_PLANES: flags(kind.planes, PLANES),
        K_HITS: flags(tuple({p for weapon in kind.weapons for p in weapon.targets}), PLANES),
        K_SPEED: per_tick(kind.speed),
        K_ACCELERATION: per_tick(kind.acceleration / TICKS_PER_SECOND),
        K_TURN_COS: to_fixed(cos(turn)),
        K_TURN_SIN: to_fixed(sin(turn)),
        K_SCAN: to_fixed(kind.scan_range) if kind.weapons else 0,
        K_THREATENS: kind.always_threatens,
        K_BIOLOGICAL: "biological" in kind.attributes,
        K_BURSTS: bursting[0] if bursting else 0,
        K_SIGHT: to_fixed(kind.sight_range if own_ranges else COMMON_SIGHT_RANGE),
        K_SHOOT: to_fixed(shoot),
        K_COOLDOWN_DIVISOR: to_fixed(kind.cooldown_divisor),
        K_TYPE_BIT: scenario.unit_types.index(kind.name) if in_scenario else -1,
        K_NUM_WEAPONS: len(kind.weapons),
        K_TURRET: any(weapon.turret for weapon in kind.weapons),
    }
    if kind.heal is not None:
        columns |= {
            K_HEALS: 1,
            K_HEAL_RANGE: to_fixed(kind.heal.range),
            K_HEAL_SLOP: to_fixed(kind.heal.range_slop),
            K_HEAL_ARC_COS: to_fixed(cos(radians(kind.heal.arc_degrees))),
            K_HEAL_RATE: per_tick(kind.heal.health_per_second),
            K_HEAL_COST: to_fixed(kind.heal.energy_per_health),
            K_AUTOCAST_RANGE: to_fixed(kind.heal.autocast_range),
            K_AUTOCAST_ENERGY: to_fixed(kind.heal.autocast_min_energy),
        }
    return columns


def weapon_columns(weapon: Weapon) -> dict[int, int]:
    """Return the columns of one weapon, without its damage."""
    low, high = weapon.cooldown_jitter_seconds
    columns = {
        W_PLANES: flags(weapon.targets, PLANES),
        W_DELIVERY: DELIVERIES.index(weapon.delivery),
        W_RANGE: to_fixed(weapon.range),
        W_SLOP: to_fixed(weapon.range_slop),
        W_ARC_COS: to_fixed(cos(radians(weapon.arc_degrees / 2 + weapon.arc_slop_degrees))),
        W_PERIOD: to_ticks(weapon.period_seconds),
        W_JITTER_LOW: to_ticks(low),
        W_JITTER_SPAN: to_ticks(high) - to_ticks(low),
        W_DAMAGE_POINT: to_ticks(weapon.damage_point_seconds),
        W_BACKSWING: to_ticks(weapon.backswing_seconds),
        W_HITS: weapon.hits,
        W_SECOND_HIT: to_ticks(weapon.second_hit_seconds),
        W_SPEED: per_tick(weapon.missile_speed),
        W_BURST_RADIUS: to_fixed(weapon.burst_radius),
    }
    if weapon.beam is not None:
        splash_ticks = round(weapon.beam.splash_delay_seconds * TICKS_PER_SECOND)
        if not 0 < splash_ticks < SPLASH_SLOTS:
            raise ValueError(f"{weapon.name}: splash delay must be 1 to {SPLASH_SLOTS - 1} ticks")
        columns |= {
            W_BEAM_POINTS: weapon.beam.points,
            W_BEAM_SPACING: to_fixed(weapon.beam.spacing),
            W_BEAM_POINT_TICKS: to_ticks(weapon.beam.point_seconds),
            W_BEAM_RADIUS: to_fixed(weapon.beam.radius),
            W_BEAM_SPLASH_TICKS: splash_ticks,
            W_BEAM_EXPIRE_TICKS: to_ticks(weapon.beam.expire_delay_seconds),
        }
    return columns


def rule_table(scenario: Scenario, options: Options, layout: Layout) -> np.ndarray:
    """Return sizes, switches and scales as integers."""
    columns = {
        **size_rules(scenario, options, layout),
        **view_rules(scenario, options),
        **draw_rules(scenario, options),
        **reward_rules(options),
    }
    table = np.zeros(NUM_RULES, np.int32)
    for index, value in columns.items():
        table[index] = value
    return table


def size_rules(scenario: Scenario, options: Options, layout: Layout) -> dict[int, int]:
    """Return the entries about sizes, time and the arena."""
    kinds = [load_unit_types()[name] for name in scenario.unit_types]
    deliveries = {weapon.delivery for kind in kinds for weapon in kind.weapons}
    arena = scenario.arena
    return {
        NUM_AGENTS: scenario.num_agents,
        NUM_ENEMIES: scenario.num_enemies,
        NUM_ACTIONS: layout.num_actions,
        FIRST_TARGET: layout.num_actions_no_attack,
        OBS_SIZE: layout.obs_size,
        STATE_SIZE: layout.state_size,
        EPISODE_LIMIT: scenario.episode_limit,
        TICKS_PER_STEP: options.step_mul,
        TICKS_AFTER_KILL: min(options.kill_unit_step_mul, options.step_mul),
        WIDTH: to_fixed(arena.width),
        HEIGHT: to_fixed(arena.height),
        TERRAIN_HEIGHT: arena.terrain_height,
        TRIGGER_PERIOD: round(arena.reorder_seconds * TICKS_PER_SECOND),
        NUM_TYPES: len(load_unit_types()),
        TYPE_BITS: len(scenario.unit_types),
        HAS_SHIELDS: scenario.has_shields,
        HAS_HEALERS: scenario.has_healers,
        HAS_BEAMS: "beam" in deliveries,
        HAS_BURSTS: "burst" in deliveries,
        MOVE_AMOUNT: to_fixed(options.move_amount),
        MOVE_CHECK: to_fixed(options.move_amount / 2),
        START_TICKS: 1,
        CALL_RADIUS: to_fixed(CALL_FOR_HELP_RADIUS_CELLS),
        CALL_PERIOD: round(CALL_FOR_HELP_PERIOD_SECONDS * TICKS_PER_SECOND),
        HEALERS_FOLLOW: options.enemy_medivacs == "with_side",
    }


def view_rules(scenario: Scenario, options: Options) -> dict[int, int]:
    """Return the entries about observation, state and mask."""
    mode = options.rules
    return {
        ACTION_MASK: options.action_mask,
        FULLY_OBSERVABLE: options.fully_observable,
        SHARE_SIGHTS: options.prob_obs_enemy < 1 or keeps(mode, "B1"),
        SHARE_CHANCE: round(options.prob_obs_enemy * CHANCE_ONE),
        ERASE_ROWS: keeps(mode, "B1"),
        CONE: options.conic_fov,
        CONE_DIRECTIONS: options.num_fov_actions if options.conic_fov else 0,
        CONE_COS: round(cos(pi / options.num_fov_actions) * CONE_ONE),
        UPSTREAM_CONE: keeps(mode, "B6"),
        OBS_ALL_HEALTH: options.obs_all_health,
        OBS_OWN_HEALTH: options.obs_own_health or options.obs_all_health,
        OBS_LAST_ACTION: options.obs_last_action,
        OBS_PATHING: options.obs_pathing_grid,
        OBS_HEIGHT: options.obs_terrain_height,
        OBS_OWN_POS: options.obs_own_pos,
        OBS_TIMESTEP: options.obs_timestep_number,
        OBS_STARCRAFT: options.obs_starcraft,
        OBS_AS_STATE: options.obs_instead_of_state,
        STATE_LAST_ACTION: options.state_last_action,
        STATE_TIMESTEP: options.state_timestep_number,
        HAS_ATTACK_CHANCE: scenario.attack is not None,
        SHOW_ATTACK_CHANCE: scenario.attack is not None and scenario.attack.observe,
        HAS_HEALTH_LEVEL: scenario.health is not None,
        SHOW_HEALTH_LEVEL: scenario.health is not None and scenario.health.observe,
        SHOW_ALLY_TYPES: scenario.team.observe,
        HAS_ENEMY_MASK: scenario.enemy_mask is not None,
        STALE_KILL: keeps(mode, "B7"),
    }


def draw_rules(scenario: Scenario, options: Options) -> dict[int, int]:
    """Return the entries about the random draws of an episode."""
    attack, health, mask = scenario.attack, scenario.health, scenario.enemy_mask
    hide = mask.mask_probability if mask else 0.0
    if keeps(options.rules, "B11"):
        hide = 1 - hide
    start = scenario.start_positions
    ally_x, ally_y = scenario.arena.ally_point
    enemy_x, enemy_y = scenario.arena.enemy_point
    return {
        ATTACK_LOW: round(attack.lower * CHANCE_ONE) if attack else CHANCE_ONE,
        ATTACK_SPAN: round((attack.upper - attack.lower) * CHANCE_ONE) if attack else 0,
        HEALTH_LOW: round(health.lower * CHANCE_ONE) if health else 0,
        HEALTH_SPAN: round((health.upper - health.lower) * CHANCE_ONE) if health else 0,
        MASK_CHANCE: round(hide * CHANCE_ONE),
        TEAM_KIND: TEAM_KINDS[type(scenario.team)],
        TEAM_ITEMS: len(scenario.team.items) if isinstance(scenario.team, FixedTeams) else 0,
        POSITION_KIND: POSITION_KINDS.get(type(start), POSITION_POINTS),
        POSITION_ITEMS: len(start.items) if isinstance(start, FixedPositions) else 0,
        REFLECT_CHANCE: round(start.p * CHANCE_ONE)
        if isinstance(start, SurroundedAndReflect)
        else 0,
        START_BUG: keeps(options.rules, "B30"),
        ALLY_X: to_fixed(ally_x),
        ALLY_Y: to_fixed(ally_y),
        ENEMY_X: to_fixed(enemy_x),
        ENEMY_Y: to_fixed(enemy_y),
    }


def reward_rules(options: Options) -> dict[int, int]:
    """Return the entries about the reward; points are fixed-point."""
    scaled_sparse = options.reward_scale and keeps(options.rules, "B22")
    return {
        SPARSE: options.reward_sparse,
        ONLY_POSITIVE: options.reward_only_positive,
        REWARD_SCALED: scaled_sparse if options.reward_sparse else options.reward_scale,
        FIRST_SCALE: keeps(options.rules, "B2"),
        DEATH_POINTS: to_fixed(options.reward_death_value),
        WIN_POINTS: to_fixed(options.reward_win),
        DEFEAT_POINTS: to_fixed(options.reward_defeat),
        NEGATIVE_SCALE: to_fixed(options.reward_negative_scale),
        SCALE_RATE: to_fixed(options.reward_scale_rate),
    }


def team_table(scenario: Scenario) -> np.ndarray:
    """Return the table from which teams are drawn (see ``Tables.teams``)."""
    index = {name: kind.index for name, kind in load_unit_types().items()}
    team = scenario.team
    if isinstance(team, FixedTeams):
        rows = [[index[name] for name in (*pair.ally, *pair.enemy)] for pair in team.items]
        return np.array(rows, np.int32)
    weights = team.weights if isinstance(team, WeightedTeams) else (1.0,) * len(team.unit_types)
    odds = np.cumsum(weights) / np.sum(weights) * 2**SEED_BITS
    odds[-1] = 2**SEED_BITS
    types = [index[name] for name in team.unit_types]
    exceptions = [name in team.exceptions for name in team.unit_types]
    return np.array([types, np.minimum(odds.round(), 2**SEED_BITS - 1), exceptions], np.int32)


def point_table(scenario: Scenario) -> np.ndarray:
    """Return the start positions of a "fixed" distribution, or an empty table."""
    start = scenario.start_positions
    if not isinstance(start, FixedPositions):
        return np.zeros((0, 0), np.int32)
    rows = [
        [to_fixed(v) for point in (*pair.ally_points, *pair.enemy_points) for v in point]
        for pair in start.items
    ]
    return np.array(rows, np.int32)


def spiral_table() -> np.ndarray:
    """Return the lattice offsets around a point, nearest first, as fixed cells."""
    reach = int(SPIRAL_RADIUS / SPIRAL_STEP)
    axis = np.arange(-reach, reach + 1)
    dx, dy = (grid.ravel() for grid in np.meshgrid(axis, axis))
    distance = dx**2 + dy**2
    order = np.lexsort((dx, dy, distance))
    order = order[distance[order] <= reach**2]
    return (np.stack([dx[order], dy[order]], axis=1) * to_fixed(SPIRAL_STEP)).astype(np.int32)


def cone_table(options: Options) -> np.ndarray:
    """Return the view directions: angle 2 pi k / num_fov_actions, counter-clockwise from east."""
    angles = np.arange(options.num_fov_actions) * (2 * pi / options.num_fov_actions)
    return np.round(np.stack([np.cos(angles), np.sin(angles)], axis=1) * CONE_ONE).astype(np.int32)


def pathing_table(scenario: Scenario) -> np.ndarray:
    """Return 1 for free cells and 0 for blocked ones, indexed [x, y] from the south-west."""
    rows = np.array([[cell == "." for cell in row] for row in scenario.arena.pathing], np.int8)
    return np.ascontiguousarray(rows[::-1].T)
