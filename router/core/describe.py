"""How events speak of runs and records: the fields that several of them share. Pure; decides nothing."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Grounds, Now
from keylane.router.core.standing import changed_order
from keylane.schemas.event_parts import Party
from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import Member, Resource, Run

SAID_CHARACTERS_MAX = 512


def about(run: Run) -> dict[str, Any]:
    """Which run an event is about."""
    return {"run": run.id, "resource": run.resource, "action": run.action}


def outcome_of(done: Run) -> dict[str, Any]:
    """What `Ended` says of a run that is done, to whomever it is said."""
    return {
        "run": done.id,
        "resource": done.resource,
        "owner": done.owner,
        "action": done.action,
        "status": done.status,
        "result": done.result,
        "version": done.version,
        "observed_version": done.observed_version,
        "error": done.error,
        "superseded_by": done.superseded_by,
        "token": done.token,
        "attempt": done.attempt,
    }


def party_of(run: Run) -> Party:
    """The run's side of a conflict."""
    return Party(
        request=run.id,
        actor=run.actor,
        action=run.action,
        digest=run.digest,
        version=run.expected_version,
        at_ms=run.accepted_ms,
        session=run.session,
        token=run.token,
    )


def in_the_way(grounds: Grounds, now: Now) -> dict[str, Any]:
    """Who is in the way of what is refused, for how long about, and when to ask again."""
    holder = grounds.holder
    lease_ms = None if holder is None or holder.lease_until_ms is None else holder.lease_until_ms - now.clock_ms
    return {
        "holder": None if holder is None else holder.holder or holder.actor or holder.id,
        "held_since": holder.since if holder is not None and holder.since else None,
        "lease_expires_in_ms": lease_ms,
        "position": grounds.position,
        "retry_after_ms": grounds.retry_after_ms,
    }


def asker(arrived: Arrived, request: WorkRequest, now: Now) -> Party:
    """The side of a request that has no run."""
    return Party(
        request=request.id,
        actor=request.actor,
        action=request.action,
        digest=arrived.payload_digest,
        version=request.expected_version,
        at_ms=now.clock_ms,
    )


def last_to_change(lane: Lane, resource: Resource) -> tuple[Party, ...]:
    """Whoever changed the resource last, as a side of a conflict: a run, or somebody outside."""
    outside = resource.outside
    if outside is not None and is_changed_outside(resource):
        return (Party(request=outside.change, actor=outside.by, version=resource.version),)
    by = lane.runs.get(resource.completed_run)
    return () if by is None else (party_of(by),)


def is_changed_outside(resource: Resource) -> bool:
    """Whether the last change was made outside, so that no step is the last thing done."""
    return changed_order(resource) > resource.completed_order


def parties_of(lane: Lane, run: Run) -> tuple[Party, ...]:
    """Every requester of the run, each as a side of a conflict."""
    return tuple(_member_party(run, member) for member in lane.live_members(run))


def _member_party(run: Run, member: Member) -> Party:
    digest = member.payload_digest or run.digest
    return replace(party_of(run), request=member.id, actor=member.actor, digest=digest, at_ms=member.accepted_ms)


def said(record: object, field: str) -> str:
    """A text of a record that need not be well-formed, cut: what is said of it is to be no copy of it."""
    return (getattr(record, field, None) or "")[:SAID_CHARACTERS_MAX]
