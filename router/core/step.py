"""The table, and the one function that applies an event to a lane. A reader goes from here to any rule in one jump.

The table is total: each event of a run has a cell for each state of one, and what cannot happen asserts. Looking
up the run is here too: it decides the column, so a report under a stale token meets `Unknown`, and is fenced once.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from keylane.router.core.answers import refuse, send_on, set_aside
from keylane.router.core.arrival import arrive, attach, meets
from keylane.router.core.changes import changed, recheck, tell_holder
from keylane.router.core.dispatch import dispatch
from keylane.router.core.endings import end, note_unserved
from keylane.router.core.lane import Lane
from keylane.router.core.locks import (
    acquire,
    check_wait,
    end_session,
    give_back,
    had,
    have_again,
    leave,
    lock_of,
    meets_lock,
    renew_lock,
)
from keylane.router.core.records import Arrived, Due, Gone, Grounds, Now, WaitChecked
from keylane.router.core.repeats import Answered, repeat
from keylane.router.core.retention import counted_due, resource_due, unserved_due
from keylane.router.core.reviews import decide, parked_under, resolve, undecided
from keylane.router.core.sessions import SESSION_TABLE
from keylane.router.core.shape import Misshapen, checked, digests
from keylane.router.core.transitions import (
    attempt_failed,
    complete,
    expire,
    fence,
    forget,
    give_up,
    ignore,
    impossible,
    remember,
    renew,
    ripen,
    too_late,
    unknown,
    withdraw,
)
from keylane.schemas.base import ErrorDetail
from keylane.schemas.codec import Undecodable
from keylane.schemas.events import WorkerClosed
from keylane.schemas.items import SessionClosed
from keylane.schemas.keys import BadKey
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
from keylane.schemas.results import Completed, Failed, Progress, WorkerHeartbeat, WorkerJoined, WorkerLeft
from keylane.schemas.state import Run, WorkerSession

Cell = Callable[[Lane, Run | None, Arrived, Now], None]

STATES = ("Unknown", "Waiting", "Parked", "Held", "Done")

# fmt: off
TABLE: dict[type, tuple[Cell, Cell, Cell, Cell, Cell]] = {
    #                Unknown     Waiting     Parked      Held            Done
    WorkRequest:    (arrive,     attach,     attach,     attach,         repeat),
    LockRequest:    (acquire,    have_again, impossible, have_again,     had),
    Cancellation:   (remember,   withdraw,   withdraw,   withdraw,       too_late),
    Decision:       (unknown,    too_late,   decide,     too_late,       too_late),
    Progress:       (fence,      impossible, impossible, renew,          impossible),
    Renewal:        (fence,      impossible, impossible, renew_lock,     impossible),
    Completed:      (fence,      impossible, impossible, complete,       ignore),
    Release:        (fence,      impossible, impossible, give_back,      ignore),
    Failed:         (fence,      impossible, impossible, attempt_failed, impossible),
    Resolution:     (resolve,    impossible, undecided,  impossible,     impossible),
    ResourceChange: (impossible, recheck,    ignore,     tell_holder,    impossible),
    SessionEnded:   (impossible, leave,      impossible, leave,          impossible),
    WaitChecked:    (ignore,     check_wait, impossible, ignore,         ignore),
    Due:            (impossible, ripen,      give_up,    expire,         forget),
}
# fmt: on

OF_A_LANE = (SessionEnded, Resolution)
"""What is published to a partition, not to a resource."""


def step(lane: Lane, arrived: Arrived, now: Now) -> None:
    """Apply one record that was read, then grant what has become free. What it writes is in the lane's outputs."""
    record = arrived.record
    lane.input = arrived.place
    match record:
        case Completed() | Progress() | Failed():
            _meet(lane, _holder(lane, record), arrived, now)
        case WorkerJoined() | WorkerHeartbeat() | WorkerLeft():
            session = lane.sessions.get(record.session)
            row = SESSION_TABLE[type(record).__name__]
            row[session is not None](lane, session, arrived, now)
        case Undecodable():
            _undecodable(lane, arrived, record, now)
        case _:
            _command(lane, arrived, record, now)
    dispatch(lane, now)


def step_checked(lane: Lane, checked: WaitChecked, now: Now) -> None:
    """Apply what the graph of waits says of an edge of this lane, then grant what has become free."""
    lane.input = ""
    run = lane.runs.get(checked.request)
    if run is not None and run.lock is None:
        run = None  # an id that was forgotten, and is another's now
    _meet(lane, run, Arrived(record=checked), now)  # type: ignore[arg-type]  # as in `step_due`
    dispatch(lane, now)


def step_due(lane: Lane, key: bytes, now: Now) -> None:
    """Apply the timer under the state key `key`, then grant what has become free."""
    kind, _, id = key.decode().partition("/")
    lane.input = ""
    arrived = Arrived(record=Due(id))  # type: ignore[arg-type]  # a timer is an event of the table, not of a topic
    match kind:
        case "run":
            _meet(lane, lane.runs.get(id), arrived, now)
        case "session":
            session = lane.sessions.get(id)
            SESSION_TABLE["Due"][session is not None](lane, session, arrived, now)
        case "unserved":
            unserved_due(lane, id, now)
        case "resource":
            resource_due(lane, id, now)
        case "counted":
            counted_due(lane, id, now)
        case _:
            lane.put(Gone(key))
    dispatch(lane, now)


def _meet(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    column = 0 if run is None else STATES.index(run.state)
    TABLE[type(arrived.record)][column](lane, run, arrived, now)


def _holder(lane: Lane, report: Progress | Completed | Failed) -> Run | None:
    """The run that the report is about, if its token is the live one. A worker has no say about a lock.

    Workers deliver at least once, so the report that completed a run may come again: that is no late report.
    """
    run = lane.runs.get(report.run)
    if run is None or run.token != report.token or run.lock is not None:
        return None
    if run.state == "Held" or (isinstance(report, Completed) and _is_its_end(report, run)):
        return run
    return None


def _is_its_end(report: Completed, run: Run) -> bool:
    outcome = (run.result, run.version, run.observed_version)
    return run.status == "completed" and outcome == (report.result, report.version, report.observed_version)


def _command(lane: Lane, arrived: Arrived, request: Request, now: Now) -> None:
    """Rule 1 and the right partition."""
    try:
        request = checked(request, lane.policy)
        owner = "" if isinstance(request, OF_A_LANE) else lane.owner_of(request.resource)
        digest, payload_digest = digests(request)
    except Misshapen as wrong:
        _misshapen(lane, arrived, request.id, wrong, now)
        return
    except BadKey as error:  # of the owning key, which a scope rule has made
        _misshapen(lane, arrived, request.id, Misshapen("BAD_KEY", f"resource: {error}"), now)
        return
    arrived = replace(arrived, record=request, digest=digest, payload_digest=payload_digest, owner=owner)
    if not isinstance(request, OF_A_LANE):
        partition = lane.place(owner)
        if partition != lane.partition:
            send_on(lane, arrived, request, partition, now)
            return
    _route(lane, arrived, request, now)


def _route(lane: Lane, arrived: Arrived, request: Request, now: Now) -> None:
    """The run, or runs, whose row of the table applies."""
    found: Run | Answered | None
    match request:
        case WorkRequest():
            found = meets(lane, arrived, request, now)
        case LockRequest():
            found = meets_lock(lane, arrived, request, now)
        case Renewal() | Release():
            found = lock_of(lane, arrived, request)
        case Resolution():
            found = parked_under(lane, request.conflict)
        case Cancellation() | Decision():
            found = _named(lane, arrived, request)
        case ResourceChange() | SessionEnded():
            runs = changed if isinstance(request, ResourceChange) else end_session
            for each in runs(lane, arrived, request, now):  # type: ignore[arg-type]  # each takes its own
                _meet(lane, each, arrived, now)
            return
    if not isinstance(found, Answered):
        _meet(lane, found, arrived, now)


def _named(lane: Lane, arrived: Arrived, command: Cancellation | Decision) -> Run | None:
    """The run of the request that the command names, if that is on the resource that it names.

    In another lane it would be unknown too: what an id finds must not hang on where resources happen to lie.
    """
    member = lane.member(command.request)
    run = None if member is None else lane.runs[member.run]
    if run is None or run.resource == command.resource:
        return run
    return run if run.lock is not None and run.owner == arrived.owner else None  # had again by another requested key


def _undecodable(lane: Lane, arrived: Arrived, record: Undecodable, now: Now) -> None:
    """Bytes that are no record: a dead letter, and an answer where the sender can be told."""
    set_aside(lane, arrived, now, "BAD_RECORD", record.reason)
    if record.id is not None and not lane.has_answered(record.id):
        refuse(lane, arrived, now, Grounds("BAD_RECORD", record.reason))


def _misshapen(lane: Lane, arrived: Arrived, id: str, wrong: Misshapen, now: Now) -> None:
    """Refused under its id, unless that id is another request's, which must not take this for its own end."""
    if lane.has_answered(id):
        set_aside(lane, arrived, now, "ID_REUSED", f"id {id!r} was used before; and {wrong.message}")
    else:
        refuse(lane, arrived, now, Grounds(wrong.code, wrong.message))


def quarantine(lane: Lane, arrived: Arrived, now: Now, reason: str) -> None:
    """The record at which a turn failed: a dead letter, and an answer where the sender can be told."""
    lane.input = arrived.place
    set_aside(lane, arrived, now, "INTERNAL", reason)
    id = getattr(arrived.record, "id", None)
    if id is not None and not lane.has_answered(id):
        refuse(lane, arrived, now, Grounds("INTERNAL", "the router could not process it; see the dead letter"))
    dispatch(lane, now)


def quarantine_due(lane: Lane, key: bytes, now: Now, reason: str) -> None:
    """The timer at which a turn failed: its runs end, INTERNAL; any other record under a timer is forgotten."""
    kind, _, id = key.decode().partition("/")
    lane.input = ""
    runs = [lane.runs[id]] if kind == "run" else []
    if kind == "session":
        runs = [lane.runs[held] for _, held in lane.held_by.get(id, ())]
    for run in runs:
        if run.state == "Done":
            forget(lane, run, Arrived(record=Due(id)), now)  # type: ignore[arg-type]  # as in `step_due`
        else:
            end(lane, run, now, "failed", error=ErrorDetail(code="INTERNAL", message=reason))
    if kind == "session":
        _set_session_aside(lane, lane.sessions[id], now)
    elif kind != "run":
        lane.put(Gone(key))
    dispatch(lane, now)


def _set_session_aside(lane: Lane, session: WorkerSession, now: Now) -> None:
    """As `sessions.close`, which is what failed, without what it does to each run."""
    lane.emit(WorkerClosed, now, session=session.id, name=session.name, pool=session.pool, reason="session_lapsed")
    lane.put(Gone(b"session/" + session.id.encode()))
    lane.say(session.pool, SessionClosed(session=session.id, reason="session_lapsed"), session.id)
    for action in session.actions:
        if action in lane.waiting_owners:
            note_unserved(lane, action, now)
