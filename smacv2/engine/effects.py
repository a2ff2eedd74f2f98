"""Effects of shots: damage, missiles, second hits, beams, bursts; and regeneration."""

from smacv2.battle import (
    BEAM_TARGET,
    BEAM_TICK,
    BEAM_TOUCHED,
    BURST,
    BURSTS,
    DAMAGED_AT,
    ENERGY,
    HEALTH,
    MISSILE_TARGET,
    MISSILE_WEAPON,
    MISSILE_X,
    MISSILE_Y,
    NOT_THERE,
    RADIUS,
    SHIELD,
    SPLASH,
    SPLASH_SLOTS,
    SWING_TARGET,
    SWING_TICKS,
    TICK,
    UNIT_TYPE,
    VELOCITY_X,
    VELOCITY_Y,
    WORD_BITS,
    X,
    Y,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import ONE, SHIFT, inverse, length, scaled, square, squared
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
    K_HEALTH,
    K_HEALTH_REGEN,
    K_PLANES,
    K_SHIELD,
    K_SHIELD_DELAY,
    K_SHIELD_REGEN,
    K_WEAPONS,
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
        for row in range(BEAM_TOUCHED, unit.shape[0]):
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


@rule
def advance_missile(unit, world, kinds, rules, i):
    """Fly after the target and hit it; a dead target loses the missile (mechanics 10.1, 10.2)."""
    target = unit[MISSILE_TARGET, i]
    if unit[HEALTH, target] <= 0:
        unit[MISSILE_TARGET, i] = -1
        return
    kind = unit[UNIT_TYPE, i]
    weapon = unit[MISSILE_WEAPON, i]
    speed = kinds[kind, weapon_offset(weapon, kinds) + W_SPEED]
    dx = unit[X, target] - unit[MISSILE_X, i]
    dy = unit[Y, target] - unit[MISSILE_Y, i]
    distance = length(dx, dy)
    if distance <= speed:
        unit[MISSILE_TARGET, i] = -1
        strike(unit, world, kinds, rules, i, target, weapon)
        return
    factor = inverse(distance)
    unit[MISSILE_X, i] += scaled(dx, speed, factor)
    unit[MISSILE_Y, i] += scaled(dy, speed, factor)


@rule
def advance_swing(unit, world, kinds, rules, i):
    """Land the second hit of a swing on time, whatever has happened since (mechanics 7.5, 8.5)."""
    unit[SWING_TICKS, i] -= ONE
    if unit[SWING_TICKS, i] > 0:
        return
    target = unit[SWING_TARGET, i]
    unit[SWING_TARGET, i] = -1
    unit[SWING_TICKS, i] = 0
    if unit[HEALTH, target] > 0:
        strike(unit, world, kinds, rules, i, target, 0)


@rule
def advance_beams(unit, world, kinds, rules, i):
    """Sweep this tick's sample points; hit the main target when they expire (mechanics 9.3)."""
    kind = unit[UNIT_TYPE, i]
    offset = weapon_offset(0, kinds)
    unit[BEAM_TICK, i] += 1
    now = unit[BEAM_TICK, i] * ONE
    points = kinds[kind, offset + W_BEAM_POINTS]
    point_ticks = kinds[kind, offset + W_BEAM_POINT_TICKS]
    for point in range(points):
        if now - ONE < (point + 1) * point_ticks <= now:
            sample_beams(unit, world, kinds, rules, i, point)
    if now >= points * point_ticks + kinds[kind, offset + W_BEAM_EXPIRE_TICKS]:
        target = unit[BEAM_TARGET, i]
        unit[BEAM_TARGET, i] = -1
        for _ in range(2):
            if unit[HEALTH, target] > 0:
                strike(unit, world, kinds, rules, i, target, 0)


@rule
def sample_beams(unit, world, kinds, rules, i, point):
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
            unit, world, kinds, rules, i, beam,
            unit[X, target] + side * shift_x, unit[Y, target] + side * shift_y,
        )  # fmt: skip


@rule
def touch(unit, world, kinds, rules, i, beam, x, y):
    """Schedule a hit on every enemy that a beam of this volley touches for the first time."""
    kind = unit[UNIT_TYPE, i]
    offset = weapon_offset(0, kinds)
    delay = kinds[kind, offset + W_BEAM_SPLASH_TICKS]
    slot = SPLASH + (world[TICK] + delay) % SPLASH_SLOTS
    words = (unit.shape[0] - BEAM_TOUCHED) // 2
    first, last = opponents(unit, rules, i)
    for j in range(first, last):
        victim_kind = unit[UNIT_TYPE, j]
        if unit[HEALTH, j] <= 0 or j == unit[BEAM_TARGET, i]:
            continue
        if not kinds[victim_kind, K_PLANES] & PLANE_GROUND:
            continue
        reach = kinds[kind, offset + W_BEAM_RADIUS] + unit[RADIUS, j]
        if squared(unit[X, j] - x, unit[Y, j] - y) > square(reach):
            continue
        row = BEAM_TOUCHED + beam * words + (j - first) // WORD_BITS
        bit = 1 << ((j - first) % WORD_BITS)
        if unit[row, i] & bit == 0:
            unit[row, i] |= bit
            unit[slot, j] += 1


@rule
def land_splash(unit, world, kinds, rules, i):
    """Apply the beam hits that reach a unit in this tick; armour reduces each hit."""
    slot = SPLASH + world[TICK] % SPLASH_SLOTS
    hits = unit[slot, i]
    unit[slot, i] = 0
    if hits == 0:
        return
    shooter = beam_shooter(unit, kinds, rules, i)
    kind = unit[UNIT_TYPE, shooter]
    amount = kinds[kind, weapon_offset(0, kinds) + W_DAMAGE + unit[UNIT_TYPE, i]]
    for _ in range(hits):
        damage(unit, world, kinds, rules, shooter, i, amount)


@rule
def beam_shooter(unit, kinds, rules, i):
    """Return the first enemy with a beam weapon, to which beam hits on unit i are attributed."""
    first, last = opponents(unit, rules, i)
    for j in range(first, last):
        kind = unit[UNIT_TYPE, j]
        if kinds[kind, K_WEAPONS + W_DELIVERY] == DELIVER_BEAM:
            return j
    return first


@inline_rule
def regenerate(unit, world, kinds, i):
    """Regenerate zerg life, shields some time after the last damage, and energy (mechanics 13)."""
    kind = unit[UNIT_TYPE, i]
    regen = kinds[kind, K_HEALTH_REGEN]
    if regen > 0:
        unit[HEALTH, i] = min(unit[HEALTH, i] + regen, kinds[kind, K_HEALTH])
    if kinds[kind, K_SHIELD] > 0:
        waited = (world[TICK] - unit[DAMAGED_AT, i]) << SHIFT
        if waited > kinds[kind, K_SHIELD_DELAY]:
            shield = unit[SHIELD, i] + kinds[kind, K_SHIELD_REGEN]
            unit[SHIELD, i] = min(shield, kinds[kind, K_SHIELD])
    if kinds[kind, K_ENERGY] > 0:
        energy = unit[ENERGY, i] + kinds[kind, K_ENERGY_REGEN]
        unit[ENERGY, i] = min(energy, kinds[kind, K_ENERGY])
