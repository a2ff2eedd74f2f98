"""Behaviour of units without orders: the map's trigger, acquisition (mechanics 6, 11)."""

from smacv2.battle import (
    ENERGY,
    HEALTH,
    HELPED_AT,
    ORDER,
    ORDER_ACQUIRED,
    ORDER_ATTACK,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_RETALIATE,
    ORDER_TARGET,
    PASSIVE,
    PHASE,
    PHASE_CHANNEL,
    PHASE_READY,
    TICK,
    TRIGGER_PHASE,
    UNIT_TYPE,
)
from smacv2.engine.compile import rule
from smacv2.engine.fixed import square
from smacv2.engine.tables import (
    CALL_PERIOD,
    CALL_RADIUS,
    K_AUTOCAST_ENERGY,
    K_AUTOCAST_RANGE,
    K_BIOLOGICAL,
    K_HEALS,
    K_HEALTH,
    K_PLANES,
    K_SCAN,
    K_THREATENS,
    K_WEAPONS,
    NUM_AGENTS,
    TRIGGER_PERIOD,
    W_PLANES,
)
from smacv2.engine.targets import can_hit, distance_squared, friends, opponents, within

BETTER_CLASS_PERIOD = 4
"""Ticks between two searches for a target of a better class (mechanics 6.8)."""


@rule
def reorder_idle_enemies(unit, world, kinds, rules):
    """Order every idle enemy to attack the agent nearest to it (mechanics 11.4)."""
    period = rules[TRIGGER_PERIOD]
    if period == 0 or (world[TICK] - 1) % period != world[TRIGGER_PHASE]:
        return
    for i in range(rules[NUM_AGENTS], unit.shape[1]):
        if unit[HEALTH, i] > 0 and unit[ORDER, i] == ORDER_IDLE:
            target = nearest_opponent(unit, rules, i)
            if target >= 0 and can_hit(unit, kinds, i, target):
                engage(unit, i, target, ORDER_ATTACK)


@rule
def nearest_opponent(unit, rules, i):
    """Return the living unit of the other team with the nearest centre, or -1."""
    nearest = -1
    best = 0
    first, last = opponents(unit, rules, i)
    for j in range(first, last):
        if unit[HEALTH, j] > 0:
            distance = distance_squared(unit, i, j)
            if nearest < 0 or distance < best:
                nearest, best = j, distance
    return nearest


@rule
def engage(unit, i, target, order):
    """Give a unit an order on a target; a different target than before cancels the wind-up."""
    if unit[ORDER_TARGET, i] != target:
        unit[PHASE, i] = PHASE_READY
    unit[ORDER, i] = order
    unit[ORDER_TARGET, i] = target


@rule
def acquire(unit, kinds, rules, i, centre):
    """Give an idle unit the best target, nearest to unit ``centre`` (mechanics 6.1 to 6.5)."""
    if unit[PASSIVE, i] or kinds[unit[UNIT_TYPE, i], K_SCAN] == 0:
        return
    target = best_target(unit, kinds, rules, i, centre, -1)
    if target >= 0:
        engage(unit, i, target, ORDER_ACQUIRED)


@rule
def best_target(unit, kinds, rules, i, centre, least_class):
    """Return the target of the highest class above ``least_class``, nearest first, or -1."""
    chosen = -1
    best_class = least_class
    best = 0
    scan = kinds[unit[UNIT_TYPE, i], K_SCAN]
    first, last = opponents(unit, rules, i)
    for j in range(first, last):
        if unit[HEALTH, j] <= 0 or not within(unit, i, j, scan):
            continue
        if not can_hit(unit, kinds, i, j):
            continue
        rank = target_class(unit, kinds, i, j)
        distance = distance_squared(unit, centre, j)
        if rank > best_class or (rank == best_class and chosen >= 0 and distance < best):
            chosen, best_class, best = j, rank, distance
    return chosen


@rule
def target_class(unit, kinds, i, j):
    """Return the class of target j: 2 for a threat, plus 1 if i's first weapon can hit it.

    The highest class is attacked first (mechanics 6.3).
    """
    rank = 0
    if kinds[unit[UNIT_TYPE, j], K_THREATENS] or can_hit(unit, kinds, j, i):
        rank += 2
    if kinds[unit[UNIT_TYPE, i], K_WEAPONS + W_PLANES] & kinds[unit[UNIT_TYPE, j], K_PLANES]:
        rank += 1
    return rank


@rule
def look_for_better_class(unit, world, kinds, rules, i):
    """Switch an acquired target when a better one has come into range (mechanics 6.4, 6.8)."""
    if world[TICK] % BETTER_CLASS_PERIOD != 0:
        return
    rank = target_class(unit, kinds, i, unit[ORDER_TARGET, i])
    if rank == 3:
        return
    target = best_target(unit, kinds, rules, i, i, rank)
    if target >= 0:
        engage(unit, i, target, ORDER_ACQUIRED)


@rule
def respond(unit, world, kinds, rules, victim, attacker):
    """Retaliate when idle, and call idle friends nearby for help (mechanics 6.7)."""
    if unit[PASSIVE, victim] or unit[HEALTH, attacker] <= 0:
        return
    retaliate(unit, kinds, victim, attacker)
    if world[TICK] - unit[HELPED_AT, victim] < rules[CALL_PERIOD]:
        return
    unit[HELPED_AT, victim] = world[TICK]
    reach = square(rules[CALL_RADIUS])
    first, last = friends(unit, rules, victim)
    for j in range(first, last):
        if unit[HEALTH, j] > 0 and distance_squared(unit, victim, j) <= reach:
            retaliate(unit, kinds, j, attacker)


@rule
def retaliate(unit, kinds, i, attacker):
    """Attack the attacker if this unit is idle, not passive, and can hit it."""
    if unit[ORDER, i] == ORDER_IDLE and not unit[PASSIVE, i] and can_hit(unit, kinds, i, attacker):
        engage(unit, i, attacker, ORDER_RETALIATE)


@rule
def autocast_heal(unit, kinds, rules, i):
    """Let an idle medivac heal the friend with the lowest life fraction (mechanics 12.4, 12.5)."""
    kind = unit[UNIT_TYPE, i]
    if unit[PASSIVE, i] or unit[ENERGY, i] < kinds[kind, K_AUTOCAST_ENERGY]:
        return
    chosen = -1
    best_health, best_full, best_distance = 0, 1, 0
    first, last = friends(unit, rules, i)
    for j in range(first, last):
        if not wants_healing(unit, kinds, i, j):
            continue
        if not within(unit, i, j, kinds[kind, K_AUTOCAST_RANGE]):
            continue
        if other_medivac_on(unit, kinds, rules, i, j, False):
            continue
        health = int(unit[HEALTH, j])
        full = int(kinds[unit[UNIT_TYPE, j], K_HEALTH])
        distance = distance_squared(unit, i, j)
        lower = health * best_full - best_health * full
        if chosen < 0 or lower < 0 or (lower == 0 and distance < best_distance):
            chosen, best_health, best_full, best_distance = j, health, full, distance
    if chosen >= 0:
        engage(unit, i, chosen, ORDER_HEAL)


@rule
def wants_healing(unit, kinds, i, j):
    """Return whether j is a living, hurt, biological unit other than i."""
    kind = unit[UNIT_TYPE, j]
    if j == i or not kinds[kind, K_BIOLOGICAL]:
        return False
    return 0 < unit[HEALTH, j] < kinds[kind, K_HEALTH]


@rule
def other_medivac_on(unit, kinds, rules, i, target, beams_only):
    """Return whether another medivac has orders to heal the target (mechanics 12.4).

    ``beams_only``: count only those that are healing it now.
    """
    first, last = friends(unit, rules, i)
    for j in range(first, last):
        if (
            j != i
            and unit[ORDER, j] == ORDER_HEAL
            and (unit[PHASE, j] == PHASE_CHANNEL or not beams_only)
            and unit[ORDER_TARGET, j] == target
            and unit[HEALTH, j] > 0
            and kinds[unit[UNIT_TYPE, j], K_HEALS]
        ):
            return True
    return False
