"""Arrival rule 6: what meets other work on its owning key is refused, replaces it, waits behind it, or for a person."""

from __future__ import annotations

from keylane.router.core.describe import asker, parties_of, party_of
from keylane.router.core.endings import ask_to_stop, end
from keylane.router.core.lane import Lane
from keylane.router.core.policy import ActionPolicy
from keylane.router.core.records import Arrived, Grounds, Now
from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import Run

RETRY_AFTER_MS_MIN = 100
RETRY_AFTER_MS_MAX = 5_000
"""Bounds of the hint in `LOCK_HELD`: a lease may end long before its time, so nobody is told to stay away for it."""
PARTIES_MAX = 16


def contenders_of(lane: Lane, request: WorkRequest, policy: ActionPolicy, owner: str) -> list[Run]:
    """The held run of the owning key, then the waiting ones in acceptance order; none where none of them matters.

    Whom it meets matters only where somebody is refused or replaced: a thousand may wait, and usually they do.
    """
    if not request.reject_if_busy and policy.only_queues:
        return []
    holder = lane.held.get(owner)
    waiting = [lane.runs[id] for _, id in lane.queue.get(owner, ())]
    return waiting if holder is None else [lane.runs[holder], *waiting]


def asks_a_person(lane: Lane, policy: ActionPolicy, contenders: list[Run], owner: str) -> list[Run]:
    """Those whom it meets such that a person has to decide: one that waits for that itself counts for this alone."""
    if policy.only_queues or not policy.may_ask:
        return []
    parked = [lane.runs[id] for _, id in lane.parked.get(owner, ())]
    return [other for other in (*contenders, *parked) if policy.against(other.action) == "review"]


def lock_held(
    arrived: Arrived, request: WorkRequest, policy: ActionPolicy, contenders: list[Run], now: Now
) -> Grounds | None:
    """Why one of them keeps the request out: who is in its way, and when to come back."""
    if not contenders:
        return None
    modes = {policy.against(other.action) for other in contenders}
    if "reject" not in modes and not ("queue" in modes and request.reject_if_busy):
        return None
    sides = (asker(arrived, request, now), *(party_of(other) for other in contenders[:PARTIES_MAX]))
    return is_taken(contenders[0], len(contenders), now)._replace(parties=sides)


def is_taken(first: Run, position: int, now: Now) -> Grounds:
    """`LOCK_HELD`: `first` holds the owning key, or is next, and `position` runs come before whoever asks."""
    left_ms = RETRY_AFTER_MS_MIN if first.lease_until_ms is None else first.lease_until_ms - now.clock_ms
    does = "is waiting on it" if first.state != "Held" else "is running on it" if first.lock is None else "holds it"
    retry_after_ms = min(max(left_ms, RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX)
    return Grounds("LOCK_HELD", f"{first.action} ({first.id}) {does}", retry_after_ms, first, position)


def supersede(lane: Lane, request: WorkRequest, contenders: list[Run], now: Now) -> None:
    """The new run replaces waiting ones of the same requested key, and may ask the holder to stop. Never a lock: what
    is done under it is not known, so nothing else does the same."""
    policy = lane.policy.of(request.action)
    for other in contenders:
        if other.resource != request.resource or policy.against(other.action) != "supersede" or other.lock is not None:
            continue
        if other.state == "Waiting":
            sides = (party_of(lane.runs[request.id]), *parties_of(lane, other))
            end(lane, other, now, "superseded", superseded_by=request.id, parties=sides)
        elif policy.stop_holder and other.stop is None:
            ask_to_stop(lane, other, now, "superseded", request.id)
