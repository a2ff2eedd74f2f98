"""Effects of shots: damage, missiles, second hits, beams, bursts; healing and regeneration.

``advance_*`` and ``sweep_beams`` are unit rules: they note what is due as events. ``deliver`` and
what it calls run on lane 0 alone, and write any unit.
"""

from smacv2.battle import (
    BEAM_TARGET,
    BEAM_TICK,
    BEAM_TOUCHED,
    BURST,
    BURSTS,
    COLLISION,
    DAMAGED_AT,
    ENERGY,
    EVENT,
    EVENT_BEAMS,
    EVENT_HEAL,
    EVENT_MISSILE,
    EVENT_SHOT,
    EVENT_SPLASH,
    EVENT_SWING,
    HEALED_AT,
    HEALTH,
    MISSILE_TARGET,
    MISSILE_WEAPON,
    MISSILE_X,
    MISSILE_Y,
    NOT_THERE,
    ORDER,
    ORDER_IDLE,
    ORDER_TARGET,
    PHASE,
    PHASE_READY,
    RADIUS,
    SHIELD,
    SPLASH_SLOTS,
    SWING_TARGET,
    SWING_TICKS,
    TICK,
    UNIT_TYPE,
    VELOCITY_X,
    VELOCITY_Y,
    WEAPON,
    WORD_BITS,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import ONE, SHIFT, inverse, length, mul, scaled, square, squared
from smacv2.engine.opponent import respond
from smacv2.engine.tables import (
    DELIVER_BEAM,
    DELIVER_BURST,
    DELIVER_INSTANT,
    DELIVER_MISSILE,
    K_ARMOR,
    K_BURSTS,
    K_ENERGY,
    K_ENERGY_REGEN,
    K_HEAL_COST,
    K_HEAL_RATE,
    K_HEALTH,
    K_HEALTH_REGEN,
    K_PLANES,
    K_SHIELD,
    K_SHIELD_DELAY,
    K_SHIELD_REGEN,
    PLANE_GROUND,
    W_BEAM_EXPIRE_TICKS,
    W_BEAM_POINT_TICKS,
    W_BEAM_POINTS,
    W_BEAM_RADIUS,
    W_BEAM_SPACING,
    W_BEAM_SPLASH_TICKS,
    W_BURST_RADIUS,
    W_DAMAGE,
    W_DELIVERY,
    W_HITS,
    W_SECOND_HIT,
    W_SPEED,
    weapon_offset,
)
from smacv2.engine.targets import distance_squared, opponents

MINIMUM_DAMAGE = ONE // 2
"""Least damage of a hit to life after armour (mechanics 8.1)."""


@rule
def deliver(unit, world, kinds, rules, i):
    """Land the events of one unit; shots and healing need it to be still alive (mechanics 8.5)."""
    event = unit[EVENT, i]
    unit[EVENT, i] = 0
    if event & EVENT_MISSILE:
        target = unit[MISSILE_TARGET, i]
        unit[MISSILE_TARGET, i] = -1
        strike(unit, world, kinds, rules, i, target, unit[MISSILE_WEAPON, i])
    if event & EVENT_SPLASH:
        land_splash(unit, world, kinds, rules, i)
    if event & EVENT_BEAMS:
        land_beams(unit, world, kinds, rules, i)
    if event & EVENT_SWING:
        target = unit[SWING_TARGET, i]
        unit[SWING_TARGET, i] = -1
        strike(unit, world, kinds, rules, i, target, 0)
    if event & EVENT_SHOT and unit[HEALTH, i] > 0:
        launch(unit, world, kinds, rules, i, unit[ORDER_TARGET, i], unit[WEAPON, i])
    if event & EVENT_HEAL and unit[HEALTH, i] > 0:
        mend(unit, world, kinds, i, unit[ORDER_TARGET, i])


@rule
def launch(unit, world, kinds, rules, i, target, weapon):
    """Release a shot: hit at once, or start the missile, the beams or the burst."""
    offset = weapon_offset(weapon, kinds)
    kind = unit[UNIT_TYPE, i]
    delivery = kinds[kind, offset + W_DELIVERY]
    if delivery == DELIVER_INSTANT:
        strike(unit, world, kinds, rules, i, target, weapon)
        if kinds[kind, offset + W_HITS] > 1:
            unit[SWING_TARGET, i] = target
            unit[SWING_TICKS, i] = kinds[kind, offset + W_SECOND_HIT]
    elif delivery == DELIVER_MISSILE:
        unit[MISSILE_TARGET, i] = target
        unit[MISSILE_X, i] = unit[X, i]
        unit[MISSILE_Y, i] = unit[Y, i]
        unit[MISSILE_WEAPON, i] = weapon
    elif delivery == DELIVER_BEAM:
        unit[BEAM_TARGET, i] = target
        unit[BEAM_TICK, i] = 0
        for row in range(BEAM_TOUCHED, BEAM_TOUCHED + 2 * beam_words(unit)):
            unit[row, i] = 0
    elif delivery == DELIVER_BURST:
        die(unit, world, kinds, i)


@rule
def strike(unit, world, kinds, rules, attacker, target, weapon):
    """Apply one hit of a weapon, bonus damage included (mechanics 8.1, 8.2)."""
    kind = unit[UNIT_TYPE, attacker]
    offset = weapon_offset(weapon, kinds)
    amount = kinds[kind, offset + W_DAMAGE + unit[UNIT_TYPE, target]]
    damage(unit, world, kinds, rules, attacker, target, amount)


@rule
def damage(unit, world, kinds, rules, attacker, victim, amount):
    """Damage a unit: its shield absorbs first, armour reduces the rest; it may retaliate."""
    if unit[HEALTH, victim] <= 0:
        return
    absorbed = min(unit[SHIELD, victim], amount)
    unit[SHIELD, victim] -= absorbed
    unit[DAMAGED_AT, victim] = world[TICK]
    rest = amount - absorbed
    if rest > 0:
        rest = max(rest - kinds[unit[UNIT_TYPE, victim], K_ARMOR], MINIMUM_DAMAGE)
        if rest >= unit[HEALTH, victim]:
            die(unit, world, kinds, victim)
            return
        unit[HEALTH, victim] -= rest
    respond(unit, world, kinds, rules, victim, attacker)


@rule
def die(unit, world, kinds, i):
    """Kill a unit; a type that bursts on death bursts once (mechanics 9.2)."""
    unit[HEALTH, i] = 0
    unit[RADIUS, i] = NOT_THERE
    unit[COLLISION, i] = NOT_THERE
    unit[VELOCITY_X, i] = 0
    unit[VELOCITY_Y, i] = 0
    unit[BEAM_TARGET, i] = -1
    if kinds[unit[UNIT_TYPE, i], K_BURSTS] > 0 and unit[BURST, i] == 0:
        unit[BURST, i] = 1
        world[BURSTS] += 1


@rule
def resolve_bursts(unit, world, kinds, rules):
    """Set off waiting bursts, lowest unit first, until no burst has caused another."""
    while world[BURSTS] > 0:
        for i in range(unit.shape[1]):
            if unit[BURST, i] == 1:
                unit[BURST, i] = 2
                world[BURSTS] -= 1
                burst(unit, world, kinds, rules, i)


@rule
def burst(unit, world, kinds, rules, i):
    """Damage every enemy ground unit that touches the burst; no friendly fire (mechanics 9.2)."""
    weapon = kinds[unit[UNIT_TYPE, i], K_BURSTS] - 1
    offset = weapon_offset(weapon, kinds)
    radius = kinds[unit[UNIT_TYPE, i], offset + W_BURST_RADIUS]
    first, last = opponents(unit, rules, i)
    for j in range(first, last):
        kind = unit[UNIT_TYPE, j]
        if unit[HEALTH, j] > 0 and kinds[kind, K_PLANES] & PLANE_GROUND:
            if distance_squared(unit, i, j) <= square(radius + unit[RADIUS, j]):
                strike(unit, world, kinds, rules, i, j, weapon)


# --- Shots under way ---


@rule
def advance_missile(unit, kinds, i):
    """Fly after the target (mechanics 10.1, 10.2); return EVENT_MISSILE on arrival, else 0.

    A missile whose target has died is lost.
    """
    target = unit[MISSILE_TARGET, i]
    if unit[HEALTH, target] <= 0:
        unit[MISSILE_TARGET, i] = -1
        return 0
    speed = kinds[unit[UNIT_TYPE, i], weapon_offset(unit[MISSILE_WEAPON, i], kinds) + W_SPEED]
    dx = unit[X, target] - unit[MISSILE_X, i]
    dy = unit[Y, target] - unit[MISSILE_Y, i]
    distance = length(dx, dy)
    if distance <= speed:
        return EVENT_MISSILE
    factor = inverse(distance)
    unit[MISSILE_X, i] += scaled(dx, speed, factor)
    unit[MISSILE_Y, i] += scaled(dy, speed, factor)
    return 0


@inline_rule
def advance_swing(unit, i):
    """Count down to the second hit of a swing (mechanics 7.5, 8.5); return EVENT_SWING or 0.

    The hit lands on time, whatever has happened since the first one.
    """
    unit[SWING_TICKS, i] -= ONE
    if unit[SWING_TICKS, i] > 0:
        return 0
    unit[SWING_TICKS, i] = 0
    return EVENT_SWING


@inline_rule
def advance_beams(unit, kinds, rules, tick, i):
    """Sweep the beams of a volley, if there is one; return EVENT_BEAMS and EVENT_SPLASH if due."""
    event = 0
    if unit[BEAM_TARGET, i] >= 0:
        event = sweep_beams(unit, kinds, rules, tick, i)
    for word in range(2 * beam_words(unit)):
        if unit[splash_row(unit, tick) + word, i] != 0:
            event |= EVENT_SPLASH
    return event


# --- Beams (mechanics 9.3) ---


@inline_rule
def beam_words(unit):
    """Return the words per beam that hold a bit for each unit of the other side."""
    return (unit.shape[0] - BEAM_TOUCHED) // (2 * (1 + SPLASH_SLOTS))


@inline_rule
def splash_row(unit, tick):
    """Return the first row of the units that a shooter's beams hit in a tick."""
    return BEAM_TOUCHED + 2 * beam_words(unit) * (1 + tick % SPLASH_SLOTS)


@rule
def sweep_beams(unit, kinds, rules, tick, i):
    """Touch units at this tick's points; return EVENT_BEAMS when the main target is hit, else 0."""
    kind = unit[UNIT_TYPE, i]
    offset = weapon_offset(0, kinds)
    unit[BEAM_TICK, i] += 1
    now = unit[BEAM_TICK, i] * ONE
    points = kinds[kind, offset + W_BEAM_POINTS]
    point_ticks = kinds[kind, offset + W_BEAM_POINT_TICKS]
    for point in range((now - ONE) // point_ticks, min(now // point_ticks, points)):
        sample_beams(unit, kinds, rules, tick, i, point)
    expired = now >= points * point_ticks + kinds[kind, offset + W_BEAM_EXPIRE_TICKS]
    return EVENT_BEAMS if expired else 0


@rule
def sample_beams(unit, kinds, rules, tick, i, point):
    """Touch the units at one point of each beam; the second beam sweeps the other way."""
    kind = unit[UNIT_TYPE, i]
    offset = weapon_offset(0, kinds)
    target = unit[BEAM_TARGET, i]
    line_x = unit[X, target] - unit[X, i]
    line_y = unit[Y, target] - unit[Y, i]
    along = kinds[kind, offset + W_BEAM_SPACING] * (
        2 * point - kinds[kind, offset + W_BEAM_POINTS] + 1
    )
    factor = inverse(length(line_x, line_y))
    shift_x, shift_y = scaled(-line_y, along // 2, factor), scaled(line_x, along // 2, factor)
    for beam in range(2):
        side = 1 - 2 * beam
        touch(
            unit, kinds, rules, tick, i, beam,
            unit[X, target] + side * shift_x, unit[Y, target] + side * shift_y,
        )  # fmt: skip


@rule
def touch(unit, kinds, rules, tick, i, beam, x, y):
    """Schedule a hit on every enemy that a beam of this volley touches for the first time.

    Half of a victim's radius counts: recorded play of the real game shows half the damage that
    whole radii would do (mechanics 9.1).
    """
    kind = unit[UNIT_TYPE, i]
    offset = weapon_offset(0, kinds)
    words = beam_words(unit)
    later = splash_row(unit, tick + kinds[kind, offset + W_BEAM_SPLASH_TICKS])
    first, last = opponents(unit, rules, i)
    for j in range(first, last):
        reach = kinds[kind, offset + W_BEAM_RADIUS] + (unit[RADIUS, j] >> 1)
        dx, dy = unit[X, j] - x, unit[Y, j] - y
        if abs(dx) > reach or abs(dy) > reach or squared(dx, dy) > square(reach):
            continue
        if j == unit[BEAM_TARGET, i] or not kinds[unit[UNIT_TYPE, j], K_PLANES] & PLANE_GROUND:
            continue
        word = beam * words + (j - first) // WORD_BITS
        bit = 1 << ((j - first) % WORD_BITS)
        if unit[BEAM_TOUCHED + word, i] & bit == 0:
            unit[BEAM_TOUCHED + word, i] |= bit
            unit[later + word, i] |= bit


@rule
def land_splash(unit, world, kinds, rules, i):
    """Land this tick's beam hits of a shooter on the neighbours of its target."""
    words = beam_words(unit)
    first, last = opponents(unit, rules, i)
    for beam in range(2):
        for j in range(first, last):
            row = splash_row(unit, world[TICK]) + beam * words + (j - first) // WORD_BITS
            if unit[row, i] & (1 << ((j - first) % WORD_BITS)):
                strike(unit, world, kinds, rules, i, j, 0)
    for word in range(2 * words):
        unit[splash_row(unit, world[TICK]) + word, i] = 0


@rule
def land_beams(unit, world, kinds, rules, i):
    """End a volley: each beam hits the main target, unless the shooter has just died."""
    target = unit[BEAM_TARGET, i]
    unit[BEAM_TARGET, i] = -1
    for _ in range(2):
        if target >= 0:
            strike(unit, world, kinds, rules, i, target, 0)


# --- Life ---


@rule
def mend(unit, world, kinds, i, target):
    """Turn a medivac's energy into life of its patient for one tick (mechanics 12).

    One medivac heals a patient at a time: the first one in this tick (mechanics 12.4).
    """
    kind = unit[UNIT_TYPE, i]
    missing = int(kinds[unit[UNIT_TYPE, target], K_HEALTH] - unit[HEALTH, target])
    if unit[HEALTH, target] <= 0 or missing <= 0 or unit[HEALED_AT, target] == world[TICK]:
        unit[PHASE, i] = PHASE_READY
        return
    unit[HEALED_AT, target] = world[TICK]
    amount = min(int(kinds[kind, K_HEAL_RATE]), missing)
    cost = mul(amount, kinds[kind, K_HEAL_COST])
    if cost > unit[ENERGY, i]:
        cost = int(unit[ENERGY, i])
        amount = (cost << SHIFT) // kinds[kind, K_HEAL_COST]
    unit[HEALTH, target] += amount
    unit[ENERGY, i] -= cost
    if unit[ENERGY, i] == 0:
        # The beam breaks; regeneration alone must not keep it going (mechanics 12.6).
        unit[ORDER, i] = ORDER_IDLE
        unit[PHASE, i] = PHASE_READY


@inline_rule
def regenerate(unit, kinds, tick, i):
    """Regenerate zerg life, shields some time after the last damage, and energy (mechanics 13)."""
    if unit[HEALTH, i] <= 0:
        return
    kind = unit[UNIT_TYPE, i]
    regen = kinds[kind, K_HEALTH_REGEN]
    if regen > 0:
        unit[HEALTH, i] = min(unit[HEALTH, i] + regen, kinds[kind, K_HEALTH])
    if kinds[kind, K_SHIELD] > 0:
        if tick - unit[DAMAGED_AT, i] > kinds[kind, K_SHIELD_DELAY] >> SHIFT:
            shield = unit[SHIELD, i] + kinds[kind, K_SHIELD_REGEN]
            unit[SHIELD, i] = min(shield, kinds[kind, K_SHIELD])
    if kinds[kind, K_ENERGY] > 0:
        energy = unit[ENERGY, i] + kinds[kind, K_ENERGY_REGEN]
        unit[ENERGY, i] = min(energy, kinds[kind, K_ENERGY])
