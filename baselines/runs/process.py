"""The process of a command: threads, memory, signals, exit status."""

import ctypes
import os
import signal
from typing import Any

import torch

from baselines.errors import UsageError


def prepare_torch(num_threads: int, device: str) -> int:
    """Set threads and allocator for small networks; return the number of threads.

    Raises:
        UsageError: the device does not exist here.
    """
    try:
        torch.zeros(1, device=device).tolist()  # also read: device meta holds no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UsageError(f"--device {device}: not usable here ({reason}); cpu always is") from error
    threads = num_threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    return threads


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks: an update reuses the same tens of megabytes each time.

    By default glibc returns them to the kernel, and page faults take a quarter of an update.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)


class StopRequest:
    """A flag for the loop to read between iterations, set by SIGTERM and the first Ctrl-C.

    `signal` is None, or the number of the received signal. A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: object) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)


def exit_status(stopped: int | None) -> int:
    """Return 130 after Ctrl-C, so that shell loops stop too; else 0, because all is saved."""
    return 130 if stopped == signal.SIGINT else 0
