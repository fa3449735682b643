"""From a scenario that breaks a promise to a short one that breaks it too: less happens, to fewer, in simpler ways.

Greedy: whatever can go while a violation of the same kind remains, goes. The order of the attempts is fixed, so the
result is too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec.structs import replace
from simulation.run import run
from simulation.scenario import Handling, Scenario
from simulation.wire import QUIET

T = TypeVar("T")

RUNS_MAX = 600


class Shrinking:
    """One scenario on its way to a short one. `runs` counts what that has cost."""

    def __init__(self, scenario: Scenario, kinds: frozenset[str], runs_max: int = RUNS_MAX) -> None:
        self.scenario = scenario
        self.kinds = kinds
        self.runs = 0
        self._runs_max = runs_max

    def still_breaks(self, scenario: Scenario) -> bool:
        """Whether it breaks a promise in the same way; it is kept then."""
        if scenario == self.scenario or self.runs >= self._runs_max:
            return False
        self.runs += 1
        if not any(violation.kind in self.kinds for violation in run(scenario).violations):
            return False
        self.scenario = scenario
        return True

    def shrink(self) -> Scenario:
        """Until nothing more can go."""
        before = None
        while before != self.scenario and self.runs < self._runs_max:
            before = self.scenario
            for simpler in _simpler(self.scenario):
                self.still_breaks(simpler(self.scenario))
            self._fewer(lambda scenario: scenario.faults, lambda scenario, kept: replace(scenario, faults=kept))
            self._fewer(lambda scenario: scenario.acts, lambda scenario, kept: replace(scenario, acts=kept))
        return self.scenario

    def _fewer(
        self, of: Callable[[Scenario], tuple[T, ...]], to: Callable[[Scenario, tuple[T, ...]], Scenario]
    ) -> None:
        """Without halves, then quarters, down to without each one."""
        size = len(of(self.scenario)) // 2
        while size >= 1:
            start = 0
            while start < len(of(self.scenario)):
                whole = of(self.scenario)
                if not self.still_breaks(to(self.scenario, whole[:start] + whole[start + size :])):
                    start += size
            size //= 2


def _simpler(scenario: Scenario) -> Iterator[Callable[[Scenario], Scenario]]:
    yield lambda now: replace(now, net=QUIET)
    yield lambda now: replace(now, skew_ppm=0)
    yield lambda now: replace(now, handling=Handling(steps_max=1, step_ms_max=50))
    for field in ("fails", "fails_for_good", "retries", "dawdles", "blocked", "inconsistent"):
        yield lambda now, field=field: replace(now, handling=replace(now.handling, **{field: 0.0}))  # type: ignore[misc]
    yield lambda now: replace(now, workers=now.workers[:1], faults=_of_those_there(now, workers=1))
    yield lambda now: replace(now, routers=1, faults=_of_those_there(now, routers=1))
    yield lambda now: replace(
        now, agents=1, acts=tuple(replace(act, agent=0) for act in now.acts), faults=_of_those_there(now, agents=1)
    )
    yield lambda now: replace(now, partitions=1)
    yield lambda now: replace(now, policy=replace(now.policy, actions={}))


def _of_those_there(scenario: Scenario, **counts: int) -> Sequence[object]:
    """The faults of the processes that are left."""
    sizes = {"routers": scenario.routers, "workers": len(scenario.workers), "agents": scenario.agents} | counts
    there = {f"{kind[:-1]}{number}" for kind, size in sizes.items() for number in range(size)}
    return tuple(fault for fault in scenario.faults if not fault.whom or fault.whom in there)


def shrunk(scenario: Scenario, kinds: frozenset[str], runs_max: int = RUNS_MAX) -> Scenario:
    """A short scenario that breaks a promise in one of these ways, as the given one does."""
    return Shrinking(scenario, kinds, runs_max).shrink()
