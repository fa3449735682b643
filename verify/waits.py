"""Promise 10: each deadlock that was told names a cycle of waits, as they stood where its edge was written.

A fold of `waits` of its own. Which edges of a cycle routers leave out of their graph is their affair: told is a cycle
of sessions that do wait for one another. Where records are gone, since a newer one of their key has come, that is said:
what they would show is not guessed at.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_wait
from keylane.schemas.events import Ended, Refused
from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key

from .findings import Findings
from .history import Entry, Span
from .lane import Handlers, Lane

Step = tuple[str, str, str]
"""A session, the resource that it waits for, and the session that holds that."""
GONE = "records of waits are not there any more, which a newer one of their key has replaced"


class Told(NamedTuple):
    """A deadlock, by the event that refused a request for it."""

    event: Ended
    lane: Lane
    at: int
    steps: list[Step]
    position: int


class Deadlocks:
    """Notes the deadlocks of one lane for `Cycles`."""

    def __init__(self, lane: Lane, cycles: Cycles) -> None:
        self.lane = lane
        self.cycles = cycles
        self.handlers: Handlers = {Ended: self.on_ended, Refused: self.on_refused}

    def on_ended(self, event: Ended, at: int) -> None:
        if event.error is None or event.error.code != "DEADLOCK" or event.repeat or event.coalesced:
            return
        steps = self._steps(event, event.run, at)
        if steps is None:
            return
        if event.waits_position is None:
            message = f"{event.run} was refused as a deadlock, and no edge is named that closed the cycle"
            self.lane.violation(10, message, self.lane.event(at))
        else:
            self.cycles.told.append(Told(event, self.lane, at, steps, event.waits_position))

    def on_refused(self, event: Refused, at: int) -> None:
        if event.code == "DEADLOCK" and not event.repeat and self._steps(event, event.request, at) is not None:
            message = f"{event.request} was refused as a deadlock as it came, when nobody could see that it waits"
            self.lane.violation(10, message, self.lane.event(at))

    def _steps(self, event: Any, request: str, at: int) -> list[Step] | None:
        """Who waits for whom, in a cycle; None where the path is none."""
        path = event.cycle
        if len(path) < 4 or len(path) % 2 or len(set(path[::2])) < len(path) // 2:
            message = f"{request} was refused as a deadlock by a path that is no cycle: {' → '.join(path)}"
            self.lane.violation(10, message, self.lane.event(at))
            return None
        return [(path[i], path[i + 1], path[(i + 2) % len(path)]) for i in range(0, len(path), 2)]


class Cycles:
    """All records of `waits`, and all deadlocks that were told."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.records: list[tuple[int, bytes, WaitEdge | LaneLoaded | None]] = []
        self.told: list[Told] = []
        self.end: int | None = None
        """Where the topic ends, if a recorder says so."""
        self.unreadable = 0

    def reaches(self, span: Span) -> None:
        """The topic was read so far."""
        self.end = span.end

    def take(self, entry: Entry) -> None:
        """A record of `waits`."""
        record = None if entry.value is None else decode_wait(entry.value)
        if isinstance(record, Undecodable):
            self.unreadable += 1
            self.findings.undecided(10, "records of waits cannot be read by this keylane: upgrade it")
        else:
            self.records.append((entry.offset, entry.key or b"", record))

    def close(self) -> None:
        """Judge when all has been read: from the oldest told on, with the waits as they stood then."""
        fold = Waits()
        self.records.sort(key=lambda each: each[0])
        there = iter(self.records)
        following = next(there, None)
        for told in sorted(self.told, key=lambda each: each.position):
            while following is not None and following[0] < told.position:
                fold.apply(following[1], following[2])
                following = next(there, None)
            edge = following[2] if following is not None and following[0] == told.position else None
            self._judge(told, edge, fold)

    def _judge(self, told: Told, edge: Any, fold: Waits) -> None:
        place = f"{topics.WAITS}/0/{told.position}"
        event = told.lane.event(told.at)
        if isinstance(edge, WaitEdge):
            step = (edge.waiter, edge.resource, edge.holder)
            if (edge.request, edge.partition, step) != (told.event.run, told.lane.partition, told.steps[0]):
                message = f"{told.event.run} was refused as a deadlock by an edge that is not its own"
                told.lane.violation(10, message, place, event)
                return
        elif edge is not None or (self.end is not None and told.position >= self.end):
            message = f"{told.event.run} was refused as a deadlock by an edge that was never written"
            told.lane.violation(10, message, place, event)
            return
        if self.unreadable or edge is None or fold.count < told.position:
            self.findings.undecided(10, GONE)
            return
        missing = [step for step in told.steps[1:] if not fold.steps[step]]
        if missing:
            waiter, resource, holder = missing[0]
            message = f"{told.event.run} was refused as a deadlock, in which session {waiter} waits for {resource} of "
            told.lane.violation(10, f"{message}{holder}: at that place in waits it does not", place, event)


class Waits:
    """Who waits for whom: the newest record of each key, but for those of a lane that has been loaded since."""

    def __init__(self) -> None:
        self.count = 0
        """How many records there were: all of them, if the next one's offset says so."""
        self.steps: Counter[Step] = Counter()
        self._edges: dict[bytes, WaitEdge] = {}
        self._of_lane: dict[int, set[bytes]] = {}
        self._claims: dict[int, int] = {}

    def apply(self, key: bytes, record: WaitEdge | LaneLoaded | None) -> None:
        """Take the next record into account."""
        self.count += 1
        self._remove(key)
        if record is None:
            return
        # Whoever writes under a claim has the lane from then on.
        if record.claim > self._claims.get(record.partition, record.claim - 1):
            self._claims[record.partition] = record.claim
            for each in list(self._of_lane.get(record.partition, ())):
                self._remove(each)
        if not isinstance(record, WaitEdge) or record.claim < self._claims[record.partition]:
            return
        if key == edge_key(record.partition, record.claim, record.request):  # else it is nobody's
            self._edges[key] = record
            self._of_lane.setdefault(record.partition, set()).add(key)
            self.steps[record.waiter, record.resource, record.holder] += 1

    def _remove(self, key: bytes) -> None:
        edge = self._edges.pop(key, None)
        if edge is None:
            return
        self._of_lane[edge.partition].remove(key)
        step = (edge.waiter, edge.resource, edge.holder)
        self.steps[step] -= 1
        if not self.steps[step]:
            del self.steps[step]
