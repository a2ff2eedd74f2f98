"""The weapon cycle and the healing beam: approach, wind up, fire, pause (mechanics 7 and 12)."""

from smacv2.battle import (
    BACKSWING,
    COOLDOWN,
    ENERGY,
    HEALTH,
    ORDER,
    ORDER_ACQUIRED,
    ORDER_IDLE,
    ORDER_TARGET,
    PHASE,
    PHASE_CHANNEL,
    PHASE_READY,
    PHASE_TICKS,
    PHASE_WINDUP,
    TICK,
    UNIT_TYPE,
    WEAPON,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.effects import launch
from smacv2.engine.fixed import ONE, SHIFT, length, mul
from smacv2.engine.movement import faces, halt, moving, walk
from smacv2.engine.opponent import look_for_better_class, other_medivac_on
from smacv2.engine.rng import STREAM_COOLDOWN, below, word
from smacv2.engine.tables import (
    K_HEAL_ARC_COS,
    K_HEAL_COST,
    K_HEAL_RANGE,
    K_HEAL_RATE,
    K_HEAL_SLOP,
    K_HEALTH,
    K_NUM_WEAPONS,
    K_PLANES,
    K_SCAN,
    K_SPEED,
    W_ARC_COS,
    W_BACKSWING,
    W_DAMAGE_POINT,
    W_JITTER_LOW,
    W_JITTER_SPAN,
    W_PERIOD,
    W_PLANES,
    W_RANGE,
    W_SLOP,
    weapon_offset,
)
from smacv2.engine.targets import radii


@rule
def fight(unit, world, kinds, rules, i, cooldown_before):
    """Carry out an attack order for one tick; return False if the order has ended.

    ``cooldown_before`` is the cooldown at the end of the last tick (fixed ticks).
    """
    if unit[ORDER, i] == ORDER_ACQUIRED:
        look_for_better_class(unit, world, kinds, rules, i)
    target = unit[ORDER_TARGET, i]
    if unit[HEALTH, target] <= 0:
        return end_order(unit, i)
    dx = unit[X, target] - unit[X, i]
    dy = unit[Y, target] - unit[Y, i]
    centre = length(dx, dy)
    distance = centre - radii(unit, i, target)
    scan = kinds[unit[UNIT_TYPE, i], K_SCAN]
    if unit[ORDER, i] == ORDER_ACQUIRED and distance > scan + ONE:
        return end_order(unit, i)
    if unit[PHASE, i] == PHASE_WINDUP and wind_up(unit, world, kinds, rules, i, distance):
        return True
    weapon, reach = choose_weapon(unit, kinds, i, target, distance)
    if weapon < 0:
        approach(unit, kinds, rules, i, target, dx, dy, centre, distance - reach)
        return True
    halt(unit, i)
    arc_cos = kinds[unit[UNIT_TYPE, i], weapon_offset(weapon, kinds) + W_ARC_COS]
    if faces(unit, kinds, i, dx, dy, centre, arc_cos):
        start_shot(unit, world, kinds, rules, i, weapon, cooldown_before)
    return True


@rule
def end_order(unit, i):
    """Become idle and return False."""
    unit[ORDER, i] = ORDER_IDLE
    unit[PHASE, i] = PHASE_READY
    return False


@inline_rule
def choose_weapon(unit, kinds, i, target, distance):
    """Return the first weapon that reaches the target, or -1, and the longest usable range."""
    kind = unit[UNIT_TYPE, i]
    planes = kinds[unit[UNIT_TYPE, target], K_PLANES]
    longest = 0
    for weapon in range(kinds[kind, K_NUM_WEAPONS]):
        offset = weapon_offset(weapon, kinds)
        if kinds[kind, offset + W_PLANES] & planes:
            if distance <= kinds[kind, offset + W_RANGE]:
                return weapon, longest
            longest = max(longest, kinds[kind, offset + W_RANGE])
    return -1, longest


@inline_rule
def approach(unit, kinds, rules, i, target, dx, dy, distance, missing):
    """Walk ``missing`` cells along (dx, dy), but not before the backswing ends (mechanics 7.4).

    A walking target also takes a step in this tick. A pursuer that stopped at the edge of its range
    to the target's present place would be out of range again, and never shoot.
    """
    if unit[BACKSWING, i] > 0:
        halt(unit, i)
        return
    if moving(unit, target):
        missing += kinds[unit[UNIT_TYPE, target], K_SPEED]
    # One unit of 1/4096 further, so that rounding cannot stop the unit just outside its range.
    walk(unit, kinds, rules, i, dx, dy, distance, missing + 1)


@inline_rule
def start_shot(unit, world, kinds, rules, i, weapon, cooldown_before):
    """Begin the wind-up, or fire at once, when the cooldown allows it (mechanics 7.2)."""
    damage_point = kinds[unit[UNIT_TYPE, i], weapon_offset(weapon, kinds) + W_DAMAGE_POINT]
    cooldown = unit[COOLDOWN, i]
    if cooldown > damage_point:
        return
    # The wind-up overlaps the end of the cooldown: if the cooldown has just reached the damage
    # point, the shot leaves as soon as the cooldown is over.
    crossed = cooldown_before > damage_point
    wait = cooldown if crossed else damage_point
    unit[WEAPON, i] = weapon
    if wait <= 0:
        fire(unit, world, kinds, rules, i, weapon)
    else:
        unit[PHASE, i] = PHASE_WINDUP
        unit[PHASE_TICKS, i] = wait


@inline_rule
def wind_up(unit, world, kinds, rules, i, distance):
    """Continue a wind-up; return False if the target has left range plus slop (mechanics 7.3)."""
    weapon = unit[WEAPON, i]
    offset = weapon_offset(weapon, kinds)
    kind = unit[UNIT_TYPE, i]
    if distance > kinds[kind, offset + W_RANGE] + kinds[kind, offset + W_SLOP]:
        unit[PHASE, i] = PHASE_READY
        return False
    halt(unit, i)
    unit[PHASE_TICKS, i] -= ONE
    if unit[PHASE_TICKS, i] <= 0:
        fire(unit, world, kinds, rules, i, weapon)
    return True


@rule
def fire(unit, world, kinds, rules, i, weapon):
    """Release the shot and start the cooldown with its random delay (mechanics 1.4, 7.2)."""
    kind = unit[UNIT_TYPE, i]
    offset = weapon_offset(weapon, kinds)
    bits = word(world, STREAM_COOLDOWN, world[TICK] * unit.shape[1] + i)
    jitter = kinds[kind, offset + W_JITTER_LOW] + below(bits, kinds[kind, offset + W_JITTER_SPAN])
    unit[COOLDOWN, i] = kinds[kind, offset + W_PERIOD] + jitter
    unit[BACKSWING, i] = kinds[kind, offset + W_BACKSWING]
    unit[PHASE, i] = PHASE_READY
    launch(unit, world, kinds, rules, i, unit[ORDER_TARGET, i], weapon)


@rule
def heal(unit, kinds, rules, i):
    """Carry out a heal order for one tick: follow, face, turn energy into life (mechanics 12)."""
    target = unit[ORDER_TARGET, i]
    kind = unit[UNIT_TYPE, i]
    missing = int(kinds[unit[UNIT_TYPE, target], K_HEALTH] - unit[HEALTH, target])
    if unit[HEALTH, target] <= 0 or missing <= 0 or unit[ENERGY, i] <= 0:
        end_order(unit, i)
        halt(unit, i)
        return
    reach = kinds[kind, K_HEAL_RANGE]
    slop = kinds[kind, K_HEAL_SLOP] if unit[PHASE, i] == PHASE_CHANNEL else 0
    dx = unit[X, target] - unit[X, i]
    dy = unit[Y, target] - unit[Y, i]
    centre = length(dx, dy)
    distance = centre - radii(unit, i, target)
    if distance > reach:
        approach(unit, kinds, rules, i, target, dx, dy, centre, distance - reach)
    else:
        halt(unit, i)
    if distance > reach + slop:
        unit[PHASE, i] = PHASE_READY
        return
    facing = faces(unit, kinds, i, dx, dy, centre, kinds[kind, K_HEAL_ARC_COS])
    if not facing or other_medivac_on(unit, kinds, rules, i, target, True):
        unit[PHASE, i] = PHASE_READY
        return
    unit[PHASE, i] = PHASE_CHANNEL
    amount = min(int(kinds[kind, K_HEAL_RATE]), missing)
    cost = mul(amount, kinds[kind, K_HEAL_COST])
    if cost > unit[ENERGY, i]:
        cost = int(unit[ENERGY, i])
        amount = (cost << SHIFT) // kinds[kind, K_HEAL_COST]
    unit[HEALTH, target] += amount
    unit[ENERGY, i] -= cost
    if unit[ENERGY, i] == 0:
        # The beam breaks; regeneration alone must not keep it going (mechanics 12.6).
        end_order(unit, i)
