"""What becomes of a work request: the arrival rules of design section 4, in their declared order.

The first rule that applies decides. Rule 1 (`shape`) and the right partition come before, in `step`; the others are
here in one reading, and each in a module of its own.
"""

from __future__ import annotations

from sys import intern

from keylane.router.core.answers import refuse
from keylane.router.core.bounds import crowded, full
from keylane.router.core.coalescing import deadline_ms, idempotency, join, joinable
from keylane.router.core.contention import PARTIES_MAX, asks_a_person, contenders_of, lock_held, supersede
from keylane.router.core.describe import about, asker, party_of
from keylane.router.core.endings import end, note_unserved
from keylane.router.core.lane import Lane
from keylane.router.core.order import untimely
from keylane.router.core.policy import ActionPolicy
from keylane.router.core.records import Arrived, Gone, Now
from keylane.router.core.repeats import ANSWERED, Answered, repeat_first_answer, seen_before, under_key, was_cancelled
from keylane.router.core.versions import outdated
from keylane.schemas.events import Coalesced, Parked, Queued
from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import Review, Run, RunState


def meets(lane: Lane, arrived: Arrived, request: WorkRequest, now: Now) -> Run | Answered | None:
    """Rules 2 to 4: the run whose row of the table applies, unless it was answered. None: one of its own."""
    known = seen_before(lane, arrived, request, now)
    if known is not None:
        return known
    if was_cancelled(lane, request):
        return None  # it joins nobody: it ends as it arrives
    if request.idempotency_key is not None:
        known = under_key(lane, arrived, request, now)
        if known is not None:
            return known
    grounds = outdated(lane, arrived, request, now)
    if grounds is not None:
        refuse(lane, arrived, now, grounds)
        return ANSWERED
    return joinable(lane, request, arrived.payload_digest, now)


def arrive(lane: Lane, _run: Run | None, arrived: Arrived, now: Now) -> None:
    """Unknown: rules 5 to 7, then a run of its own."""
    request = arrived.record
    assert isinstance(request, WorkRequest)
    policy = lane.policy.of(request.action)
    cancelled = was_cancelled(lane, request)
    contenders = [] if cancelled else contenders_of(lane, request, policy, arrived.owner)
    grounds = (
        (None if cancelled else untimely(lane, arrived, request, policy, now))
        or lock_held(arrived, request, policy, contenders, now)
        or full(lane, request, policy, arrived.owner)
    )
    if grounds is not None:
        refuse(lane, arrived, now, grounds)
        return
    clashing = [] if cancelled else asks_a_person(lane, policy, contenders, arrived.owner)
    if clashing:
        _park(lane, arrived, request, policy, clashing, now)
        return
    _queue(lane, arrived, request, policy, now)
    if cancelled:
        lane.put(Gone(b"cancelled/" + request.id.encode()))
        end(lane, lane.runs[request.id], now, "cancelled")
        return
    if contenders:
        supersede(lane, request, contenders, now)


def _queue(lane: Lane, arrived: Arrived, request: WorkRequest, policy: ActionPolicy, now: Now) -> None:
    """It waits for its turn."""
    owner, quiet_ms = arrived.owner, policy.quiet_ms
    holder = lane.held.get(owner)
    queued = Queued(
        seq=lane.next_seq,
        clock_ms=now.clock_ms,
        time=now.time,
        input=lane.input,
        request=request.id,
        run=request.id,
        resource=request.resource,
        owner=owner,
        action=request.action,
        actor=request.actor,
        position=len(lane.queue.get(owner, ())),
        holder="" if holder is None else lane.runs[holder].holder,
        unserved=not lane.is_served(request.action),
        ready_in_ms=quiet_ms or None,
    )
    seq = lane.publish(queued, owner, arrived.traceparent)
    ready_ms = now.clock_ms + quiet_ms if quiet_ms else None
    _accept(lane, arrived, request, now, seq, "Waiting", policy.queue_ms, ready_ms, None)
    note_unserved(lane, request.action, now)


def _park(
    lane: Lane, arrived: Arrived, request: WorkRequest, policy: ActionPolicy, clashing: list[Run], now: Now
) -> None:
    """It waits for a person, who decides between it and what it meets."""
    resource = lane.resources.get(request.resource)
    seq = lane.emit(
        Parked,
        now,
        arrived.traceparent,
        request=request.id,
        run=request.id,
        resource=request.resource,
        owner=arrived.owner,
        action=request.action,
        actor=request.actor,
        expires_in_ms=policy.review_ms,
        expected_version=request.expected_version,
        known_version=None if resource is None else resource.version,
        parties=(asker(arrived, request, now), *(party_of(other) for other in clashing[:PARTIES_MAX])),
    )
    review = Review(order=seq, since_ms=now.clock_ms, since=now.time, reason="on_conflict")
    _accept(lane, arrived, request, now, seq, "Parked", policy.review_ms, None, review)


def _accept(
    lane: Lane,
    arrived: Arrived,
    request: WorkRequest,
    now: Now,
    order: int,
    state: RunState,
    lasts_ms: int,
    ready_ms: int | None,
    review: Review | None,
) -> None:
    lane.put(
        Run(
            id=request.id,
            order=order,
            state=state,
            resource=request.resource,
            owner=arrived.owner,
            action=intern(request.action),
            digest=arrived.payload_digest,
            request_digest=arrived.digest,
            idempotency=None if request.idempotency_key is None else idempotency(arrived, request),
            expected_version=request.expected_version,
            requires=request.requires,
            coalesce_key=request.coalesce_key,
            deadline_ms=None if request.deadline_ms is None else deadline_ms(request, now),
            accepted_ms=now.clock_ms,
            accepted=now.time,
            actor=intern(request.actor),
            traceparent=arrived.traceparent,
            payload=request.payload.copy(),
            ready_ms=ready_ms,
            delayed=None if ready_ms is None else "quiet",
            expires_ms=now.clock_ms + lasts_ms,
            review=review,
            parked_first=review is not None,
        )
    )


def attach(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting, Parked, Held: the same request again gets its first answer; an equal one joins."""
    request = arrived.record
    assert run is not None and isinstance(request, WorkRequest)
    member = lane.member(request.id)
    if member is not None:
        repeat_first_answer(lane, run, member, now)
        return
    no_room = crowded(lane, run, arrived, request)
    if no_room is not None:
        refuse(lane, arrived, now, no_room)
        return
    seq = lane.emit(
        Coalesced,
        now,
        arrived.traceparent,
        request=request.id,
        **about(run),
        actor=request.actor,
        parked=run.state == "Parked",
    )
    join(lane, arrived, request, run, seq, now)
