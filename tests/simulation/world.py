"""The world: one queue of what happens, in the order of true time, and among equals in an order that the seed draws."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from simulation.clocks import MachineClock
from simulation.process import Process

HAPPENINGS_MAX = 100_000
"""A run that has more of them does not come to rest: a loop without waiting, most likely."""


class Endless(Exception):
    """Too much happened."""


class World:
    """Happenings, processes, and what went wrong outside every promise (`faults`: an exception that nobody caught)."""

    def __init__(self, seed: int) -> None:
        self.now_us = 0
        self.happened = 0
        self.processes: dict[str, Process] = {}
        self.uncaught: list[tuple[str, BaseException]] = []
        self.ready: list[Process] = []
        """Processes with tasks to run at this moment."""
        self._order = random.Random(f"order/{seed}").random
        self._queue: list[tuple[int, float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_us: int, happen: Callable[..., object], *arguments: Any) -> None:
        """Let something happen after so much true time."""
        self._count += 1
        heappush(self._queue, (self.now_us + delay_us, self._order(), self._count, happen, arguments))

    def at(self, true_us: int, happen: Callable[..., object], *arguments: Any) -> None:
        """Let something happen at that true time."""
        self.after(max(0, true_us - self.now_us), happen, *arguments)

    def process(self, name: str, clock: MachineClock) -> Process:
        """A new process. Names are never used twice."""
        assert name not in self.processes
        process = self.processes[name] = Process(self, name, clock)
        return process

    def run_until(self, true_us: int) -> None:
        """Let everything happen that is due by then."""
        queue = self._queue
        self._let_run()
        while queue and queue[0][0] <= true_us:
            self.now_us, _, _, happen, arguments = heappop(queue)
            self.happened += 1
            happen(*arguments)
            self._let_run()
            if self.happened > HAPPENINGS_MAX:
                raise Endless
        self.now_us = max(self.now_us, true_us)

    def _let_run(self) -> None:
        ready = self.ready
        while ready:
            ready.pop(int(self._order() * len(ready)) if len(ready) > 1 else 0).run()

    def failed(self, process: Process, error: BaseException) -> None:
        """A task of that process ended with an exception that nobody caught."""
        self.uncaught.append((process.name, error))
