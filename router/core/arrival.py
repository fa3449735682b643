"""The arrival rules (design section 4): what becomes of a work request, in their declared order.

Rules 1 and 2 are asked before the table (`step`); 4 chooses the run whose row of the table applies; the cells
here are 6 and 7. Rules 3 and 5 and the rest of 2 and 4 come with the fields that `shape.LATER` names.
"""

from __future__ import annotations

from sys import intern
from typing import Any

from msgspec.structs import replace

from keylane.router.core.describe import about, outcome_of, parties_of, party_of, said
from keylane.router.core.endings import end, note_unserved
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Forward, Gone, Now
from keylane.schemas.codec import Undecodable
from keylane.schemas.events import (
    Coalesced,
    DeadLettered,
    Ended,
    Party,
    Queued,
    Refused,
    SentOn,
    Status,
    StopAsked,
    Withdrawn,
)
from keylane.schemas.items import Notice
from keylane.schemas.refusals import Code
from keylane.schemas.requests import Request, WorkRequest
from keylane.schemas.state import Member, RefusedRequest, Run

RETRY_AFTER_MS_MIN = 100
RETRY_AFTER_MS_MAX = 5_000
"""Bounds of the hint in `LOCK_HELD`: a lease may end long before its time, so nobody is told to stay away for it."""


def send_on(lane: Lane, arrived: Arrived, request: Request, resource: str, partition: int, now: Now) -> None:
    """The record belongs to another lane: publish it there once; a second miss is a dead letter."""
    if getattr(request, "hops", 0):
        reason = f"sent on once already, and still not of partition {lane.partition} but of {partition}"
        set_aside(lane, arrived, now, "BAD_RECORD", reason)
        if not lane.has_answered(request.id):
            refuse(lane, arrived, now, "BAD_RECORD", reason)
        return
    onward = replace(request, hops=1)
    lane.forwards.append(Forward(partition, resource, onward, arrived.traceparent))
    lane.emit(SentOn, now, arrived.traceparent, request=request.id, resource=resource, to_partition=partition)


def set_aside(lane: Lane, arrived: Arrived, now: Now, code: Code, reason: str, parties: tuple[Party, ...] = ()) -> None:
    """A dead letter: the record stays where it is, named by its place."""
    lane.emit(
        DeadLettered,
        now,
        arrived.traceparent,
        topic=arrived.topic,
        offset=arrived.offset,
        code=code,
        reason=reason,
        key=arrived.key,
        excerpt=arrived.excerpt,
        resource=said(arrived.record, "resource"),
        action=said(arrived.record, "action"),
        parties=parties,
    )


def refuse(
    lane: Lane,
    arrived: Arrived,
    now: Now,
    code: Code,
    message: str,
    *,
    repeat: bool = False,
    retry_after_ms: int | None = None,
    holder: Run | None = None,
    position: int | None = None,
    parties: tuple[Party, ...] = (),
) -> None:
    """Answer a command with a refusal; that of a work request is remembered under its id."""
    record = arrived.record
    lease = None if holder is None or holder.lease_until_ms is None else holder.lease_until_ms - now.clock_ms
    seq = lane.emit(
        Refused,
        now,
        arrived.traceparent,
        request=(getattr(record, "id", None) or "")[:128],
        resource=said(record, "resource"),
        code=code,
        message=message,
        command=type(record).__name__ if not isinstance(record, Undecodable) else "WorkRequest",
        action=said(record, "action"),
        actor=said(record, "actor"),
        retry_after_ms=retry_after_ms,
        holder=None if holder is None else holder.holder or holder.actor or holder.id,
        held_since=holder.since if holder is not None and holder.since else None,
        lease_expires_in_ms=lease,
        position=position,
        parties=parties,
        repeat=repeat,
    )
    if isinstance(record, WorkRequest) and arrived.digest and not repeat:
        lane.put(RefusedRequest(id=record.id, order=seq, digest=arrived.digest, resource=record.resource, code=code))
        while len(lane.refused) > lane.policy.bounds.refusals:
            lane.put(Gone(b"refused/" + lane.refused_order[0][1].encode()))


def joinable(lane: Lane, request: WorkRequest, payload_digest: str, now: Now) -> Run | None:
    """Rule 4: the run that an equal request joins, newest first; None where it must be a run of its own."""
    alike = lane.equal.get((request.resource, request.action, payload_digest))
    if alike is None:
        return None
    window_ms = lane.policy.of(request.action).coalesce_ms
    for _, id in reversed(alike):
        run = lane.runs[id]
        if run.state == "Waiting" and (run.granted_order is None or _unchanged_since(lane, run)):
            return run
        in_window = now.clock_ms < run.accepted_ms + window_ms
        if in_window and run.stop is None and _unchanged_since(lane, run):
            return run
        if run.state == "Done" and not in_window:
            return None
    return None


def _unchanged_since(lane: Lane, run: Run) -> bool:
    """Whether no other run has completed on the resource since this one was first granted."""
    resource = lane.resources.get(run.resource)
    if resource is None or resource.completed_run == run.id:
        return True
    return run.granted_order is not None and resource.completed_order < run.granted_order


def was_cancelled(lane: Lane, request: WorkRequest) -> bool:
    """Whether a cancellation of this request overtook it. One that named another resource is of another request."""
    kept = lane.kept.get(request.id)
    return kept is not None and kept.resource == request.resource


def arrive(lane: Lane, _run: Run | None, arrived: Arrived, now: Now) -> None:
    """Unknown: rules 6 and 7, then a run of its own."""
    request = arrived.record
    assert isinstance(request, WorkRequest)
    full = _full(lane, request)
    if was_cancelled(lane, request) and full is None:
        _cancelled_before(lane, arrived, request, now)
        return
    action_policy = lane.policy.of(request.action)
    # Whom it meets matters only where somebody is refused or replaced: a thousand may wait, and usually they do.
    judges = request.reject_if_busy or not action_policy.only_queues()
    contenders = _contenders(lane, request.resource) if judges else []
    for other in contenders:
        mode = action_policy.against(other.action)
        if mode == "reject" or (mode == "queue" and request.reject_if_busy):
            _lock_held(lane, arrived, request, contenders, now)
            return
    if full is not None:
        refuse(lane, arrived, now, *full, retry_after_ms=1_000)
        return
    _accept(lane, arrived, request, now)
    if contenders:
        _supersede(lane, request, contenders, now)


def _contenders(lane: Lane, owner: str) -> list[Run]:
    """Rule 6: the held run of the owning key, then the waiting ones in acceptance order."""
    holder = lane.held.get(owner)
    waiting = [lane.runs[id] for _, id in lane.queue.get(owner, ())]
    return waiting if holder is None else [lane.runs[holder], *waiting]


def _lock_held(lane: Lane, arrived: Arrived, request: WorkRequest, contenders: list[Run], now: Now) -> None:
    first = contenders[0]
    left_ms = RETRY_AFTER_MS_MIN if first.lease_until_ms is None else first.lease_until_ms - now.clock_ms
    asker = Party(
        request=request.id,
        actor=request.actor,
        action=request.action,
        digest=arrived.payload_digest,
        at_ms=now.clock_ms,
    )
    what = f"{first.action} ({first.id}) is {'running' if first.state == 'Held' else 'waiting'} on it"
    refuse(
        lane,
        arrived,
        now,
        "LOCK_HELD",
        what,
        retry_after_ms=min(max(left_ms, RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX),
        holder=first,
        position=len(contenders),
        parties=(asker, *(party_of(other) for other in contenders[:16])),
    )


def _full(lane: Lane, request: WorkRequest) -> tuple[Code, str] | None:
    """Rule 7."""
    bounds = lane.policy.bounds
    if len(lane.queue.get(request.resource, ())) >= bounds.waiters_per_resource:
        return "QUEUE_FULL", f"{bounds.waiters_per_resource} runs wait for this resource"
    if len(lane.runs) >= bounds.runs:
        return "LANE_FULL", f"this partition remembers {bounds.runs} runs"
    if lane.carried_bytes >= bounds.lane_bytes:
        return "LANE_FULL", f"payloads, checkpoints and results in this partition: {lane.carried_bytes} bytes"
    known = request.action in lane.unserved or lane.is_served(request.action)
    if not known and len(lane.unserved) >= bounds.unserved_actions:
        return "LANE_FULL", f"runs wait for {bounds.unserved_actions} actions that no worker handles"
    return None


def _accept(lane: Lane, arrived: Arrived, request: WorkRequest, now: Now) -> None:
    owner = request.resource
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
    )
    seq = lane.publish(queued, owner, arrived.traceparent)
    lane.put(
        Run(
            id=request.id,
            order=seq,
            state="Waiting",
            resource=request.resource,
            owner=owner,
            action=intern(request.action),
            digest=arrived.payload_digest,
            request_digest=arrived.digest,
            deadline_ms=_deadline_ms(request, now),
            accepted_ms=now.clock_ms,
            accepted=now.time,
            actor=intern(request.actor),
            traceparent=arrived.traceparent,
            payload=request.payload.copy(),
            expires_ms=now.clock_ms + lane.policy.of(request.action).queue_ms,
        )
    )
    note_unserved(lane, request.action, now)


def _join(lane: Lane, arrived: Arrived, request: WorkRequest, run: str, order: int, now: Now) -> None:
    lane.put(
        Member(
            id=request.id,
            run=run,
            order=order,
            digest=arrived.digest,
            accepted_ms=now.clock_ms,
            actor=request.actor,
            traceparent=arrived.traceparent,
            deadline_ms=_deadline_ms(request, now),
        )
    )


def _deadline_ms(request: WorkRequest, now: Now) -> int | None:
    return None if request.deadline_ms is None else now.clock_ms + request.deadline_ms


def _supersede(lane: Lane, request: WorkRequest, contenders: list[Run], now: Now) -> None:
    """The new run replaces waiting ones of the same requested key, and may ask the holder to stop."""
    policy = lane.policy.of(request.action)
    for other in contenders:
        if other.resource != request.resource or policy.against(other.action) != "supersede":
            continue
        if other.state == "Waiting":
            sides = (party_of(lane.runs[request.id]), *parties_of(lane, other))
            end(lane, other, now, "superseded", superseded_by=request.id, parties=sides)
        elif policy.stop_holder and other.stop is None:
            ask_to_stop(lane, other, now, "superseded", request.id)


def ask_to_stop(lane: Lane, run: Run, now: Now, status: Status, by: str) -> None:
    """Tell the holder that its work is not wanted any more. It may still complete first."""
    lane.put(replace(run, stop=status, stop_by=by))
    session = lane.sessions[run.session]
    lane.tell(session, Notice, run.traceparent, kind="stop", run=run.id, token=run.token, reason=status)
    lane.emit(
        StopAsked,
        now,
        run.traceparent,
        **about(run),
        token=run.token,
        status=status,
        by=by,
    )


def _cancelled_before(lane: Lane, arrived: Arrived, request: WorkRequest, now: Now) -> None:
    """Its cancellation overtook it: it ends as it arrives."""
    _accept(lane, arrived, request, now)
    lane.put(Gone(b"cancelled/" + request.id.encode()))
    end(lane, lane.runs[request.id], now, "cancelled")


def attach(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting, Parked, Held: the same request again gets its first answer; an equal one joins."""
    request = arrived.record
    assert run is not None and isinstance(request, WorkRequest)
    member = lane.member(request.id)
    if member is not None:
        _repeat_first_answer(lane, run, member, now)
        return
    if _is_crowded(lane, run, arrived, now):
        return
    seq = lane.emit(
        Coalesced,
        now,
        arrived.traceparent,
        request=request.id,
        **about(run),
        actor=request.actor,
    )
    _join(lane, arrived, request, run.id, seq, now)


def _is_crowded(lane: Lane, run: Run, arrived: Arrived, now: Now) -> bool:
    """Rule 7 for a run that is joined: refuses where it has as many requests as it may."""
    crowded = lane.member_count(run) >= lane.policy.bounds.members_per_run
    if crowded:
        message = "as many equal requests as can be merged have been"
        refuse(lane, arrived, now, "QUEUE_FULL", message, retry_after_ms=1_000)
    return crowded


def _repeat_first_answer(lane: Lane, run: Run, member: Member, now: Now) -> None:
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
        _repeat_first_answer(lane, run, member, now)
        return
    if member is None and _is_crowded(lane, run, arrived, now):
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
        _join(lane, arrived, request, run.id, seq, now)
