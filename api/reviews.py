"""What a person decides on: the parked run as `state` has it, and what approving it will do, as folds of a `LaneView`.

Only routers read policies, and they decide again when the run's turn comes: required steps of actions and limits, and
how the queue has moved by then. What is said here is what can be told from the lane's last commit.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Raw

from keylane.journal.port import Journal, Place
from keylane.outcome import Json
from keylane.schemas import topics
from keylane.schemas.base import NULL
from keylane.schemas.codec import decode_state
from keylane.schemas.events import ParkReason
from keylane.schemas.state import Member, Resource, Run
from keylane.views import LaneView, fold, read_all


class IfApproved(msgspec.Struct, frozen=True, kw_only=True):
    """A parked run, and what becomes of it and of others when it is approved now. `actor` and `payload` are
    agent-written."""

    request_id: str
    """What a decision names: the first of those who want it."""
    requests: tuple[str, ...]
    resource: str
    action: str
    actor: str
    payload: Json
    digest: str
    """SHA-256 of that payload: a decision is bound to it."""
    reason: ParkReason
    since: str
    """Wall time since when a person is asked, RFC 3339."""
    conflict_id: str
    expected_version: str | None
    """What its requester had read."""
    version_seen: str
    """The version that is known now: an approval is bound to it. Empty: none is known."""
    before: tuple[str, ...]
    """Runs that come first: the holder's, and those that were accepted earlier. None: it is granted next."""
    held_by: str | None
    unserved: bool
    """No worker handles its action now."""
    superseded_by: tuple[str, ...]
    """Which of those end this run when they complete: they change the same resource after the decision."""
    supersedes: tuple[str, ...]
    """Runs that wait and go no further once this one completes: they were approved, begun or decided on before it."""


async def read_review(journal: Journal, partition: int, find: Callable[[LaneView], Run | None]) -> IfApproved | None:
    """What a person is asked about the run that `find` finds, as of the lane's last commit; None: it finds none."""
    records = await read_all(journal, Place(topics.STATE, partition))
    view = fold(records, partition)
    run = find(view)
    if run is None:
        return None
    key = b"resource/" + run.resource.encode()
    value = next((each.value for each in reversed(records) if each.key == key), None)
    resource = None if value is None else decode_state(value)
    return if_approved(view, run, resource if isinstance(resource, Resource) else None)


def parked_run(view: LaneView, resource: str, request_id: str) -> Run | None:
    """The run that waits for a decision on this request of `resource`; None where there is none."""
    member = view.members.get(request_id)
    run = view.runs.get(member.run if member else request_id)
    return run if run is not None and run.state == "Parked" and run.resource == resource else None


def parked_under(view: LaneView, conflict_id: str) -> Run | None:
    """The run that waits for the decision that this artifact asks for."""
    parked = (run for run in view.runs.values() if run.state == "Parked")
    return next((run for run in parked if asked_by(view, run) == conflict_id), None)


def asked_by(view: LaneView, run: Run) -> str:
    """The artifact by which a person is asked about a parked run."""
    assert run.review is not None
    return f"{view.partition}-{run.review.order}"


def if_approved(view: LaneView, run: Run, resource: Resource | None) -> IfApproved:
    """What approving the parked `run` does; `resource` is what the lane knows of its requested key."""
    assert run.review is not None
    members = _live(view, run)
    digest = leading_digest(view, run)
    version = None if resource is None else resource.version
    held = next((each for each in view.runs.values() if each.owner == run.owner and each.state == "Held"), None)
    waiting = sorted((each for each in view.runs.values() if _waits_beside(each, run)), key=lambda each: each.order)
    earlier = [each for each in waiting if each.order < run.order and not _steps_aside(view, each)]
    later = [each for each in waiting if each not in earlier]
    before = [*([held] if held else []), *earlier]
    return IfApproved(
        request_id=members[0].id if members else run.id,
        requests=tuple(member.id for member in members),
        resource=run.resource,
        action=run.action,
        actor=run.actor,
        payload=msgspec.json.decode(_payload(view, run, digest)),
        digest=digest,
        reason=run.review.reason,
        since=run.review.since,
        conflict_id=asked_by(view, run),
        expected_version=run.expected_version,
        version_seen=version or "",
        before=tuple(each.id for each in before),
        held_by=held.holder if held else None,
        unserved=run.action in view.unserved,
        superseded_by=tuple(each.id for each in before if each.resource == run.resource),
        supersedes=tuple(each.id for each in later if each.resource == run.resource and _is_firm(each, version)),
    )


def leading_digest(view: LaneView, run: Run) -> str:
    """Of the payload that the run will do, as the lane compares it: the newest of those who still want it."""
    if run.coalesce_key is None:
        return run.digest
    members = _live(view, run)
    return members[-1].payload_digest or run.digest if members else run.digest


def _payload(view: LaneView, run: Run, digest: str) -> Raw:
    """The payload with that digest: a request that was not the first to bring it has none of its own."""
    if digest == run.digest:
        return run.payload
    brought = (each.payload for each in view.members.values() if each.run == run.id and each.payload_digest == digest)
    return next((payload for payload in brought if payload != NULL), NULL)


def _live(view: LaneView, run: Run) -> list[Member]:
    members = (each for each in view.members.values() if each.run == run.id and each.left is None)
    return sorted(members, key=lambda each: each.order)


def _waits_beside(each: Run, run: Run) -> bool:
    return each.owner == run.owner and each.state == "Waiting" and each.id != run.id


def _steps_aside(view: LaneView, run: Run) -> bool:
    """Whether it lets others pass: it is not ready, or nobody handles its action."""
    unserved = view.unserved.get(run.action)
    return (run.ready_ms is not None and run.ready_ms > view.clock_ms) or (unserved is not None and unserved.aside)


def _is_firm(run: Run, version: str | None) -> bool:
    """Whether other work that completes first ends it: only forward."""
    decided_on = (run.review.version_seen if run.review is not None else None) or run.expected_version
    return run.review is not None or run.granted_order is not None or (version is not None and decided_on == version)
