"""A unit's turn: approach, wind up, fire, pause, heal (mechanics 7 and 12).

Every order comes down to the same three questions: where to, how far, and what to release on
arrival. So there is one call each of ``length``, ``walk`` and ``faces``.
"""

from smacv2.battle import (
    BACKSWING,
    COOLDOWN,
    EVENT_HEAL,
    EVENT_SHOT,
    ORDER,
    ORDER_FOLLOW,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_MOVE,
    ORDER_TARGET,
    ORDER_X,
    ORDER_Y,
    PHASE,
    PHASE_CHANNEL,
    PHASE_READY,
    PHASE_TICKS,
    PHASE_WINDUP,
    STANCE,
    STANCE_WALKING,
    SWING_TICKS,
    UNIT_TYPE,
    WEAPON,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import ONE, length
from smacv2.engine.movement import faces, halt, walk
from smacv2.engine.opponent import is_being_healed
from smacv2.engine.rng import STREAM_COOLDOWN, below, word
from smacv2.engine.tables import (
    K_HEAL_ARC_COS,
    K_HEAL_RANGE,
    K_HEAL_SLOP,
    K_NUM_WEAPONS,
    K_PLANES,
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

NO_ARC = 2 * ONE
"""In place of the cosine of an arc: the target is out of reach, so the facing does not matter."""


@rule
def act(unit, world, kinds, rules, tick, i):
    """Carry out a living unit's order for one tick; return the EVENT bits of what it releases."""
    cooldown_before = unit[COOLDOWN, i]
    unit[COOLDOWN, i] = max(cooldown_before - ONE, 0)
    unit[BACKSWING, i] = max(unit[BACKSWING, i] - ONE, 0)
    order = unit[ORDER, i]
    if order == ORDER_IDLE or unit[SWING_TICKS, i] > 0:
        halt(unit, i)
        return 0
    target = max(unit[ORDER_TARGET, i], 0)
    if order == ORDER_MOVE:
        dx, dy = unit[ORDER_X, i] - unit[X, i], unit[ORDER_Y, i] - unit[Y, i]
    else:
        dx, dy = unit[X, target] - unit[X, i], unit[Y, target] - unit[Y, i]
    centre = length(dx, dy)
    arc_cos, weapon = NO_ARC, 0
    if order == ORDER_MOVE:
        way = centre
        if centre == 0:
            unit[ORDER, i] = ORDER_IDLE
    elif order == ORDER_FOLLOW:
        way = way_to(unit, kinds, target, centre - radii(unit, i, target))
    elif order == ORDER_HEAL:
        way, arc_cos = plan_healing(unit, kinds, i, target, centre - radii(unit, i, target))
    else:
        distance = centre - radii(unit, i, target)
        if unit[PHASE, i] == PHASE_WINDUP and keeps_aim(unit, kinds, i, distance):
            halt(unit, i)
            return wind_up(unit, world, kinds, tick, i)
        way, arc_cos, weapon = plan_shot(unit, kinds, i, target, distance)
    if way > 0 and unit[BACKSWING, i] == 0:
        walk(unit, kinds, rules, i, dx, dy, centre, way)
    else:
        halt(unit, i)
    ready = arc_cos != NO_ARC and faces(unit, kinds, i, dx, dy, centre, arc_cos)
    if order == ORDER_HEAL:
        return begin_healing(unit, rules, i, target, ready)
    return start_shot(unit, world, kinds, tick, i, weapon, cooldown_before) if ready else 0


@inline_rule
def way_to(unit, kinds, target, missing):
    """Return how far to walk towards a target, of which ``missing`` cells are left to its edge.

    A walking target takes a step in this tick too. A pursuer that stopped at the edge of its range
    to the target's present place would be out of range again, and never shoot.
    """
    if missing <= 0:
        return 0
    if unit[STANCE, target] & STANCE_WALKING:
        missing += kinds[unit[UNIT_TYPE, target], K_SPEED]
    # One unit of 1/4096 further, so that rounding cannot stop the unit just outside its range.
    return missing + 1


# --- Shooting ---


@inline_rule
def plan_shot(unit, kinds, i, target, distance):
    """Return the way to walk into range, the cosine of the arc to fire in, and the weapon.

    The weapon is the first one that reaches the target; then there is no way to walk.
    """
    kind = unit[UNIT_TYPE, i]
    planes = kinds[unit[UNIT_TYPE, target], K_PLANES]
    longest = 0
    for weapon in range(kinds[kind, K_NUM_WEAPONS]):
        offset = weapon_offset(weapon, kinds)
        if kinds[kind, offset + W_PLANES] & planes:
            if distance <= kinds[kind, offset + W_RANGE]:
                return 0, kinds[kind, offset + W_ARC_COS], weapon
            longest = max(longest, kinds[kind, offset + W_RANGE])
    return way_to(unit, kinds, target, distance - longest), NO_ARC, 0


@inline_rule
def keeps_aim(unit, kinds, i, distance):
    """Return whether a wind-up lasts; a target beyond range plus slop ends it (mechanics 7.3)."""
    offset = weapon_offset(unit[WEAPON, i], kinds)
    kind = unit[UNIT_TYPE, i]
    if distance <= kinds[kind, offset + W_RANGE] + kinds[kind, offset + W_SLOP]:
        return True
    unit[PHASE, i] = PHASE_READY
    return False


@inline_rule
def wind_up(unit, world, kinds, tick, i):
    """Continue a wind-up; return EVENT_SHOT if the shot leaves in this tick, else 0."""
    unit[PHASE_TICKS, i] -= ONE
    if unit[PHASE_TICKS, i] > 0:
        return 0
    return fire(unit, world, kinds, tick, i, unit[WEAPON, i], -unit[PHASE_TICKS, i])


@inline_rule
def start_shot(unit, world, kinds, tick, i, weapon, cooldown_before):
    """Begin the wind-up, or fire at once, when the cooldown allows it (mechanics 7.2).

    Returns EVENT_SHOT if the shot leaves in this tick, else 0. ``cooldown_before`` is the cooldown
    at the end of the last tick (fixed ticks).
    """
    damage_point = kinds[unit[UNIT_TYPE, i], weapon_offset(weapon, kinds) + W_DAMAGE_POINT]
    cooldown = unit[COOLDOWN, i]
    if cooldown > damage_point:
        return 0
    # The wind-up overlaps the end of the cooldown: if the cooldown has just reached the damage
    # point, the shot leaves as soon as the cooldown is over.
    crossed = cooldown_before > damage_point
    wait = cooldown if crossed else damage_point
    unit[WEAPON, i] = weapon
    if wait <= 0:
        late = ONE - cooldown_before if 0 < cooldown_before < ONE else 0
        return fire(unit, world, kinds, tick, i, weapon, late)
    unit[PHASE, i] = PHASE_WINDUP
    unit[PHASE_TICKS, i] = wait
    return 0


@rule
def fire(unit, world, kinds, tick, i, weapon, late):
    """Start the cooldown with its random delay (mechanics 1.4, 7.2); return EVENT_SHOT.

    The shot was due ``late`` fixed ticks before the end of this tick, so the next one is due that
    much earlier: over many shots, the interval is the weapon's period.
    """
    kind = unit[UNIT_TYPE, i]
    offset = weapon_offset(weapon, kinds)
    bits = word(world, STREAM_COOLDOWN, int(tick) * unit.shape[1] + i)
    jitter = kinds[kind, offset + W_JITTER_LOW] + below(bits, kinds[kind, offset + W_JITTER_SPAN])
    unit[COOLDOWN, i] = kinds[kind, offset + W_PERIOD] + jitter - late
    unit[BACKSWING, i] = kinds[kind, offset + W_BACKSWING]
    unit[PHASE, i] = PHASE_READY
    return EVENT_SHOT


# --- Healing ---


@inline_rule
def plan_healing(unit, kinds, i, target, distance):
    """Return the way to walk into range, and the cosine of the arc in which the beam holds."""
    kind = unit[UNIT_TYPE, i]
    reach = kinds[kind, K_HEAL_RANGE]
    slop = kinds[kind, K_HEAL_SLOP] if unit[PHASE, i] == PHASE_CHANNEL else 0
    arc_cos = kinds[kind, K_HEAL_ARC_COS] if distance <= reach + slop else NO_ARC
    return way_to(unit, kinds, target, distance - reach), arc_cos


@inline_rule
def begin_healing(unit, rules, i, target, ready):
    """Hold the beam on the patient if it is ``ready`` and free; return EVENT_HEAL, or 0 if not."""
    if not ready or is_being_healed(unit, rules, i, target):
        unit[PHASE, i] = PHASE_READY
        return 0
    unit[PHASE, i] = PHASE_CHANNEL
    return EVENT_HEAL
