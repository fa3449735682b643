"""What a lane forgets, and when: past its retention or, where there is too much, what has been idle longest."""

from __future__ import annotations

from msgspec.structs import replace

from keylane.router.core.lane import Lane
from keylane.router.core.records import Gone, Now


def unserved_due(lane: Lane, action: str, now: Now) -> None:
    """Its runs step aside; later the record goes, unless somebody still waits."""
    unserved = lane.unserved[action]
    if not unserved.aside:
        lane.put(replace(unserved, aside=True))
    elif action in lane.waiting_owners:
        lane.put(replace(unserved, since_ms=now.clock_ms))
    else:
        lane.put(Gone(b"unserved/" + action.encode()))


def resource_due(lane: Lane, key: str, now: Now) -> None:
    """Forgotten, unless somebody waits whom it may stop from overwriting newer work: then it goes to the back."""
    policy = lane.policy
    owner = lane.owner_of(key)
    if _is_busy(lane, owner):
        # Behind every other one: a lane over its bound would else find this one first for ever, and forget none.
        waits_ms = max(each.queue_ms for each in (policy.defaults, *policy.actions.values()))
        lasts_ms = max(policy.resource_retention_ms, waits_ms + policy.retention_ms)
        lane.put(replace(lane.resources[key], forget_ms=now.clock_ms + lasts_ms + 1))
    else:
        lane.put(Gone(b"resource/" + key.encode()))


def counted_due(lane: Lane, run: str, now: Now) -> None:
    """Counts no more, unless its owning key is not idle."""
    grant = lane.counted[run]
    if _is_busy(lane, grant.owner):
        lane.put(replace(grant, forget_ms=now.clock_ms + lane.policy.resource_retention_ms))
    else:
        lane.put(Gone(b"counted/" + run.encode()))


def _is_busy(lane: Lane, owner: str) -> bool:
    """Whether some run of the owning key is not over."""
    return owner in lane.queue or owner in lane.held or owner in lane.parked


def forgettable(lane: Lane, now: Now) -> bytes | None:
    """The state key of the next timer that only forgets: past its retention or, over the bounds, idle longest."""
    policy = lane.policy
    early_ms = 0
    if len(lane.outcomes) > policy.bounds.crowded_runs or lane.carried_bytes > policy.bounds.crowded_bytes:
        early_ms = policy.retention_ms - policy.crowded_retention_ms
    crowded = len(lane.resources) > policy.bounds.resources
    for timers, due_by_ms in ((lane.outcomes, now.clock_ms + early_ms), (lane.idle, now.clock_ms)):
        due_ms = timers.next_ms()
        if due_ms is not None and due_ms <= due_by_ms:
            return timers.first()
    due_ms = lane.resting.next_ms()
    if due_ms is not None and (crowded or due_ms <= now.clock_ms):
        return lane.resting.first()
    return None
