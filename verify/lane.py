"""What was read of one lane, decoded once and kept as small as the rules that join topics allow.

Events are folded as they come; what lies in other topics may come earlier or later, so those rules look when all
has been read (`close`). No promise is judged here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keylane.schemas import topics
from keylane.schemas.codec import (
    Undecodable,
    decode_conflict,
    decode_dead_letter,
    decode_item,
    decode_request,
    decode_result,
    decode_state,
)
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.items import ItemRecord, SessionOpened, WorkItem
from keylane.schemas.requests import Cancellation, LockRequest, WorkRequest
from keylane.schemas.results import Completed, Failed, Progress, WorkerHeartbeat, WorkerLeft
from keylane.schemas.state import (
    LANE_KEY,
    LaneRecord,
    Member,
    RefusedRequest,
    Run,
    StateRecord,
    WaitLink,
    WorkerSession,
)

from .commands import Said, said_by
from .findings import Findings
from .fold import Fold
from .history import Entry, Span
from .seen import RunSeen

Handlers = dict[type, Callable[[Any, int], None]]
"""What a rule does with an event of a type, and with its offset."""


def input_of(event: Any) -> tuple[str, int] | None:
    """The topic and offset of the record that an event answers; None where it names none."""
    topic, _, offset = event.input.partition("/")
    return (topic, int(offset)) if offset.isdecimal() else None


class Asked(NamedTuple):
    """A record of `requests`: as much of it as a rule asks for. `kind` is empty where it cannot be decoded."""

    offset: int
    kind: str
    id: str
    about: str
    """Of a cancellation: the request that it is about."""
    deadline_ms: int | None = None
    idempotency_key: str | None = None


class Reported(NamedTuple):
    """A record of `results`, likewise. `number` of a heartbeat, token of a report."""

    offset: int
    kind: str
    session: str
    run: str = ""
    number: int = 0


class Lane:
    """One partition of every topic."""

    def __init__(self, partition: int, findings: Findings) -> None:
        self.partition = partition
        self.findings = findings
        self.fold = Fold()
        self.begins: dict[str, int] = {}
        """By topic: the offset of the first record."""
        self.read_to: dict[str, int] = {}
        """By topic, where a recorder says so: how far it was read, whether or not there was anything."""
        self.moving = False
        """State was written to while it was read."""
        self.names_inputs = False
        """Some event names the record that it answers: routers before that was on record never did."""
        self.asked: list[Asked] = []
        self.said: dict[int, Said] = {}
        """By offset in `requests`: what is about locks."""
        self.reported: list[Reported] = []
        self.artifacts: list[tuple[int, int, str, str, str]] = []
        """(offset, event, kind, resource, id)."""
        self.letters: list[tuple[int, int, str, int]] = []
        """(offset, event, topic and offset of what was set aside)."""
        self.items: list[tuple[str, int, ItemRecord]] = []
        self.owns: list[tuple[int, LaneRecord]] = []
        """The lane's own records that are left, with their offsets."""
        self.state: dict[bytes, tuple[int, StateRecord]] = {}
        """The newest of each key, once it is loaded; none of a tombstone."""
        self._newest: dict[bytes, tuple[int, bytes | None]] = {}
        self.unreadable: dict[str, int] = {}

    def place(self, topic: str, offset: int) -> str:
        """How a record is named."""
        return f"{topic}/{self.partition}/{offset}"

    def event(self, offset: int) -> str:
        """How an event is named."""
        return f"{topics.EVENTS}/{self.partition}/{offset}"

    def violation(self, promise: int, message: str, *places: str) -> None:
        """Say a violation in this lane."""
        self.findings.violation(promise, self.partition, message, *places)

    def begin_of(self, topic: str) -> int:
        """The first offset that is there: 0 where nothing is known to be gone."""
        return self.begins.get(topic, self.read_to.get(topic, 0))

    def reaches(self, span: Span) -> None:
        """A partition was read so far."""
        self.read_to[span.topic] = span.end
        self.moving = self.moving or span.moving

    def take(self, entry: Entry) -> Any:
        """Keep what rules will ask of a record that is not an event. Returns an input as it was decoded."""
        self.begins.setdefault(entry.topic, entry.offset)
        taker = _TAKERS.get(entry.topic)
        if taker is not None:
            return taker(self, entry)
        if entry.topic.startswith("items."):
            self._take_item(entry)
        return None

    def _cannot_read(self, entry: Entry) -> None:
        self.unreadable[entry.topic] = self.unreadable.get(entry.topic, 0) + 1

    def _take_request(self, entry: Entry) -> Any:
        record: Any = decode_request(entry.value)
        if isinstance(record, Undecodable):
            self.asked.append(Asked(entry.offset, "", "", ""))
            return record
        kind = type(record)
        if kind is WorkRequest:
            self.asked.append(
                Asked(entry.offset, "WorkRequest", record.id, "", record.deadline_ms, record.idempotency_key)
            )
        else:
            about = record.request if kind is Cancellation else ""
            self.asked.append(Asked(entry.offset, kind.__name__, record.id, about))
            said = said_by(record)
            if said is not None:
                self.said[entry.offset] = said
        return record

    def _take_result(self, entry: Entry) -> Any:
        record: Any = decode_result(entry.value)
        kind = type(record)
        if kind is WorkerHeartbeat:
            self.reported.append(Reported(entry.offset, "WorkerHeartbeat", record.session, "", record.number))
        elif kind in (Progress, Completed, Failed):
            self.reported.append(Reported(entry.offset, kind.__name__, record.session, record.run, record.token))
        elif kind is Undecodable:
            self.reported.append(Reported(entry.offset, "", ""))
        else:
            self.reported.append(Reported(entry.offset, kind.__name__, record.session))
        return record

    def _take_item(self, entry: Entry) -> None:
        record = decode_item(entry.value)
        if isinstance(record, Undecodable):
            self._cannot_read(entry)
            return
        if isinstance(record, WorkItem):  # without what agents wrote: a history has many items
            record = WorkItem(
                session=record.session, number=record.number, heartbeat=record.heartbeat, run=record.run,
                resource="", owner=record.owner, action="", requests=record.requests, token=record.token,
                attempt=record.attempt, lease_ms=record.lease_ms, hold_ms=record.hold_ms,
            )  # fmt: skip
        self.items.append((entry.topic, entry.offset, record))

    def _take_conflict(self, entry: Entry) -> None:
        record = decode_conflict(entry.value)
        if isinstance(record, Undecodable):
            self._cannot_read(entry)
        elif isinstance(record, ConflictArtifact):
            self.artifacts.append((entry.offset, record.event_seq, record.kind, record.resource, record.id))

    def _take_letter(self, entry: Entry) -> None:
        record = decode_dead_letter(entry.value)
        if isinstance(record, Undecodable):
            self._cannot_read(entry)
        else:
            self.letters.append((entry.offset, record.event_seq, record.topic, record.offset))

    def _take_state(self, entry: Entry) -> None:
        if entry.key != LANE_KEY:
            self._newest[entry.key or b""] = (entry.offset, entry.value)
            return
        record = decode_state(entry.value)
        if isinstance(record, LaneRecord):
            self.owns.append((entry.offset, record))
        else:
            self._cannot_read(entry)

    def load(self) -> None:
        """Decode what is left of state: the newest of each key, so that each key is decoded once."""
        for key, (offset, value) in self._newest.items():
            record = None if value is None else decode_state(value)
            if isinstance(record, Undecodable):
                self.unreadable[topics.STATE] = self.unreadable.get(topics.STATE, 0) + 1
            elif isinstance(record, Run | Member | RefusedRequest | WorkerSession | WaitLink):
                self.state[key] = (offset, record)
        self._newest.clear()

    # -- what several rules ask when all has been read --------------------------------------------------------

    def lapse_of(self) -> dict[str, int]:
        """By session: how long it lasts without a heartbeat, as its opening told it."""
        return {record.session: record.lapse_ms for _, _, record in self.items if isinstance(record, SessionOpened)}

    def request_of(self, run: RunSeen) -> Said | None:
        """The LockRequest that a lock came of, if it is there."""
        topic, _, offset = ("" if run.lock is None else run.lock.input).partition("/")
        found = self.said.get(int(offset)) if topic == topics.REQUESTS and offset.isdecimal() else None
        return found if found is not None and (found.kind, found.id) == (LockRequest.__name__, run.id) else None

    def cut(self, drained: bool) -> tuple[int, LaneRecord] | None:
        """The lane's own record up to which everything must be visible, with its offset.

        Before a lane begins a transaction its last one is visible everywhere. So of a history that was read while
        it went on, that is the last record but one; on a journal that keeps only the newest, topics change at once.
        """
        if not self.owns:
            # Where state is known to be empty, the lane has applied nothing.
            return (0, LaneRecord(positions={})) if self.read_to.get(topics.STATE) == 0 else None
        return self.owns[-1] if drained or len(self.owns) == 1 else self.owns[-2]


Taker = Callable[[Lane, Entry], Any]

_TAKERS: dict[str, Taker] = {
    topics.REQUESTS: Lane._take_request,
    topics.RESULTS: Lane._take_result,
    topics.CONFLICTS: Lane._take_conflict,
    topics.DEADLETTERS: Lane._take_letter,
    topics.STATE: Lane._take_state,
}
WORK = frozenset((WorkRequest.__name__, LockRequest.__name__))
LEFT = WorkerLeft.__name__
