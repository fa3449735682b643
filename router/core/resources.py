"""What is known of a requested key: what a completion, or somebody's look at it, makes known. Decides nothing.

Versions are opaque: one is superseded only where the lane has learnt so, and one never seen may be newer or older.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from keylane.router.core.lane import Lane
from keylane.router.core.order import lift
from keylane.router.core.records import Now
from keylane.router.core.shape import VERSION_CHARACTERS_MAX
from keylane.router.core.standing import decided_on
from keylane.schemas.event_parts import ChangeEffect
from keylane.schemas.requests import ResourceChange
from keylane.schemas.state import Outside, Resource, Run

SUPERSEDED_KEPT = 16
CHANGES_KEPT = 16
SOURCES_KEPT = 16
STARTED_KEPT = 16
NOTHING = (None, None)


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
    newest = (resource.completed_order, resource.completed_run)
    if resource.outside is not None:
        newest = max(newest, (resource.outside.order, resource.outside.change))
    return newest[1] if newest[0] > done.ended_order else None


def note_completed(
    lane: Lane, run: Run, now: Now, order: int, version: str | None, observed_version: str | None
) -> None:
    """The run has completed: its action supersedes what was known and what it expected, unless it is harmless."""
    policy = lane.policy.of(run.action)
    if lane.lifted_by:
        lift(lane, run.resource, run.action)
    resource = known(lane, run.resource)
    if policy.harmless:
        if version is not None or observed_version is not None:
            current, superseded = _versions(resource, NOTHING, (version, observed_version), keeps=True)
            keep(lane, resource, now, policy.queue_ms, version=current, superseded=superseded)
        return
    replaced = (resource.version, decided_on(run))
    current, superseded = _versions(resource, replaced, (version, observed_version))
    lasts_ms = policy.queue_ms + lane.policy.retention_ms
    if current or superseded or resource.outside or run.action in lane.steps:
        lasts_ms = max(lasts_ms, lane.policy.resource_retention_ms)
    changed = replace(  # as `keep` does, at once: this is what most runs end with
        resource,
        completed_order=order,
        completed_run=run.id,
        completed_action=run.action,
        version=current,
        superseded=superseded,
        forget_ms=max(resource.forget_ms, now.clock_ms + lasts_ms),
    )
    lane.put(changed)


def may_start_ms(lane: Lane, run: Run) -> int | None:
    """When its action may begin on the requested key again; None: at once. A run that has begun goes on as it does."""
    interval_ms = lane.policy.of(run.action).min_interval_ms
    if not interval_ms or run.granted_order is not None:
        return None
    started_ms = (known(lane, run.resource).started or {}).get(run.action)
    return None if started_ms is None else started_ms + interval_ms


def note_started(lane: Lane, run: Run, now: Now) -> None:
    """The run was granted for the first time."""
    interval_ms = lane.policy.of(run.action).min_interval_ms
    if not interval_ms or run.granted_order is not None:
        return
    resource = known(lane, run.resource)
    started = {action: ms for action, ms in (resource.started or {}).items() if action != run.action}
    started[run.action] = now.clock_ms
    while len(started) > STARTED_KEPT:
        del started[next(iter(started))]
    keep(lane, resource, now, interval_ms, started=started)


def effect_of(resource: Resource, change: ResourceChange) -> ChangeEffect:
    """What the change means for what is known."""
    outside = resource.outside or Outside()
    if change.id in outside.changes:
        return "repeated"
    highest = outside.sources.get(change.source)
    if change.sequence is not None and highest is not None and change.sequence <= highest:
        return "older"
    return "known" if change.version and change.version == resource.version else "applied"


def note_changed(lane: Lane, change: ResourceChange, effect: ChangeEffect, now: Now, order: int) -> None:
    """A change made outside: the version that it names is current, and no step is the last thing done any more."""
    resource = known(lane, change.resource)
    before = resource.outside or Outside()
    sources = dict(before.sources)
    if change.sequence is not None:
        highest = max(change.sequence, sources.pop(change.source, change.sequence))
        sources[change.source] = highest
        if len(sources) > SOURCES_KEPT:
            del sources[next(iter(sources))]
    told = replace(before, changes=(*before.changes, change.id)[-CHANGES_KEPT:], sources=sources)
    if effect == "applied":
        version, superseded = _versions(resource, (resource.version, None), (change.version, None))
        at = change.at or now.time
        newest = replace(told, order=order, change=change.id, by=change.by, what=change.what, at=at)
        keep(lane, resource, now, 0, version=version, superseded=superseded, outside=newest)
    else:
        keep(lane, resource, now, 0, outside=told)
    if effect in ("applied", "known"):
        lift(lane, change.resource, change.what)


def note_found(lane: Lane, run: Run, now: Now, observed_version: str) -> None:
    """A worker looked, and the resource was not what its run was decided on."""
    resource = known(lane, run.resource)
    version, superseded = _versions(resource, (resource.version, decided_on(run)), (observed_version, None))
    keep(lane, resource, now, 0, version=version, superseded=superseded)


def keep(lane: Lane, resource: Resource, now: Now, waits_ms: int, **changes: Any) -> None:
    """Put the record as it is now, with the time after which it is forgotten where nothing happens.

    A retry may wait `waits_ms`: what must stop it is kept for longer than that.
    """
    changed = replace(resource, **changes)
    policy = lane.policy
    lasts_ms = waits_ms + policy.retention_ms
    if changed.version or changed.superseded or changed.outside or changed.completed_action in lane.steps:
        lasts_ms = max(lasts_ms, policy.resource_retention_ms)
    lane.put(replace(changed, forget_ms=max(resource.forget_ms, now.clock_ms + lasts_ms)))


Versions = tuple[str | None, str | None]
Known = tuple[str | None, tuple[str, ...]]
"""The current version and the superseded ones."""


def _versions(resource: Resource, replaced: Versions, current: Versions, *, keeps: bool = False) -> Known:
    """`replaced` are superseded, unless reported as `current` again; the last of those is what is known now.

    With `keeps` what was known stays where nothing is reported.
    """
    if not resource.superseded and replaced == NOTHING:
        reported = current[1] or current[0]
        if reported is None or len(reported) <= VERSION_CHARACTERS_MAX:
            return reported or (resource.version if keeps else None), ()
    known = [each for each in current if each and len(each) <= VERSION_CHARACTERS_MAX]
    passed = [each for each in replaced if each is not None]
    kept = [each for each in resource.superseded if each not in passed and each not in known]
    kept += dict.fromkeys(each for each in passed if each not in known)
    version = known[-1] if known else (resource.version if keeps else None)
    return version, tuple(kept[-SUPERSEDED_KEPT:])
