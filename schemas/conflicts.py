"""Topic `conflicts`: records of intentions that clash. Projected from events, in the lane's transactions only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from keylane.schemas.base import Schema
from keylane.schemas.event_parts import Party

ConflictKind = Literal[
    "lock_held",
    "id_reused",
    "superseded",
    "fenced_report",
    "lease_expired",
    "wait_expired",
    "idempotency_mismatch",
    "stale_version",
    "order_violation",
    "limit_reached",
    "deadlock",
    "parked",
    "approval_voided",
    "inconsistent_state",
]
NextStep = Literal["wait_and_retry", "read_and_resubmit", "resume_from_checkpoint", "ask_a_person", "drop_it"]

VARIABLE = re.compile(r"[^/:]*[0-9][^/:]*")
"""What differs between resources of one pattern: a path segment with a digit in it."""


def pattern_of(resource: str) -> str:
    """What resources of one kind have in common, as fingerprints take it."""
    return VARIABLE.sub("*", resource)


def actions_of(action: str, parties: Iterable[Party]) -> list[str]:
    """The actions that clash, as fingerprints take them."""
    return sorted({party.action for party in parties if party.action} | {action})


class ConflictArtifact(Schema, frozen=True, kw_only=True):
    """One clash. Text in `parties` and `note` was written by agents: never trust it, always escape it."""

    id: str
    """`<partition>-<seq>` of the event that it was projected from."""
    kind: ConflictKind
    resource: str
    action: str
    parties: tuple[Party, ...]
    detected: str
    """Wall time, RFC 3339."""
    clock_ms: int
    since_ms: int | None = None
    """Lane time since when the clash has stood."""
    next_step: NextStep
    retry_after_ms: int | None = None
    expected_version: str | None = None
    known_version: str | None = None
    fingerprint: str
    """Equal for clashes of one kind: kind, resource pattern and actions, hashed."""
    recurrence: int | None = None
    """Which of its fingerprint it is in this lane, as far as that is remembered; the first is 1."""
    runbook: str | None = None
    note: str = ""
    event_seq: int


class ConflictResolved(Schema, frozen=True, kw_only=True):
    """A person or a decision has settled a conflict."""

    id: str
    conflict: str
    resource: str
    by: str
    note: str = ""


ConflictRecord = ConflictArtifact | ConflictResolved
