"""What a person decides on: the parked run as `state` has it, and what approving it will do, as folds of a `LaneView`.

Only routers read policies, and they decide again when the run's turn comes: required steps of actions and limits, and
how the queue has moved by then. What is said here is what can be told from the lane's last commit.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Raw

from keylane.journal.port import Journal
from keylane.outcome import Json, OnApprove
from keylane.schemas.base import NULL
from keylane.schemas.event_parts import ParkReason
from keylane.schemas.state import Member, Run
from keylane.views import LaneView, read_state
from keylane.waits import on_approve, queue_of, requests_of


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What a person is asked: a parked run, and what approving it would do. `actor` and `payload` are agent-written."""

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
    on_approve: OnApprove


async def read_review(journal: Journal, partition: int, find: Callable[[LaneView], Run | None]) -> Review | None:
    """What a person is asked about the run that `find` finds, as of the lane's last commit; None: it finds none."""
    view = await read_state(journal, partition)
    run = find(view)
    return None if run is None else review_of(view, run)


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


def review_of(view: LaneView, run: Run) -> Review:
    """What a person is asked about the parked `run`."""
    assert run.review is not None
    queue = queue_of(view, run.owner)
    requests = requests_of(queue, run)
    digest = leading_digest(view, run)
    resource = view.resources.get(run.resource)
    version = None if resource is None else resource.version
    return Review(
        request_id=requests[0] if requests else run.id,
        requests=requests,
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
        on_approve=on_approve(queue, run),
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
