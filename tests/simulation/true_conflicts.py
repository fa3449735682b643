"""How a person closes a conflict, held against what lanes have said and whom they ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulation.true_runs import RulesSeen, RunSeen

from keylane.schemas.events import Refused, Resolved
from keylane.schemas.requests import Resolution


class TrueConflicts:
    """What becomes of each Resolution; and what there is to close."""

    def __init__(self, seen: RulesSeen) -> None:
        self._seen = seen
        self.handlers: dict[type, Callable[[Any, int], None]] = {Resolved: self._resolved, Refused: self._refused}

    def asking(self, partition: int) -> list[str]:
        """The artifacts that only a decision settles now."""
        return [run.asked_by for run in self._parked(partition)]

    def published(self, partition: int) -> list[str]:
        """All artifacts of a lane, oldest first."""
        return self._seen.artifacts[partition]

    def _parked(self, partition: int) -> list[RunSeen]:
        return [run for (at, _), run in self._seen.runs.items() if at == partition and run.state == "Parked"]

    def _resolved(self, event: Resolved, partition: int) -> None:
        said = self._seen.record(event, partition)
        assert isinstance(said, Resolution)
        if (said.id, said.conflict, said.by, said.note) != (event.resolution, event.conflict, event.by, event.note):
            self._seen.broken("closed otherwise", f"{event.conflict} was closed, and {said.id} says something else")
        if event.conflict in self.asking(partition):
            self._seen.broken("closed undecided", f"{event.conflict} was closed, and its run waits for a decision")
        if not _may_be(event.conflict, partition, event.seq):
            self._seen.broken("closed unsaid", f"{event.conflict} was closed, and its lane has not said so much")

    def _refused(self, event: Refused, partition: int) -> None:
        said = self._seen.record(event, partition)
        if event.repeat or not isinstance(said, Resolution):
            return
        grounds = {
            "BAD_RECORD": said.conflict in self.asking(partition),
            "NOT_FOUND": not _may_be(said.conflict, partition, event.seq),
        }
        if not grounds.get(event.code, False):
            self._seen.broken("not closed", f"{said.id} for {said.conflict}: {event.code}, without ground")


def _may_be(conflict: str, partition: int, seq: int) -> bool:
    """Whether a lane may have published it before its event `seq`."""
    return conflict in {f"{partition}-{each}" for each in range(1, seq)}
