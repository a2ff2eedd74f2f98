"""Observations and state as float32 vectors (interface 2.3, 2.4).

``layout.py`` names the columns. Each row or block is written from left to right, ``at`` being the
next free column; of what an agent does not see, zeros are written. Features are ratios of integers,
one float32 division each, so they are equal on every machine.
"""

from numpy import float32

from smacv2.battle import (
    ATTACK_CHANCE,
    CHANCE_ONE,
    COOLDOWN,
    ENERGY,
    HEALTH,
    HEALTH_LEVEL,
    LAST_ACTION,
    LOOKING,
    SHIELD,
    SIGHT_MASKED,
    SIGHT_SHARED,
    STEP,
    TURN,
    UNIT_TYPE,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import SHIFT, isqrt, squared
from smacv2.engine.orders import (
    FIRST_LOOK,
    NORTH,
    is_free,
    on_map,
    to_cell,
)
from smacv2.engine.rng import STREAM_SPOTTING_ORDER, shuffle
from smacv2.engine.sight import forget, in_reach, in_sight, spot, target_of, valid_target
from smacv2.engine.tables import (
    ACTION_MASK,
    CONE,
    CONE_ONE,
    EPISODE_LIMIT,
    ERASE_ROWS,
    FIRST_TARGET,
    HAS_ATTACK_CHANCE,
    HAS_HEALTH_LEVEL,
    HAS_SHIELDS,
    HEIGHT,
    K_COOLDOWN_DIVISOR,
    K_HEALS,
    K_HEALTH,
    K_SHIELD,
    K_SIGHT,
    K_TYPE_BIT,
    MOVE_AMOUNT,
    NUM_ACTIONS,
    NUM_AGENTS,
    NUM_ENEMIES,
    OBS_ALL_HEALTH,
    OBS_AS_STATE,
    OBS_HEIGHT,
    OBS_LAST_ACTION,
    OBS_OWN_HEALTH,
    OBS_OWN_POS,
    OBS_PATHING,
    OBS_SIZE,
    OBS_STARCRAFT,
    OBS_TIMESTEP,
    SHARE_SIGHTS,
    SHOW_ALLY_TYPES,
    SHOW_ATTACK_CHANCE,
    SHOW_HEALTH_LEVEL,
    STATE_LAST_ACTION,
    STATE_TIMESTEP,
    TERRAIN_HEIGHT,
    TYPE_BITS,
    WIDTH,
)

MAX_HEIGHT = 255
"""Terrain heights are bytes."""

NUM_AROUND = 8
"""Points around an agent at which it may observe the ground."""


@inline_rule
def ratio(numerator, denominator):
    """Return the float32 quotient of two integers below 2**24, which float32 holds exactly."""
    return float32(numerator) / float32(denominator)


# --- Observations ---


@rule
def observe_all(unit, world, sights, kinds, rules, cone, pathing, mask, obs):
    """Fill ``obs`` ``(num_agents, obs_size)``; ``mask`` must be up to date.

    Under ``prob_obs_enemy`` agents spot enemies in random order. Under defect B1 each agent is
    observed right after it has spotted, so it does not profit from later spotters.
    """
    if rules[SHARE_SIGHTS]:
        forget(unit, sights, rules)
        for agent in range(rules[NUM_AGENTS]):
            unit[TURN, agent] = agent
        shuffle(unit, world, rules[NUM_AGENTS], STREAM_SPOTTING_ORDER, world[STEP])
        for turn in range(rules[NUM_AGENTS]):
            agent = unit[TURN, turn]
            if unit[HEALTH, agent] > 0:
                spot(unit, world, sights, kinds, rules, cone, agent)
                if rules[ERASE_ROWS]:
                    observe(
                        unit, world, sights, kinds, rules, cone, pathing, mask, agent, obs[agent]
                    )  # fmt: skip
    for agent in range(rules[NUM_AGENTS]):
        if not rules[ERASE_ROWS] or unit[HEALTH, agent] <= 0:
            observe(unit, world, sights, kinds, rules, cone, pathing, mask, agent, obs[agent])


@rule
def observe(unit, world, sights, kinds, rules, cone, pathing, mask, agent, out):
    """Fill one agent's observation: for a dead agent zeros (and the time)."""
    if rules[OBS_STARCRAFT]:
        write_move_block(unit, rules, pathing, mask, agent, out)
        for enemy in range(rules[NUM_ENEMIES]):
            write_enemy_row(unit, sights, kinds, rules, cone, mask, agent, enemy, out)
        for slot in range(rules[NUM_AGENTS] - 1):
            write_ally_row(unit, world, kinds, rules, cone, agent, slot, out)
    write_own_block(unit, world, kinds, rules, cone, agent, out)


@inline_rule
def move_block_width(rules):
    """Return the columns about the ground around an agent, which come first."""
    return 4 + rules[OBS_PATHING] * NUM_AROUND + rules[OBS_HEIGHT] * (NUM_AROUND + 1)


@inline_rule
def enemy_row_width(rules):
    """Return the columns about one enemy."""
    return 4 + rules[OBS_ALL_HEALTH] * (1 + rules[HAS_SHIELDS]) + rules[TYPE_BITS]


@inline_rule
def ally_row_width(rules):
    """Return the columns about one other ally, its last action included."""
    capabilities = rules[HAS_ATTACK_CHANCE] + rules[HAS_HEALTH_LEVEL]
    return enemy_row_width(rules) + capabilities + rules[OBS_LAST_ACTION] * rules[NUM_ACTIONS]


@inline_rule
def own_block_start(rules):
    """Return the first column about the agent itself."""
    if not rules[OBS_STARCRAFT]:
        return 0
    rows = rules[NUM_ENEMIES] * enemy_row_width(rules)
    return move_block_width(rules) + rows + (rules[NUM_AGENTS] - 1) * ally_row_width(rules)


@inline_rule
def zero(out, first, last):
    """Write 0 to columns [first, last)."""
    for column in range(first, last):
        out[column] = float32(0.0)


@inline_rule
def write_one_hot(out, at, width, index):
    """Write a 1 at ``index`` of ``width`` columns and 0 to the others; return the column after."""
    zero(out, at, at + width)
    if 0 <= index < width:
        out[at + index] = float32(1.0)
    return at + width


@rule
def write_move_block(unit, rules, pathing, mask, agent, out):
    """Write the four move directions and, if asked for, the ground around the agent."""
    if unit[HEALTH, agent] <= 0:
        zero(out, 0, move_block_width(rules))
        return
    at = 0
    for action in range(NORTH, FIRST_LOOK):
        out[at] = float32(mask[agent, action])
        at += 1
    if rules[OBS_PATHING]:
        for point in range(NUM_AROUND):
            x, y = around(unit, rules, agent, point)
            free = not on_map(pathing, x, y) or is_free(pathing, x, y)
            out[at] = float32(1.0) if free else float32(0.0)
            at += 1
    if rules[OBS_HEIGHT]:
        for point in range(NUM_AROUND + 1):
            x, y = around(unit, rules, agent, point)
            height = rules[TERRAIN_HEIGHT] if on_map(pathing, x, y) else MAX_HEIGHT
            out[at] = ratio(height, MAX_HEIGHT)
            at += 1


@rule
def around(unit, rules, agent, point):
    """Return the cell of one of upstream's eight points around a unit, then its own.

    Two moves away along each axis (north, south, east, west), one move away on the diagonals.
    """
    step = rules[MOVE_AMOUNT] >> SHIFT
    x, y = to_cell(unit[X, agent]), to_cell(unit[Y, agent])
    if point == 0:
        return x, y + 2 * step
    if point == 1:
        return x, y - 2 * step
    if point == 2:
        return x + 2 * step, y
    if point == 3:
        return x - 2 * step, y
    if point == 4:
        return x + step, y + step
    if point == 5:
        return x - step, y - step
    if point == 6:
        return x + step, y - step
    if point == 7:
        return x - step, y + step
    return x, y


@rule
def write_enemy_row(unit, sights, kinds, rules, cone, mask, agent, enemy, out):
    """Write a row about one enemy: in reach, distance, dx, dy, health, shield, type."""
    width = enemy_row_width(rules)
    at = move_block_width(rules) + enemy * width
    target = rules[NUM_AGENTS] + enemy
    sees = unit[HEALTH, agent] > 0 and unit[HEALTH, target] > 0
    if not (sees and is_shown(sights, rules, agent, enemy)) or not in_sight(
        unit, kinds, rules, cone, agent, target
    ):
        zero(out, at, at + width)
        return
    if rules[ACTION_MASK]:
        out[at] = float32(mask[agent, rules[FIRST_TARGET] + enemy])
    else:
        out[at] = float32(slot_in_reach(unit, kinds, rules, cone, agent, enemy))
    masked = sights[agent, enemy] & SIGHT_MASKED != 0
    write_row(unit, kinds, rules, agent, target, masked, out, at)


@inline_rule
def is_shown(sights, rules, agent, enemy):
    """Return whether shared sights let an agent see an enemy (always, if they are off).

    Under defect B1 an enemy that may not be seen hides all enemies before it.
    """
    if not rules[SHARE_SIGHTS]:
        return True
    last = rules[NUM_ENEMIES] if rules[ERASE_ROWS] else enemy + 1
    for other in range(enemy, last):
        if sights[agent, other] & SIGHT_SHARED == 0:
            return False
    return True


@inline_rule
def slot_in_reach(unit, kinds, rules, cone, agent, slot):
    """Return whether the target of an action is in reach, whatever ``action_mask`` says.

    For a healer, slot e means "can heal ally e", in the row of enemy e, as in upstream.
    """
    target = target_of(unit, kinds, rules, agent, slot)
    if not valid_target(unit, kinds, agent, target):
        return False
    return in_reach(unit, kinds, rules, cone, agent, target)


@inline_rule
def write_row(unit, kinds, rules, agent, other, masked, out, at):
    """Write the columns shared by enemy and ally rows, from the second on: place, health, type."""
    sight = kinds[unit[UNIT_TYPE, agent], K_SIGHT]
    dx = unit[X, other] - unit[X, agent]
    dy = unit[Y, other] - unit[Y, agent]
    out[at + 1] = ratio(isqrt(squared(dx, dy)), sight)
    out[at + 2] = ratio(dx, sight)
    out[at + 3] = ratio(dy, sight)
    at += 4
    if masked:
        end = at + rules[OBS_ALL_HEALTH] * (1 + rules[HAS_SHIELDS]) + rules[TYPE_BITS]
        zero(out, at, end)
        return end
    if rules[OBS_ALL_HEALTH]:
        at = write_health(unit, kinds, rules, other, out, at)
    type_bit = kinds[unit[UNIT_TYPE, other], K_TYPE_BIT]
    if other < rules[NUM_AGENTS]:
        at = write_capabilities(unit, rules, other, out, at)
        if not rules[SHOW_ALLY_TYPES]:
            type_bit = -1
    return write_one_hot(out, at, rules[TYPE_BITS], type_bit)


@inline_rule
def write_health(unit, kinds, rules, i, out, at):
    """Write health and, if the scenario has shields, shield."""
    out[at] = health_feature(unit, kinds, rules, i)
    at += 1
    if rules[HAS_SHIELDS]:
        out[at] = shield_feature(unit, kinds, i)
        at += 1
    return at


@inline_rule
def health_feature(unit, kinds, rules, i):
    """Return health over full health; an agent's health level is subtracted from both."""
    full = kinds[unit[UNIT_TYPE, i], K_HEALTH]
    health = unit[HEALTH, i]
    if rules[HAS_HEALTH_LEVEL] and i < rules[NUM_AGENTS]:
        floor = (int(unit[HEALTH_LEVEL, i]) * int(full)) // CHANCE_ONE
        health -= floor
        full -= floor
    return ratio(health, full)


@inline_rule
def shield_feature(unit, kinds, i):
    """Return shield over full shield; 0 for a unit without a shield."""
    return ratio(unit[SHIELD, i], max(kinds[unit[UNIT_TYPE, i], K_SHIELD], 1))


@inline_rule
def write_capabilities(unit, rules, i, out, at):
    """Write an agent's attack chance and health level; unobserved ones stay zero."""
    if rules[HAS_ATTACK_CHANCE]:
        out[at] = ratio(unit[ATTACK_CHANCE, i] * rules[SHOW_ATTACK_CHANCE], CHANCE_ONE)
        at += 1
    if rules[HAS_HEALTH_LEVEL]:
        out[at] = ratio(unit[HEALTH_LEVEL, i] * rules[SHOW_HEALTH_LEVEL], CHANCE_ONE)
        at += 1
    return at


@rule
def write_ally_row(unit, world, kinds, rules, cone, agent, slot, out):
    """Write a row about another ally: visible, distance, dx, dy, health, abilities, type.

    The last action follows, if asked for. ``slot`` counts the allies without the agent itself.
    """
    ally = slot if slot < agent else slot + 1
    width = ally_row_width(rules)
    at = move_block_width(rules) + rules[NUM_ENEMIES] * enemy_row_width(rules) + slot * width
    lives = unit[HEALTH, agent] > 0 and unit[HEALTH, ally] > 0
    if not lives or not in_sight(unit, kinds, rules, cone, agent, ally):
        zero(out, at, at + width)
        return
    out[at] = float32(1.0)
    at = write_row(unit, kinds, rules, agent, ally, False, out, at)
    if rules[OBS_LAST_ACTION]:
        write_one_hot(out, at, rules[NUM_ACTIONS], last_action(unit, world, ally))


@inline_rule
def last_action(unit, world, agent):
    """Return an agent's last action, or -1 right after a reset."""
    return unit[LAST_ACTION, agent] if world[STEP] > 0 else -1


@rule
def write_own_block(unit, world, kinds, rules, cone, agent, out):
    """Write the agent's own health, capabilities, position, view direction and type; the time."""
    at = own_block_start(rules)
    if rules[OBS_STARCRAFT] and unit[HEALTH, agent] > 0:
        if rules[OBS_OWN_HEALTH]:
            at = write_health(unit, kinds, rules, agent, out, at)
        at = write_capabilities(unit, rules, agent, out, at)
        if rules[OBS_OWN_POS]:
            out[at] = ratio(unit[X, agent], rules[WIDTH])
            out[at + 1] = ratio(unit[Y, agent], rules[HEIGHT])
            at += 2
        at = write_view(unit, rules, cone, agent, out, at)
        at = write_one_hot(out, at, rules[TYPE_BITS], kinds[unit[UNIT_TYPE, agent], K_TYPE_BIT])
    zero(out, at, rules[OBS_SIZE])
    if rules[OBS_TIMESTEP]:
        out[rules[OBS_SIZE] - 1] = ratio(world[STEP], rules[EPISODE_LIMIT])


@inline_rule
def write_view(unit, rules, cone, agent, out, at):
    """Write the view direction as a unit vector, if there is a view cone."""
    if rules[CONE]:
        out[at] = ratio(cone[unit[LOOKING, agent], 0], CONE_ONE)
        out[at + 1] = ratio(cone[unit[LOOKING, agent], 1], CONE_ONE)
        at += 2
    return at


# --- State ---


@rule
def write_state(unit, world, kinds, rules, cone, obs, state):
    """Fill ``state`` ``(state_size,)``: allies, enemies, last actions, time."""
    if rules[OBS_AS_STATE]:
        for agent in range(rules[NUM_AGENTS]):
            for column in range(rules[OBS_SIZE]):
                state[agent * rules[OBS_SIZE] + column] = obs[agent, column]
        return
    for i in range(unit.shape[1]):
        write_state_row(unit, kinds, rules, cone, i, state)
    write_state_end(unit, world, rules, state)


@inline_rule
def state_row_width(rules, ally):
    """Return the columns of the state about one unit."""
    width = 3 + rules[HAS_SHIELDS] + rules[TYPE_BITS]
    if ally:
        width += 1 + rules[HAS_ATTACK_CHANCE] + rules[HAS_HEALTH_LEVEL] + 2 * rules[CONE]
    return width


@rule
def write_state_row(unit, kinds, rules, cone, i, state):
    """Write one unit's row of the state; allies also have cooldown (or energy) and capabilities."""
    num_agents = rules[NUM_AGENTS]
    ally = i < num_agents
    allies_before = min(i, num_agents)
    at = allies_before * state_row_width(rules, True)
    at += (i - allies_before) * state_row_width(rules, False)
    kind = unit[UNIT_TYPE, i]
    if unit[HEALTH, i] <= 0:
        zero(state, at, at + state_row_width(rules, ally))
        return
    state[at] = health_feature(unit, kinds, rules, i)
    at += 1
    if ally:
        charge = unit[ENERGY, i] if kinds[kind, K_HEALS] else unit[COOLDOWN, i]
        state[at] = ratio(charge, kinds[kind, K_COOLDOWN_DIVISOR])
        at += 1
    state[at] = ratio(unit[X, i] - rules[WIDTH] // 2, rules[WIDTH])
    state[at + 1] = ratio(unit[Y, i] - rules[HEIGHT] // 2, rules[HEIGHT])
    at += 2
    if rules[HAS_SHIELDS]:
        state[at] = shield_feature(unit, kinds, i)
        at += 1
    if ally:
        at = write_capabilities(unit, rules, i, state, at)
        at = write_view(unit, rules, cone, i, state, at)
    write_one_hot(state, at, rules[TYPE_BITS], kinds[kind, K_TYPE_BIT])


@rule
def write_state_end(unit, world, rules, state):
    """Write what follows the units' rows in the state: the agents' last actions, and the time."""
    at = rules[NUM_AGENTS] * state_row_width(rules, True)
    at += rules[NUM_ENEMIES] * state_row_width(rules, False)
    if rules[STATE_LAST_ACTION]:
        for ally in range(rules[NUM_AGENTS]):
            at = write_one_hot(state, at, rules[NUM_ACTIONS], last_action(unit, world, ally))
    if rules[STATE_TIMESTEP]:
        state[at] = ratio(world[STEP], rules[EPISODE_LIMIT])


# --- Items: pieces of observations and state that lanes of a GPU write independently ---


@inline_rule
def count_items(rules):
    """Return the number of items of a battle (see ``write_item``)."""
    num_agents, num_enemies = rules[NUM_AGENTS], rules[NUM_ENEMIES]
    return num_agents * (num_enemies + num_agents + 1) + num_agents + num_enemies + 1


@rule
def write_item(unit, world, sights, kinds, rules, cone, pathing, mask, obs, state, item):
    """Write one item: a row or block of an agent's observation, or of the state.

    Items of a kind follow each other, so that neighbouring lanes do the same. Together the items
    write every column once; ``mask`` must be up to date.
    """
    num_agents, num_enemies = rules[NUM_AGENTS], rules[NUM_ENEMIES]
    if item < num_agents * num_enemies:
        agent, enemy = item // num_enemies, item % num_enemies
        if rules[OBS_STARCRAFT]:
            write_enemy_row(unit, sights, kinds, rules, cone, mask, agent, enemy, obs[agent])
        return
    item -= num_agents * num_enemies
    if item < num_agents * (num_agents - 1):
        agent, slot = item // (num_agents - 1), item % (num_agents - 1)
        if rules[OBS_STARCRAFT]:
            write_ally_row(unit, world, kinds, rules, cone, agent, slot, obs[agent])
        return
    item -= num_agents * (num_agents - 1)
    if item < num_agents:
        if rules[OBS_STARCRAFT]:
            write_move_block(unit, rules, pathing, mask, item, obs[item])
        return
    item -= num_agents
    if item < num_agents:
        write_own_block(unit, world, kinds, rules, cone, item, obs[item])
        return
    item -= num_agents
    if item < unit.shape[1]:
        write_state_row(unit, kinds, rules, cone, item, state)
        return
    write_state_end(unit, world, rules, state)
