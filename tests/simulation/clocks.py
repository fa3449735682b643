"""Simulated time: one true time, which nobody in the simulation can read, and the clocks of machines, which differ.

Times are whole microseconds, so that the same sums come out anywhere.
"""

from __future__ import annotations

PPM = 1_000_000
WALL_START_US = 1_790_000_000 * 1_000_000
"""Some day in 2026: wall time where the simulation begins."""


class MachineClock:
    """What a machine's clocks say. `rate_ppm`: how much faster than true time they run, in millionths.

    Monotonic time rests while the machine is suspended and never goes back; boot time counts that; wall time is set.
    """

    def __init__(self, rate_ppm: int = 0, wall_ahead_us: int = 0, started_us: int = 0) -> None:
        self.rate_ppm = rate_ppm
        self.wall_ahead_us = wall_ahead_us
        self._boot_us = started_us
        """What boot time said at true time 0."""
        self._suspensions: list[tuple[int, int]] = []
        """When each ended, in true time, and how long it lasted by this clock."""

    def boot_us(self, true_us: int) -> int:
        return self._boot_us + true_us + true_us * self.rate_ppm // PPM

    def monotonic_us(self, true_us: int) -> int:
        now_us = true_us + true_us * self.rate_ppm // PPM + self._boot_us
        if self._suspensions:
            now_us -= sum(us for ended_us, us in self._suspensions if ended_us <= true_us)
        return now_us

    def wall_us(self, true_us: int) -> int:
        return WALL_START_US + true_us + self.wall_ahead_us

    def suspended(self, from_us: int, until_us: int) -> None:
        """The machine has slept between these true times: monotonic time did not pass."""
        self._suspensions.append((until_us, self.boot_us(until_us) - self.boot_us(from_us)))

    def true_after_us(self, monotonic_us: int) -> int:
        """How much true time passes, at least, while the clock counts so much."""
        return monotonic_us * PPM // (PPM + self.rate_ppm) + 1
