"""Worker sessions: a small table of their own, and what their coming and going means for runs."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from keylane.router.core.answers import set_aside
from keylane.router.core.endings import lose, note_unserved
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Gone, Now
from keylane.router.core.shape import NAME_CHARACTERS_MAX
from keylane.schemas.event_parts import LostReason
from keylane.schemas.events import WorkerClosed, WorkerOpened
from keylane.schemas.items import SessionClosed, SessionOpened
from keylane.schemas.results import WorkerHeartbeat, WorkerJoined
from keylane.schemas.state import WorkerSession

ACTIONS_MAX = 1_024
WORKER_NAME_CHARACTERS_MAX = 256


def joined(lane: Lane, session: WorkerSession | None, arrived: Arrived, now: Now) -> None:
    """Open a session, or answer again one that is open: joins are re-sent until their answer is read."""
    join = arrived.record
    assert isinstance(join, WorkerJoined)
    wrong = _misshapen(lane, join)
    if wrong is not None:
        set_aside(lane, arrived, now, "BAD_RECORD", wrong)
        return
    if session is None:
        actions = tuple(sorted(set(join.actions)))
        name = join.name[:WORKER_NAME_CHARACTERS_MAX]
        about = {
            "session": join.session,
            "name": name,
            "pool": join.pool,
            "actions": actions,
            "slots": join.slots,
        }
        seq = lane.emit(WorkerOpened, now, arrived.traceparent, **about)
        session = WorkerSession(
            id=join.session,
            order=seq,
            pool=join.pool,
            name=name,
            actions=actions,
            generation=join.generation,
            slots=join.slots,
            lapses_ms=now.clock_ms + lane.policy.session_lapse_ms,
        )
        lane.put(session)
        for action in actions:
            if action in lane.unserved and lane.is_served(action):
                lane.put(Gone(b"unserved/" + action.encode()))
    lane.tell(session, SessionOpened, lapse_ms=lane.policy.session_lapse_ms)


def _misshapen(lane: Lane, join: WorkerJoined) -> str | None:
    if join.pool not in lane.policy.pools:
        return f"pool: {join.pool[:128]!r} is not configured"
    if not join.actions or len(join.actions) > ACTIONS_MAX or not join.session or len(join.session) > 128:
        return f"a session id of up to 128 characters and 1 to {ACTIONS_MAX} actions are needed"
    if max(map(len, join.actions)) > NAME_CHARACTERS_MAX:
        return f"an action is longer than the {NAME_CHARACTERS_MAX} characters that a request can name"
    if join.session not in lane.sessions and len(lane.sessions) >= lane.policy.bounds.sessions:
        return f"this partition has {lane.policy.bounds.sessions} worker sessions already"
    return None


def beat(lane: Lane, session: WorkerSession | None, arrived: Arrived, now: Now) -> None:
    """Live: the session lapses later. An older heartbeat than the newest applied one changes nothing."""
    heartbeat = arrived.record
    assert session is not None and isinstance(heartbeat, WorkerHeartbeat)
    if heartbeat.number <= session.heartbeat:
        return
    lane.put(
        replace(
            session,
            heartbeat=heartbeat.number,
            slots=max(0, heartbeat.slots),
            read=min(max(session.read, heartbeat.read), session.sent),
            lapses_ms=now.clock_ms + lane.policy.session_lapse_ms,
        )
    )


def turn_away(lane: Lane, session: WorkerSession | None, arrived: Arrived, now: Now) -> None:
    """Unknown: whoever sends heartbeats for it lets everything go and joins anew."""
    heartbeat = arrived.record
    assert isinstance(heartbeat, WorkerHeartbeat)
    if heartbeat.pool in lane.policy.pools:
        lane.say(heartbeat.pool, SessionClosed(session=heartbeat.session, reason="unknown"), heartbeat.session)
    else:
        set_aside(lane, arrived, now, "BAD_RECORD", f"pool: {heartbeat.pool[:128]!r} is not configured")


def left(lane: Lane, session: WorkerSession | None, arrived: Arrived, now: Now) -> None:
    """Live: the worker went of its own will."""
    assert session is not None
    close(lane, session, now, "session_left")


def lapse(lane: Lane, session: WorkerSession | None, arrived: Arrived, now: Now) -> None:
    """Live: no heartbeat for too long, and everything acknowledged before has been applied."""
    assert session is not None
    close(lane, session, now, "session_lapsed")


def already_gone(lane: Lane, session: WorkerSession | None, arrived: Arrived, now: Now) -> None:
    """Unknown: nothing to do."""


def close(lane: Lane, session: WorkerSession, now: Now, reason: LostReason) -> None:
    """The session is over, and with it every lease that it has."""
    lane.emit(WorkerClosed, now, session=session.id, name=session.name, pool=session.pool, reason=reason)
    for _, id in list(lane.held_by.get(session.id, ())):
        lose(lane, lane.runs[id], now, reason)
    lane.put(Gone(b"session/" + session.id.encode()))
    lane.say(session.pool, SessionClosed(session=session.id, reason=reason), session.id)
    for action in session.actions:
        if action in lane.waiting_owners:
            note_unserved(lane, action, now)


SessionCell = Callable[[Lane, WorkerSession | None, Arrived, Now], None]

SESSION_TABLE: dict[str, tuple[SessionCell, SessionCell]] = {
    # event              Unknown       Live
    "WorkerJoined": (joined, joined),
    "WorkerHeartbeat": (turn_away, beat),
    "WorkerLeft": (already_gone, left),
    "Due": (already_gone, lapse),
}
