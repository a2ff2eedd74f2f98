"""The layout of observation, state and actions: sizes, offsets and names, derived once.

Each vector is a sequence of blocks, and each block repeats a row of named features. Sizes and
offsets are counted from the names, so they cannot disagree. Order and names are upstream's.
"""

import dataclasses

from smacv2.options import OptionError, Options
from smacv2.scenario import Scenario

BASIC_ACTIONS = ("no_op", "stop", "north", "south", "east", "west")
PATHING_POINTS = 8  # around the agent
HEIGHT_POINTS = 9  # around the agent, and under it

Row = tuple[str, ...]
"""Feature names of one row; `{unit}` is replaced by the unit's id."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a vector: `rows` rows of `width` numbers from `offset` on; empty if unused."""

    offset: int
    rows: int
    row: Row
    first_unit: int = 0
    """Id of the unit in the first row, for the names."""

    @property
    def width(self) -> int:
        """Numbers per row."""
        return len(self.row)

    @property
    def size(self) -> int:
        """Numbers in the block."""
        return self.rows * self.width

    @property
    def end(self) -> int:
        """Offset of the next block."""
        return self.offset + self.size

    def names(self) -> list[str]:
        """Name every number of the block; length `size`."""
        units = range(self.first_unit, self.first_unit + self.rows)
        return [feature.format(unit=unit) for unit in units for feature in self.row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes, offsets and names of all that agents observe and choose."""

    num_agents: int
    num_enemies: int
    unit_types: tuple[str, ...]
    """The meaning of the unit type one-hots, in order."""

    num_actions: int
    num_actions_no_attack: int
    """Index of the first target action, after 6 basic actions and one look per cone direction."""

    obs_move: Block
    """Can move north, south, east, west; then pathing (8) and height (9), if observed."""
    obs_enemies: Block
    """A row per enemy."""
    obs_allies: Block
    """A row per other agent, by ascending id."""
    obs_own: Block
    obs_timestep: Block

    state_allies: Block
    """A row per agent."""
    state_enemies: Block
    """A row per enemy."""
    state_last_actions: Block
    """A one-hot per agent."""
    state_timestep: Block

    obs_size: int
    state_size: int
    """With `obs_instead_of_state`: num_agents * obs_size, and all state blocks are empty."""
    capability_size: int
    """Numbers per agent: attack probability, health level, unit type one-hot."""

    @classmethod
    def of(cls, scenario: Scenario, options: Options | None = None) -> "Layout":
        """Derive the layout of a scenario.

        Args:
            scenario: Team sizes, unit types and random capabilities.
            options: Settings of the observations; the scenario's own by default.

        Raises:
            OptionError: The options leave nothing to observe.
        """
        options = scenario.options if options is None else options
        if not (options.obs_starcraft or options.obs_timestep_number):
            raise OptionError(
                "options: obs_starcraft off leaves only the timestep to observe; "
                "switch obs_timestep_number on"
            )
        no_attack = len(BASIC_ACTIONS) + options.num_fov_actions * options.conic_fov
        num_actions = no_attack + _num_targets(scenario)
        observation = _observation_blocks(scenario, options, num_actions)
        obs_size = observation["obs_timestep"].end
        state = _state_blocks(scenario, options, num_actions)
        joint_obs_size = scenario.num_agents * obs_size
        state_size = state["state_timestep"].end
        return cls(
            num_agents=scenario.num_agents,
            num_enemies=scenario.num_enemies,
            unit_types=scenario.unit_types,
            num_actions=num_actions,
            num_actions_no_attack=no_attack,
            obs_size=obs_size,
            state_size=joint_obs_size if options.obs_instead_of_state else state_size,
            capability_size=len(_capability_row("own", scenario) + _type_row("own", scenario)),
            **observation,
            **state,
        )

    def obs_feature_names(self) -> list[str]:
        """Name every number of agent 0's observation; length `obs_size`."""
        blocks = (self.obs_move, self.obs_enemies, self.obs_allies, self.obs_own, self.obs_timestep)
        return [name for block in blocks for name in block.names()]

    def state_feature_names(self) -> list[str]:
        """Name every number of the state; length `state_size`."""
        if not self.state_allies.size:
            agents, names = range(self.num_agents), self.obs_feature_names()
            return [f"agent_{agent}_{name}" for agent in agents for name in names]
        teams = (self.state_allies, self.state_enemies)
        blocks = (*teams, self.state_last_actions, self.state_timestep)
        return [name for block in blocks for name in block.names()]

    def action_names(self) -> list[str]:
        """Name every action; length `num_actions`."""
        looks = self.num_actions_no_attack - len(BASIC_ACTIONS)
        targets = self.num_actions - self.num_actions_no_attack
        return [*BASIC_ACTIONS, *_numbered("look", looks), *_numbered("target", targets)]


def _num_targets(scenario: Scenario) -> int:
    """Return the number of target actions: enemies, or more if some allies heal more allies."""
    allies = scenario.num_agents if scenario.has_healers else 0
    return max(scenario.num_enemies, allies)


def _observation_blocks(scenario: Scenario, options: Options, num_actions: int) -> dict[str, Block]:
    game = options.obs_starcraft
    return _stack(
        obs_move=Block(0, 1 * game, _move_row(options)),
        obs_enemies=Block(0, scenario.num_enemies * game, _enemy_row(scenario, options)),
        obs_allies=Block(
            0, (scenario.num_agents - 1) * game, _ally_row(scenario, options, num_actions), 1
        ),
        obs_own=Block(0, 1 * game, _own_row(scenario, options)),
        obs_timestep=Block(0, 1 * options.obs_timestep_number, ("timestep",)),
    )


def _state_blocks(scenario: Scenario, options: Options, num_actions: int) -> dict[str, Block]:
    used = not options.obs_instead_of_state
    last_actions = scenario.num_agents * (used and options.state_last_action)
    return _stack(
        state_allies=Block(0, scenario.num_agents * used, _state_ally_row(scenario, options)),
        state_enemies=Block(0, scenario.num_enemies * used, _state_enemy_row(scenario)),
        state_last_actions=Block(0, last_actions, _last_action_row(num_actions)),
        state_timestep=Block(0, 1 * (used and options.state_timestep_number), ("timestep",)),
    )


def _stack(**blocks: Block) -> dict[str, Block]:
    """Return the blocks with offsets that put them one after the other."""
    stacked, offset = {}, 0
    for name, block in blocks.items():
        stacked[name] = dataclasses.replace(block, offset=offset)
        offset = stacked[name].end
    return stacked


# --- Rows ----------------------------------------------------------------------------------------


def _move_row(options: Options) -> Row:
    return (
        tuple(f"move_action_{direction}" for direction in BASIC_ACTIONS[2:])
        + _numbered("pathing_grid", PATHING_POINTS * options.obs_pathing_grid)
        + _numbered("terrain_height", HEIGHT_POINTS * options.obs_terrain_height)
    )


def _enemy_row(scenario: Scenario, options: Options) -> Row:
    return (
        _features("enemy", "shootable", "distance", "relative_x", "relative_y")
        + _health_row("enemy", scenario, observed=options.obs_all_health)
        + _type_row("enemy", scenario)
    )


def _ally_row(scenario: Scenario, options: Options, num_actions: int) -> Row:
    return (
        _features("ally", "visible", "distance", "relative_x", "relative_y")
        + _health_row("ally", scenario, observed=options.obs_all_health)
        + _capability_row("ally", scenario)
        + _type_row("ally", scenario)
        + _last_action_row(num_actions * options.obs_last_action)
    )


def _own_row(scenario: Scenario, options: Options) -> Row:
    health_observed = options.obs_own_health or options.obs_all_health
    return (
        _health_row("own", scenario, observed=health_observed)
        + _capability_row("own", scenario)
        + _when(options.obs_own_pos, _features("own", "pos_x", "pos_y"))
        + _when(options.conic_fov, _features("own", "fov_x", "fov_y"))
        + _type_row("own", scenario)
    )


def _state_ally_row(scenario: Scenario, options: Options) -> Row:
    return (
        _features("ally", "health", "cooldown", "relative_x", "relative_y")
        + _when(scenario.has_shields, _features("ally", "shield"))
        + _capability_row("ally", scenario)
        + _when(options.conic_fov, _features("ally", "fov_x", "fov_y"))
        + _type_row("ally", scenario)
    )


def _state_enemy_row(scenario: Scenario) -> Row:
    return (
        _features("enemy", "health", "relative_x", "relative_y")
        + _when(scenario.has_shields, _features("enemy", "shield"))
        + _type_row("enemy", scenario)
    )


def _health_row(unit: str, scenario: Scenario, *, observed: bool) -> Row:
    names = ("health", "shield") if scenario.has_shields else ("health",)
    return _when(observed, _features(unit, *names))


def _capability_row(unit: str, scenario: Scenario) -> Row:
    return _when(scenario.attack is not None, _features(unit, "attack_prob")) + _when(
        scenario.health is not None, _features(unit, "health_level")
    )


def _type_row(unit: str, scenario: Scenario) -> Row:
    (prefix,) = _features(unit, "unit_type")
    return _numbered(f"{prefix}_bit", len(scenario.unit_types))


def _last_action_row(num_actions: int) -> Row:
    return _numbered("ally_last_action_{unit}_action", num_actions)


def _features(unit: str, *names: str) -> Row:
    """Return feature names: of an `ally` or `enemy` with its id, of `own` without."""
    suffix = "" if unit == "own" else "_{unit}"
    return tuple(f"{unit}_{name}{suffix}" for name in names)


def _numbered(name: str, count: int) -> Row:
    return tuple(f"{name}_{number}" for number in range(count))


def _when(condition: bool, row: Row) -> Row:
    return row if condition else ()
