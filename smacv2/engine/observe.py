"""Observations and state as float32 vectors (interface 2.3, 2.4).

``layout.py`` names the columns. Vectors are zeroed, then each block is written from left to right;
``at`` is the next free column. Features are ratios of integers, one float32 division each, so they
are equal on every machine.
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
    zero(out)
    if rules[OBS_STARCRAFT] and unit[HEALTH, agent] > 0:
        at = write_move_block(unit, rules, pathing, mask, agent, out, 0)
        at = write_enemy_rows(unit, sights, kinds, rules, cone, mask, agent, out, at)
        at = write_ally_rows(unit, world, kinds, rules, cone, agent, out, at)
        write_own_block(unit, kinds, rules, cone, agent, out, at)
    if rules[OBS_TIMESTEP]:
        out[rules[OBS_SIZE] - 1] = ratio(world[STEP], rules[EPISODE_LIMIT])


@inline_rule
def zero(out):
    """Fill a vector with zeros."""
    for column in range(out.shape[0]):
        out[column] = float32(0.0)


@inline_rule
def write_one_hot(out, at, width, index):
    """Write 1 at ``index`` of the next ``width`` columns; return the column after them."""
    if 0 <= index < width:
        out[at + index] = float32(1.0)
    return at + width


@rule
def write_move_block(unit, rules, pathing, mask, agent, out, at):
    """Write the four move directions and, if asked for, the ground around the agent."""
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
    return at


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
def write_enemy_rows(unit, sights, kinds, rules, cone, mask, agent, out, at):
    """Write a row for each enemy: in reach, distance, dx, dy, health, shield, type."""
    width = 4 + rules[OBS_ALL_HEALTH] * (1 + rules[HAS_SHIELDS]) + rules[TYPE_BITS]
    erased = -1
    if rules[ERASE_ROWS]:
        for enemy in range(rules[NUM_ENEMIES]):
            if sights[agent, enemy] & SIGHT_SHARED == 0:
                erased = enemy
    for enemy in range(rules[NUM_ENEMIES]):
        target = rules[NUM_AGENTS] + enemy
        shared = not rules[SHARE_SIGHTS] or sights[agent, enemy] & SIGHT_SHARED != 0
        visible = shared and enemy > erased and unit[HEALTH, target] > 0
        if visible and in_sight(unit, kinds, rules, cone, agent, target):
            masked = sights[agent, enemy] & SIGHT_MASKED != 0
            if rules[ACTION_MASK]:
                out[at] = float32(mask[agent, rules[FIRST_TARGET] + enemy])
            else:
                out[at] = float32(slot_in_reach(unit, kinds, rules, cone, agent, enemy))
            write_row(unit, kinds, rules, agent, target, masked, out, at)
        at += width
    return at


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
        return at + rules[OBS_ALL_HEALTH] * (1 + rules[HAS_SHIELDS]) + rules[TYPE_BITS]
    if rules[OBS_ALL_HEALTH]:
        at = write_health(unit, kinds, rules, other, out, at)
    if other < rules[NUM_AGENTS]:
        at = write_capabilities(unit, rules, other, out, at)
        if not rules[SHOW_ALLY_TYPES]:
            return at + rules[TYPE_BITS]
    return write_one_hot(out, at, rules[TYPE_BITS], kinds[unit[UNIT_TYPE, other], K_TYPE_BIT])


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
def write_ally_rows(unit, world, kinds, rules, cone, agent, out, at):
    """Write a row for each other ally: visible, distance, dx, dy, health, capabilities, type."""
    width = 4 + rules[OBS_ALL_HEALTH] * (1 + rules[HAS_SHIELDS]) + rules[TYPE_BITS]
    width += rules[HAS_ATTACK_CHANCE] + rules[HAS_HEALTH_LEVEL]
    actions = rules[OBS_LAST_ACTION] * rules[NUM_ACTIONS]
    for ally in range(rules[NUM_AGENTS]):
        if ally == agent:
            continue
        if unit[HEALTH, ally] > 0 and in_sight(unit, kinds, rules, cone, agent, ally):
            out[at] = float32(1.0)
            write_row(unit, kinds, rules, agent, ally, False, out, at)
            write_one_hot(out, at + width, actions, last_action(unit, world, ally))
        at += width + actions
    return at


@inline_rule
def last_action(unit, world, agent):
    """Return an agent's last action, or -1 right after a reset."""
    return unit[LAST_ACTION, agent] if world[STEP] > 0 else -1


@rule
def write_own_block(unit, kinds, rules, cone, agent, out, at):
    """Write the agent's own health, capabilities, position, view direction and type."""
    if rules[OBS_OWN_HEALTH]:
        at = write_health(unit, kinds, rules, agent, out, at)
    at = write_capabilities(unit, rules, agent, out, at)
    if rules[OBS_OWN_POS]:
        out[at] = ratio(unit[X, agent], rules[WIDTH])
        out[at + 1] = ratio(unit[Y, agent], rules[HEIGHT])
        at += 2
    at = write_view(unit, rules, cone, agent, out, at)
    return write_one_hot(out, at, rules[TYPE_BITS], kinds[unit[UNIT_TYPE, agent], K_TYPE_BIT])


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
    zero(state)
    at = 0
    for ally in range(rules[NUM_AGENTS]):
        at = write_state_row(unit, kinds, rules, cone, ally, state, at)
    for enemy in range(rules[NUM_AGENTS], unit.shape[1]):
        at = write_state_row(unit, kinds, rules, cone, enemy, state, at)
    if rules[STATE_LAST_ACTION]:
        for ally in range(rules[NUM_AGENTS]):
            at = write_one_hot(state, at, rules[NUM_ACTIONS], last_action(unit, world, ally))
    if rules[STATE_TIMESTEP]:
        state[at] = ratio(world[STEP], rules[EPISODE_LIMIT])


@rule
def write_state_row(unit, kinds, rules, cone, i, state, at):
    """Write one unit's row of the state; allies also have cooldown (or energy) and capabilities."""
    ally = i < rules[NUM_AGENTS]
    kind = unit[UNIT_TYPE, i]
    if unit[HEALTH, i] <= 0:
        width = 3 + rules[HAS_SHIELDS] + rules[TYPE_BITS]
        if ally:
            width += 1 + rules[HAS_ATTACK_CHANCE] + rules[HAS_HEALTH_LEVEL] + 2 * rules[CONE]
        return at + width
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
    return write_one_hot(state, at, rules[TYPE_BITS], kinds[kind, K_TYPE_BIT])
