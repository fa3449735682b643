"""The one clock of holders, of items and of locks: it runs on while the machine is suspended."""

from __future__ import annotations

import time

# On Linux only the first of the two counts suspend, on macOS the second.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_ms() -> int:
    """Milliseconds on a clock that also runs while the machine is suspended."""
    return time.clock_gettime_ns(CLOCK) // 1_000_000
