"""20.12 fixed-point arithmetic, the number format of StarCraft II itself.

A value ``v`` is stored as the integer ``round(4096 * v)`` in an ``int32``. Products and squares
are computed in 64 bits, which cannot overflow on a map of up to 256 cells. ``int()`` marks each
widening: it is free in compiled code, and turns NumPy scalars into Python integers otherwise.
"""

import math

from smacv2.engine.compile import inline_rule

SHIFT = 12
ONE = 1 << SHIFT
"""The fixed-point number 1.0."""

INVERSE_SHIFT = 40
"""Fraction bits of the reciprocal of a distance."""


def to_fixed(value: float) -> int:
    """Return ``value`` in units of 1/4096, rounded to nearest."""
    return round(value * ONE)


@inline_rule
def mul(a, b):
    """Return the fixed-point product of ``a`` and ``b``, rounded down."""
    return (int(a) * int(b)) >> SHIFT


@inline_rule
def square(a):
    """Return ``a**2`` exactly."""
    return int(a) * int(a)


@inline_rule
def dot(ax, ay, bx, by):
    """Return the scalar product of two vectors exactly."""
    return int(ax) * int(bx) + int(ay) * int(by)


@inline_rule
def cross(ax, ay, bx, by):
    """Return the z of the vector product exactly: positive if b points to the left of a."""
    return int(ax) * int(by) - int(ay) * int(bx)


@inline_rule
def squared(dx, dy):
    """Return ``dx**2 + dy**2`` exactly (units of 1/4096 squared)."""
    return int(dx) * int(dx) + int(dy) * int(dy)


@inline_rule
def isqrt(n):
    """Return the largest integer whose square is at most ``n`` (0 <= n < 2**52), exactly.

    A float64 square root is corrected by integer comparisons, so the result does not depend on how
    the machine rounds.
    """
    root = int(math.sqrt(float(n)))
    if root * root > n:
        root -= 1
    elif (root + 1) * (root + 1) <= n:
        root += 1
    return root


@inline_rule
def length(dx, dy):
    """Return the length of a vector in units of 1/4096, rounded down."""
    return isqrt(squared(dx, dy))


@inline_rule
def inverse(distance):
    """Return the reciprocal of a distance, for ``scaled``."""
    return (1 << INVERSE_SHIFT) // max(int(distance), 1)


@inline_rule
def scaled(component, wanted, inverse_distance):
    """Return one component of a vector scaled from its distance to length ``wanted``.

    Rounds half away from zero: symmetric in the sign, so mirrored battles move in mirrored ways.
    Components may not exceed the distance, and ``wanted`` must be below 2**20.
    """
    half = 1 << (INVERSE_SHIFT - 1)
    product = int(component) * int(wanted) * inverse_distance
    if product >= 0:
        return (product + half) >> INVERSE_SHIFT
    return -((half - product) >> INVERSE_SHIFT)


@inline_rule
def lowest_bit(bits):
    """Return the index of the lowest bit that is set in a positive integer."""
    index = 0
    while bits & 1 == 0:
        bits >>= 1
        index += 1
    return index
