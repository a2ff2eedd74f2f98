"""The one place at which a function of fixed shape becomes a CUDA graph."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def graphed(function: Function) -> Function:
    """Return the function itself: on every device, steps run eagerly.

    Learners pass their rollout step and their gradient step through here and call nothing else, so
    that capturing and replaying them needs no change in a learner.
    """
    return function
