"""Arrival rule 4: which run an equal request joins, and how it does. Every requester of a run gets its outcome."""

from __future__ import annotations

from msgspec import Raw
from msgspec.structs import replace

from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Now
from keylane.router.core.shape import work_digest
from keylane.router.core.standing import changed_order, firm_order, is_approved, likeness
from keylane.schemas.base import NULL
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
        in_window = now.clock_ms < run.accepted_ms + window_ms
        if is_open(run):
            return run
        if _takes_more(lane, run, in_window) and leading_digest(lane, run) == payload_digest:
            return run
        if run.state == "Done" and not in_window:
            return None
    return None


def is_open(run: Run) -> bool:
    """Whether nobody has seen yet what it will do, so that it may still become something else."""
    return run.state == "Waiting" and run.granted_order is None and not is_approved(run)


def _takes_more(lane: Lane, run: Run, in_window: bool) -> bool:
    """Whether what the run does, or has done, is what an equal request asks for now."""
    if run.state == "Parked":
        return True
    if run.state != "Waiting" and (run.stop is not None or not in_window):
        return False
    return _unchanged_since(lane, run)


def _unchanged_since(lane: Lane, run: Run) -> bool:
    """Whether the resource is as this run found it or made it, as far as the lane knows."""
    resource = lane.resources.get(run.resource)
    if resource is None:
        return True
    firm = firm_order(run)
    if firm is None or changed_order(resource) > firm:
        return False
    return resource.completed_run == run.id or resource.completed_order < firm


def join(lane: Lane, arrived: Arrived, request: WorkRequest, run: Run, order: int, now: Now) -> None:
    """One more requester of the run. It is ready at once where that makes it as many as are waited for."""
    is_other = arrived.payload_digest != run.digest
    is_new = is_other and run.state != "Done"
    is_new = is_new and all(member.payload_digest != arrived.payload_digest for member in _others(lane, run))
    lane.put(
        Member(
            id=request.id,
            run=run.id,
            order=order,
            digest=arrived.digest,
            accepted_ms=now.clock_ms,
            actor=request.actor,
            traceparent=arrived.traceparent,
            idempotency=idempotency(arrived, request),
            payload_digest=arrived.payload_digest if is_other else "",
            payload=request.payload.copy() if is_new else NULL,
            deadline_ms=deadline_ms(request, now),
        )
    )
    most = lane.policy.of(run.action).max_count
    if is_open(run) and run.ready_ms is not None and most and lane.member_count(run) >= most:
        lane.put(replace(run, ready_ms=None, delayed=None))


def settled_ms(lane: Lane, run: Run) -> int:
    """When nobody will have joined for long enough, as far as can be told now; at once where there are many."""
    policy = lane.policy.of(run.action)
    if 0 < policy.max_count <= lane.member_count(run):
        return run.accepted_ms
    others = lane.members_of.get(run.id)
    joined_ms = lane.members[others[-1][1]].accepted_ms if others else run.accepted_ms
    return min(joined_ms + policy.quiet_ms, run.accepted_ms + policy.max_delay_ms)


def leading_digest(lane: Lane, run: Run) -> str:
    """Of the payload that leads: the newest of those who still want the run."""
    if run.coalesce_key is None:
        return run.digest
    *_, newest = (run.digest, *(_payload_digest(run, member) for member in lane.live_members(run)))
    return newest


def payloads(lane: Lane, run: Run) -> tuple[Raw, tuple[Raw, ...]]:
    """The payload that leads, and the distinct others of those who still want the run, oldest first."""
    if run.coalesce_key is None:
        return run.payload, ()
    brought = {run.digest: run.payload}
    brought |= {member.payload_digest: member.payload for member in _others(lane, run) if member.payload != NULL}
    leads = leading_digest(lane, run)
    wanted = dict.fromkeys(_payload_digest(run, member) for member in lane.live_members(run))
    return brought[leads], tuple(brought[digest] for digest in wanted if digest != leads)


def _payload_digest(run: Run, member: Member) -> str:
    return member.payload_digest or run.digest


def payload_bytes(lane: Lane, run: Run) -> int:
    """Of all payloads that the run carries."""
    others = sum(len(memoryview(member.payload)) for member in _others(lane, run) if member.payload_digest)
    return len(memoryview(run.payload)) + others


def _others(lane: Lane, run: Run) -> list[Member]:
    """Its requests but the first, whose payload is the run's, also such as left."""
    return [lane.members[id] for _, id in lane.members_of.get(run.id, ())]


def deadline_ms(request: WorkRequest, now: Now) -> int | None:
    """In lane time, when its requester no longer wants it."""
    return None if request.deadline_ms is None else now.clock_ms + request.deadline_ms


def idempotency(arrived: Arrived, request: WorkRequest) -> IdempotencyKey | None:
    """The requester's own name for its work, if it gave one."""
    if request.idempotency_key is None:
        return None
    digest = work_digest(request, arrived.payload_digest)
    return IdempotencyKey(owner=arrived.owner, key=request.idempotency_key, digest=digest)
