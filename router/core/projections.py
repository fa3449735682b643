"""What follows from an event, as total functions of it: conflict artifacts and dead letters. They decide nothing.

Design section 7, promise 11: exactly one artifact for each clash, which is why a rule never writes one itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from keylane.schemas.conflicts import (
    ConflictArtifact,
    ConflictKind,
    ConflictRecord,
    ConflictResolved,
    NextStep,
    actions_of,
    pattern_of,
)
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.event_parts import Party
from keylane.schemas.events import (
    AnyEvent,
    ApprovalVoided,
    DeadLettered,
    Decided,
    Ended,
    Fenced,
    Lost,
    Parked,
    Refused,
    Resolved,
    Withdrawn,
)
from keylane.schemas.state import LOCK_ACTION

REFUSED_KINDS: dict[str, tuple[ConflictKind, NextStep]] = {
    "LOCK_HELD": ("lock_held", "wait_and_retry"),
    "IDEMPOTENCY_MISMATCH": ("idempotency_mismatch", "drop_it"),
    "STALE_VERSION": ("stale_version", "read_and_resubmit"),
    "ORDER_VIOLATION": ("order_violation", "read_and_resubmit"),
    "LIMIT_REACHED": ("limit_reached", "wait_and_retry"),
    "DEADLOCK": ("deadlock", "wait_and_retry"),
}
CLASHING = ("WorkRequest", "Decision")
"""Commands whose refusal can be a clash of intentions."""
DEADLINE_PASSED = "its deadline passed"


def conflict(event: AnyEvent, id: str) -> ConflictRecord | None:
    """The artifact of an event where intentions clashed, or that one is settled. `id`: its `<partition>-<seq>`."""
    follows = ARTIFACTS.get(type(event))
    return None if follows is None else follows(event, id)


def dead_letter(event: AnyEvent, partition: int) -> DeadLetter | None:
    """The dead letter of an event that sets a record aside."""
    if not isinstance(event, DeadLettered):
        return None
    return DeadLetter(
        topic=event.topic,
        partition=partition,
        offset=event.offset,
        code=event.code,
        reason=event.reason,
        time=event.time,
        key=event.key,
        excerpt=event.excerpt,
        event_seq=event.seq,
    )


def _refused(event: Refused, id: str) -> ConflictArtifact | None:
    if event.repeat or event.command not in CLASHING or event.code not in REFUSED_KINDS:
        return None
    kind, step = REFUSED_KINDS[event.code]
    said = {"expected_version": event.expected_version, "known_version": event.known_version}
    return _artifact(event, id, kind, step, retry_after_ms=event.retry_after_ms, note=event.message, **said)


def _ended(event: Ended, id: str) -> ConflictArtifact | None:
    if event.repeat or event.coalesced:
        return None  # an outcome of before, said to one more
    if event.status == "refused":
        return _refused_late(event, id)
    if event.status == "superseded":
        return _artifact(event, id, "superseded", "read_and_resubmit", note=f"replaced by {event.superseded_by}")
    if event.status == "expired":
        return _expired(event, id, event.error.message if event.error else DEADLINE_PASSED)
    seen = event.observed_version
    is_as_reported = seen is None or event.version is None or seen == event.version
    if event.status != "completed" or is_as_reported:
        return None
    said = {"expected_version": event.version, "known_version": seen}
    return _artifact(event, id, "inconsistent_state", "ask_a_person", **said)


def _refused_late(event: Ended, id: str) -> ConflictArtifact | None:
    if event.error is None or event.error.code not in REFUSED_KINDS:
        return None
    if event.action == LOCK_ACTION and event.error.code == "LOCK_HELD":
        return None  # who only wanted to hold it waits or does something else
    kind, step = REFUSED_KINDS[event.error.code]
    said = {"expected_version": event.expected_version, "known_version": event.known_version}
    return _artifact(event, id, kind, step, note=event.error.message, **said)


def _parked(event: Parked, id: str) -> ConflictArtifact | None:
    if event.repeat:
        return None
    said = {"expected_version": event.expected_version, "known_version": event.known_version}
    why = "" if event.error is None else event.error.message
    return _artifact(event, id, "parked", "ask_a_person", note=why, **said)


def _voided(event: ApprovalVoided, id: str) -> ConflictArtifact:
    said = {"expected_version": event.expected_version, "known_version": event.known_version}
    why = f"approved by {event.by} before the change {event.change}"
    return _artifact(event, id, "approval_voided", "ask_a_person", note=why, **said)


def _decided(event: Decided, id: str) -> ConflictResolved:
    return ConflictResolved(id=id, conflict=event.conflict, resource=event.resource, by=event.by, note=event.note)


def _resolved(event: Resolved, id: str) -> ConflictResolved:
    return ConflictResolved(id=id, conflict=event.conflict, resource=event.resource, by=event.by, note=event.note)


def _withdrawn(event: Withdrawn, id: str) -> ConflictArtifact | None:
    return _expired(event, id, DEADLINE_PASSED) if event.status == "expired" and not event.repeat else None


def _expired(event: Ended | Withdrawn, id: str, why: str) -> ConflictArtifact:
    return _artifact(event, id, "wait_expired", "ask_a_person", note=why)


def _fenced(event: Fenced, id: str) -> ConflictArtifact:
    return _artifact(event, id, "fenced_report", "drop_it", note=f"late {event.report}")


def _lost(event: Lost, id: str) -> ConflictArtifact:
    step: NextStep = "ask_a_person" if event.final else "resume_from_checkpoint"
    return _artifact(event, id, "lease_expired", step, note=event.reason)


def _dead_lettered(event: DeadLettered, id: str) -> ConflictArtifact | None:
    return _artifact(event, id, "id_reused", "drop_it", note=event.reason) if event.code == "ID_REUSED" else None


ARTIFACTS: dict[type, Callable[[Any, str], ConflictRecord | None]] = {
    Refused: _refused,
    Ended: _ended,
    Parked: _parked,
    ApprovalVoided: _voided,
    Decided: _decided,
    Resolved: _resolved,
    Withdrawn: _withdrawn,
    Fenced: _fenced,
    Lost: _lost,
    DeadLettered: _dead_lettered,
}
"""From no other event does an artifact follow. By type, not a match statement: it is asked of every event."""


def _artifact(event: Any, id: str, kind: ConflictKind, next_step: NextStep, **more: Any) -> ConflictArtifact:
    resource: str = getattr(event, "resource", "")
    action: str = getattr(event, "action", "")
    parties: tuple[Party, ...] = getattr(event, "parties", ())
    actions = actions_of(action, parties)
    pattern = pattern_of(resource)
    since = min((party.at_ms for party in parties if party.at_ms is not None), default=None)
    return ConflictArtifact(
        id=id,
        kind=kind,
        resource=resource,
        action=action,
        parties=parties,
        detected=event.time,
        clock_ms=event.clock_ms,
        since_ms=since,
        next_step=next_step,
        fingerprint=hashlib.sha256("\n".join((kind, pattern, *actions)).encode()).hexdigest()[:16],
        event_seq=event.seq,
        **more,
    )
