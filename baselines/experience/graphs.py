"""The one place at which a function of fixed shape can become a CUDA graph."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def graphed(function: Function) -> Function:
    """Return the function itself: on every device, steps run eagerly.

    Learners of one seed pass their gradient step through this function, so that capturing and
    replaying the step needs no change in a learner. Stacked seeds of PQN do not yet.
    """
    return function
