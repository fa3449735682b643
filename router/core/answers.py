"""How a command is answered other than by accepting it: refused, set aside as a dead letter, or sent on.

Why is decided by whoever calls; here is what is then said, and remembered of it.
"""

from __future__ import annotations

from msgspec.structs import replace

from keylane.router.core.describe import in_the_way, said
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Forward, Gone, Grounds, Now
from keylane.schemas.codec import Undecodable
from keylane.schemas.event_parts import Party
from keylane.schemas.events import DeadLettered, Refused, SentOn
from keylane.schemas.refusals import Code
from keylane.schemas.requests import LockRequest, Request, WorkRequest
from keylane.schemas.state import LOCK_ACTION, RefusedRequest


def send_on(lane: Lane, arrived: Arrived, request: Request, partition: int, now: Now) -> None:
    """The record belongs to another lane: publish it there once; a second miss is a dead letter."""
    if getattr(request, "hops", 0):
        reason = f"sent on once already, and still not of partition {lane.partition} but of {partition}"
        set_aside(lane, arrived, now, "BAD_RECORD", reason)
        if not lane.has_answered(request.id):
            refuse(lane, arrived, now, Grounds("BAD_RECORD", reason))
        return
    onward = replace(request, hops=1)
    lane.forwards.append(Forward(partition, arrived.owner, onward, arrived.traceparent))
    lane.emit(
        SentOn, now, arrived.traceparent, request=request.id, resource=said(request, "resource"), to_partition=partition
    )


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


def refuse(lane: Lane, arrived: Arrived, now: Now, grounds: Grounds, *, repeat: bool = False) -> None:
    """Answer a command with a refusal; that of a work or lock request is remembered under its id."""
    record = arrived.record
    seq = lane.emit(
        Refused,
        now,
        arrived.traceparent,
        request=(getattr(record, "id", None) or "")[:128],
        resource=said(record, "resource"),
        code=grounds.code,
        message=grounds.message,
        command=type(record).__name__ if not isinstance(record, Undecodable) else "WorkRequest",
        action=LOCK_ACTION if isinstance(record, LockRequest) else grounds.action or said(record, "action"),
        actor=said(record, "actor") or said(record, "by"),
        **in_the_way(grounds, now),
        expected_version=grounds.expected_version,
        known_version=grounds.known_version,
        parties=grounds.parties,
        repeat=repeat,
    )
    if isinstance(record, WorkRequest | LockRequest) and arrived.digest and not repeat:
        code = grounds.code
        lane.put(RefusedRequest(id=record.id, order=seq, digest=arrived.digest, resource=record.resource, code=code))
        while len(lane.refused) > lane.policy.bounds.refusals:
            lane.put(Gone(b"refused/" + lane.refused_order[0][1].encode()))
