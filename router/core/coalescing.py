"""Arrival rule 4: which run an equal request joins, and how it does. Every requester of a run gets its outcome."""

from __future__ import annotations

from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Now
from keylane.router.core.shape import work_digest
from keylane.router.core.standing import likeness
from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import IdempotencyKey, Member, Run


def joinable(lane: Lane, request: WorkRequest, payload_digest: str, now: Now) -> Run | None:
    """The run that an equal request joins, newest first; None where it must be a run of its own."""
    alike = lane.equal.get(likeness(request, payload_digest))
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
    """Whether the resource is as this run found it or made it, as far as the lane knows."""
    resource = lane.resources.get(run.resource)
    if resource is None:
        return True
    if run.granted_order is None or resource.changed_order > run.granted_order:
        return False
    return resource.completed_run == run.id or resource.completed_order < run.granted_order


def join(lane: Lane, arrived: Arrived, request: WorkRequest, run: str, order: int, now: Now) -> None:
    """One more requester of the run."""
    lane.put(
        Member(
            id=request.id,
            run=run,
            order=order,
            digest=arrived.digest,
            accepted_ms=now.clock_ms,
            actor=request.actor,
            traceparent=arrived.traceparent,
            idempotency=idempotency(arrived, request),
            deadline_ms=deadline_ms(request, now),
        )
    )


def deadline_ms(request: WorkRequest, now: Now) -> int | None:
    """In lane time, when its requester no longer wants it."""
    return None if request.deadline_ms is None else now.clock_ms + request.deadline_ms


def idempotency(arrived: Arrived, request: WorkRequest) -> IdempotencyKey | None:
    """The requester's own name for its work, if it gave one."""
    if request.idempotency_key is None:
        return None
    digest = work_digest(request, arrived.payload_digest)
    return IdempotencyKey(owner=arrived.owner, key=request.idempotency_key, digest=digest)
