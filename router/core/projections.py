"""What follows from an event, as total functions of it: conflict artifacts and dead letters. They decide nothing.

Design section 7, promise 11: exactly one artifact for each clash, which is why a rule never writes one itself.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from keylane.schemas.conflicts import ConflictArtifact, ConflictKind, NextStep
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.events import AnyEvent, DeadLettered, Ended, Fenced, Lost, Party, Refused, Withdrawn

REFUSED_KINDS: dict[str, tuple[ConflictKind, NextStep]] = {
    "LOCK_HELD": ("lock_held", "wait_and_retry"),
    "IDEMPOTENCY_MISMATCH": ("idempotency_mismatch", "drop_it"),
    "STALE_VERSION": ("stale_version", "read_and_resubmit"),
    "ORDER_VIOLATION": ("order_violation", "read_and_resubmit"),
    "LIMIT_REACHED": ("limit_reached", "wait_and_retry"),
    "DEADLOCK": ("deadlock", "wait_and_retry"),
}
VARIABLE = re.compile(r"[^/:]*[0-9][^/:]*")
"""What differs between resources of one pattern: a path segment with a digit in it."""


def conflict(event: AnyEvent, id: str) -> ConflictArtifact | None:
    """The artifact of an event, where intentions clashed. `id` is the event's, `<partition>-<seq>`."""
    match event:
        case Refused(repeat=False, command="WorkRequest", code=code) if code in REFUSED_KINDS:
            kind, step = REFUSED_KINDS[code]
            return _artifact(event, id, kind, step, retry_after_ms=event.retry_after_ms, note=event.message)
        case Ended(status="superseded", repeat=False):
            return _artifact(event, id, "superseded", "read_and_resubmit", note=f"replaced by {event.superseded_by}")
        case Ended(status="expired", repeat=False) | Withdrawn(status="expired", repeat=False):
            error = event.error.message if isinstance(event, Ended) and event.error else "its deadline passed"
            return _artifact(event, id, "wait_expired", "ask_a_person", note=error)
        case Ended(status="completed", repeat=False, coalesced=False) if _inconsistent(event):
            return _artifact(
                event,
                id,
                "inconsistent_state",
                "ask_a_person",
                expected_version=event.version,
                known_version=event.observed_version,
            )
        case Fenced():
            return _artifact(event, id, "fenced_report", "drop_it", note=f"late {event.report}")
        case Lost():
            step = "ask_a_person" if event.final else "resume_from_checkpoint"
            return _artifact(event, id, "lease_expired", step, note=event.reason)
        case DeadLettered(code="ID_REUSED"):
            return _artifact(event, id, "id_reused", "drop_it", note=event.reason)
    return None


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


def _inconsistent(event: Ended) -> bool:
    seen = event.observed_version
    return seen is not None and event.version is not None and seen != event.version


def _artifact(event: Any, id: str, kind: ConflictKind, next_step: NextStep, **more: Any) -> ConflictArtifact:
    resource: str = getattr(event, "resource", "")
    action: str = getattr(event, "action", "")
    parties: tuple[Party, ...] = getattr(event, "parties", ())
    actions = sorted({party.action for party in parties if party.action} | {action})
    pattern = VARIABLE.sub("*", resource)
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
