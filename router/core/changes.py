"""Changes that were made outside keylane, usually by a person: what they make known, and what they mean for runs."""

from __future__ import annotations

from keylane.router.core.endings import refuse_accepted
from keylane.router.core.lane import Lane
from keylane.router.core.order import out_of_order
from keylane.router.core.records import Arrived, Now
from keylane.router.core.resources import effect_of, known, note_changed
from keylane.router.core.reviews import is_void, void
from keylane.router.core.versions import stale
from keylane.schemas.events import Changed
from keylane.schemas.items import Notice
from keylane.schemas.requests import ResourceChange
from keylane.schemas.state import Run


def changed(lane: Lane, arrived: Arrived, change: ResourceChange, now: Now) -> list[Run]:
    """Put the change on the record. Returns the runs of the requested key that it meets."""
    resource = known(lane, change.resource)
    effect = effect_of(resource, change)
    seq = lane.emit(
        Changed,
        now,
        arrived.traceparent,
        change=change.id,
        resource=change.resource,
        owner=arrived.owner,
        version=change.version or None,
        by=change.by,
        what=change.what,
        at=change.at,
        source=change.source,
        sequence=change.sequence,
        effect=effect,
        previous=resource.version,
    )
    if effect != "repeated":
        note_changed(lane, change, effect, now, seq)
    return _unfinished(lane, arrived.owner, change.resource) if effect == "applied" else []


def _unfinished(lane: Lane, owner: str, key: str) -> list[Run]:
    holder = lane.held.get(owner)
    others = (*lane.queue.get(owner, ()), *lane.parked.get(owner, ()))
    ids = [*(() if holder is None else (holder,)), *(id for _, id in others)]
    return [run for run in map(lane.runs.__getitem__, ids) if run.resource == key]


def recheck(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting: what it was decided on may be over now; then it is refused without waiting for its turn, or, where a
    person has approved it, goes back to review."""
    assert run is not None
    if is_void(lane, run):
        void(lane, run, now)
        return
    grounds = stale(lane, run.resource, run.expected_version)
    grounds = grounds or out_of_order(lane, run.resource, run.action, run.requires)
    if grounds is not None:
        refuse_accepted(lane, run, now, grounds)


def tell_holder(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Held: whoever works on it should know. It may go on, or stop and report.

    The holder of a lock reads events, and the change is one.
    """
    change = arrived.record
    assert run is not None and isinstance(change, ResourceChange)
    if run.lock is not None:
        return
    session = lane.sessions[run.session]
    reason = f"{change.what} by {change.by}" + (f": {change.version}" if change.version else "")
    lane.tell(session, Notice, run.traceparent, kind="changed", run=run.id, token=run.token, reason=reason)
