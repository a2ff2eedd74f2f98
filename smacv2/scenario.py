"""Scenarios, arenas and unit types: frozen dataclasses read from the TOML files in `maps/`.

A scenario defines two teams, their start positions and the arena. Distances are in cells, times in
game seconds (16 game loops), angles in degrees.
"""

import dataclasses
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from smacv2.options import Options
from smacv2.schema import Place, did_you_mean, entry, read

RACES = ("terran", "protoss", "zerg")
ATTRIBUTES = ("light", "armored", "biological", "mechanical", "massive")
PLANES = ("ground", "air")
LAYERS = ("ground", "colossus", "structure", "flying")
DELIVERIES = ("instant", "missile", "beam", "burst")
MAX_UNITS = 64  # per side
MAX_EPISODE_LIMIT = 100_000
MAX_UNIT_TYPES = 9

Point = tuple[float, float]
"""(x, y) in cells from the arena's south-west corner."""
Problems = Iterator[tuple[str, str]]
"""Mistakes that span several keys, as pairs (field, description)."""


class ScenarioError(ValueError):
    """A mistake in a scenario, arena or units file."""


class UnknownScenario(ScenarioError):
    """No scenario has this name."""


# --- Loading -------------------------------------------------------------------------------------


def scenario_names() -> list[str]:
    """Return the names of the built-in scenarios, sorted."""
    return sorted(path.stem for path in (maps_folder() / "scenarios").glob("*.toml"))


def load_scenario(name_or_path: "str | Path") -> "Scenario":
    """Load a built-in scenario by its name, or any other by the path of its TOML file.

    Raises:
        UnknownScenario: Nothing has this name or path.
        ScenarioError: The file has a mistake.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        return _load_built_in(str(name_or_path))
    if not path.is_file():
        raise UnknownScenario(f"{path}: no such file")
    return parse_scenario(_parse_toml(path), name=path.stem, file=str(path))


def parse_scenario(source: Mapping[str, Any], *, name: str, file: str) -> "Scenario":
    """Build a scenario from a parsed table.

    Args:
        source: The contents of a scenario file.
        name: The scenario's name.
        file: Name of the table in error messages; a relative arena path starts at its folder.
    """
    place = Place(file, ScenarioError)
    table = dict(source)
    if isinstance(source.get("arena"), str):
        table["arena"] = _load_arena(source["arena"], place)
    return read(Scenario, table, place, name=name, source=dict(source))


@functools.cache
def load_unit_types() -> "dict[str, UnitType]":
    """Return all unit types of `maps/units.toml` by name, in alphabetical order."""
    path = maps_folder() / "units.toml"
    place = Place(_shown(path), ScenarioError)
    tables = _parse_toml(path)
    return {
        name: read(UnitType, tables[name], place.at(name), name=name, index=index)
        for index, name in enumerate(sorted(tables))
    }


@functools.cache
def maps_folder() -> Path:
    """Return the folder of TOML files: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "maps"
    return installed if installed.is_dir() else package.parent / "maps"


@functools.cache
def _load_built_in(name: str) -> "Scenario":
    path = maps_folder() / "scenarios" / f"{name}.toml"
    names = scenario_names()
    if name not in names:
        hint = did_you_mean(name, names).replace(";", ":")
        raise UnknownScenario(
            f'unknown scenario "{name}"{hint} (smacv2 list shows all {len(names)})'
        )
    return parse_scenario(_parse_toml(path), name=name, file=_shown(path))


def _load_arena(name: str, place: Place) -> "Arena":
    """Load an arena by its built-in name, or by its file's path beside the scenario's."""
    folder = maps_folder() / "arenas"
    path = Path(place.file).parent / name if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        names = sorted(path.stem for path in folder.glob("*.toml"))
        place.at("arena").fail(
            f'"{name}" is neither a built-in arena ({", ".join(names)}) nor a .toml file beside '
            f"the scenario{did_you_mean(name, names)}"
        )
    return read(Arena, _parse_toml(path), Place(_shown(path), ScenarioError), name=path.stem)


def _parse_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{_shown(path)}: not valid TOML: {error}") from error


def _shown(path: Path) -> str:
    """Return a path for messages: `maps/...` for built-in files."""
    root = maps_folder().parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


# --- Unit types ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Beam:
    """The sweep of one colossus beam across its target, at right angles to the shot."""

    points: int = entry(low=1)
    """Points that the beam touches, with the target in the middle."""
    spacing: float = entry("spacing_cells", above=0)
    """Distance between neighbouring points."""
    point_seconds: float = entry(low=0)
    """Time from one point to the next."""
    radius: float = entry("radius_cells", low=0)
    """Radius of a touch; the touched unit's own radius adds to it."""
    splash_delay_seconds: float = entry(low=0)
    """Time from a touch to its damage, for all but the target."""
    expire_delay_seconds: float = entry(low=0)
    """Time from the end of the sweep to the target's damage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weapon:
    """A weapon; all times are game seconds, all distances cells."""

    name: str
    """As in the game's data, in lower case."""
    targets: tuple[str, ...] = entry(choices=PLANES)
    """Planes of the units that it can hit."""
    delivery: str = entry(choices=DELIVERIES)
    """Way in which damage reaches the target."""
    range: float = entry("range_cells", low=0)
    """Reach from edge to edge of the two units."""
    range_slop: float = entry("range_slop_cells", low=0)
    """Distance beyond `range` that a target may reach during the wind-up."""
    arc_degrees: float = entry(low=0, high=360)
    """Full angle in which the unit fires without turning."""
    arc_slop_degrees: float = entry(low=0, high=360)
    """Tolerance of the facing."""
    period_seconds: float = entry(above=0)
    """From one shot to the next."""
    damage_point_seconds: float = entry(low=0)
    """Wind-up: from the start of an attack to the shot."""
    backswing_seconds: float = entry(low=0)
    """Pause after a shot before the unit follows its target."""
    cooldown_jitter_seconds: tuple[float, float]
    """Uniform extra delay of each cooldown: lower and upper bound."""
    damage: float = entry(low=0)
    """Hit points of one hit, before armor."""
    bonus: Mapping[str, float] = entry(default_factory=dict, low=0, choices=ATTRIBUTES)
    """Extra damage against an attribute."""
    hits: int = entry(default=1, low=1)
    """Hits of one shot."""
    second_hit_seconds: float = entry(default=0.0, low=0)
    """Delay of the second hit; 0 without one."""
    missile_speed: float = entry("missile_speed_per_second", default=0.0, low=0)
    """Cells per game second; 0 when not a missile."""
    burst_radius: float = entry("burst_radius_cells", default=0.0, low=0)
    """Radius of a burst; 0 when not a burst."""
    beam: Beam | None = None
    """The sweep; None when not a beam."""
    moving_fire: bool = False
    """Fires without stopping."""
    turret: bool = False
    """Sits on a turret: an idle unit finds targets for it, even if the unit is passive."""

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        fields = {"missile": "missile_speed", "burst": "burst_radius", "beam": "beam"}
        for delivery, field in fields.items():
            if bool(getattr(self, field)) is not (self.delivery == delivery):
                yield field, f'belongs to delivery = "{delivery}" and to no other'
        if self.cooldown_jitter_seconds[0] > self.cooldown_jitter_seconds[1]:
            yield "cooldown_jitter_seconds", "must be a lower bound, then an upper bound"


@dataclasses.dataclass(frozen=True)
class Heal:
    """A medivac's healing beam."""

    range: float = entry("range_cells", low=0)
    """Reach from edge to edge of the two units."""
    range_slop: float = entry("range_slop_cells", low=0)
    """Distance beyond `range` that a healed unit may reach."""
    arc_degrees: float = entry(low=0, high=360)
    """Full angle in which the unit heals without turning."""
    health_per_second: float = entry(above=0)
    """Hit points healed per game second."""
    energy_per_health: float = entry(low=0)
    """Energy per healed hit point."""
    autocast_range: float = entry("autocast_range_cells", low=0)
    """Radius in which a medivac without orders looks for hurt units, edge to edge."""
    autocast_min_energy: float = entry(low=0)
    """Energy that a medivac needs to start healing by itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitType:
    """One kind of unit; rates are per game second, distances in cells."""

    name: str
    race: str = entry(choices=RACES)
    index: int
    """Alphabetical rank among all unit types: upstream's order of agents in a team."""
    attributes: tuple[str, ...] = entry(choices=ATTRIBUTES)
    """Attributes that weapons may have bonus damage against."""
    planes: tuple[str, ...] = entry(choices=PLANES)
    """Planes on which weapons can hit the unit."""
    layers: tuple[str, ...] = entry(choices=LAYERS)
    """Collision layers: units that share a layer collide."""
    flying: bool
    health_max: float = entry(above=0)
    """Hit points."""
    shield_max: float = entry(default=0.0, low=0)
    """Shield points; 0 without a shield."""
    armor: float = entry(low=0)
    """Subtracted from each hit on health; a hit takes at least 0.5."""
    speed: float = entry("speed_per_second", low=0)
    acceleration: float = entry("acceleration_per_second_squared", above=0)
    turn_degrees_per_second: float = entry(above=0)
    """Turn rate that limits firing: the turret's if there is one, else the body's."""
    radius: float = entry("radius_cells", above=0)
    """Used for ranges and splash."""
    collision_radius: float = entry("collision_radius_cells", above=0)
    """Used for collisions: the game's inner radius if set, else `radius`."""
    sight_range: float = entry("sight_range_cells", low=0)
    """Centre to centre; for observations only, as the maps have no fog."""
    attack_range: float = entry("attack_range_cells", low=0)
    """Centre to centre; for the action mask only, before the lower bound `min_attack_range`."""
    cooldown_divisor: float = entry(above=0)
    """Divisor of the cooldown (game loops), or of a medivac's energy, in the state."""
    scan_range: float = entry("scan_range_cells", low=0)
    """Radius in which a unit without orders looks for targets, edge to edge."""
    health_regen: float = entry("health_regen_per_second", default=0.0, low=0)
    shield_regen: float = entry("shield_regen_per_second", default=0.0, low=0)
    shield_delay_seconds: float = entry(default=0.0, low=0)
    """Time without damage before the shield regenerates."""
    energy_start: float = entry(default=0.0, low=0)
    energy_max: float = entry(default=0.0, low=0)
    energy_regen: float = entry("energy_regen_per_second", default=0.0, low=0)
    always_threatens: bool = False
    """Whether the unit counts as a threat even if it cannot hit back."""
    heal: Heal | None = None
    weapons: tuple[Weapon, ...] = ()
    """In order of preference."""


# --- Arena ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arena:
    """The ground of a battle."""

    name: str
    width: int = entry("width_cells", low=1, high=256)
    height: int = entry("height_cells", low=1, high=256)
    terrain_height: int = entry("terrain_height_byte", low=0, high=255)
    """Height as the game's API encodes it: z = -16 + 32 * byte / 255."""
    ally_point: Point = entry("ally_point_cells")
    enemy_point: Point = entry("enemy_point_cells")
    reorder_seconds: float = entry(above=0)
    """Period of the trigger that orders idle enemies to attack the nearest agent."""
    pathing: tuple[str, ...]
    """Rows, north first: `.` free, `#` blocked."""

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        if len(self.pathing) != self.height:
            yield "pathing", f"must have {self.height} rows (height_cells), not {len(self.pathing)}"
        for row, cells in enumerate(self.pathing):
            if len(cells) != self.width or set(cells) - set(".#"):
                yield "pathing", f"row {row} must be {self.width} (width_cells) of . and #"
        for field in ("ally_point", "enemy_point"):
            if not self.contains(getattr(self, field)):
                yield field, f"must lie inside {self.width} x {self.height} cells"

    def contains(self, point: Point) -> bool:
        """Return whether a point is inside the arena or on its border."""
        return 0 <= point[0] <= self.width and 0 <= point[1] <= self.height


# --- Distributions: what each episode draws ------------------------------------------------------


def _problems_of_unit_types(unit_types: tuple[str, ...], exceptions: tuple[str, ...]) -> Problems:
    known = load_unit_types()
    for name in unit_types:
        if name not in known:
            hint = did_you_mean(name, known)
            yield "unit_types", f'"{name}" is not a unit type; allowed: {", ".join(known)}{hint}'
    if not 1 <= len(set(unit_types)) == len(unit_types) <= MAX_UNIT_TYPES:
        yield "unit_types", f"must be 1 to {MAX_UNIT_TYPES} different names"
    for name in exceptions:
        if name not in unit_types:
            hint = did_you_mean(name, unit_types)
            yield "exceptions", f'"{name}" is not one of {", ".join(unit_types)}{hint}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedTeams:
    """Draw each ally's type independently; enemies copy the allies, extra enemies are drawn."""

    kind: Literal["weighted_teams"] = "weighted_teams"
    unit_types: tuple[str, ...]
    """Unit types to draw from, in the order of the unit type one-hots."""
    weights: tuple[float, ...] = entry(low=0)
    """Probability of each unit type."""
    exceptions: tuple[str, ...] = ()
    """Unit types that must not make up a whole team."""
    observe: bool = True
    """Whether agents observe the unit types; False leaves their columns 0."""

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        yield from _problems_of_unit_types(self.unit_types, self.exceptions)
        given, needed = len(self.weights), len(self.unit_types)
        if given != needed:
            yield "weights", f"must be {needed} numbers, one for each of unit_types, not {given}"
        if abs(sum(self.weights) - 1) > 1e-6:
            yield "weights", f"must sum to 1, not {sum(self.weights):g}"
        drawn = [name for name, p in zip(self.unit_types, self.weights, strict=False) if p > 0]
        if set(drawn) <= set(self.exceptions):
            yield "exceptions", "must leave a unit type with a weight above 0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllTeams:
    """Draw a multiset of unit types, each equally likely; enemies copy the allies."""

    kind: Literal["all_teams"] = "all_teams"
    unit_types: tuple[str, ...]
    """Unit types to draw from, in the order of the unit type one-hots."""
    exceptions: tuple[str, ...] = ()
    """Unit types that must not make up a whole team."""
    observe: bool = True
    """Whether agents observe the unit types; False leaves their columns 0."""

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        yield from _problems_of_unit_types(self.unit_types, self.exceptions)
        if set(self.unit_types) <= set(self.exceptions):
            yield "exceptions", "must leave a unit type to draw"


@dataclasses.dataclass(frozen=True)
class TeamPair:
    """The unit types of both teams."""

    ally: tuple[str, ...]
    enemy: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedTeams:
    """Draw one of the listed pairs of teams, each equally likely."""

    kind: Literal["fixed"] = "fixed"
    unit_types: tuple[str, ...]
    """The order of the unit type one-hots."""
    items: tuple[TeamPair, ...]
    observe: bool = True
    """Whether agents observe the unit types; False leaves their columns 0."""

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        yield from _problems_of_unit_types(self.unit_types, ())
        if not self.items:
            yield "items", "must list at least one pair of teams"
        for index, item in enumerate(self.items):
            for name in sorted({*item.ally, *item.enemy} - set(self.unit_types)):
                hint = did_you_mean(name, self.unit_types)
                yield "items", f'item {index} names "{name}", which is not in unit_types{hint}'


@dataclasses.dataclass(frozen=True)
class SurroundedAndReflect:
    """Reflect with probability `p`, else surround."""

    kind: Literal["surrounded_and_reflect"] = "surrounded_and_reflect"
    p: float = entry(default=0.5, low=0, high=1)


@dataclasses.dataclass(frozen=True)
class Surrounded:
    """Put allies in the centre, and 1 to 4 groups of enemies on the diagonals."""

    kind: Literal["surrounded"] = "surrounded"


@dataclasses.dataclass(frozen=True)
class ReflectPosition:
    """Put allies anywhere in the western half; enemies mirror them in the eastern half."""

    kind: Literal["reflect_position"] = "reflect_position"


@dataclasses.dataclass(frozen=True)
class ArenaPoints:
    """Put each team on its point of the arena."""

    kind: Literal["points"] = "points"


@dataclasses.dataclass(frozen=True)
class StartPair:
    """The start positions of all units of both teams."""

    ally_points: tuple[Point, ...]
    enemy_points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedPositions:
    """Draw one of the listed pairs of start positions, each equally likely."""

    kind: Literal["fixed"] = "fixed"
    items: tuple[StartPair, ...]

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        if not self.items:
            yield "items", "must list at least one pair of starts"


@dataclasses.dataclass(frozen=True)
class PerAgentUniform:
    """Draw a number in [lower, upper) for each agent."""

    kind: Literal["per_agent_uniform"] = "per_agent_uniform"
    lower: float = entry(default=0.0, low=0, high=1)
    upper: float = entry(default=1.0, low=0, high=1)
    observe: bool = True
    """Whether agents observe the number; False leaves its columns 0."""

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        if self.lower > self.upper:
            yield "lower", f"must not exceed upper, which is {self.upper:g}"


@dataclasses.dataclass(frozen=True)
class Mask:
    """Hide health, shield and type of enemies, drawn for each agent and enemy."""

    kind: Literal["mask"] = "mask"
    mask_probability: float = entry(default=0.5, low=0, high=1)


Team = WeightedTeams | AllTeams | FixedTeams
StartPositions = SurroundedAndReflect | Surrounded | ReflectPosition | FixedPositions | ArenaPoints


# --- Scenario ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """A battle's teams, starts, arena and default options."""

    name: str
    summary: str
    race: str = entry(choices=RACES)
    """The allies' race."""
    num_agents: int = entry(low=1, high=MAX_UNITS)
    num_enemies: int = entry(low=1, high=MAX_UNITS)
    episode_limit: int = entry(low=1, high=MAX_EPISODE_LIMIT)
    """Steps after which a battle is truncated."""
    arena: Arena
    team: Team
    start_positions: StartPositions = ArenaPoints()
    attack: PerAgentUniform | None = None
    """Probability that an attack order is carried out; None: always."""
    health: PerAgentUniform | None = None
    """Fraction of health below which an agent dies; None: 0."""
    enemy_mask: Mask | None = None
    """Hidden features of enemies; None: nothing is hidden."""
    options: Options = Options()
    source: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """The parsed TOML file."""

    @property
    def unit_types(self) -> tuple[str, ...]:
        """Unit types of both teams, in the order of their one-hots."""
        return self.team.unit_types

    @property
    def has_shields(self) -> bool:
        """True if any unit type has a shield."""
        return any(load_unit_types()[name].shield_max > 0 for name in self.unit_types)

    @property
    def has_healers(self) -> bool:
        """True if any unit type can heal, so that actions also target allies."""
        return any(load_unit_types()[name].heal is not None for name in self.unit_types)

    @functools.cached_property
    def hash(self) -> str:
        """Hash of everything that decides the game; scenarios of equal hash are the same game."""
        game = dataclasses.asdict(self)
        for label in ("name", "summary", "source"):
            del game[label]
        units = {name: dataclasses.asdict(load_unit_types()[name]) for name in self.unit_types}
        text = json.dumps([game, units], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def problems(self) -> Problems:
        """Yield the mistakes that span several keys."""
        if self.health is not None and self.health.upper >= 1:
            yield "health", "upper must be below 1: an agent at level 1 is dead from the start"
        if isinstance(self.team, FixedTeams):
            sides = [(pair.ally, pair.enemy) for pair in self.team.items]
            yield from self._problems_of_sides("team", sides)
        if isinstance(self.start_positions, FixedPositions):
            starts = self.start_positions.items
            points = [(pair.ally_points, pair.enemy_points) for pair in starts]
            yield from self._problems_of_sides("start_positions", points)
            for point in {point for pair in points for side in pair for point in side}:
                if not self.arena.contains(point):
                    yield "start_positions", f"point {list(point)} lies outside the arena"

    def _problems_of_sides(self, field: str, items: list[tuple[Any, Any]]) -> Problems:
        needed = (self.num_agents, self.num_enemies)
        for index, (ally, enemy) in enumerate(items):
            given = (len(ally), len(enemy))
            if given != needed:
                yield (
                    field,
                    f"item {index} must have {needed[0]} allies and {needed[1]} enemies, "
                    f"not {given[0]} and {given[1]}",
                )
