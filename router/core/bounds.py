"""Arrival rule 7: what finds a resource, a run or the lane full. Overload is answered, never absorbed."""

from __future__ import annotations

from keylane.router.core.coalescing import payload_bytes
from keylane.router.core.lane import Lane
from keylane.router.core.policy import ActionPolicy
from keylane.router.core.records import Arrived, Grounds
from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import Run

RETRY_AFTER_MS = 1_000


def full(lane: Lane, request: WorkRequest, policy: ActionPolicy, owner: str) -> Grounds | None:
    """Why a run of its own is not taken in."""
    bounds = lane.policy.bounds
    no_room = _no_room(lane, owner)
    if no_room is not None:
        return no_room
    lasting = policy.limit is not None or (lane.steps and request.action in lane.steps)
    if lasting and _remembered(lane) >= bounds.resources:
        return Grounds("LANE_FULL", f"{bounds.resources} steps and limits are remembered here", RETRY_AFTER_MS)
    known = request.action in lane.unserved or lane.is_served(request.action)
    if not known and len(lane.unserved) >= bounds.unserved_actions:
        return Grounds(
            "LANE_FULL", f"runs wait for {bounds.unserved_actions} actions that no worker handles", RETRY_AFTER_MS
        )
    return None


def full_of_locks(lane: Lane, session: str, owner: str) -> Grounds | None:
    """Why a lock is not taken in."""
    most = lane.policy.bounds.locks_per_session
    if len(lane.locks_of.get(session, ())) >= most:
        return Grounds("QUEUE_FULL", f"its session holds or waits for {most} locks in this partition", RETRY_AFTER_MS)
    return _no_room(lane, owner)


def _no_room(lane: Lane, owner: str) -> Grounds | None:
    bounds = lane.policy.bounds
    if len(lane.queue.get(owner, ())) + len(lane.parked.get(owner, ())) >= bounds.waiters_per_resource:
        return Grounds("QUEUE_FULL", f"{bounds.waiters_per_resource} runs wait for this resource", RETRY_AFTER_MS)
    if len(lane.runs) >= bounds.runs:
        return Grounds("LANE_FULL", f"this partition remembers {bounds.runs} runs", RETRY_AFTER_MS)
    if lane.carried_bytes >= bounds.lane_bytes:
        return Grounds(
            "LANE_FULL",
            f"payloads, checkpoints and results in this partition: {lane.carried_bytes} bytes",
            RETRY_AFTER_MS,
        )
    return None


def _remembered(lane: Lane) -> int:
    """How many records are kept for as long as their resource is not idle for very long: no bound takes them."""
    return len(lane.counted) + len(lane.resources) - len(lane.resting)


def has_most_members(lane: Lane, run: Run) -> bool:
    """Whether as many requests are in the run as can be."""
    return lane.member_count(run) >= lane.policy.bounds.members_per_run


def crowded(lane: Lane, run: Run, arrived: Arrived, request: WorkRequest) -> Grounds | None:
    """Why the run takes no further request."""
    if has_most_members(lane, run):
        return Grounds("QUEUE_FULL", "as many equal requests as can be merged have been", RETRY_AFTER_MS)
    if run.coalesce_key is not None and arrived.payload_digest != run.digest and run.state != "Done":
        carried = payload_bytes(lane, run) + len(memoryview(request.payload))
        if carried > lane.policy.bounds.run_bytes:
            return Grounds("QUEUE_FULL", f"payloads merged into one run: {carried} bytes", RETRY_AFTER_MS)
    return None
