"""Agents' actions: which are available, which orders they give (interface 2.5, mechanics 4)."""

from smacv2.battle import (
    ATTACK_CHANCE,
    BACKSWING,
    CHANCE_ONE,
    ENERGY,
    HEALTH,
    LAST_ACTION,
    LOOKING,
    ORDER,
    ORDER_ATTACK,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_MOVE,
    ORDER_TARGET,
    ORDER_X,
    ORDER_Y,
    PHASE,
    PHASE_READY,
    STEP,
    UNIT_TYPE,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import ONE, SHIFT
from smacv2.engine.opponent import wants_healing
from smacv2.engine.rng import STREAM_ATTACK_ROLL, below, word
from smacv2.engine.sight import in_reach, target_of, valid_target
from smacv2.engine.tables import (
    ACTION_MASK,
    FIRST_TARGET,
    HAS_ATTACK_CHANCE,
    HEIGHT,
    K_COLLISION,
    K_HEALS,
    MOVE_AMOUNT,
    MOVE_CHECK,
    NUM_ACTIONS,
    NUM_AGENTS,
    WIDTH,
)
from smacv2.engine.targets import can_hit

NO_OP, STOP, NORTH, SOUTH, EAST, WEST, FIRST_LOOK = range(7)
"""Actions before the first look or target action."""


@inline_rule
def direction(action):
    """Return the unit step (dx, dy) of a move action."""
    if action == NORTH:
        return 0, 1
    if action == SOUTH:
        return 0, -1
    if action == EAST:
        return 1, 0
    return -1, 0


@rule
def write_mask(unit, kinds, rules, cone, pathing, mask):
    """Fill ``mask`` ``(num_agents, num_actions)``: 1 for available actions, else 0."""
    for agent in range(rules[NUM_AGENTS]):
        for action in range(rules[NUM_ACTIONS]):
            mask[agent, action] = is_available(unit, kinds, rules, cone, pathing, agent, action)


@inline_rule
def is_available(unit, kinds, rules, cone, pathing, agent, action):
    """Return whether an agent may take an action."""
    if unit[HEALTH, agent] <= 0:
        return action == NO_OP
    if action < NORTH:
        return action == STOP
    if action < FIRST_LOOK:
        return can_move(unit, rules, pathing, agent, action)
    if action < rules[FIRST_TARGET]:
        return True
    return can_target(unit, kinds, rules, cone, agent, action - rules[FIRST_TARGET])


@inline_rule
def can_move(unit, rules, pathing, agent, action):
    """Return whether the cell half a move away is on the map and free."""
    dx, dy = direction(action)
    x = to_cell(unit[X, agent] + dx * rules[MOVE_CHECK])
    y = to_cell(unit[Y, agent] + dy * rules[MOVE_CHECK])
    return is_free(pathing, x, y)


@inline_rule
def to_cell(position):
    """Return the cell of a coordinate, truncating towards zero as upstream does."""
    return position >> SHIFT if position >= 0 else -((-position) >> SHIFT)


@inline_rule
def on_map(pathing, x, y):
    """Return whether a cell exists."""
    return 0 <= x < pathing.shape[0] and 0 <= y < pathing.shape[1]


@inline_rule
def is_free(pathing, x, y):
    """Return whether a cell exists and a ground unit may stand in it."""
    return on_map(pathing, x, y) and pathing[x, y] != 0


@inline_rule
def can_target(unit, kinds, rules, cone, agent, slot):
    """Return whether a target action is available: without ``action_mask``, if the target lives."""
    target = target_of(unit, kinds, rules, agent, slot)
    if not valid_target(unit, kinds, agent, target):
        return False
    return not rules[ACTION_MASK] or in_reach(unit, kinds, rules, cone, agent, target)


@rule
def give_order(unit, world, kinds, rules, cone, mask, actions, agent):
    """Turn one agent's action into an order; an illegal one becomes stop (or no-op when dead)."""
    action = actions[agent]
    if not is_legal(rules, mask, actions, agent):
        action = STOP if unit[HEALTH, agent] > 0 else NO_OP
    unit[LAST_ACTION, agent] = action
    if unit[HEALTH, agent] <= 0:
        return
    if action == STOP:
        replace_order(unit, agent, ORDER_IDLE, -1)
    elif action < FIRST_LOOK:
        order_move(unit, kinds, rules, agent, action)
    elif action < rules[FIRST_TARGET]:
        unit[LOOKING, agent] = action - FIRST_LOOK
    else:
        order_target(unit, world, kinds, rules, cone, agent, action - rules[FIRST_TARGET])


@inline_rule
def is_legal(rules, mask, actions, agent):
    """Return whether an agent's action exists and is available."""
    action = actions[agent]
    return 0 <= action < rules[NUM_ACTIONS] and mask[agent, action] != 0


@rule
def count_illegal(rules, mask, actions):
    """Return the number of agents whose action is illegal."""
    count = 0
    for agent in range(rules[NUM_AGENTS]):
        if not is_legal(rules, mask, actions, agent):
            count += 1
    return count


@rule
def replace_order(unit, i, order, target):
    """Give a new order: it cancels a wind-up and the pause after a shot (mechanics 4.6)."""
    unit[ORDER, i] = order
    unit[ORDER_TARGET, i] = target
    unit[PHASE, i] = PHASE_READY
    unit[BACKSWING, i] = 0


@rule
def order_move(unit, kinds, rules, agent, action):
    """Order a move by ``move_amount`` from the current position, clamped to the map."""
    dx, dy = direction(action)
    radius = kinds[unit[UNIT_TYPE, agent], K_COLLISION]
    x = unit[X, agent] + dx * rules[MOVE_AMOUNT]
    y = unit[Y, agent] + dy * rules[MOVE_AMOUNT]
    replace_order(unit, agent, ORDER_MOVE, -1)
    unit[ORDER_X, agent] = min(max(x, radius), rules[WIDTH] - radius)
    unit[ORDER_Y, agent] = min(max(y, radius), rules[HEIGHT] - radius)


@rule
def order_target(unit, world, kinds, rules, cone, agent, slot):
    """Order an attack or a heal; a refused or repeated one changes nothing (mechanics 4.3, 4.5)."""
    if rules[HAS_ATTACK_CHANCE]:
        roll = below(word(world, STREAM_ATTACK_ROLL, world[STEP] * ONE + agent), CHANCE_ONE)
        if roll > unit[ATTACK_CHANCE, agent]:
            return
    target = target_of(unit, kinds, rules, agent, slot)
    if not rules[ACTION_MASK] and not in_reach(unit, kinds, rules, cone, agent, target):
        return
    heals = kinds[unit[UNIT_TYPE, agent], K_HEALS]
    if heals:
        if unit[ENERGY, agent] <= 0 or not wants_healing(unit, kinds, agent, target):
            return
    elif not can_hit(unit, kinds, agent, target):
        return
    order = ORDER_HEAL if heals else ORDER_ATTACK
    if unit[ORDER, agent] != order or unit[ORDER_TARGET, agent] != target:
        replace_order(unit, agent, order, target)
