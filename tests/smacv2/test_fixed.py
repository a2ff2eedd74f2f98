"""Fixed-point arithmetic and bits."""

from hypothesis import given
from hypothesis import strategies as st

from smacv2.battle import WORD_BITS
from smacv2.engine.compile import python_function
from smacv2.engine.fixed import lowest_bit


@given(st.integers(0, WORD_BITS - 1), st.integers(0, (1 << WORD_BITS) - 1))
def test_the_lowest_bit_of_a_word_is_the_first_that_is_set(lowest: int, others: int) -> None:
    higher = others >> (lowest + 1) << (lowest + 1)
    assert python_function(lowest_bit)(higher | 1 << lowest) == lowest
