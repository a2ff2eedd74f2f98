"""A new episode: teams, starts, capabilities, placement (interface 2.9, mechanics 11.7)."""

from smacv2.battle import (
    ATTACK_CHANCE,
    BEAM_TARGET,
    BURSTS,
    CHANCE_ONE,
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
    UNIT_TYPE,
    X,
    Y,
)
from smacv2.engine.compile import rule
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


@rule
def spawn(unit, world, sights, kinds, rules, teams, points, spiral, pathing):
    """Fill one battle with a new episode, drawn from its seed and episode number."""
    clear(unit, world, sights)
    draw_teams(unit, world, rules, teams)
    draw_positions(unit, world, rules, points)
    place_all(unit, kinds, rules, spiral, pathing)
    sort_allies(unit, rules)
    for i in range(unit.shape[1]):
        equip(unit, kinds, rules, i)
    draw_capabilities(unit, world, sights, rules)
    if rules[TRIGGER_PERIOD] > 0:
        world[TRIGGER_PHASE] = below(word(world, STREAM_TRIGGER, 0), rules[TRIGGER_PERIOD])


@rule
def clear(unit, world, sights):
    """Zero a battle except its seed and counters."""
    for i in range(unit.shape[1]):
        for row in range(unit.shape[0]):
            unit[row, i] = 0
    for agent in range(sights.shape[0]):
        for enemy in range(sights.shape[1]):
            sights[agent, enemy] = 0
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
    unit[HEALTH, i] = kinds[kind, K_HEALTH]
    unit[SHIELD, i] = kinds[kind, K_SHIELD]
    unit[ENERGY, i] = kinds[kind, K_START_ENERGY]
    unit[FACE_Y, i] = -ONE
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
def draw_teams(unit, world, rules, teams):
    """Draw both teams: enemies copy the allies; extra enemies are drawn as another team."""
    num_agents, num_enemies = rules[NUM_AGENTS], rules[NUM_ENEMIES]
    if rules[TEAM_KIND] == TEAM_FIXED:
        item = below(word(world, STREAM_TEAM, 0), rules[TEAM_ITEMS])
        for i in range(unit.shape[1]):
            unit[UNIT_TYPE, i] = teams[item, i]
        return
    draw_team(unit, world, rules, teams, 0, num_agents)
    for enemy in range(min(num_agents, num_enemies)):
        unit[UNIT_TYPE, num_agents + enemy] = unit[UNIT_TYPE, enemy]
    if num_enemies > num_agents:
        draw_team(unit, world, rules, teams, 2 * num_agents, unit.shape[1])


@rule
def draw_team(unit, world, rules, teams, first, last):
    """Draw the types of units [first, last), again while all of them are exceptions."""
    for attempt in range(REDRAW):
        counter = attempt * REDRAW + first
        if rules[TEAM_KIND] == TEAM_ALL:
            draw_multiset(unit, world, teams, first, last, counter)
        else:
            draw_weighted(unit, world, teams, first, last, counter)
        for i in range(first, last):
            for column in range(teams.shape[1]):
                if teams[0, column] == unit[UNIT_TYPE, i] and teams[2, column] == 0:
                    return


@rule
def draw_weighted(unit, world, teams, first, last, counter):
    """Draw each unit's type independently."""
    for i in range(first, last):
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
def draw_positions(unit, world, rules, points):
    """Draw the wanted position of each unit; placement resolves overlaps afterwards."""
    kind = rules[POSITION_KIND]
    if kind == POSITION_FIXED:
        item = below(word(world, STREAM_POSITION, 0), rules[POSITION_ITEMS])
        for i in range(unit.shape[1]):
            unit[X, i] = points[item, 2 * i]
            unit[Y, i] = points[item, 2 * i + 1]
    elif kind == POSITION_POINTS:
        for i in range(unit.shape[1]):
            ally = i < rules[NUM_AGENTS]
            unit[X, i] = rules[ALLY_X] if ally else rules[ENEMY_X]
            unit[Y, i] = rules[ALLY_Y] if ally else rules[ENEMY_Y]
    elif kind == POSITION_REFLECT or (kind == POSITION_EITHER and draws_reflect(world, rules)):
        draw_reflected(unit, world, rules)
    else:
        draw_surrounded(unit, world, rules)


@rule
def draws_reflect(world, rules):
    """Return whether this episode mirrors positions instead of surrounding the allies."""
    return below(word(world, STREAM_POSITION, 0), CHANCE_ONE) < rules[REFLECT_CHANCE]


@rule
def uniform(world, counter, low, high):
    """Return a fixed-point coordinate drawn uniformly from [low, high)."""
    return low + below(word(world, STREAM_POSITION, counter), high - low)


@rule
def draw_reflected(unit, world, rules):
    """Put allies anywhere in the west, their enemies opposite, extra enemies in the east."""
    width, height = rules[WIDTH], rules[HEIGHT]
    num_agents = rules[NUM_AGENTS]
    for i in range(unit.shape[1]):
        enemy = i - num_agents
        if i < num_agents:
            unit[X, i] = uniform(world, 1 + 2 * i, 0, width // 2 - ONE)
            unit[Y, i] = uniform(world, 2 + 2 * i, 0, height)
        elif enemy < num_agents:
            unit[X, i] = width - unit[X, enemy]
            unit[Y, i] = unit[Y, enemy]
        else:
            unit[X, i] = uniform(world, 1 + 2 * i, width // 2, width)
            unit[Y, i] = uniform(world, 2 + 2 * i, 0, height)


@rule
def draw_surrounded(unit, world, rules):
    """Put all allies in the centre and 1 to 4 groups of enemies on different diagonals."""
    num_agents = rules[NUM_AGENTS]
    centre_x, centre_y = rules[WIDTH] // 2, rules[HEIGHT] // 2
    for i in range(num_agents):
        unit[X, i] = centre_x
        unit[Y, i] = centre_y
    groups = 1 + below(word(world, STREAM_POSITION, 1), NUM_DIAGONALS)
    used = 0
    first = num_agents
    for group in range(groups):
        diagonal = below(word(world, STREAM_POSITION, 2 + group), NUM_DIAGONALS - group)
        for candidate in range(NUM_DIAGONALS):
            if used & (1 << candidate) == 0:
                if diagonal == 0:
                    used |= 1 << candidate
                    diagonal = candidate
                    break
                diagonal -= 1
        size = group_size(world, rules[NUM_ENEMIES], groups, group)
        place_group(unit, world, rules, diagonal, group, first, first + size)
        first += size


@rule
def group_size(world, num_enemies, groups, group):
    """Return the size of a group: each enemy joins one of the groups at random."""
    size = 0
    for enemy in range(num_enemies):
        if below(word(world, STREAM_POSITION, REDRAW + enemy), groups) == group:
            size += 1
    return size


@rule
def place_group(unit, world, rules, diagonal, group, first, last):
    """Set the wanted position of units [first, last): a random point on half a diagonal."""
    east, north = diagonal & 1, diagonal >> 1
    centre_x, centre_y = rules[WIDTH] // 2, rules[HEIGHT] // 2
    inner_x = centre_x + (CENTRE_CLEARANCE if east else -CENTRE_CLEARANCE)
    inner_y = centre_y + (CENTRE_CLEARANCE if north else -CENTRE_CLEARANCE)
    corner_x = rules[WIDTH] if east else 0
    corner_y = rules[HEIGHT] if north else 0
    t = below(word(world, STREAM_POSITION, 2 * REDRAW + group), ONE)
    for i in range(first, last):
        unit[X, i] = mul(t, inner_x) + mul(ONE - t, corner_x)
        unit[Y, i] = mul(t, inner_y) + mul(ONE - t, corner_y)


@rule
def place_all(unit, kinds, rules, spiral, pathing):
    """Put each unit, in order of creation, on the free point nearest to its wanted position."""
    start = 0
    asked_x, asked_y, asked_radius, asked_layers = -1, -1, 0, 0
    for i in range(unit.shape[1]):
        kind = unit[UNIT_TYPE, i]
        radius, layers = kinds[kind, K_RADIUS], kinds[kind, K_LAYERS]
        x, y = unit[X, i], unit[Y, i]
        # Points before `start` were occupied even for a unit that is not larger.
        if x != asked_x or y != asked_y or radius < asked_radius or layers != asked_layers:
            start = 0
        asked_x, asked_y, asked_radius, asked_layers = x, y, radius, layers
        margin = kinds[kind, K_COLLISION]
        for index in range(start, spiral.shape[0]):
            unit[X, i] = min(max(x + spiral[index, 0], margin), rules[WIDTH] - margin)
            unit[Y, i] = min(max(y + spiral[index, 1], margin), rules[HEIGHT] - margin)
            if is_vacant(unit, kinds, pathing, i):
                start = index
                break


@rule
def is_vacant(unit, kinds, pathing, i):
    """Return whether unit i is on free ground and touches no unit placed before it."""
    kind = unit[UNIT_TYPE, i]
    x, y = unit[X, i], unit[Y, i]
    if pathing[x >> SHIFT, y >> SHIFT] == 0:
        return False
    for j in range(i):
        if kinds[unit[UNIT_TYPE, j], K_LAYERS] & kinds[kind, K_LAYERS]:
            reach = kinds[unit[UNIT_TYPE, j], K_RADIUS] + kinds[kind, K_RADIUS]
            if squared(unit[X, j] - x, unit[Y, j] - y) < square(reach):
                return False
    return True


@rule
def sort_allies(unit, rules):
    """Number the allies by unit type, then x, then y (upstream's agent ids, interface 2.1)."""
    for i in range(1, rules[NUM_AGENTS]):
        kind, x, y = unit[UNIT_TYPE, i], unit[X, i], unit[Y, i]
        j = i - 1
        while j >= 0 and comes_after(unit, j, kind, x, y):
            unit[UNIT_TYPE, j + 1] = unit[UNIT_TYPE, j]
            unit[X, j + 1] = unit[X, j]
            unit[Y, j + 1] = unit[Y, j]
            j -= 1
        unit[UNIT_TYPE, j + 1] = kind
        unit[X, j + 1] = x
        unit[Y, j + 1] = y


@rule
def comes_after(unit, j, kind, x, y):
    """Return whether unit j sorts after (kind, x, y)."""
    if unit[UNIT_TYPE, j] != kind:
        return unit[UNIT_TYPE, j] > kind
    if unit[X, j] != x:
        return unit[X, j] > x
    return unit[Y, j] > y


# --- Capabilities ---


@rule
def draw_capabilities(unit, world, sights, rules):
    """Draw attack chances, health levels and, if the scenario has one, the enemy mask."""
    for agent in range(rules[NUM_AGENTS]):
        chance = below(word(world, STREAM_ATTACK_CHANCE, agent), rules[ATTACK_SPAN])
        unit[ATTACK_CHANCE, agent] = rules[ATTACK_LOW] + chance
        level = below(word(world, STREAM_HEALTH_LEVEL, agent), rules[HEALTH_SPAN])
        unit[HEALTH_LEVEL, agent] = rules[HEALTH_LOW] + level
    if rules[HAS_ENEMY_MASK]:
        for agent in range(rules[NUM_AGENTS]):
            for enemy in range(rules[NUM_ENEMIES]):
                bits = word(world, STREAM_ENEMY_MASK, agent * rules[NUM_ENEMIES] + enemy)
                if below(bits, CHANCE_ONE) < rules[MASK_CHANCE]:
                    sights[agent, enemy] = SIGHT_MASKED
