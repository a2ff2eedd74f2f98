"""Behaviour of units without orders: the map's trigger, acquisition (mechanics 6, 11)."""

from smacv2.battle import (
    ENERGY,
    HEALTH,
    HELPED_AT,
    ORDER,
    ORDER_ACQUIRED,
    ORDER_ATTACK,
    ORDER_FOLLOW,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_MOVE,
    ORDER_RETALIATE,
    ORDER_TARGET,
    PASSIVE,
    PATIENT,
    PHASE,
    PHASE_READY,
    STANCE,
    STANCE_HEALING,
    SWING_TICKS,
    TICK,
    TRIGGER_PHASE,
    UNIT_TYPE,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import ONE, square
from smacv2.engine.tables import (
    CALL_PERIOD,
    CALL_RADIUS,
    HEALERS_FOLLOW,
    K_AUTOCAST_ENERGY,
    K_AUTOCAST_RANGE,
    K_BIOLOGICAL,
    K_HEALS,
    K_HEALTH,
    K_PLANES,
    K_SCAN,
    K_THREATENS,
    K_TURRET,
    K_WEAPONS,
    NUM_AGENTS,
    TRIGGER_PERIOD,
    W_PLANES,
)
from smacv2.engine.targets import can_hit, distance_squared, friends, opponents, within

BETTER_CLASS_PERIOD = 4
"""Ticks between two searches for a target of a better class (mechanics 6.8)."""

BEST_CLASS = 3
"""The class of a threat that the first weapon can hit (``target_class``)."""

KEEP_MARGIN = ONE
"""Cells beyond its scan range at which a unit gives up a target it has acquired (mechanics 6.4)."""


@inline_rule
def look(unit, kinds, rules, tick, scripted, i):
    """End a unit's order if it has become void; find something to do for a unit without one.

    ``scripted``: whether the map's script gives orders in this tick.
    """
    order = unit[ORDER, i]
    if unit[HEALTH, i] <= 0 or order == ORDER_MOVE:
        return
    if order == ORDER_IDLE:
        if scripted and i >= rules[NUM_AGENTS]:
            obey_script(unit, kinds, rules, i)
    elif order != ORDER_FOLLOW and holds(unit, kinds, rules, i):
        if order == ORDER_ACQUIRED and tick % BETTER_CLASS_PERIOD == 0:
            look_for_better_class(unit, kinds, rules, i)
        return
    elif order != ORDER_FOLLOW or unit[HEALTH, unit[ORDER_TARGET, i]] <= 0:
        unit[ORDER, i] = ORDER_IDLE
        unit[PHASE, i] = PHASE_READY
    order = unit[ORDER, i]
    # A unit between the two hits of a swing does nothing else.
    if (order != ORDER_IDLE and order != ORDER_FOLLOW) or unit[SWING_TICKS, i] > ONE:
        return
    if not unit[PASSIVE, i] or kinds[unit[UNIT_TYPE, i], K_TURRET]:
        find_target(unit, kinds, rules, i)


@inline_rule
def holds(unit, kinds, rules, i):
    """Return whether an order to attack or heal is still to be carried out.

    Two medivacs may choose one patient in the same tick; the later one in order of units leaves it.
    """
    kind, target = unit[UNIT_TYPE, i], unit[ORDER_TARGET, i]
    if unit[HEALTH, target] <= 0:
        return False
    if unit[ORDER, i] == ORDER_HEAL:
        hurt = unit[HEALTH, target] < kinds[unit[UNIT_TYPE, target], K_HEALTH]
        if not hurt or unit[ENERGY, i] <= 0:
            return False
        return unit[PASSIVE, i] or not is_patient_of_another(unit, rules, i, target, i)
    if unit[ORDER, i] != ORDER_ACQUIRED:
        return True
    margin = 0 if unit[PASSIVE, i] else KEEP_MARGIN
    return within(unit, i, target, kinds[kind, K_SCAN] + margin)


# --- The map's script ---


@inline_rule
def script_gives_orders(world, rules, tick):
    """Return whether the map's script orders idle enemies in a tick (mechanics 11.4)."""
    period = rules[TRIGGER_PERIOD]
    return period != 0 and (tick - 1) % period == world[TRIGGER_PHASE]


@rule
def obey_script(unit, kinds, rules, i):
    """Order an idle enemy to attack the agent nearest to it, or to follow it if it cannot hit it.

    Healers have no attack to be ordered; they stay, or under ``enemy_medivacs="with_side"`` follow
    the nearest fighter of their side.
    """
    if kinds[unit[UNIT_TYPE, i], K_HEALS]:
        if rules[HEALERS_FOLLOW]:
            follow(unit, i, nearest_fighter(unit, kinds, rules, i))
        return
    target = nearest_opponent(unit, rules, i)
    if target < 0:
        return
    if can_hit(unit, kinds, i, target):
        engage(unit, i, target, ORDER_ATTACK)
    else:
        follow(unit, i, target)


@inline_rule
def follow(unit, i, target):
    """Let a unit walk after another one, if there is one."""
    if target >= 0:
        engage(unit, i, target, ORDER_FOLLOW)


@rule
def nearest_opponent(unit, rules, i):
    """Return the living unit of the other team with the nearest centre, or -1."""
    nearest = -1
    best = int(0)
    first, last = opponents(unit, rules, i)
    for j in range(first, last):
        if unit[HEALTH, j] > 0:
            distance = distance_squared(unit, i, j)
            if nearest < 0 or distance < best:
                nearest, best = j, distance
    return nearest


@rule
def nearest_fighter(unit, kinds, rules, i):
    """Return the living friend with the nearest centre that does not heal, or -1."""
    nearest = -1
    best = int(0)
    first, last = friends(unit, rules, i)
    for j in range(first, last):
        if unit[HEALTH, j] > 0 and not kinds[unit[UNIT_TYPE, j], K_HEALS]:
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


# --- Acquisition ---


@rule
def find_target(unit, kinds, rules, i):
    """Give a unit the best target around; a healer heals (mechanics 6.1 to 6.5)."""
    kind = unit[UNIT_TYPE, i]
    if kinds[kind, K_HEALS]:
        autocast_heal(unit, kinds, rules, i)
        return
    if kinds[kind, K_SCAN] == 0:
        return
    centre = i
    if kinds[kind, K_TURRET] and unit[ORDER_TARGET, i] >= 0:
        # A colossus looks for targets around the one it has just lost (mechanics 6.5).
        centre = unit[ORDER_TARGET, i]
    target = best_target(unit, kinds, rules, i, centre, -1)
    if target >= 0:
        engage(unit, i, target, ORDER_ACQUIRED)
    elif unit[ORDER, i] == ORDER_IDLE:
        unit[ORDER_TARGET, i] = -1


@rule
def best_target(unit, kinds, rules, i, centre, least_class):
    """Return the target of the highest class above ``least_class``, nearest first, or -1."""
    chosen = -1
    best_class = least_class
    best = int(0)
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
def look_for_better_class(unit, kinds, rules, i):
    """Switch an acquired target when a better one has come into range (mechanics 6.4, 6.8)."""
    rank = target_class(unit, kinds, i, unit[ORDER_TARGET, i])
    if rank == BEST_CLASS:
        return
    target = best_target(unit, kinds, rules, i, i, rank)
    if target >= 0:
        engage(unit, i, target, ORDER_ACQUIRED)


# --- Being hit ---


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


# --- Healing ---


@rule
def autocast_heal(unit, kinds, rules, i):
    """Let a medivac heal the friend with the lowest life fraction (mechanics 12.4, 12.5)."""
    kind = unit[UNIT_TYPE, i]
    if unit[ENERGY, i] < kinds[kind, K_AUTOCAST_ENERGY]:
        return
    chosen = -1
    best_health, best_full, best_distance = int(0), int(1), int(0)
    first, last = friends(unit, rules, i)
    for j in range(first, last):
        if not wants_healing(unit, kinds, i, j):
            continue
        if not within(unit, i, j, kinds[kind, K_AUTOCAST_RANGE]):
            continue
        if is_patient_of_another(unit, rules, i, j, unit.shape[1]):
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
def is_patient_of_another(unit, rules, i, target, end):
    """Return whether a medivac before unit ``end``, not i, had orders to heal the target."""
    first, last = friends(unit, rules, i)
    for j in range(first, min(last, end)):
        if unit[PATIENT, j] == target and j != i:
            return True
    return False


@rule
def is_being_healed(unit, rules, i, target):
    """Return whether another medivac healed the target in the last tick (mechanics 12.4)."""
    first, last = friends(unit, rules, i)
    for j in range(first, last):
        if unit[PATIENT, j] == target and j != i and unit[STANCE, j] & STANCE_HEALING:
            return True
    return False
