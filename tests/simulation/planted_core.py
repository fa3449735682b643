"""Bugs for the router's core, each as what it changes (`planted.BUGS`)."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from keylane.router import lane_task, turn
from keylane.router.core import (
    arrival,
    dispatch,
    endings,
    lane,
    placing,
    projections,
    retention,
    seats,
    shape,
    step,
    transitions,
)
from keylane.router.core.lane import Lane
from keylane.router.core.step import TABLE
from keylane.router.core.timers import Reminders
from keylane.schemas.codec import decode_state
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Ended, Lost, Progressed
from keylane.schemas.requests import Cancellation, Resolution
from keylane.schemas.results import Completed, Progress
from keylane.schemas.state import Member, RefusedRequest, Run, WorkerSession

Patches = list[tuple[Any, Any, Any]]


def row(kind: type, column: int, cell: Any) -> tuple[Any, Any, Any]:
    """One cell of the table is another one."""
    cells = list(TABLE[kind])
    cells[column] = cell
    return TABLE, kind, tuple(cells)


def word_passed_over() -> Patches:
    return [row(Resolution, 0, transitions.ignore)]


def token_minted_twice() -> Patches:
    mint = Lane.mint

    def twice(self: Lane) -> int:
        return self.own.token if self.own.token % 5 == 0 else mint(self)

    return [(Lane, "mint", twice)]


def load_reuses_tokens() -> Patches:
    load = turn.load

    def as_it_was(lane: Lane, stored: Any, *arguments: Any) -> None:
        load(lane, stored, *arguments)
        saved = [each for each in stored if each.key == b"lane"]
        if saved:
            own: Any = decode_state(saved[0].value)
            lane.put(replace(lane.own, token=own.token - 1))

    return [(lane_task, "load", as_it_was)]


def reports_not_fenced() -> Patches:
    def whoever(lane: Lane, report: Any) -> Run | None:
        run = lane.runs.get(report.run)
        is_report = not type(report).__name__.startswith("Re")
        return run if run is not None and run.state == "Held" and is_report else None

    return [(step, "_holder", whoever)]


def leases_end_early() -> Patches:
    due_ms = placing.due_ms

    def early(run: Run, deadline_ms: int | None) -> int | None:
        due = due_ms(run, deadline_ms)
        return due - 1 if run.state == "Held" and due is not None else due

    return [(placing, "due_ms", early)]


def sessions_lapse_early() -> Patches:
    put = placing.put_session

    def early(lane: Lane, key: bytes, id: str, new: Any) -> None:
        put(lane, key, id, new)
        lane.deciding.set(key, None if new is None else new.lapses_ms - 1)

    return [(placing.PUT, WorkerSession, early)]


def lease_comes_back() -> Patches:
    fence = TABLE[Progress][0]

    def back(lane: Lane, run: Any, arrived: Any, now: Any) -> None:
        report = arrived.record
        real = lane.runs.get(report.run)
        free = real is not None and real.state == "Waiting" and real.owner not in lane.held
        if real is None or not free or real.token != report.token or report.session not in lane.sessions:
            fence(lane, run, arrived, now)
            return
        until_ms = now.clock_ms + 3_000
        lane.put(
            replace(
                real, state="Held", session=report.session, ready_ms=None, lease_until_ms=until_ms,
                hold_until_ms=until_ms, lease_ms=3_000, number=1,
            )
        )  # fmt: skip
        lane.emit(Progressed, now, run=real.id, resource=real.resource, action=real.action, token=report.token)

    return [row(Progress, 0, back)]


def late_report_ends() -> Patches:
    fence = TABLE[Completed][0]

    def accepted(lane: Lane, run: Any, arrived: Any, now: Any) -> None:
        report = arrived.record
        real = lane.runs.get(report.run)
        if real is None or real.state != "Waiting" or real.token != report.token:
            fence(lane, run, arrived, now)
        else:
            endings.end(lane, real, now, "completed", result=report.result.copy())

    return [row(Completed, 0, accepted)]


def blocked_loses_time() -> Patches:
    renew = TABLE[Progress][3]

    def renewed(lane: Lane, run: Any, arrived: Any, now: Any) -> None:
        renew(lane, run, arrived, now)
        run = lane.runs[run.id]
        if run.blocked:
            lane.put(replace(run, lease_until_ms=run.lease_until_ms - 500))

    return [row(Progress, 3, renewed)]


def half_a_lease() -> Patches:
    grant = dispatch._grant

    def granted(lane: Lane, run: Run, policy: Any, session: Any, now: Any) -> None:
        grant(lane, run, policy, session, now)
        held = lane.runs[run.id]
        lane.put(replace(held, lease_until_ms=now.clock_ms + held.lease_ms // 2))

    return [(dispatch, "_grant", granted)]


def requester_lost() -> Patches:
    join = arrival.join

    def joined(lane: Lane, arrived: Any, request: Any, run: Run, order: int, now: Any) -> None:
        join(lane, arrived, request, run, order, now)
        lane.put(replace(lane.members[request.id], left="cancelled"))

    return [(arrival, "join", joined)]


def second_ending() -> Patches:
    emit = Lane.emit

    def emitted(self: Lane, kind: Any, now: Any, trace: Any = None, /, **fields: Any) -> int:
        if kind is Ended and fields.get("repeat"):
            fields["repeat"] = False
        return emit(self, kind, now, trace, **fields)

    return [(Lane, "emit", emitted)]


def two_pending() -> Patches:
    return [(arrival, "joinable", lambda *_: None)]


def cancel_ends_all() -> Patches:
    def ends(lane: Lane, run: Any, arrived: Any, now: Any) -> None:
        if lane.members[arrived.record.request].left is None:
            endings.end(lane, run, now, "cancelled")
        else:
            transitions.too_late(lane, run, arrived, now)

    return [row(Cancellation, 1, ends)]


def forgotten_early() -> Patches:
    forgettable = retention.forgettable

    def early(lane: Lane, now: Any) -> bytes | None:
        due_ms = lane.outcomes.next_ms()
        if due_ms is not None and due_ms <= now.clock_ms + lane.policy.retention_ms - 1_000:
            return lane.outcomes.first()
        return forgettable(lane, now)

    return [(turn, "forgettable", early)]


def digest_ignored() -> Patches:
    digests = shape.digests

    def same(request: Any) -> tuple[str, str]:
        return "same", digests(request)[1]

    return [(step, "digests", same)]


def keys_as_spelt() -> Patches:
    return [(shape, "canonical_key", lambda text: text)]


def refusal_not_kept() -> Patches:
    put = Lane.put

    def dropped(self: Lane, record: Any) -> None:
        if not isinstance(record, RefusedRequest):
            put(self, record)

    return [(Lane, "put", dropped)]


def grant_at_arrival() -> Patches:
    queue = arrival._queue

    def granted(lane: Lane, arrived: Any, request: Any, policy: Any, now: Any) -> None:
        queue(lane, arrived, request, policy, now)
        sessions = lane.current_sessions("default", request.action)
        if sessions and request.resource not in lane.held:
            dispatch._grant(lane, lane.runs[request.id], policy, sessions[0], now)

    return [(arrival, "_queue", granted)]


def newest_first() -> Patches:
    def rehead(lane: Lane, owner: str) -> None:
        entries = lane.queue.get(owner)
        if entries and len(entries) > 1:
            entries.reverse()
            try:
                right(lane, owner)
            finally:
                entries.reverse()
        else:
            right(lane, owner)

    right = placing._rehead
    return [(placing, "_rehead", rehead)]


def retry_goes_back() -> Patches:
    settled = dispatch._settled_at_dispatch

    def wrong(lane: Lane, run: Run, policy: Any, now: Any) -> bool:
        return settled(lane, replace(run, granted_order=None), policy, now)

    return [(dispatch, "_settled_at_dispatch", wrong)]


def older_session() -> Patches:
    def worst(session: WorkerSession) -> tuple[int, int, str]:
        return (-session.generation, -session.order, session.id)

    return [(placing, "seat", worst), (seats, "seat", worst)]


def index_not_rebuilt() -> Patches:

    load = turn.load

    def without(lane: Lane, *arguments: Any) -> None:
        load(lane, *arguments)
        lane.resting = Reminders(b"resource/", lane.resting.due_ms)

    return [(lane_task, "load", without)]


def artifact_missing() -> Patches:
    conflict = projections.conflict

    def most(event: Any, id: str) -> ConflictArtifact | None:
        return None if isinstance(event, Lost) and not event.final else conflict(event, id)

    return [(lane, "conflict", most)]


def sequence_again() -> Patches:

    load = turn.load

    def behind(lane: Lane, stored: Any, *arguments: Any) -> None:
        load(lane, stored, *arguments)
        lane.put(replace(lane.own, seq=max(0, lane.own.seq - 1)))

    return [(lane_task, "load", behind)]


def record_not_written() -> Patches:
    put = Lane.put

    def kept_back(self: Lane, record: Any) -> None:
        put(self, record)
        if isinstance(record, Member) and record.left is not None:
            self.changed.pop(b"member/" + record.id.encode(), None)

    return [(Lane, "put", kept_back)]
