"""Why the runs of an owning key wait, for whom and until when, and what an approval of one would do.

Pure functions of a `LaneView`. Policies are the routers' alone: what makes a run wait is told by its record.
"""

from __future__ import annotations

from typing import NamedTuple

from keylane.outcome import Approved, OnApprove, Wait, WaitPolicy, WaitReason
from keylane.schemas.state import Member, Run
from keylane.views import LaneView, wall

RUNS_NAMED_MAX = 16


class Queue(NamedTuple):
    """What there is of an owning key: who holds it, and what waits for it, in acceptance order."""

    view: LaneView
    held: Run | None
    waiting: list[Run]
    """Parked ones among them: they keep their place, and nobody waits for them."""
    before: dict[str, Run]
    """By run: the one that it comes right after."""
    members: dict[str, list[Member]]
    """By run: who still wants it, in acceptance order."""


def queue_of(view: LaneView, owner: str) -> Queue:
    """The runs of an owning key that are not done."""
    runs = [run for run in view.runs.values() if run.owner == owner and run.state != "Done"]
    held = next((run for run in runs if run.state == "Held"), None)
    waiting = sorted((run for run in runs if run.state != "Held"), key=lambda run: run.order)
    before: dict[str, Run] = {}
    last = held
    for run in waiting:
        if last is not None:
            before[run.id] = last
        if _goes_first(view, run):
            last = run
    members: dict[str, list[Member]] = {run.id: [] for run in runs}
    for member in view.members.values():
        if member.run in members and member.left is None:
            members[member.run].append(member)
    for wanted in members.values():
        wanted.sort(key=lambda member: member.order)
    return Queue(view, held, waiting, before, members)


def _goes_first(view: LaneView, run: Run) -> bool:
    """Whether those that were accepted later wait for it."""
    unserved = view.unserved.get(run.action)
    return run.state == "Waiting" and run.ready_ms is None and not (unserved is not None and unserved.aside)


def wait_of(queue: Queue, run: Run, deadline_ms: int | None = None) -> Wait:
    """Why `run`, which waits or is parked, does. `deadline_ms`: that of the request in it which is asked about."""
    view, before = queue.view, queue.before.get(run.id)
    if deadline_ms is None:
        deadline_ms = _last_deadline_ms(queue.members[run.id])
    reason, policy, since, until_ms = _grounds(queue, run, before)
    if run.lock is not None:
        policy = None
    ends = [each for each in (run.expires_ms, deadline_ms) if each is not None]
    return Wait(
        reason=reason,
        policy=policy,
        holder=None if queue.held is None else queue.held.holder,
        behind=None if before is None else before.id,
        since=since,
        until=None if until_ms is None else wall(view, until_ms),
        expires=wall(view, min(ends)) if ends else None,
    )


def _grounds(queue: Queue, run: Run, before: Run | None) -> tuple[WaitReason, WaitPolicy | None, str, int | None]:
    """Reason, policy, since when, and when it ends by itself: of several reasons the run's own."""
    view, held = queue.view, queue.held
    accepted = run.accepted or wall(view, run.accepted_ms)
    if run.state == "Parked":
        assert run.review is not None
        asked_first = run.parked_first or run.review.reason == "on_conflict"
        return "review", "on_conflict" if asked_first else "then", run.review.since, None
    if run.action in view.unserved:
        return "no_worker", "unserved_after", wall(view, max(view.unserved[run.action].since_ms, run.accepted_ms)), None
    if run.ready_ms is not None:
        delay = run.delayed or ("quiet" if run.granted_order is None else "backoff")
        return delay, delay, accepted, run.ready_ms
    if held is not None and before is held:
        since = wall(view, max(held.since_ms, run.accepted_ms))
        return "held", "on_conflict", since, held.lease_until_ms
    if before is not None:
        return "queued", "on_conflict", accepted, None
    return "no_slot", None, accepted, None


def _last_deadline_ms(members: list[Member]) -> int | None:
    """When the last of the requesters no longer wants it; None while one of them waits without a deadline."""
    deadlines = [member.deadline_ms for member in members]
    known = [each for each in deadlines if each is not None]
    return max(known) if known and len(known) == len(deadlines) else None


def on_approve(queue: Queue, run: Run) -> OnApprove:
    """What an approval of `run`, which is parked, would do: it takes its place in acceptance order."""
    view = queue.view
    resource = view.resources.get(run.resource)
    version = run.expected_version if resource is None or resource.version is None else resource.version
    ahead = [each for each in queue.waiting if each.order < run.order and _goes_first(view, each)]
    first = ahead if queue.held is None else [queue.held, *ahead]
    ending = [each.id for each in first if each.resource == run.resource and each.lock is None]
    then: Approved = "waits" if first else "granted"
    if resource is not None and resource.version is None and run.expected_version in resource.superseded:
        then = "refused"
    elif ending:
        then = "superseded"
    elif not any(run.action in session.actions for session in view.sessions.values()):
        then = "no_worker"
    earlier = {each.id for each in first}
    ended = [each.id for each in queue.waiting if each.id not in earlier and _is_ended_by(run, version, each)]
    return OnApprove(
        then=then,
        after=tuple(each.id for each in first[:RUNS_NAMED_MAX]),
        version=version,
        ended_by=tuple(ending[:RUNS_NAMED_MAX]),
        ends=tuple(ended[:RUNS_NAMED_MAX]),
    )


def _is_ended_by(run: Run, version: str | None, other: Run) -> bool:
    """Whether a completion of `run` leaves nothing to do for `other`, which comes later."""
    if other.id == run.id or other.resource != run.resource or other.state != "Waiting":
        return False
    seen = other.review.version_seen if other.review is not None else ""
    is_approved = other.review is not None and other.review.decided_order is not None
    decided_on = seen or other.expected_version
    return is_approved or other.granted_order is not None or (decided_on is not None and decided_on == version)


def saved_before(run: Run) -> bool:
    """Whether it goes on from progress that was saved, and had a holder before."""
    return run.checkpoint is not None and run.previous_end is not None


def requests_of(queue: Queue, run: Run) -> tuple[str, ...]:
    """Who still wants the run."""
    return tuple(member.id for member in queue.members[run.id])
