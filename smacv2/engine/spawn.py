"""A new episode: teams, starts, capabilities, placement (interface 2.9, mechanics 11.7).

Several lanes may play one reset together. Lane ``lane`` of ``lanes`` owns the units i with
``i % lanes == lane``, and their rows of ``sights``; lane 0 owns the world. Between two calls of
``meet`` a lane writes only what the lane owns, and reads only what no other lane writes. All
lanes of a battle meet equally often, because every condition around a ``meet`` is the same for
all of them. There may not be more lanes than units.
"""

from smacv2.battle import (
    ATTACK_CHANCE,
    BEAM_TARGET,
    BURSTS,
    CHANCE_ONE,
    COLLISION,
    COOLDOWN,
    DAMAGED_AT,
    DEAD_ALLIES,
    DEAD_ENEMIES,
    ENERGY,
    FACE_Y,
    HEALTH,
    HEALTH_LEVEL,
    HELPED_AT,
    ILLEGAL_ACTIONS,
    MISSILE_TARGET,
    ORDER_TARGET,
    ORDER_X,
    ORDER_Y,
    OUTCOME,
    OUTCOME_RUNNING,
    OVER,
    PASSIVE,
    PATIENT,
    RADIUS,
    SHIELD,
    SIGHT_MASKED,
    SPOTTER,
    STEP,
    SWING_TARGET,
    TICK,
    TRIGGER_PHASE,
    TURN,
    UNIT_TYPE,
    VELOCITY_X,
    VELOCITY_Y,
    WEAPON,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, meet, rule
from smacv2.engine.fixed import ONE, SHIFT, mul, square, squared
from smacv2.engine.rng import (
    STREAM_ATTACK_CHANCE,
    STREAM_ENEMY_MASK,
    STREAM_HEALTH_LEVEL,
    STREAM_POSITION,
    STREAM_TEAM,
    STREAM_TRIGGER,
    below,
    word,
)
from smacv2.engine.tables import (
    ALLY_X,
    ALLY_Y,
    ATTACK_LOW,
    ATTACK_SPAN,
    ENEMY_X,
    ENEMY_Y,
    HAS_ENEMY_MASK,
    HEALTH_LOW,
    HEALTH_SPAN,
    HEIGHT,
    K_COLLISION,
    K_HEALTH,
    K_LAYERS,
    K_RADIUS,
    K_SHIELD,
    K_START_ENERGY,
    MASK_CHANCE,
    NUM_AGENTS,
    NUM_ENEMIES,
    POSITION_EITHER,
    POSITION_FIXED,
    POSITION_ITEMS,
    POSITION_KIND,
    POSITION_POINTS,
    POSITION_REFLECT,
    REFLECT_CHANCE,
    START_BUG,
    TEAM_ALL,
    TEAM_FIXED,
    TEAM_ITEMS,
    TEAM_KIND,
    TRIGGER_PERIOD,
    WIDTH,
)

LONG_AGO = -(1 << 16)
"""A tick so long ago that no rule takes it for recent."""

NUM_DIAGONALS = 4
CENTRE_CLEARANCE = 2 * ONE
"""Distance along each axis that a surrounding group keeps from the centre (interface 2.9)."""

REDRAW = 1 << 16
"""Counter distance between two draws of a whole team."""

GROUP, NEAREST = TURN, TURN
"""Scratch row: first each enemy's group, then the nearest free point that each lane has found."""

ASKED_X, ASKED_Y, FOUND = VELOCITY_X, VELOCITY_Y, COOLDOWN
"""Scratch rows for the wanted positions, and the index of the point that was free."""

SORTED_TYPE, SORTED_X, SORTED_Y = WEAPON, ORDER_X, ORDER_Y
"""Scratch rows for the types and positions of the allies in their final order."""


@rule
def spawn(unit, world, sights, kinds, rules, teams, points, spiral, pathing, lane, lanes):
    """Fill one battle with a new episode, drawn from its seed and episode number.

    The lanes of a battle must meet before and after.
    """
    clear(unit, world, sights, lane, lanes)
    draw_positions(unit, world, rules, points, lane, lanes)
    draw_teams(unit, world, rules, teams, lane, lanes)
    meet()
    place_all(unit, kinds, rules, spiral, pathing, lane, lanes)
    sort_allies(unit, rules, lane, lanes)
    for i in range(lane, unit.shape[1], lanes):
        equip(unit, kinds, rules, i)
    for agent in range(lane, rules[NUM_AGENTS], lanes):
        draw_capabilities(unit, world, sights, rules, agent)
    if lane == 0 and rules[TRIGGER_PERIOD] > 0:
        world[TRIGGER_PHASE] = below(word(world, STREAM_TRIGGER, 0), rules[TRIGGER_PERIOD])


@rule
def clear(unit, world, sights, lane, lanes):
    """Zero a battle except its seed and counters."""
    for row in range(unit.shape[0]):
        for i in range(lane, unit.shape[1], lanes):
            unit[row, i] = 0
    for agent in range(lane, sights.shape[0], lanes):
        for enemy in range(sights.shape[1]):
            sights[agent, enemy] = 0
    if lane == 0:
        world[TICK] = 0
        world[STEP] = 0
        world[OVER] = 0
        world[OUTCOME] = OUTCOME_RUNNING
        world[DEAD_ALLIES] = 0
        world[DEAD_ENEMIES] = 0
        world[ILLEGAL_ACTIONS] = 0
        world[BURSTS] = 0


@rule
def equip(unit, kinds, rules, i):
    """Give a placed unit full health, shield, energy and no orders; it faces south."""
    kind = unit[UNIT_TYPE, i]
    unit[PASSIVE, i] = i < rules[NUM_AGENTS]
    unit[RADIUS, i] = kinds[kind, K_RADIUS]
    unit[COLLISION, i] = kinds[kind, K_COLLISION]
    unit[HEALTH, i] = kinds[kind, K_HEALTH]
    unit[SHIELD, i] = kinds[kind, K_SHIELD]
    unit[ENERGY, i] = kinds[kind, K_START_ENERGY]
    unit[FACE_Y, i] = -ONE
    unit[VELOCITY_X, i], unit[VELOCITY_Y, i], unit[COOLDOWN, i] = 0, 0, 0  # of the placement
    unit[DAMAGED_AT, i] = LONG_AGO
    unit[HELPED_AT, i] = LONG_AGO
    unit[ORDER_TARGET, i] = -1
    unit[SWING_TARGET, i] = -1
    unit[MISSILE_TARGET, i] = -1
    unit[BEAM_TARGET, i] = -1
    unit[PATIENT, i] = -1
    unit[SPOTTER, i] = -1


# --- Teams ---


@rule
def draw_teams(unit, world, rules, teams, lane, lanes):
    """Draw both teams: enemies copy the allies; extra enemies are drawn as another team."""
    num_agents = rules[NUM_AGENTS]
    if rules[TEAM_KIND] == TEAM_FIXED:
        item = below(word(world, STREAM_TEAM, 0), rules[TEAM_ITEMS])
        for i in range(lane, unit.shape[1], lanes):
            unit[UNIT_TYPE, i] = teams[item, i]
        return
    draw_team(unit, world, rules, teams, 0, num_agents, lane, lanes)
    for i in range(lane, min(2 * num_agents, unit.shape[1]), lanes):
        if i >= num_agents:
            unit[UNIT_TYPE, i] = unit[UNIT_TYPE, i - num_agents]
    if rules[NUM_ENEMIES] > num_agents:
        draw_team(unit, world, rules, teams, 2 * num_agents, unit.shape[1], lane, lanes)


@rule
def draw_team(unit, world, rules, teams, first, last, lane, lanes):
    """Draw the types of units [first, last), again while all of them are exceptions.

    The only types that a lane writes for others are those of a multiset, which lane 0 draws.
    """
    for attempt in range(REDRAW):
        counter = attempt * REDRAW + first
        meet()
        if rules[TEAM_KIND] != TEAM_ALL:
            draw_weighted(unit, world, teams, first, last, counter, lane, lanes)
        elif lane == 0:
            draw_multiset(unit, world, teams, first, last, counter)
        meet()
        if may_fight(unit, teams, first, last):
            return


@rule
def may_fight(unit, teams, first, last):
    """Return whether one of units [first, last) is not an exception."""
    for i in range(first, last):
        for column in range(teams.shape[1]):
            if teams[0, column] == unit[UNIT_TYPE, i] and teams[2, column] == 0:
                return True
    return False


@rule
def draw_weighted(unit, world, teams, first, last, counter, lane, lanes):
    """Draw each unit's type independently."""
    for i in range(lane, last, lanes):
        if i >= first:
            bits = word(world, STREAM_TEAM, counter + i - first) >> 1
            column = 0
            while column < teams.shape[1] - 1 and bits >= teams[1, column]:
                column += 1
            unit[UNIT_TYPE, i] = teams[0, column]


@rule
def draw_multiset(unit, world, teams, first, last, counter):
    """Draw a multiset of types uniformly (stars and bars), then shuffle it.

    Each next symbol is a star with probability stars / (stars + bars), of those left.
    """
    stars = last - first
    bars = teams.shape[1] - 1
    column = 0
    i = first
    while stars > 0:
        if below(word(world, STREAM_TEAM, counter), stars + bars) < stars:
            unit[UNIT_TYPE, i] = teams[0, column]
            i += 1
            stars -= 1
        else:
            column += 1
            bars -= 1
        counter += 1
    for j in range(last - 1, first, -1):
        k = first + below(word(world, STREAM_TEAM, counter), j - first + 1)
        unit[UNIT_TYPE, j], unit[UNIT_TYPE, k] = unit[UNIT_TYPE, k], unit[UNIT_TYPE, j]
        counter += 1


# --- Positions ---


@rule
def draw_positions(unit, world, rules, points, lane, lanes):
    """Draw the wanted position of each unit; placement resolves overlaps afterwards."""
    kind = rules[POSITION_KIND]
    if kind == POSITION_FIXED:
        item = below(word(world, STREAM_POSITION, 0), rules[POSITION_ITEMS])
        for i in range(lane, unit.shape[1], lanes):
            unit[X, i] = points[item, 2 * i]
            unit[Y, i] = points[item, 2 * i + 1]
    elif kind == POSITION_POINTS:
        for i in range(lane, unit.shape[1], lanes):
            ally = i < rules[NUM_AGENTS]
            unit[X, i] = rules[ALLY_X] if ally else rules[ENEMY_X]
            unit[Y, i] = rules[ALLY_Y] if ally else rules[ENEMY_Y]
    elif kind == POSITION_REFLECT or (kind == POSITION_EITHER and draws_reflect(world, rules)):
        draw_reflected(unit, world, rules, lane, lanes)
    else:
        draw_surrounded(unit, world, rules, lane, lanes)


@rule
def draws_reflect(world, rules):
    """Return whether this episode mirrors positions instead of surrounding the allies."""
    return below(word(world, STREAM_POSITION, 0), CHANCE_ONE) < rules[REFLECT_CHANCE]


@rule
def uniform(world, counter, low, high):
    """Return a fixed-point coordinate drawn uniformly from [low, high)."""
    return low + below(word(world, STREAM_POSITION, counter), high - low)


@rule
def draw_reflected(unit, world, rules, lane, lanes):
    """Put allies anywhere in the west, their enemies opposite, extra enemies in the east."""
    width, height = rules[WIDTH], rules[HEIGHT]
    num_agents = rules[NUM_AGENTS]
    for i in range(lane, unit.shape[1], lanes):
        if i < num_agents:
            unit[X, i] = uniform(world, 1 + 2 * i, 0, width // 2 - ONE)
            unit[Y, i] = uniform(world, 2 + 2 * i, 0, height)
        elif i >= 2 * num_agents:
            unit[X, i] = uniform(world, 1 + 2 * i, width // 2, width)
            unit[Y, i] = uniform(world, 2 + 2 * i, 0, height)
    meet()
    for i in range(lane, min(2 * num_agents, unit.shape[1]), lanes):
        if i >= num_agents:
            unit[X, i] = width - unit[X, i - num_agents]
            unit[Y, i] = unit[Y, i - num_agents]


@rule
def draw_surrounded(unit, world, rules, lane, lanes):
    """Put all allies in the centre and 1 to 4 groups of enemies on different diagonals.

    Under defect B30 every group begins with the first enemy and overwrites the group before; the
    enemies that belong to no group keep the south-west corner.
    """
    groups = 1 + below(word(world, STREAM_POSITION, 1), NUM_DIAGONALS)
    gather(unit, world, rules, groups, lane, lanes)
    meet()
    used = 0
    first = rules[NUM_AGENTS]
    for group in range(groups):
        diagonal = below(word(world, STREAM_POSITION, 2 + group), NUM_DIAGONALS - group)
        for candidate in range(NUM_DIAGONALS):
            if used & (1 << candidate) == 0:
                if diagonal == 0:
                    used |= 1 << candidate
                    diagonal = candidate
                    break
                diagonal -= 1
        size = group_size(unit, rules, group)
        place_group(unit, world, rules, diagonal, group, first, first + size, lane, lanes)
        if not rules[START_BUG]:
            first += size


@rule
def gather(unit, world, rules, groups, lane, lanes):
    """Put all allies in the centre; let each enemy join one of the groups at random.

    Only the sizes of the groups count: the first enemies by number form the first group.
    """
    num_agents = rules[NUM_AGENTS]
    for i in range(lane, unit.shape[1], lanes):
        if i < num_agents:
            unit[X, i] = rules[WIDTH] // 2
            unit[Y, i] = rules[HEIGHT] // 2
        else:
            unit[GROUP, i] = below(word(world, STREAM_POSITION, REDRAW + i - num_agents), groups)


@rule
def group_size(unit, rules, group):
    """Return how many enemies have joined a group."""
    size = 0
    for i in range(rules[NUM_AGENTS], unit.shape[1]):
        if unit[GROUP, i] == group:
            size += 1
    return size


@rule
def place_group(unit, world, rules, diagonal, group, first, last, lane, lanes):
    """Set the wanted position of units [first, last): a random point on half a diagonal."""
    east, north = diagonal & 1, diagonal >> 1
    centre_x, centre_y = rules[WIDTH] // 2, rules[HEIGHT] // 2
    inner_x = centre_x + (CENTRE_CLEARANCE if east else -CENTRE_CLEARANCE)
    inner_y = centre_y + (CENTRE_CLEARANCE if north else -CENTRE_CLEARANCE)
    corner_x = rules[WIDTH] if east else 0
    corner_y = rules[HEIGHT] if north else 0
    t = below(word(world, STREAM_POSITION, 2 * REDRAW + group), ONE)
    for i in range(lane, last, lanes):
        if i >= first:
            unit[X, i] = mul(t, inner_x) + mul(ONE - t, corner_x)
            unit[Y, i] = mul(t, inner_y) + mul(ONE - t, corner_y)


# --- Placement ---


@rule
def place_all(unit, kinds, rules, spiral, pathing, lane, lanes):
    """Put each unit, in order of creation, on the free point nearest to its wanted position.

    The lanes try ``lanes`` points at once; the nearest one that is free counts.
    """
    for i in range(lane, unit.shape[1], lanes):
        unit[ASKED_X, i], unit[ASKED_Y, i] = unit[X, i], unit[Y, i]
    meet()
    for i in range(unit.shape[1]):
        kind = unit[UNIT_TYPE, i]
        x, y = unit[ASKED_X, i], unit[ASKED_Y, i]
        found = spiral.shape[0]
        for first in range(first_to_try(unit, kinds, i, x, y), spiral.shape[0], lanes):
            unit[NEAREST, lane] = spiral.shape[0]
            if first + lane < spiral.shape[0]:
                near_x, near_y = point_near(kinds, rules, spiral, kind, x, y, first + lane)
                if is_vacant(unit, kinds, pathing, i, near_x, near_y):
                    unit[NEAREST, lane] = first + lane
            meet()
            for other in range(lanes):
                found = min(found, unit[NEAREST, other])
            meet()
            if found < spiral.shape[0]:
                break
        if i % lanes == lane:
            found = min(found, spiral.shape[0] - 1)
            unit[X, i], unit[Y, i] = point_near(kinds, rules, spiral, kind, x, y, found)
            unit[RADIUS, i] = kinds[kind, K_RADIUS]
            unit[FOUND, i] = found
        meet()
    for i in range(lane, unit.shape[1], lanes):
        unit[NEAREST, i] = 0


@inline_rule
def first_to_try(unit, kinds, i, x, y):
    """Return the first point that may be free: none was before it for a unit that is not larger."""
    kind = unit[UNIT_TYPE, i]
    start = 0
    for j in range(i):
        if unit[ASKED_X, j] == x and unit[ASKED_Y, j] == y and unit[FOUND, j] > start:
            fits = unit[RADIUS, j] <= kinds[kind, K_RADIUS]
            if fits and kinds[unit[UNIT_TYPE, j], K_LAYERS] == kinds[kind, K_LAYERS]:
                start = unit[FOUND, j]
    return start


@inline_rule
def point_near(kinds, rules, spiral, kind, x, y, index):
    """Return a point of the spiral around (x, y), clamped to where a unit type can stand."""
    margin = kinds[kind, K_COLLISION]
    near_x = min(max(x + spiral[index, 0], margin), rules[WIDTH] - margin)
    near_y = min(max(y + spiral[index, 1], margin), rules[HEIGHT] - margin)
    return near_x, near_y


@rule
def is_vacant(unit, kinds, pathing, i, x, y):
    """Return whether (x, y) is free ground where unit i touches no unit placed before it."""
    if pathing[x >> SHIFT, y >> SHIFT] == 0:
        return False
    radius, layers = kinds[unit[UNIT_TYPE, i], K_RADIUS], kinds[unit[UNIT_TYPE, i], K_LAYERS]
    for j in range(i):
        touches = squared(unit[X, j] - x, unit[Y, j] - y) < square(unit[RADIUS, j] + radius)
        if touches and kinds[unit[UNIT_TYPE, j], K_LAYERS] & layers:
            return False
    return True


@rule
def sort_allies(unit, rules, lane, lanes):
    """Number the allies by unit type, then x, then y (upstream's agent ids, interface 2.1).

    A lane writes to the columns of its allies' ranks; ranks differ, so no two lanes share one.
    """
    for i in range(lane, rules[NUM_AGENTS], lanes):
        place = rank(unit, rules, i)
        unit[SORTED_TYPE, place] = unit[UNIT_TYPE, i]
        unit[SORTED_X, place] = unit[X, i]
        unit[SORTED_Y, place] = unit[Y, i]
    meet()
    for i in range(lane, rules[NUM_AGENTS], lanes):
        unit[UNIT_TYPE, i] = unit[SORTED_TYPE, i]
        unit[X, i] = unit[SORTED_X, i]
        unit[Y, i] = unit[SORTED_Y, i]
        unit[SORTED_TYPE, i] = 0
        unit[SORTED_X, i] = 0
        unit[SORTED_Y, i] = 0


@rule
def rank(unit, rules, i):
    """Return how many allies come before ally i."""
    before = 0
    for j in range(rules[NUM_AGENTS]):
        before += comes_before(unit, j, i)
    return before


@inline_rule
def comes_before(unit, j, i):
    """Return whether unit j sorts before unit i; of equals, the first one does."""
    if unit[UNIT_TYPE, j] != unit[UNIT_TYPE, i]:
        return unit[UNIT_TYPE, j] < unit[UNIT_TYPE, i]
    if unit[X, j] != unit[X, i]:
        return unit[X, j] < unit[X, i]
    if unit[Y, j] != unit[Y, i]:
        return unit[Y, j] < unit[Y, i]
    return j < i


# --- Capabilities ---


@rule
def draw_capabilities(unit, world, sights, rules, agent):
    """Draw an agent's attack chance, health level and, if the scenario has one, enemy mask."""
    chance = below(word(world, STREAM_ATTACK_CHANCE, agent), rules[ATTACK_SPAN])
    unit[ATTACK_CHANCE, agent] = rules[ATTACK_LOW] + chance
    level = below(word(world, STREAM_HEALTH_LEVEL, agent), rules[HEALTH_SPAN])
    unit[HEALTH_LEVEL, agent] = rules[HEALTH_LOW] + level
    if rules[HAS_ENEMY_MASK]:
        for enemy in range(rules[NUM_ENEMIES]):
            bits = word(world, STREAM_ENEMY_MASK, agent * rules[NUM_ENEMIES] + enemy)
            if below(bits, CHANCE_ONE) < rules[MASK_CHANCE]:
                sights[agent, enemy] = SIGHT_MASKED
