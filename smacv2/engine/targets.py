"""Relations of two units: teams, distance, whether one can hit the other."""

from smacv2.battle import RADIUS, UNIT_TYPE, X, Y
from smacv2.engine.compile import inline_rule
from smacv2.engine.fixed import square, squared
from smacv2.engine.tables import (
    K_HITS,
    K_PLANES,
    NUM_AGENTS,
)


@inline_rule
def same_side(rules, i, j):
    """Return whether two units are on the same team."""
    return (i < rules[NUM_AGENTS]) == (j < rules[NUM_AGENTS])


@inline_rule
def opponents(unit, rules, i):
    """Return the index range [first, last) of the other team."""
    if i < rules[NUM_AGENTS]:
        return rules[NUM_AGENTS], unit.shape[1]
    return 0, rules[NUM_AGENTS]


@inline_rule
def friends(unit, rules, i):
    """Return the index range [first, last) of the unit's own team."""
    if i < rules[NUM_AGENTS]:
        return 0, rules[NUM_AGENTS]
    return rules[NUM_AGENTS], unit.shape[1]


@inline_rule
def distance_squared(unit, i, j):
    """Return the squared centre distance of two units (fixed cells, squared)."""
    return squared(unit[X, j] - unit[X, i], unit[Y, j] - unit[Y, i])


@inline_rule
def radii(unit, i, j):
    """Return the sum of two living units' radii: their centre distance minus edge distance."""
    return unit[RADIUS, i] + unit[RADIUS, j]


@inline_rule
def within(unit, i, j, reach):
    """Return whether two units are at most ``reach`` apart, edge to edge."""
    return distance_squared(unit, i, j) <= square(radii(unit, i, j) + reach)


@inline_rule
def can_hit(unit, kinds, i, j):
    """Return whether unit i has a weapon for a plane that unit j is on (mechanics 6.2)."""
    return (kinds[unit[UNIT_TYPE, i], K_HITS] & kinds[unit[UNIT_TYPE, j], K_PLANES]) != 0
