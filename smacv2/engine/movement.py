"""Movement: speed, turning, steering around blockers, collisions (mechanics 5)."""

from numba import int32

from smacv2.battle import (
    BLOCKED,
    COLLISION,
    FACE_X,
    FACE_Y,
    HEALTH,
    ORDER,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_MOVE,
    ORDER_TARGET,
    PATIENT,
    PHASE,
    PHASE_CHANNEL,
    PUSH_X,
    PUSH_Y,
    RADIUS,
    STANCE,
    STANCE_BLOCKED,
    STANCE_FIRM,
    STANCE_HEALING,
    STANCE_WALKING,
    STEER,
    SWING_TICKS,
    UNIT_TYPE,
    VELOCITY_X,
    VELOCITY_Y,
    WORD_BITS,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import (
    ONE,
    SHIFT,
    cross,
    dot,
    inverse,
    length,
    lowest_bit,
    scaled,
    square,
    squared,
)
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
def steer(unit, kinds, rules, i, dx, dy):
    """Return a direction around the units in the way, keeping to one side (mechanics 5.7)."""
    near = bits_near(unit, rules, i, 0)
    for _ in range(STEER_TRIES):
        blocker = find_blocker(unit, kinds, rules, i, dx, dy, near)
        if blocker < 0:
            return dx, dy
        to_x = unit[X, blocker] - unit[X, i]
        to_y = unit[Y, blocker] - unit[Y, i]
        if unit[STEER, i] == 0:
            unit[STEER, i] = -1 if cross(dx, dy, to_x, to_y) > 0 else 1
        dx, dy = -to_y * unit[STEER, i], to_x * unit[STEER, i]
    return dx, dy


@rule
def find_blocker(unit, kinds, rules, i, dx, dy, near):
    """Return the blocker: of the units that cannot be pushed aside, the one most ahead, or -1.

    ``near`` are the ``bits_near`` from unit 0 on.
    """
    blocker = -1
    most_ahead, its_distance = int(0), 1
    for first in range(0, unit.shape[1], WORD_BITS):
        bits = near if first == 0 else bits_near(unit, rules, i, first)
        while bits != 0:
            j = first + lowest_bit(bits)
            bits &= bits - 1
            to_x, to_y = unit[X, j] - unit[X, i], unit[Y, j] - unit[Y, i]
            ahead = dot(dx, dy, to_x, to_y)
            far = squared(to_x, to_y) >= square(contact(unit, i, j) + STEER_MARGIN)
            if ahead <= 0 or far or not shares_layer(unit, kinds, i, j):
                continue
            distance = length(to_x, to_y)
            if ahead * its_distance > most_ahead * distance:
                most_ahead, its_distance = ahead, distance
                blocker = j
    return blocker


@inline_rule
def bits_near(unit, rules, i, first):
    """Return as bits which of the units from ``first`` on may be blockers of unit i.

    Friends give way unless they held their ground or were blocked themselves in the last tick.
    """
    bits = 0
    for j in range(first, min(first + WORD_BITS, unit.shape[1])):
        reach = contact(unit, i, j) + STEER_MARGIN
        near = abs(unit[X, j] - unit[X, i]) < reach and abs(unit[Y, j] - unit[Y, i]) < reach
        held = unit[STANCE, j] & (STANCE_FIRM | STANCE_BLOCKED) != 0
        if near and (held or not same_side(rules, i, j)) and j != i and j != unit[ORDER_TARGET, i]:
            bits |= 1 << (j - first)
    return bits


@inline_rule
def contact(unit, i, j):
    """Return the centre distance at which two living units touch while they move."""
    return unit[COLLISION, i] + unit[COLLISION, j]


@inline_rule
def shares_layer(unit, kinds, i, j):
    """Return whether two units can collide at all (mechanics 5.5)."""
    return (kinds[unit[UNIT_TYPE, i], K_LAYERS] & kinds[unit[UNIT_TYPE, j], K_LAYERS]) != 0


@inline_rule
def moving(unit, i):
    """Return whether a unit wants to move in this tick."""
    return unit[VELOCITY_X, i] != 0 or unit[VELOCITY_Y, i] != 0


@inline_rule
def firm(unit, i):
    """Return whether a unit holds its ground: it does not move, and has an order or a swing."""
    return not moving(unit, i) and (unit[ORDER, i] > ORDER_MOVE or unit[SWING_TICKS, i] > 0)


@inline_rule
def step(unit, i):
    """Move a unit by its velocity, into others if it must; dead units have none."""
    unit[X, i] += unit[VELOCITY_X, i]
    unit[Y, i] += unit[VELOCITY_Y, i]


# --- Collisions (mechanics 5.4 and 5.6) ---


@inline_rule
def add_up_pushes(unit, kinds, rules, relaxing, i, lanes):
    """Add up the corrections that a unit's overlaps with its neighbours ask of it.

    Both units of a pair compute the pair's correction, and each one keeps its own part.
    ``relaxing``: whether idle friends move apart in this tick.
    """
    push_x, push_y = 0, 0
    # On a CPU it pays to ask first whether there are any neighbours at all.
    if unit[HEALTH, i] > 0 and (lanes > 1 or count_touching(unit, relaxing, i) > 0):
        push_x, push_y = sum_of_pushes(unit, kinds, rules, relaxing, i)
    unit[PUSH_X, i] = push_x
    unit[PUSH_Y, i] = push_y


@inline_rule
def count_touching(unit, relaxing, i):
    """Return the number of units that may push the living unit i.

    In a tick of relaxing these are all within full radii, else those within collision radii of
    which one moves. There are no branches, so that the compiler compares many at a time.
    """
    count = 0
    if relaxing:
        for j in range(unit.shape[1]):
            count += touches(unit, RADIUS, i, j)
        return count - 1  # a unit touches itself
    if moving(unit, i):
        for j in range(unit.shape[1]):
            count += touches(unit, COLLISION, i, j)
        return count - 1
    for j in range(unit.shape[1]):
        moves = int32(unit[VELOCITY_X, j] | unit[VELOCITY_Y, j]) != 0
        count += touches(unit, COLLISION, i, j) & moves
    return count


@inline_rule
def touches(unit, row, i, j):
    """Return whether two units are nearer than the sum of their radii in ``row``.

    Distances are cut off at that sum, so that squares need no more than 32 bits.
    """
    reach = max(int32(unit[row, i] + unit[row, j]), 0)
    dx = min(int32(abs(int32(unit[X, j] - unit[X, i]))), reach)
    dy = min(int32(abs(int32(unit[Y, j] - unit[Y, i]))), reach)
    return int32(int32(dx * dx) + int32(dy * dy)) < int32(reach * reach)


@rule
def sum_of_pushes(unit, kinds, rules, relaxing, i):
    """Return the sum (x, y) of the corrections by the units that ``count_touching`` counts."""
    push_x, push_y = 0, 0
    for first in range(0, unit.shape[1], WORD_BITS):
        bits = bits_touching(unit, relaxing, i, first)
        while bits != 0:
            j = first + lowest_bit(bits)
            bits &= bits - 1
            if shares_layer(unit, kinds, i, j):
                away_x, away_y = push_by(unit, rules, i, j)
                push_x += away_x
                push_y += away_y
    return push_x, push_y


@inline_rule
def bits_touching(unit, relaxing, i, first):
    """Return as bits which of the units from ``first`` on may push unit i."""
    any_kind = relaxing or moving(unit, i)
    row = RADIUS if relaxing else COLLISION
    bits = 0
    for j in range(first, min(first + WORD_BITS, unit.shape[1])):
        if touches(unit, row, i, j) and j != i and (any_kind or moving(unit, j)):
            bits |= 1 << (j - first)
    return bits


@rule
def push_by(unit, rules, i, j):
    """Return unit i's part (x, y) of the correction that separates it from unit j.

    Moving units keep their collision radii apart; idle friends drift apart to their full radii.
    """
    friends = same_side(rules, i, j)
    moves_i, moves_j = moving(unit, i), moving(unit, j)
    reach = contact(unit, i, j)
    limit = reach
    if not moves_i and not moves_j:
        if not friends or unit[ORDER, i] != ORDER_IDLE or unit[ORDER, j] != ORDER_IDLE:
            return 0, 0
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
    if not weight_i or squared(dx, dy) >= square(reach):
        return 0, 0
    distance = length(dx, dy)
    if distance == 0:
        dx, distance = 1 if i < j else -1, 1
    # Round up, so that a resolved pair no longer overlaps.
    depth = min(reach - distance + 1, limit)
    factor = inverse(distance)
    shift_x, shift_y = -scaled(dx, depth, factor), -scaled(dy, depth, factor)
    if weight_j:
        return half(shift_x), half(shift_y)
    return shift_x, shift_y


@inline_rule
def share(unit, i, moves, friends):
    """Return a unit's part in a correction: 0 holds its ground, 1 yields (mechanics 5.6)."""
    if moves:
        return 1
    if not friends or firm(unit, i):
        return 0
    return 1


@inline_rule
def half(shift):
    """Return half a shift, rounded away from zero, so that both halves suffice."""
    if shift >= 0:
        return (shift + 1) >> 1
    return -((1 - shift) >> 1)


@inline_rule
def settle(unit, kinds, rules, i):
    """Apply a unit's correction, keep it on the map and count how long it has been blocked."""
    push_x, push_y = unit[PUSH_X, i], unit[PUSH_Y, i]
    velocity_x, velocity_y = unit[VELOCITY_X, i], unit[VELOCITY_Y, i]
    if unit[HEALTH, i] <= 0 or (push_x | push_y | velocity_x | velocity_y) == 0:
        return
    radius = kinds[unit[UNIT_TYPE, i], K_COLLISION]
    unit[X, i] = min(max(unit[X, i] + push_x, radius), rules[WIDTH] - radius)
    unit[Y, i] = min(max(unit[Y, i] + push_y, radius), rules[HEIGHT] - radius)
    lost = -dot(velocity_x, velocity_y, push_x, push_y)
    if 2 * lost > squared(velocity_x, velocity_y) > 0:
        unit[BLOCKED, i] = MAX_BLOCKED
    elif unit[BLOCKED, i] > 0:
        unit[BLOCKED, i] -= 1
    if unit[BLOCKED, i] == 0:
        unit[STEER, i] = 0


@inline_rule
def take_stance(unit, i):
    """Note how a unit has ended the tick, for others to read in the next one."""
    healing = unit[ORDER, i] == ORDER_HEAL and unit[HEALTH, i] > 0
    stance = 0
    if moving(unit, i):
        stance |= STANCE_WALKING
    if firm(unit, i):
        stance |= STANCE_FIRM
    if unit[BLOCKED, i] > 0:
        stance |= STANCE_BLOCKED
    if healing and unit[PHASE, i] == PHASE_CHANNEL:
        stance |= STANCE_HEALING
    unit[STANCE, i] = stance
    unit[PATIENT, i] = unit[ORDER_TARGET, i] if healing else -1
