"""The lane clock's shell: the one place in the router that reads clocks, and hands them on as values."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from keylane.router.core.records import Now
from keylane.schemas.times import rfc3339


def wall_us() -> int:
    """Wall time in microseconds: only where a lane's tokens start."""
    return time.time_ns() // 1_000


class Clocks(NamedTuple):
    """The clocks of a process, as arguments: those of a simulation run apart and jump."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds."""
    wall_us: Callable[[], int] = wall_us


REAL = Clocks()


class LaneClock:
    """Resumes at the saved value, then follows this process's monotonic clock (design section 4, the lane clock)."""

    def __init__(
        self, saved_ms: int, monotonic: Callable[[], float] = time.monotonic, wall_us: Callable[[], int] = wall_us
    ) -> None:
        self._monotonic = monotonic
        self._wall_us = wall_us
        self._saved_ms = saved_ms
        self._loaded_s = monotonic()

    def now(self) -> Now:
        """Lane time, with wall time beside it for people."""
        clock_ms = self._saved_ms + int((self._monotonic() - self._loaded_s) * 1_000)
        return Now(clock_ms, rfc3339(self._wall_us() / 1_000_000))
