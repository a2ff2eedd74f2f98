"""Play a battle rule by several lanes, each a thread, and check that the lanes never race.

Rules must run uncompiled (``NUMBA_DISABLE_JIT=1``). Between two meetings no lane may read or write
a number that another lane writes: then the order in which lanes run cannot change the result.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np

SECONDS_TO_WAIT = 60
MEETING, END = "a meeting", "the end"


class RaceError(AssertionError):
    """Two lanes that used one number between two meetings, or met unequally often."""


class Watched:
    """An array that notes which numbers a lane reads and writes until the next meeting."""

    def __init__(self, array: np.ndarray, numbers: np.ndarray, meetings: "Meetings"):
        self.shape = array.shape
        self._array, self._numbers, self._meetings = array, numbers, meetings

    def __getitem__(self, index: Any) -> Any:
        """Return a number, or a watched view of a part."""
        number = self._numbers[index]
        if isinstance(number, np.ndarray):
            return Watched(self._array[index], number, self._meetings)
        self._meetings.reads[threading.current_thread()].add(int(number))
        return self._array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write a number."""
        self._meetings.writes[threading.current_thread()].add(int(self._numbers[index]))
        self._array[index] = value


class Meetings:
    """The meetings of some lanes, and what each lane has used since the last one."""

    def __init__(self, lanes: int):
        self.reads: dict[threading.Thread, set[int]] = {}
        self.writes: dict[threading.Thread, set[int]] = {}
        self.errors: list[BaseException] = []
        self._purposes: list[str] = []
        self._barrier = threading.Barrier(lanes, self._check, timeout=SECONDS_TO_WAIT)
        self._next_number = 0

    def watch(self, array: np.ndarray) -> Watched:
        """Return an array whose use by lanes is noted."""
        first = self._next_number
        self._next_number += array.size
        numbers = np.arange(first, self._next_number).reshape(array.shape)
        return Watched(array, numbers, self)

    def meet(self, purpose: str = MEETING) -> None:
        """Wait for the other lanes.

        Raises:
            threading.BrokenBarrierError: Another lane has failed.
        """
        self._purposes.append(purpose)
        self._barrier.wait()

    def play(self, rule: Callable[..., Any], args: Sequence[Any], lane: int, lanes: int) -> None:
        """Play one lane; keep its error."""
        try:
            rule(*args, lane, lanes)
            self.meet(END)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            self.errors.append(error)
            self._barrier.abort()

    def _check(self) -> None:
        """Compare what the lanes have used; they all wait here meanwhile."""
        if len(set(self._purposes)) > 1:
            raise RaceError("a lane has ended while another one waits for it")
        self._purposes.clear()
        for writer, written in self.writes.items():
            for other in self.writes.keys() - {writer}:
                shared = written & (self.reads[other] | self.writes[other])
                if shared:
                    raise RaceError(f"{other.name} uses what {writer.name} writes: {shared}")
        for noted in (*self.reads.values(), *self.writes.values()):
            noted.clear()


def play_by_lanes(rule: Callable[..., Any], args: Sequence[Any], lanes: int) -> None:
    """Call ``rule(*args, lane, lanes)`` for each lane at once; ``meet`` waits for all lanes.

    Args:
        rule: A rule of the engine whose last two parameters are lane and number of lanes.
        args: Its other arguments; arrays are changed in place. Arrays that cannot be written are
            not watched.

    Raises:
        RaceError: The lanes race, or one meets more often than another.
    """
    assert numba.config.DISABLE_JIT, "compiled rules cannot wait for each other here"
    meetings = Meetings(lanes)
    watched = [meetings.watch(arg) if _is_writable(arg) else arg for arg in args]
    threads = [
        threading.Thread(
            target=meetings.play, args=(rule, watched, lane, lanes), name=f"lane {lane}"
        )
        for lane in range(lanes)
    ]
    for thread in threads:
        meetings.reads[thread], meetings.writes[thread] = set(), set()
    with everywhere("meet", meetings.meet):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if meetings.errors:
        raise meetings.errors[0]


def _is_writable(arg: Any) -> bool:
    return isinstance(arg, np.ndarray) and arg.flags.writeable


@contextmanager
def everywhere(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a function in all modules of the engine that have imported it."""
    modules = [
        module
        for key, module in sys.modules.items()
        if key.startswith("smacv2.engine.") and hasattr(module, name)
    ]
    originals = [getattr(module, name) for module in modules]
    for module in modules:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            setattr(module, name, original)
