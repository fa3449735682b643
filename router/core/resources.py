"""What is known of a requested key: what a completion, or somebody's look at it, makes known. Decides nothing.

Versions are opaque: one is superseded only where the lane has learnt so, and one never seen may be newer or older.
"""

from __future__ import annotations

from msgspec.structs import replace

from keylane.router.core.lane import Lane
from keylane.router.core.order import lift
from keylane.router.core.records import Now
from keylane.router.core.shape import VERSION_CHARACTERS_MAX
from keylane.router.core.standing import decided_on
from keylane.schemas.events import ChangeEffect
from keylane.schemas.requests import ResourceChange
from keylane.schemas.state import Resource, Run

SUPERSEDED_KEPT = 16
CHANGES_KEPT = 16
SOURCES_KEPT = 16
STARTED_KEPT = 16


def known(lane: Lane, key: str) -> Resource:
    """The record of the resource, or one that knows nothing."""
    return lane.resources.get(key) or Resource(
        key=key, completed_order=0, completed_run="", completed_action="", forget_ms=0
    )


def changed_since(lane: Lane, done: Run) -> str | None:
    """What has changed the resource since the run ended: the id of a run, or of a change made outside."""
    resource = lane.resources.get(done.resource)
    if resource is None or done.ended_order is None:
        return None
    newest = max((resource.completed_order, resource.completed_run), (resource.changed_order, resource.change))
    return newest[1] if newest[0] > done.ended_order else None


def note_completed(
    lane: Lane, run: Run, now: Now, order: int, version: str | None, observed_version: str | None
) -> None:
    """The run has completed: its action supersedes what was known and what it expected, unless it is harmless."""
    lift(lane, run.resource, run.action)
    resource = known(lane, run.resource)
    current = (version, observed_version)
    if not lane.policy.of(run.action).harmless:
        resource = replace(
            _versions(resource, (resource.version, decided_on(run)), current),
            completed_order=order,
            completed_run=run.id,
            completed_action=run.action,
        )
    elif current != (None, None):
        resource = _versions(resource, (), current)
    else:
        return
    keep(lane, resource, now, lane.policy.of(run.action).queue_ms)


def may_start_ms(lane: Lane, run: Run) -> int | None:
    """When its action may begin on the requested key again; None: at once. A run that has begun goes on as it does."""
    interval_ms = lane.policy.of(run.action).min_interval_ms
    if not interval_ms or run.granted_order is not None:
        return None
    started_ms = known(lane, run.resource).started.get(run.action)
    return None if started_ms is None else started_ms + interval_ms


def note_started(lane: Lane, run: Run, now: Now) -> None:
    """The run was granted for the first time."""
    interval_ms = lane.policy.of(run.action).min_interval_ms
    if not interval_ms or run.granted_order is not None:
        return
    resource = known(lane, run.resource)
    started = {action: ms for action, ms in resource.started.items() if action != run.action} | {
        run.action: now.clock_ms
    }
    while len(started) > STARTED_KEPT:
        del started[next(iter(started))]
    keep(lane, replace(resource, started=started), now, interval_ms)


def effect_of(resource: Resource, change: ResourceChange) -> ChangeEffect:
    """What the change means for what is known."""
    if change.id in resource.changes:
        return "repeated"
    highest = resource.sources.get(change.source)
    if change.sequence is not None and highest is not None and change.sequence <= highest:
        return "older"
    return "known" if change.version and change.version == resource.version else "applied"


def note_changed(lane: Lane, change: ResourceChange, effect: ChangeEffect, now: Now, order: int) -> None:
    """A change made outside: the version that it names is current, and no step is the last thing done any more."""
    resource = known(lane, change.resource)
    sources = dict(resource.sources)
    if change.sequence is not None:
        highest = max(change.sequence, sources.pop(change.source, change.sequence))
        sources[change.source] = highest
        if len(sources) > SOURCES_KEPT:
            del sources[next(iter(sources))]
    resource = replace(resource, changes=(*resource.changes, change.id)[-CHANGES_KEPT:], sources=sources)
    if effect == "applied":
        resource = replace(
            _versions(resource, (resource.version,), (change.version,)),
            changed_order=order,
            change=change.id,
            changed_by=change.by,
        )
    keep(lane, resource, now, 0)
    if effect in ("applied", "known"):
        lift(lane, change.resource, change.what)


def note_found(lane: Lane, run: Run, now: Now, observed_version: str) -> None:
    """A worker looked, and the resource was not what its run was decided on."""
    resource = known(lane, run.resource)
    keep(lane, _versions(resource, (resource.version, decided_on(run)), (observed_version,)), now, 0)


def keep(lane: Lane, resource: Resource, now: Now, waits_ms: int) -> None:
    """Put the record, with the time after which it is forgotten where nothing happens: a retry may wait `waits_ms`."""
    policy = lane.policy
    has_versions = resource.version is not None or resource.superseded
    matters = has_versions or resource.changes or resource.completed_action in lane.steps
    lasts_ms = policy.resource_retention_ms if matters else 0
    # Kept longer where an earlier run of the same resource still waits to be retried by then (`retention`).
    forget_ms = now.clock_ms + max(lasts_ms, waits_ms + policy.retention_ms)
    lane.put(replace(resource, forget_ms=max(resource.forget_ms, forget_ms)))


def _versions(resource: Resource, replaced: tuple[str | None, ...], current: tuple[str | None, ...]) -> Resource:
    """`replaced` are superseded, unless reported as `current` again; the last of those is what is known now."""
    reported = tuple(each for each in current if each and len(each) <= VERSION_CHARACTERS_MAX)
    passed = [each for each in replaced if each is not None]
    kept = [each for each in resource.superseded if each not in passed and each not in reported]
    kept += dict.fromkeys(each for each in passed if each not in reported)
    version = reported[-1] if reported else (resource.version if not replaced else None)
    return replace(resource, version=version, superseded=tuple(kept[-SUPERSEDED_KEPT:]))
