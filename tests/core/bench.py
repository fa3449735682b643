"""A lane on a bench: fed record by record, with a clock moved by hand and its state kept as the journal would.

Nothing here decides or checks anything; every change goes through the core's own doors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec import Raw
from msgspec.structs import replace

from keylane.journal.partitioner import partition_of
from keylane.router.core.lane import Lane
from keylane.router.core.policy import ActionPolicy, Bounds, Policy
from keylane.router.core.records import Arrived, Forward, Now, Output, WaitChecked
from keylane.router.core.retention import forgettable
from keylane.router.core.step import step, step_checked, step_due
from keylane.schemas import topics
from keylane.schemas.base import ErrorDetail
from keylane.schemas.codec import Undecodable, decode_state, encode
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.event_parts import Event, Verdict
from keylane.schemas.metadata import ScopeRule
from keylane.schemas.requests import (
    Cancellation,
    Decision,
    LockRequest,
    Release,
    Renewal,
    Request,
    Resolution,
    ResourceChange,
    SessionEnded,
    WorkRequest,
)
from keylane.schemas.results import Completed, Failed, Progress, Result, WorkerHeartbeat, WorkerJoined, WorkerLeft
from keylane.schemas.scopes import Scopes
from keylane.schemas.state import Run

T = TypeVar("T")

API = "deploy://api"
TIME = "2026-11-22T10:00:00.000Z"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FIRST_TOKEN = 1_000
TOKENS_A_LOAD = 1_000
"""How far each load moves the token counter, as the wall clock would."""

INDEXES = (
    "queue", "held", "parked", "head_of", "heads", "waiting_owners", "equal", "held_by", "members_of", "deadlines_of",
    "refused_order", "keyed", "counted_of", "recurred", "locks_of", "explicit_of", "links_of",
)  # fmt: skip
RECORDS = (
    "runs", "members", "refused", "kept", "unserved", "sessions", "resources", "links", "counted", "recurrences",
)  # fmt: skip
UNSAID: dict[str, Any] = {"own": None, "recurrences": None, "recurred": None}
"""Put over an image: nothing but what each event counts may differ."""
TIMERS = ("deciding", "outcomes", "idle", "resting")
REMINDERS = ("outcomes", "resting")


def image(lane: Lane) -> dict[str, Any]:
    """All of a lane that decides what it does next: records, indexes and timers, as plain values."""
    found: dict[str, Any] = {"own": encode(lane.own), "carried_bytes": lane.carried_bytes}
    for name in RECORDS:
        found[name] = {id: encode(record) for id, record in getattr(lane, name).items()}
    for name in INDEXES:
        index = getattr(lane, name)
        found[name] = dict(index) if isinstance(index, dict) else list(index)
    found["seats"] = {name: dict(index) for name, index in vars(lane.seats).items()}
    for name in TIMERS:
        timers = getattr(lane, name)
        if name in REMINDERS:
            due = {id: at_ms for at_ms, id in timers._heap if timers.due_ms(id) == at_ms}
            assert len(due) == len(timers), "each that has a deadline is among them, once"
            found[name] = due
        else:
            found[name] = dict(timers.due_ms)
    return found


class Bench:
    """One lane, its inputs' end, and everything that it has published."""

    def __init__(
        self, policy: Policy | None = None, partition: int = 0, partitions: int = 1, scopes: Sequence[ScopeRule] = ()
    ) -> None:
        self.scopes = Scopes(scopes)
        self.policy = policy or Policy()
        self.partition = partition
        self.partitions = partitions
        self.clock_ms = 0
        self.offset = 0
        self.stored: dict[bytes, bytes] = {}
        self.published: list[Output] = []
        self.forwards: list[Forward] = []
        self.beats: dict[str, int] = {}
        self.asked: dict[str, LockRequest] = {}
        self.tokens_a_load = TOKENS_A_LOAD
        self.on_input: Callable[[int, Any], None] = lambda clock_ms, record: None
        self.on_output: Callable[[Any], None] = lambda record: None
        self.lane = self._loaded()
        self.lane.put(replace(self.lane.own, token=FIRST_TOKEN))

    def _place(self, owner: str) -> int:
        return partition_of(owner.encode(), self.partitions)

    def _loaded(self) -> Lane:
        """A lane made of what has been stored so far, and of nothing else."""
        lane = Lane(self.partition, self.policy, self._place, self.scopes.owner_of)
        for value in self.stored.values():
            record = decode_state(value)
            assert not isinstance(record, Undecodable)
            lane.put(record)
        lane.changed.clear()
        lane.stirred.clear()
        lane.freed.clear()
        lane.relinked.clear()
        return lane

    @property
    def now(self) -> Now:
        return Now(self.clock_ms, TIME)

    # -- what the shell does ------------------------------------------------------------------------------

    def commit(self) -> list[Output]:
        """Keep what changed, in the order of a log; return what was published."""
        lane = self.lane
        lane.put(replace(lane.own, clock_ms=self.clock_ms))
        for key, record in lane.changed.items():
            self.stored.pop(key, None)
            if record is not None:
                self.stored[key] = encode(record)
        outputs = list(lane.outputs)
        self.published += outputs
        for output in outputs:
            self.on_output(output.record)
        self.forwards += lane.forwards
        lane.outputs.clear()
        lane.forwards.clear()
        lane.changed.clear()
        return outputs

    def feed(self, record: Request | Result | Undecodable, topic: str = topics.REQUESTS, **place: Any) -> list[Output]:
        """Apply one record; return what it published."""
        self.offset += 1
        self.on_input(self.clock_ms, record)
        step(self.lane, Arrived(record=record, topic=topic, offset=self.offset, **place), self.now)
        return self.commit()

    def report(self, record: Result) -> list[Output]:
        return self.feed(record, topics.RESULTS)

    def wait(self, ms: int) -> list[Output]:
        """Let time pass: each timer fires when it is due."""
        begin = len(self.published)
        until_ms = self.clock_ms + ms
        while True:
            times = [getattr(self.lane, name).next_ms() for name in TIMERS]
            due_ms = min((time for time in times if time is not None), default=until_ms + 1)
            if due_ms > until_ms:
                break
            self.clock_ms = max(self.clock_ms, due_ms)
            while (next_ms := self.lane.deciding.next_ms()) is not None and next_ms <= self.clock_ms:
                step_due(self.lane, self.lane.deciding.first(), self.now)
            self.forget(1_000)
            self.commit()
        self.clock_ms = until_ms
        self.forget(1_000)
        self.commit()
        return self.published[begin:]

    def forget(self, at_most: int) -> None:
        """Forget what is due to be forgotten, as many records as are named."""
        for _ in range(at_most):
            key = forgettable(self.lane, self.now)
            if key is None:
                return
            step_due(self.lane, key, self.now)

    def restored(self) -> Lane:
        """What a load would make of the state records written so far."""
        return self._loaded()

    def reload(self) -> None:
        """Drop the lane and load it, as after a crash."""
        self.commit()
        self.lane = self._loaded()
        own = self.lane.own
        self.lane.put(replace(own, claim=own.claim + 1, token=own.token + self.tokens_a_load))
        self.commit()

    # -- what agents and workers do -----------------------------------------------------------------------

    def request(self, id: str, action: str = "restart", payload: str = "null", **fields: Any) -> list[Output]:
        return self.feed(work(id, action, payload, **fields), traceparent=TRACE)

    def cancel(self, request: str, resource: str = API, id: str | None = None) -> list[Output]:
        return self.feed(Cancellation(id=id or f"c-{request}", resource=resource, request=request, actor="boss"))

    def change(self, version: str, resource: str = API, **fields: Any) -> list[Output]:
        """Somebody changed the resource outside keylane."""
        fields = {"id": f"change-{self.offset}", "by": "ann", "what": "edit"} | fields
        return self.feed(ResourceChange(resource=resource, version=version, **fields))

    def decide(
        self, request: str, verdict: Verdict = "approve", version_seen: str = "", resource: str = API, **fields: Any
    ) -> list[Output]:
        """A person decides on a parked run."""
        fields = {"id": f"d-{self.offset}", "by": "boss"} | fields
        return self.feed(
            Decision(resource=resource, request=request, verdict=verdict, version_seen=version_seen, **fields)
        )

    def resolve(self, conflict: str, **fields: Any) -> list[Output]:
        """A person closes a conflict with a note."""
        fields = {"id": f"resolution-{self.offset}", "by": "ann", "note": "seen to", "resource": API} | fields
        return self.feed(Resolution(conflict=conflict, **fields))

    def join(self, session: str, *actions: str, slots: int = 1, generation: int = 1, **fields: Any) -> list[Output]:
        """Joins and, once it is opened, sends the first heartbeat: nothing is granted before that."""
        fields = {"pool": "default", "name": session} | fields
        outputs = self.report(
            WorkerJoined(session=session, actions=actions or ("restart",), slots=slots, generation=generation, **fields)
        )
        known = self.lane.sessions.get(session)
        if known is not None and known.heartbeat == 0:
            outputs += self.beat(session, slots=slots, pool=fields["pool"])
        return outputs

    def beat(self, session: str, slots: int = 1, read: int | None = None, pool: str = "default") -> list[Output]:
        """The next heartbeat. Unless said otherwise, everything written to the session has been read."""
        known = self.lane.sessions.get(session)
        number = self.beats[session] = self.beats.get(session, 0) + 1
        read = (known.sent if known is not None else 0) if read is None else read
        return self.report(WorkerHeartbeat(session=session, pool=pool, number=number, slots=slots, read=read))

    def leave(self, session: str) -> list[Output]:
        return self.report(WorkerLeft(session=session, pool="default"))

    def about(self, run: str, token: int | None = None) -> dict[str, Any]:
        """What a report of the run's holder says of it."""
        known = self.lane.runs.get(run)
        session = known.session if known is not None else ""
        live = known.token if known is not None else 0
        return {
            "session": session, "pool": "default", "resource": known.resource if known is not None else API,
            "run": run, "token": live if token is None else token,
        }  # fmt: skip

    def progress(self, run: str, token: int | None = None, **fields: Any) -> list[Output]:
        return self.report(Progress(**self.about(run, token), **fields))

    def complete(self, run: str, token: int | None = None, result: str = "null", **fields: Any) -> list[Output]:
        return self.report(Completed(**self.about(run, token), result=Raw(result.encode()), **fields))

    def fail(self, run: str, token: int | None = None, **fields: Any) -> list[Output]:
        error = ErrorDetail(code=fields.pop("code", "BOOM"), message="it broke")
        return self.report(Failed(**self.about(run, token), error=error, **fields))

    # -- what agents do that hold something themselves ----------------------------------------------------

    def lock(self, id: str, session: str | None = None, resource: str = API, **fields: Any) -> list[Output]:
        """A session, of its own unless one is named, asks to hold the resource."""
        session = session or f"s-{id}"
        fields = {"secret": secret_of(session)} | fields
        self.asked[id] = LockRequest(id=id, resource=resource, session=session, **fields)
        return self.feed(self.asked[id])

    def held_by(self, run: str, **fields: Any) -> dict[str, Any]:
        """What the holder of a lock says of it, unless said otherwise."""
        known = self.lane.runs.get(run)
        lock = None if known is None else known.lock
        return {
            "id": f"h-{self.offset}", "resource": API if known is None else known.resource, "run": run,
            "token": 0 if known is None else known.token,
            "secret": secret_of("nobody" if lock is None else lock.session),
        } | fields  # fmt: skip

    def renew(self, run: str, blocked: str | None = None, **fields: Any) -> list[Output]:
        return self.feed(Renewal(blocked=blocked, **self.held_by(run, **fields)))

    def release(self, run: str, **fields: Any) -> list[Output]:
        return self.feed(Release(**self.held_by(run, **fields)))

    def give_up(self, run: str, **fields: Any) -> list[Output]:
        """Whoever asked for the lock wants it no more, held or not."""
        fields = {"secret": self.held_by(run)["secret"]} | fields
        resource = self.held_by(run)["resource"]
        return self.feed(Cancellation(id=f"g-{self.offset}", resource=resource, request=run, **fields))

    def end_session(self, session: str, **fields: Any) -> list[Output]:
        fields = {"id": f"e-{self.offset}", "secret": secret_of(session)} | fields
        return self.feed(SessionEnded(session=session, **fields))

    def checked(self, request: str, holder: str | None = None, *cycle: str) -> list[Output]:
        """The graph of waits has seen the request's edge, of the holder that its link names unless said otherwise."""
        link = self.lane.links.get(request)
        said = holder or ("" if link is None else link.holder)
        self.on_input(self.clock_ms, None)
        step_checked(self.lane, WaitChecked(request=request, holder=said, position=7, cycle=cycle), self.now)
        return self.commit()

    # -- what tests look at -------------------------------------------------------------------------------

    def run(self, id: str) -> Run:
        return self.lane.runs[id]

    def states(self) -> dict[str, str]:
        return {id: run.status or run.state for id, run in self.lane.runs.items()}


def secret_of(session: str) -> str:
    """What a session of the bench keeps to itself."""
    return f"the secret of {session}"


def work(id: str, action: str = "restart", payload: str = "null", **fields: Any) -> WorkRequest:
    return WorkRequest(id=id, action=action, payload=Raw(payload.encode()), **({"resource": API} | fields))


def of(kind: type[T], outputs: list[Output]) -> list[T]:
    """The records of one type among outputs."""
    return [output.record for output in outputs if isinstance(output.record, kind)]


def only(kind: type[T], outputs: list[Output]) -> T:
    (record,) = of(kind, outputs)
    return record


def events(outputs: list[Output]) -> list[str]:
    """The names of the events among outputs, in order."""
    return [type(output.record).__name__ for output in outputs if isinstance(output.record, Event)]


def kinds(outputs: list[Output]) -> list[str]:
    """The kinds of the conflict artifacts among outputs."""
    return [artifact.kind for artifact in of(ConflictArtifact, outputs)]


def policy(bounds: Bounds | None = None, actions: dict[str, ActionPolicy] | None = None, **defaults: Any) -> Policy:
    """A policy whose defaults are those of the product but for what is named."""
    return Policy(defaults=ActionPolicy(**defaults), actions=actions or {}, bounds=bounds or Bounds())


def names(outputs: list[Output]) -> list[str]:
    """Every output by its record's name."""
    return [type(output.record).__name__ for output in outputs]
