"""Movement: speed, turning, steering around blockers, collisions (mechanics 5)."""

from numba import int32

from smacv2.battle import (
    BLOCKED,
    FACE_X,
    FACE_Y,
    HEALTH,
    ORDER,
    ORDER_IDLE,
    ORDER_MOVE,
    ORDER_TARGET,
    ORDER_X,
    ORDER_Y,
    PUSH_X,
    PUSH_Y,
    RADIUS,
    STEER,
    SWING_TICKS,
    TICK,
    UNIT_TYPE,
    VELOCITY_X,
    VELOCITY_Y,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import ONE, SHIFT, cross, dot, inverse, length, scaled, square, squared
from smacv2.engine.tables import (
    HEIGHT,
    K_ACCELERATION,
    K_COLLISION,
    K_LAYERS,
    K_SPEED,
    K_TURN_COS,
    K_TURN_SIN,
    WIDTH,
)
from smacv2.engine.targets import same_side

RELAX_PERIOD = 8
RELAX_DISTANCE = ONE // 8
"""Every ``RELAX_PERIOD`` ticks, overlapping idle friends move apart by at most ``RELAX_DISTANCE``
(fixed cells), up to their full radii; the real speed is unknown (mechanics 5.4)."""

STEER_MARGIN = ONE // 16
"""A unit ahead is in the way if the gap to it is below this distance (fixed cells)."""

MAX_BLOCKED = 16
"""Ticks for which a unit keeps walking around others after it was last blocked. With fewer ticks
it turns back into the same gap again and again."""

SHORTEST_TURN = ONE // 32
"""Below this distance (fixed cells) a unit keeps its facing: for so short a vector, rounding error
dominates its direction."""

STEER_TRIES = 3
"""Blockers that a unit steers around in one tick before it pushes ahead."""


@inline_rule
def halt(unit, i):
    """Stand still in this tick."""
    unit[VELOCITY_X, i] = 0
    unit[VELOCITY_Y, i] = 0
    unit[BLOCKED, i] = 0
    unit[STEER, i] = 0


@inline_rule
def walk(unit, kinds, rules, i, dx, dy, distance, reach):
    """Head along (dx, dy), stopping after ``reach`` fixed cells; face and steer on the way.

    ``distance`` is the length of (dx, dy).
    """
    if unit[BLOCKED, i] > 0 or unit[STEER, i] != 0:
        dx, dy = steer(unit, kinds, rules, i, dx, dy)
        distance = length(dx, dy)
    if distance == 0:
        halt(unit, i)
        return
    speed = min(attainable_speed(unit, kinds, i, dx, dy, distance), reach)
    factor = inverse(distance)
    unit[VELOCITY_X, i] = scaled(dx, speed, factor)
    unit[VELOCITY_Y, i] = scaled(dy, speed, factor)
    if distance >= SHORTEST_TURN:
        turn(unit, kinds, i, dx, dy, distance, factor)


@inline_rule
def attainable_speed(unit, kinds, i, dx, dy, distance):
    """Return the speed of this tick: the old speed along (dx, dy) plus one acceleration."""
    kind = unit[UNIT_TYPE, i]
    top = kinds[kind, K_SPEED]
    if kinds[kind, K_ACCELERATION] >= top:
        return top
    along = dot(unit[VELOCITY_X, i], unit[VELOCITY_Y, i], dx, dy)
    kept = max(along, 0) // distance
    return min(kept + kinds[kind, K_ACCELERATION], top)


@inline_rule
def turn(unit, kinds, i, dx, dy, distance, factor):
    """Rotate the facing towards (dx, dy) by at most one tick's turn (mechanics 5.1).

    ``factor`` is the inverse of ``distance``, the length of (dx, dy).
    """
    kind = unit[UNIT_TYPE, i]
    face_x, face_y = unit[FACE_X, i], unit[FACE_Y, i]
    if dot(face_x, face_y, dx, dy) >= int(kinds[kind, K_TURN_COS]) * distance:
        unit[FACE_X, i] = scaled(dx, ONE, factor)
        unit[FACE_Y, i] = scaled(dy, ONE, factor)
        return
    sine = kinds[kind, K_TURN_SIN]
    if cross(face_x, face_y, dx, dy) < 0:
        sine = -sine
    cosine = kinds[kind, K_TURN_COS]
    # Rounded to nearest: rounding down would shorten the vector turn by turn.
    unit[FACE_X, i] = (dot(face_x, -face_y, cosine, sine) + ONE // 2) >> SHIFT
    unit[FACE_Y, i] = (dot(face_y, face_x, cosine, sine) + ONE // 2) >> SHIFT


@inline_rule
def faces(unit, kinds, i, dx, dy, distance, arc_cos):
    """Turn towards (dx, dy) if it is outside the arc; return whether it is inside afterwards.

    ``distance`` is the length of (dx, dy).
    """
    least = int(arc_cos) * distance
    if dot(unit[FACE_X, i], unit[FACE_Y, i], dx, dy) >= least:
        return True
    turn(unit, kinds, i, dx, dy, distance, inverse(distance))
    return dot(unit[FACE_X, i], unit[FACE_Y, i], dx, dy) >= least


@rule
def follow_move_order(unit, kinds, rules, i):
    """Walk to the ordered point; the order ends on arrival (mechanics 4.1)."""
    dx = unit[ORDER_X, i] - unit[X, i]
    dy = unit[ORDER_Y, i] - unit[Y, i]
    if dx == 0 and dy == 0:
        unit[ORDER, i] = ORDER_IDLE
        halt(unit, i)
        return
    distance = length(dx, dy)
    walk(unit, kinds, rules, i, dx, dy, distance, distance)


@rule
def steer(unit, kinds, rules, i, dx, dy):
    """Return a direction around the units in the way, keeping to one side (mechanics 5.7)."""
    for _ in range(STEER_TRIES):
        blocker = find_blocker(unit, kinds, rules, i, dx, dy)
        if blocker < 0:
            return dx, dy
        to_x = unit[X, blocker] - unit[X, i]
        to_y = unit[Y, blocker] - unit[Y, i]
        if unit[STEER, i] == 0:
            unit[STEER, i] = -1 if cross(dx, dy, to_x, to_y) > 0 else 1
        dx, dy = -to_y * unit[STEER, i], to_x * unit[STEER, i]
    return dx, dy


@rule
def find_blocker(unit, kinds, rules, i, dx, dy):
    """Return the blocker: of the units that cannot be pushed aside, the one most ahead, or -1.

    Friends give way unless they hold their ground or are blocked themselves.
    """
    blocker = -1
    worst = 0
    for j in range(unit.shape[1]):
        if j == i or j == unit[ORDER_TARGET, i] or unit[HEALTH, j] <= 0:
            continue
        to_x = unit[X, j] - unit[X, i]
        to_y = unit[Y, j] - unit[Y, i]
        reach = contact(unit, kinds, i, j) + STEER_MARGIN
        if abs(to_x) >= reach or abs(to_y) >= reach or not shares_layer(unit, kinds, i, j):
            continue
        ahead = dot(dx, dy, to_x, to_y)
        if ahead <= 0 or squared(to_x, to_y) >= square(reach):
            continue
        if same_side(rules, i, j) and not firm(unit, j) and unit[BLOCKED, j] == 0:
            continue
        ahead //= max(length(to_x, to_y), 1)
        if ahead > worst:
            worst = ahead
            blocker = j
    return blocker


@inline_rule
def contact(unit, kinds, i, j):
    """Return the centre distance at which two units touch while they move."""
    return kinds[unit[UNIT_TYPE, i], K_COLLISION] + kinds[unit[UNIT_TYPE, j], K_COLLISION]


@inline_rule
def shares_layer(unit, kinds, i, j):
    """Return whether two units can collide at all (mechanics 5.5)."""
    return (kinds[unit[UNIT_TYPE, i], K_LAYERS] & kinds[unit[UNIT_TYPE, j], K_LAYERS]) != 0


@inline_rule
def moving(unit, i):
    """Return whether a unit wants to move in this tick."""
    return unit[VELOCITY_X, i] != 0 or unit[VELOCITY_Y, i] != 0


@inline_rule
def pushed(unit, i):
    """Return whether collisions have moved a unit in this tick."""
    return unit[PUSH_X, i] != 0 or unit[PUSH_Y, i] != 0


@inline_rule
def firm(unit, i):
    """Return whether a unit holds its ground: it does not move, and has an order or a swing."""
    return not moving(unit, i) and (unit[ORDER, i] > ORDER_MOVE or unit[SWING_TICKS, i] > 0)


@rule
def move_all(unit, world, kinds, rules):
    """Move every unit by its velocity, push overlapping units apart, keep all on the map."""
    relaxing = world[TICK] % RELAX_PERIOD == 0
    any_moving = False
    for i in range(unit.shape[1]):
        if unit[HEALTH, i] > 0 and moving(unit, i):
            any_moving = True
            unit[X, i] += unit[VELOCITY_X, i]
            unit[Y, i] += unit[VELOCITY_Y, i]
    if not any_moving and not relaxing:
        return
    for i in range(unit.shape[1]):
        if unit[HEALTH, i] > 0 and (moving(unit, i) or relaxing):
            others = count_near(unit, i) - 1  # a unit is always near itself
            if others > 0:
                separate_from_others(unit, kinds, rules, i, others)
    for i in range(unit.shape[1]):
        if unit[HEALTH, i] > 0 and (moving(unit, i) or pushed(unit, i)):
            settle(unit, kinds, rules, i)


@inline_rule
def count_near(unit, i):
    """Return the number of bounding squares that overlap unit i's, its own included.

    No branches and nothing wider than 32 bits, so that the compiler compares many at a time.
    """
    x, y, radius = unit[X, i], unit[Y, i], unit[RADIUS, i]
    count = 0
    for j in range(unit.shape[1]):
        reach = int32(radius + unit[RADIUS, j])
        dx = int32(abs(int32(unit[X, j] - x)))
        dy = int32(abs(int32(unit[Y, j] - y)))
        count += (dx < reach) & (dy < reach)
    return count


@rule
def separate_from_others(unit, kinds, rules, i, others):
    """Correct the overlaps of unit i with the ``others`` near it; ``settle`` applies the sum.

    Each pair is corrected once: by its moving unit, or if both or neither move, by the first.
    """
    moves_i = moving(unit, i)
    for j in range(unit.shape[1]):
        reach = unit[RADIUS, i] + unit[RADIUS, j]
        if abs(unit[X, j] - unit[X, i]) >= reach or abs(unit[Y, j] - unit[Y, i]) >= reach:
            continue
        if i == j:
            continue
        moves_j = moving(unit, j)
        if not ((j < i and moves_i == moves_j) or (moves_j and not moves_i)):
            if shares_layer(unit, kinds, i, j):
                separate(unit, kinds, rules, i, j)
        others -= 1
        if others == 0:
            return


@rule
def separate(unit, kinds, rules, i, j):
    """Push two neighbours apart if they overlap (mechanics 5.4 and 5.6).

    Moving units keep their collision radii apart; idle friends drift apart to their full radii.
    """
    friends = same_side(rules, i, j)
    moves_i, moves_j = moving(unit, i), moving(unit, j)
    reach = contact(unit, kinds, i, j)
    limit = reach
    if not moves_i and not moves_j:
        if not friends or unit[ORDER, i] != ORDER_IDLE or unit[ORDER, j] != ORDER_IDLE:
            return
        reach = unit[RADIUS, i] + unit[RADIUS, j]
        limit = 2 * RELAX_DISTANCE
    dx = unit[X, j] - unit[X, i]
    dy = unit[Y, j] - unit[Y, i]
    weight_i = share(unit, i, moves_i, friends)
    weight_j = share(unit, j, moves_j, friends)
    if moves_i and moves_j:
        # The unit that walks into the other gives way: units behind must not push those in front.
        into_j = dot(unit[VELOCITY_X, i], unit[VELOCITY_Y, i], dx, dy)
        into_i = -dot(unit[VELOCITY_X, j], unit[VELOCITY_Y, j], dx, dy)
        weight_i = into_j >= into_i
        weight_j = into_i >= into_j
    if squared(dx, dy) >= square(reach) or weight_i + weight_j == 0:
        return
    distance = length(dx, dy)
    if distance == 0:
        dx, distance = 1, 1
    # Round up, so that a resolved pair no longer overlaps.
    depth = min(reach - distance + 1, limit)
    factor = inverse(distance)
    shift_x, shift_y = scaled(dx, depth, factor), scaled(dy, depth, factor)
    total = weight_i + weight_j
    unit[PUSH_X, i] -= half_or_all(shift_x, weight_i, total)
    unit[PUSH_Y, i] -= half_or_all(shift_y, weight_i, total)
    unit[PUSH_X, j] += half_or_all(shift_x, weight_j, total)
    unit[PUSH_Y, j] += half_or_all(shift_y, weight_j, total)


@inline_rule
def share(unit, i, moves, friends):
    """Return a unit's part in a correction: 0 holds its ground, 1 yields (mechanics 5.6)."""
    if moves:
        return 1
    if not friends or firm(unit, i):
        return 0
    return 1


@inline_rule
def half_or_all(shift, weight, total):
    """Return ``shift * weight / total`` for weights 0 or 1, rounding away from zero."""
    if weight == 0:
        return 0
    if total == 1:
        return shift
    if shift >= 0:
        return (shift + 1) >> 1
    return -((1 - shift) >> 1)


@inline_rule
def settle(unit, kinds, rules, i):
    """Apply a unit's correction, keep it on the map and count how long it has been blocked."""
    push_x, push_y = unit[PUSH_X, i], unit[PUSH_Y, i]
    radius = kinds[unit[UNIT_TYPE, i], K_COLLISION]
    unit[X, i] = min(max(unit[X, i] + push_x, radius), rules[WIDTH] - radius)
    unit[Y, i] = min(max(unit[Y, i] + push_y, radius), rules[HEIGHT] - radius)
    velocity_x, velocity_y = unit[VELOCITY_X, i], unit[VELOCITY_Y, i]
    lost = -dot(velocity_x, velocity_y, push_x, push_y)
    if 2 * lost > squared(velocity_x, velocity_y) > 0:
        unit[BLOCKED, i] = MAX_BLOCKED
    elif unit[BLOCKED, i] > 0:
        unit[BLOCKED, i] -= 1
    if unit[BLOCKED, i] == 0:
        unit[STEER, i] = 0
    unit[PUSH_X, i] = 0
    unit[PUSH_Y, i] = 0
