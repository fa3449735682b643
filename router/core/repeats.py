"""Arrival rule 2: what has been seen before gets its first answer again, and never another's."""

from __future__ import annotations

from typing import Any

from keylane.router.core.answers import refuse, set_aside
from keylane.router.core.bounds import crowded
from keylane.router.core.coalescing import join
from keylane.router.core.describe import about, outcome_of, party_of
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Grounds, Now
from keylane.schemas.events import Coalesced, Ended, Queued, Withdrawn
from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import Member, RefusedRequest, Run


class Answered:
    """What a rule returns that has answered the request: nothing else applies to it."""


ANSWERED = Answered()


def seen_before(lane: Lane, arrived: Arrived, request: WorkRequest, now: Now) -> Run | Answered | None:
    """The run that the request is a member of, so that its first answer is repeated; None where it is new."""
    seen: Member | RefusedRequest | None = lane.member(request.id) or lane.refused.get(request.id)
    if seen is None:
        return _rolled_back(lane, arrived, request, now)
    if seen.digest != arrived.digest:
        first = lane.runs.get(seen.run) if isinstance(seen, Member) else None
        reason = f"id {request.id!r} was used before with other content"
        set_aside(lane, arrived, now, "ID_REUSED", reason, () if first is None else (party_of(first),))
        return ANSWERED
    if isinstance(seen, RefusedRequest):
        refuse(lane, arrived, now, Grounds(seen.code, "the same request was refused before"), repeat=True)
        return ANSWERED
    return lane.runs[seen.run]


def _rolled_back(lane: Lane, arrived: Arrived, request: WorkRequest, now: Now) -> Answered | None:
    if request.seen is None or request.seen <= lane.own.seq:
        return None
    # Not a halt, though design section 4 asks for one: any agent could then stop any lane for good
    # (docs/decisions/rolled-back-stores.md).
    reason = f"you have seen event {request.seen} of this partition, which is at {lane.own.seq}: was it restored?"
    refuse(lane, arrived, now, Grounds("INTERNAL", reason))
    return ANSWERED


def repeat_first_answer(lane: Lane, run: Run, member: Member, now: Now) -> None:
    """Say again what was said to the requester when it came, or when it left."""
    first: dict[str, Any] = {
        "request": member.id,
        **about(run),
        "repeat": True,
    }
    if member.left is not None:
        lane.emit(Withdrawn, now, member.traceparent, **first, status=member.left)
    elif member.id == run.id:
        lane.emit(Queued, now, member.traceparent, **first, owner=run.owner, actor=member.actor)
    else:
        lane.emit(Coalesced, now, member.traceparent, **first, actor=member.actor)


def repeat(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Done: the outcome, again for a request that had it, and as its one event for an equal one within the window."""
    request = arrived.record
    assert run is not None and isinstance(request, WorkRequest)
    member = lane.member(request.id)
    if member is not None and member.left is not None:
        repeat_first_answer(lane, run, member, now)
        return
    no_room = crowded(lane, run) if member is None else None
    if no_room is not None:
        refuse(lane, arrived, now, no_room)
        return
    seq = lane.emit(
        Ended,
        now,
        arrived.traceparent,
        **outcome_of(run),
        requests=(request.id,),
        coalesced=member is None,
        repeat=member is not None,
    )
    if member is None:
        join(lane, arrived, request, run.id, seq, now)
