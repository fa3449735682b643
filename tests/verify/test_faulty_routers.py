"""Faults put into the router are found in what it writes, on random histories, under the promise that they break.

Spoiled histories show that a rule sees what it was written for; these, that real faults reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from verify.faults import assert_broken

from keylane.router.core import arrival, dispatch, endings, lane, placing, sessions, step, transitions
from keylane.router.core.lane import Lane
from keylane.router.core.records import Gone, Now
from keylane.schemas.items import WorkItem
from keylane.schemas.results import Progress
from keylane.schemas.state import Member, Run

Patch = pytest.MonkeyPatch


def same_token_again(patch: Patch) -> None:
    patch.setattr(Lane, "mint", lambda self: self.own.token or 1)


def last_comes_first(patch: Patch) -> None:
    rehead = placing._rehead

    def reversed_queue(self: Lane, owner: str) -> None:
        queue = self.queue.get(owner)
        if queue is None:
            rehead(self, owner)
            return
        self.queue[owner] = queue[::-1]
        rehead(self, owner)
        self.queue[owner] = queue

    patch.setattr(placing, "_rehead", reversed_queue)


def renewals_do_not_count(patch: Patch) -> None:
    def renew(lane_: Lane, run: Run, arrived: Any, now: Now) -> None:
        until_ms = run.lease_until_ms
        transitions.renew(lane_, run, arrived, now)
        lane_.put(replace(lane_.runs[run.id], lease_until_ms=until_ms))

    patch.setitem(step.TABLE, Progress, (*step.TABLE[Progress][:3], renew, step.TABLE[Progress][4]))


def leases_are_short(patch: Patch) -> None:
    def due_ms(run: Run, deadline_ms: int | None) -> int | None:
        due = right_due_ms(run, deadline_ms)
        return due if due is None or run.state != "Held" else due - 1

    right_due_ms = placing.due_ms
    patch.setattr(placing, "due_ms", due_ms)


def sessions_lapse_early(patch: Patch) -> None:
    beat = sessions.beat

    def late(lane_: Lane, session: Any, arrived: Any, now: Now) -> None:
        beat(lane_, session, arrived, now)
        lane_.put(replace(lane_.sessions[session.id], lapses_ms=session.lapses_ms))

    patch.setitem(sessions.SESSION_TABLE, "WorkerHeartbeat", (sessions.turn_away, late))


def late_reports_count(patch: Patch) -> None:
    holder = step._holder

    def anybody(lane_: Lane, report: Any) -> Run | None:
        run = lane_.runs.get(report.run)
        return run if run is not None and run.state == "Held" else holder(lane_, report)

    patch.setattr(step, "_holder", anybody)


def expired_leases_are_no_conflict(patch: Patch) -> None:
    conflict = lane.conflict
    patch.setattr(lane, "conflict", lambda event, id: None if type(event).__name__ == "Lost" else conflict(event, id))


def everything_is_a_conflict_twice(patch: Patch) -> None:
    emit = Lane.emit

    def twice(self: Lane, *args: Any, **fields: Any) -> int:
        seq = emit(self, *args, **fields)
        if self.outputs[-1].topic == "conflicts":
            self.outputs.append(self.outputs[-1])
        return seq

    patch.setattr(Lane, "emit", twice)


def the_last_requester_is_forgotten(patch: Patch) -> None:
    live = Lane.live_members

    def without_the_last(self: Lane, run: Run) -> Any:
        members = list(live(self, run))
        # One with a deadline would be asked for it for ever.
        return iter(members[:-1] if len(members) > 1 and members[-1].deadline_ms is None else members)

    for module in (endings, dispatch):
        patch.setattr(module, "Lane", Lane, raising=False)
    patch.setattr(Lane, "live_members", without_the_last)


def members_are_not_remembered(patch: Patch) -> None:
    """An id is accepted once more, and its run with it."""
    meets = step.meets

    def forgetful(lane_: Lane, arrived: Any, request: Any, now: Now) -> Any:
        run = lane_.runs.get(request.id)
        if run is not None and run.state == "Done" and lane_.member_count(run) == 1:
            lane_.put(Gone(b"run/" + request.id.encode()))
        return meets(lane_, arrived, request, now)

    patch.setattr(step, "meets", forgetful)


def cancelled_requests_stay(patch: Patch) -> None:
    """The event is said and the record not written: who left is told an end again."""

    def leave(lane_: Lane, run: Run, member: Member, now: Now, by: str) -> None:
        left = transitions.Withdrawn
        lane_.emit(left, now, None, **transitions.about(run), request=member.id, status="cancelled", by=by)

    patch.setattr(transitions, "_leave", leave)


def items_are_not_sent(patch: Patch) -> None:
    send = Lane.send

    def silent(self: Lane, session: Any, record: Any, key: str, trace: str | None) -> int:
        number = send(self, session, record, key, trace)
        if isinstance(record, WorkItem) and number % 5 == 0:
            self.outputs.pop()
        return number

    patch.setattr(Lane, "send", silent)


def full_queues_say_nothing(patch: Patch) -> None:
    def silent(lane_: Lane, arrived: Any, now: Now, grounds: Any, **more: Any) -> None:
        if grounds.code != "LOCK_HELD":
            refuse(lane_, arrived, now, grounds, **more)

    refuse = arrival.refuse
    patch.setattr(arrival, "refuse", silent)


def outcomes_are_not_kept(patch: Patch) -> None:
    """State says less than what was decided."""
    put = Lane.put

    def lossy(self: Lane, record: Any) -> None:
        put(self, record)
        if isinstance(record, Run) and record.state == "Held":
            self.changed.pop(b"run/" + record.id.encode(), None)

    patch.setattr(Lane, "put", lossy)


FAULTS: list[tuple[Callable[[Patch], None], int]] = [
    (same_token_again, 2),
    (last_comes_first, 5),
    (renewals_do_not_count, 7),
    (leases_are_short, 7),
    (sessions_lapse_early, 7),
    (late_reports_count, 7),
    (expired_leases_are_no_conflict, 11),
    (everything_is_a_conflict_twice, 11),
    (the_last_requester_is_forgotten, 4),
    (members_are_not_remembered, 3),
    (cancelled_requests_stay, 3),
    (items_are_not_sent, 8),
    (full_queues_say_nothing, 3),
    (outcomes_are_not_kept, 9),
]


@pytest.mark.parametrize(("fault", "promise"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_fault_of_the_router_is_found(fault: Callable[[Patch], None], promise: int, monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert_broken(promise)
