"""The fold behind `who`: who holds a resource, who waits and why, who touched it last, what stands in conflict.

A pure function of a `LaneView` and of the wall time at which it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from keylane.outcome import (
    Ended,
    Holding,
    HoldingState,
    Ownership,
    OwnershipState,
    Pending,
    Touch,
)
from keylane.schemas.state import OnLoss, Resource, Run
from keylane.schemas.times import rfc3339
from keylane.ticket import failure
from keylane.views import LaneView, wall
from keylane.waits import Queue, on_approve, queue_of, requests_of, saved_before, wait_of


def ownership(view: LaneView, resource: str, owner: str, wall_ms: int) -> Ownership:
    """Who holds `resource`, a requested or an owning key, who waits, and how the last run ended.

    `wall_ms`: now, which only tells whether a lease's time has passed since the lane's last commit.
    """
    queue = queue_of(view, owner)
    done = [run for run in view.runs.values() if run.owner == owner and run.state == "Done"]
    keys = {run.resource for run in (*done, *queue.waiting, *((queue.held,) if queue.held else ()))} | {resource}
    known = [view.resources[key] for key in sorted(keys) if key in view.resources]
    held = None if queue.held is None else _holding(queue, queue.held, wall_ms)
    waiting = tuple(_pending(queue, run, position) for position, run in enumerate(queue.waiting))
    last = _ended(view, max(done, key=_ended_order), known) if done else None
    own = view.resources.get(resource)
    return Ownership(
        resource=resource,
        states=tuple(dict.fromkeys(_states(held, waiting, last))),
        version=None if own is None else own.version,
        held=held,
        waiting=waiting,
        last=last,
        touched=_touched(view, done, known),
        as_of=rfc3339(view.wall_ms / 1_000) if view.wall_ms else "",
    )


def _states(held: Holding | None, waiting: tuple[Pending, ...], last: Ended | None) -> Iterator[OwnershipState]:
    if held is not None:
        yield held.state
    for pending in waiting:
        yield pending.state
    if (held is not None and held.handed_off) or any(pending.handed_off for pending in waiting):
        yield "handed_off"
    if any(pending.conflict for pending in waiting) or (last is not None and last.conflict):
        yield "conflict_detected"


def _holding(queue: Queue, run: Run, wall_ms: int) -> Holding:
    assert run.token is not None and run.lease_until_ms is not None
    view = queue.view
    state = _holding_state(view, run, wall_ms)
    return Holding(
        holder=run.holder,
        run=run.id,
        resource=run.resource,
        action=run.action,
        actor=run.actor,
        requests=requests_of(queue, run),
        token=run.token,
        attempt=run.attempt,
        state=state,
        blocked=run.blocked,
        handed_off=saved_before(run),
        previous_end=run.previous_end,
        since=run.since,
        lease_left_ms=max(0, run.lease_until_ms - view.clock_ms),
        lease_ends=wall(view, run.lease_until_ms),
        renewed_by="progress" if run.lock is None else "renewal",
        on_loss=_on_loss(run, state),
    )


def _on_loss(run: Run, state: HoldingState) -> OnLoss | Literal["end"]:
    if run.lock is not None or run.stop is not None:
        return "end"
    return "retry" if state == "claimed" else run.on_loss  # what nobody has read was no attempt


def _holding_state(view: LaneView, run: Run, wall_ms: int) -> HoldingState:
    assert run.lease_until_ms is not None
    session = view.sessions.get(run.session) if run.lock is None else None
    ends_ms = run.lease_until_ms if session is None else min(run.lease_until_ms, session.lapses_ms)
    if ends_ms <= view.clock_ms + (wall_ms - view.wall_ms):
        return "stale_lease"
    if run.stop is not None:
        return "stopping"
    if run.blocked is not None:
        return "blocked"
    if run.unclaimed or (session is not None and run.number > session.read):
        return "claimed"
    if run.lock is not None:
        return "leased"
    was_renewed = run.lease_until_ms > run.since_ms + run.lease_ms
    return "applying" if was_renewed or (run.checkpoint is not None and run.previous_end is None) else "leased"


def _pending(queue: Queue, run: Run, position: int) -> Pending:
    is_parked = run.state == "Parked"
    review = run.review
    return Pending(
        run=run.id,
        resource=run.resource,
        action=run.action,
        actor=run.actor,
        requests=requests_of(queue, run),
        position=position,
        state="waiting_on_review" if is_parked else "waiting",
        accepted=run.accepted,
        attempt=run.attempt,
        wait=wait_of(queue, run),
        handed_off=saved_before(run),
        previous_end=run.previous_end,
        approved_by=None if is_parked or review is None else review.by,
        conflict=f"{queue.view.partition}-{review.order}" if is_parked and review is not None else None,
        on_approve=on_approve(queue, run) if is_parked else None,
    )


def _ended_order(run: Run) -> int:
    return run.ended_order or 0


def _ended(view: LaneView, run: Run, known: list[Resource]) -> Ended:
    assert run.status is not None
    differs = run.version is not None and run.observed_version not in (None, run.version)
    is_newest = all(resource.outside is None or resource.outside.order < _ended_order(run) for resource in known)
    return Ended(
        run=run.id,
        resource=run.resource,
        action=run.action,
        status=run.status,
        actor=run.actor,
        holder=run.holder,
        ended=wall(view, run.ended_ms),
        version=run.version,
        error=failure(run.status, run.error, run.superseded_by),
        conflict=f"{view.partition}-{run.ended_order}" if differs and is_newest else None,
    )


def _touched(view: LaneView, done: list[Run], known: list[Resource]) -> tuple[Touch, ...]:
    """Whose work was the last that a holder did, and whose the last from outside; the later one first."""
    found: list[tuple[int, Touch]] = []
    held = [run for run in done if run.token is not None]
    if held:
        run = max(held, key=_ended_order)
        at = wall(view, run.ended_ms)
        touch = Touch(
            kind="run", id=run.id, by=run.holder, actor=run.actor, what=run.action, resource=run.resource, at=at
        )
        found.append((_ended_order(run), touch))
    changes = [(each.outside, each.key) for each in known if each.outside is not None and each.outside.order]
    if changes:
        change, key = max(changes, key=lambda each: each[0].order)
        touch = Touch(kind="change", id=change.change, by=change.by, what=change.what, resource=key, at=change.at)
        found.append((change.order, touch))
    return tuple(touch for _, touch in sorted(found, key=lambda each: -each[0]))
