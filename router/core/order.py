"""Arrival rule 5, asked again at dispatch: the step that must come first, and how many runs may stand at once.

A limit counts what was granted, and outlasts the work: two drains one after the other reach zero capacity as well.
"""

from __future__ import annotations

from keylane.router.core.describe import asker, is_changed_outside, last_to_change
from keylane.router.core.lane import Lane
from keylane.router.core.policy import ActionPolicy
from keylane.router.core.records import Arrived, Gone, Grounds, Now
from keylane.schemas.event_parts import Party
from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import CountedGrant, Run

RETRY_AFTER_MS = 5_000
PARTIES_MAX = 16


def untimely(lane: Lane, arrived: Arrived, request: WorkRequest, policy: ActionPolicy, now: Now) -> Grounds | None:
    """Why a request is refused for what came before it, or did not."""
    if not request.requires and policy.starts_freely:
        return None
    grounds = out_of_order(lane, request.resource, request.action, request.requires)
    grounds = grounds or over_limit(lane, arrived.owner, request.action, request.id)
    return grounds and grounds._replace(parties=(asker(arrived, request, now), *grounds.parties))


def out_of_order(lane: Lane, key: str, action: str, requires: tuple[str, ...]) -> Grounds | None:
    """Why it is not its turn: one of the named actions must be the last completed one, harmless ones aside."""
    wanted = lane.policy.of(action).requires
    if not wanted and not requires:
        return None
    needed = tuple(each for each in (wanted, requires) if each)
    resource = lane.resources.get(key)
    if resource is None or is_changed_outside(resource):
        last, came = "", "nothing is known to have come" if resource is None else "it was changed outside since"
    else:
        last = resource.completed_action
        came = f"the last was {last}"
    missing = next((names for names in needed if last not in names), None)
    if missing is None:
        return None
    return Grounds(
        "ORDER_VIOLATION",
        f"{' or '.join(missing)} must come first; {came}",
        known_version=None if resource is None else resource.version,
        parties=() if resource is None else last_to_change(lane, resource),
    )


def over_limit(lane: Lane, owner: str, action: str, run: str) -> Grounds | None:
    """Why one more would be too many, the run itself aside."""
    limit = lane.policy.of(action).limit
    if limit is None:
        return None
    others = [lane.counted[id] for _, id in lane.counted_of.get((owner, action), ()) if id != run]
    if len(others) < limit.count:
        return None
    return Grounds(
        "LIMIT_REACHED",
        f"{len(others)} of at most {limit.count} stand until {' or '.join(limit.until)}",
        RETRY_AFTER_MS,
        parties=tuple(
            Party(request=each.run, actor=each.actor, action=action, at_ms=each.since_ms, token=each.token)
            for each in others[:PARTIES_MAX]
        ),
    )


def note_granted(lane: Lane, run: Run, token: int, now: Now) -> None:
    """From now on the run counts, whatever becomes of it but a reported failure."""
    if lane.policy.of(run.action).limit is None:
        return
    lane.put(
        CountedGrant(
            run=run.id,
            owner=run.owner,
            resource=run.resource,
            action=run.action,
            actor=run.actor,
            order=run.order,
            token=token,
            since_ms=now.clock_ms,
            forget_ms=now.clock_ms + lane.policy.resource_retention_ms,
        )
    )


def note_failed(lane: Lane, run: Run) -> None:
    """Its holder says that it did not succeed: it does not count until it is granted again."""
    if run.id in lane.counted:
        lane.put(Gone(b"counted/" + run.id.encode()))


def lift(lane: Lane, key: str, what: str) -> None:
    """`what` has happened to the requested key: the runs on it that counted until then count no more."""
    for action in lane.lifted_by.get(what, ()):
        for _, id in list(lane.counted_of.get((lane.owner_of(key), action), ())):
            if lane.counted[id].resource == key:
                lane.put(Gone(b"counted/" + id.encode()))
