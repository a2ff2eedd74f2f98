"""Counter-based random numbers: (seed, episode, stream, counter) -> bits, without any state.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A draw is a
pure function of its key and counter, so battles do not influence each other and the number of
battles, threads or devices cannot change any of them.
"""

from smacv2.battle import EPISODE, SEED_HIGH, SEED_LOW, TURN
from smacv2.engine.compile import inline_rule, rule

MASK = 0xFFFFFFFF
MULTIPLIER_A = 0xD2511F53
MULTIPLIER_B = 0xCD9E8D57
WEYL_A = 0x9E3779B9
WEYL_B = 0xBB67AE85
ROUNDS = 10

DRAW_BITS = 16
DRAW_MASK = 0xFFFF
DRAWS_PER_WORD = 2
DRAWS_PER_BLOCK = 8
"""Layout of the draws that ``shuffle`` takes from a block of four words."""

# Streams: one per purpose, so that a new use of randomness never shifts another.
STREAM_TEAM = 0
STREAM_POSITION = 1
STREAM_ATTACK_CHANCE = 2
STREAM_HEALTH_LEVEL = 3
STREAM_ENEMY_MASK = 4
STREAM_TRIGGER = 5
STREAM_UPDATE_ORDER = 6
STREAM_COOLDOWN = 7
STREAM_ATTACK_ROLL = 8
STREAM_SIGHTING = 9
STREAM_SPOTTING_ORDER = 10


@inline_rule
def multiply_words(a, b):
    """Return the high and the low word of the product of two 32-bit words.

    The product exceeds 63 bits; masking repairs the sign that compiled code gives it.
    """
    product = int(a) * int(b)
    return (product >> 32) & MASK, product & MASK


@inline_rule
def philox(c0, c1, c2, c3, k0, k1):
    """Return four independent 32-bit words for a 128-bit counter and a 64-bit key."""
    for _ in range(ROUNDS):
        high_a, low_a = multiply_words(MULTIPLIER_A, c0)
        high_b, low_b = multiply_words(MULTIPLIER_B, c2)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0 = (k0 + WEYL_A) & MASK
        k1 = (k1 + WEYL_B) & MASK
    return c0, c1, c2, c3


@inline_rule
def words(world, stream, counter):
    """Return four 32-bit words for one stream and counter of this battle."""
    return philox(
        int(counter) & MASK,
        int(stream),
        int(world[EPISODE]) & MASK,
        0,
        int(world[SEED_LOW]) & MASK,
        int(world[SEED_HIGH]) & MASK,
    )


@rule
def word(world, stream, counter):
    """Return one 32-bit word for one stream and counter of this battle."""
    return words(world, stream, counter)[0]


@inline_rule
def below(bits, limit):
    """Map a 32-bit word to an integer in [0, limit).

    Probabilities of the values differ from 1 / limit by less than 2**-32.
    """
    return (bits * int(limit)) >> 32


@rule
def shuffle(unit, world, count, stream, counter):
    """Shuffle the first ``count`` entries of the ``TURN`` row (Fisher-Yates).

    Each draw takes 16 bits, so probabilities of orders are off by less than count / 2**16.
    """
    block = int(counter) * unit.shape[1]
    w0, w1, w2, w3 = words(world, stream, block)
    left = DRAWS_PER_BLOCK
    for last in range(count - 1, 0, -1):
        if left == 0:
            block += 1
            w0, w1, w2, w3 = words(world, stream, block)
            left = DRAWS_PER_BLOCK
        pick = ((w0 & DRAW_MASK) * (last + 1)) >> DRAW_BITS
        w0 >>= DRAW_BITS
        left -= 1
        if left % DRAWS_PER_WORD == 0:
            w0, w1, w2 = w1, w2, w3
        kept = unit[TURN, last]
        unit[TURN, last] = unit[TURN, pick]
        unit[TURN, pick] = kept
