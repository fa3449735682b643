"""Arrival rule 2: what has been seen before gets its first answer again, and never another's."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from keylane.router.core.answers import refuse, set_aside
from keylane.router.core.bounds import crowded
from keylane.router.core.coalescing import join
from keylane.router.core.describe import about, asker, outcome_of, party_of
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Grounds, Now
from keylane.router.core.resources import changed_since
from keylane.router.core.shape import work_digest
from keylane.schemas.events import Coalesced, Ended, Parked, Queued, Withdrawn
from keylane.schemas.requests import LockRequest, WorkRequest
from keylane.schemas.state import Member, RefusedRequest, Run


class Answered:
    """What a rule returns that has answered the request: nothing else applies to it."""


ANSWERED = Answered()


def was_cancelled(lane: Lane, request: WorkRequest | LockRequest) -> bool:
    """Whether a cancellation of this request overtook it. One that named another resource is of another request."""
    kept = lane.kept.get(request.id) if lane.kept else None
    return kept is not None and kept.resource == request.resource


def seen_before(lane: Lane, arrived: Arrived, request: WorkRequest | LockRequest, now: Now) -> Run | Answered | None:
    """The run that the request is a member of, so that its first answer is repeated; None where it is new."""
    seen: Member | RefusedRequest | None = lane.member(request.id) or lane.refused.get(request.id)
    if seen is None:
        return None if request.seen is None else _rolled_back(lane, arrived, request, request.seen, now)
    if seen.digest != arrived.digest:
        first = lane.runs.get(seen.run) if isinstance(seen, Member) else None
        reason = f"id {request.id!r} was used before with other content"
        set_aside(lane, arrived, now, "ID_REUSED", reason, () if first is None else (party_of(first),))
        return ANSWERED
    if isinstance(seen, RefusedRequest):
        refuse(lane, arrived, now, Grounds(seen.code, "the same request was refused before"), repeat=True)
        return ANSWERED
    return lane.runs[seen.run]


def _rolled_back(
    lane: Lane, arrived: Arrived, request: WorkRequest | LockRequest, seen: int, now: Now
) -> Answered | None:
    if seen <= lane.own.seq:
        return None
    # Not a halt, though design section 4 asks for one: any agent could then stop any lane for good
    # (docs/decisions/rolled-back-stores.md).
    reason = f"you have seen event {seen} of this partition, which is at {lane.own.seq}: was it restored?"
    refuse(lane, arrived, now, Grounds("INTERNAL", reason))
    return ANSWERED


def under_key(lane: Lane, arrived: Arrived, request: WorkRequest, now: Now) -> Run | Answered | None:
    """The run that was accepted under the request's idempotency key; None where there is none to speak of.

    What ended without a grant was never begun: the key is free again.
    """
    assert request.idempotency_key is not None
    for _, id in lane.keyed.get((arrived.owner, request.idempotency_key), ()):
        member = lane.member(id)
        assert member is not None and member.idempotency is not None
        run = lane.runs[member.run]
        if run.state == "Done" and run.granted_order is None:
            continue
        if member.idempotency.digest == work_digest(request, arrived.payload_digest):
            return run
        reason = f"under this idempotency key {member.id} asked for other work"
        sides = (asker(arrived, request, now), party_of(run))
        refuse(lane, arrived, now, Grounds("IDEMPOTENCY_MISMATCH", reason, parties=sides))
        return ANSWERED
    return None


def repeat_first_answer(lane: Lane, run: Run, member: Member, now: Now) -> None:
    """Say again what was said to the requester when it came, or when it left."""
    first: dict[str, Any] = {
        "request": member.id,
        **about(run),
        "repeat": True,
    }
    if member.left is not None:
        lane.emit(Withdrawn, now, member.traceparent, **first, status=member.left)
    elif member.id == run.id and run.parked_first:
        lane.emit(Parked, now, member.traceparent, **first, owner=run.owner, actor=member.actor)
    elif member.id == run.id:
        lane.emit(Queued, now, member.traceparent, **first, owner=run.owner, actor=member.actor)
    else:
        lane.emit(Coalesced, now, member.traceparent, **first, actor=member.actor)


def repeat(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Done: the outcome, again for a request that had it, and as its one event for one that is new.

    That is an equal one within the window, or one under the same idempotency key.
    """
    request = arrived.record
    assert run is not None and isinstance(request, WorkRequest)
    member = lane.member(request.id)
    if member is not None and member.left is not None:
        repeat_first_answer(lane, run, member, now)
        return
    no_room = crowded(lane, run, arrived, request) if member is None else None
    if no_room is not None:
        refuse(lane, arrived, now, no_room)
        return
    seq = lane.emit(
        Ended,
        now,
        arrived.traceparent,
        **outcome_of(run),
        requests=(request.id,),
        superseded_since=changed_since(lane, run),
        coalesced=member is None,
        repeat=member is not None,
    )
    if member is None:
        join(lane, arrived, request, run, seq, now)
        if request.idempotency_key is not None and not run.keyed:
            lane.put(replace(run, keyed=True, forget_ms=run.ended_ms + lane.policy.idempotency_retention_ms))
