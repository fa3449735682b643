"""The meter that lanes are given in the simulation: it counts nothing, and shows the truth what each turn left.

A lane's living state is to be what a load would make of the journal (promise 9): here the two can be held together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keylane.journal.port import Place
from keylane.router.core.lane import Lane
from keylane.router.core.records import Output

if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.truth import Truth


class RouterNotes:
    """What stands in the place of a router's metrics: whose lanes these are."""

    def __init__(self, truth: Truth, process: Process) -> None:
        self.truth = truth
        self.process = process


class SimulatedMeter:
    """See `router.meter.LaneMeter`."""

    def __init__(self, notes: RouterNotes, partition: int, inputs: Sequence[str]) -> None:
        self._truth = notes.truth
        self._process = notes.process
        self._partition = partition

    def places(self) -> list[Place]:
        return []

    def loaded(self, lane: Lane, positions: Mapping[str, int], now_ms: int) -> None:
        self._truth.lanes.loaded(self._process, self._partition, now_ms)

    def turned(self, lane: Lane, positions: Mapping[str, int], now_ms: int) -> None:
        self._truth.lanes.turned(self._process, lane)

    def reloads(self, reason: str) -> None:
        if reason in ("culprit", "fault"):
            self._truth.lanes.turn_failed(self._process, self._partition, reason)

    def halted(self) -> None:
        self._truth.lanes.has_halted(self._process, self._partition)

    def committed(self, outputs: Sequence[Output], turn_s: float, commit_s: float) -> None:
        pass

    def stands(self) -> None:
        pass

    def close(self) -> None:
        pass
