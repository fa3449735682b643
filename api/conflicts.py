"""Conflicts as they lie on record: all of them, one by its id with what became of it, and counted by kind.

Whether one is resolved is told by what follows it in its partition; the first resolution of a conflict counts.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from shlex import quote
from typing import NamedTuple

import anyio
import msgspec

from keylane.errors import Refused, error_body
from keylane.journal.port import Journal, Place
from keylane.reviews import Review, parked_under, read_review
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_conflict
from keylane.schemas.conflicts import (
    ConflictArtifact,
    ConflictKind,
    ConflictRecord,
    ConflictResolved,
    actions_of,
    pattern_of,
)
from keylane.schemas.times import rfc3339

CONFLICT_ID = re.compile(r"(\d{1,9})-(\d{1,19})", re.ASCII)
POLL_RECORDS = 500
POLL_S = 1.0


class ConflictShown(msgspec.Struct, frozen=True, kw_only=True):
    """One conflict whole. `command` is how a person settles it; None where that has been done."""

    artifact: ConflictArtifact
    since: str
    """Wall time since when it has stood, RFC 3339, about."""
    resolved: ConflictResolved | None
    review: Review | None
    """Parked, and nobody has decided: what approving will do."""
    command: str | None


class ConflictGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Conflicts of one kind: same fingerprint, so same kind, pattern of resources and actions."""

    fingerprint: str
    kind: ConflictKind
    resources: str
    """What their resources have in common: `*` where they differ."""
    actions: tuple[str, ...]
    count: int
    open: int
    """How many of them nobody has settled."""
    first: str
    last: str
    """Wall time, RFC 3339."""
    newest: str
    """The id of the last one."""
    runbook: str | None


class Read(NamedTuple):
    """A record of the topic at its place; `record` is None where this keylane cannot read it, and `why` says so."""

    partition: int
    offset: int
    record: ConflictRecord | None
    why: str = ""


async def read_conflicts(
    journal: Journal, partitions: Iterable[int], *, follow: bool = False
) -> AsyncGenerator[Read, None]:
    """What is on record, oldest first within a partition; with `follow` also what comes, without end."""
    places = [Place(topics.CONFLICTS, partition) for partition in partitions]
    ends = await journal.end_positions(places)
    reader = await journal.reader(dict.fromkeys(places))
    try:
        while follow or any(at < ends[place] for place, at in reader.positions().items()):
            for stored in await reader.poll(POLL_RECORDS, POLL_S):
                record = decode_conflict(stored.value)
                if isinstance(record, Undecodable):
                    yield Read(stored.partition, stored.offset, None, record.reason)
                else:
                    yield Read(stored.partition, stored.offset, record)
    finally:
        with anyio.CancelScope(shield=True):
            await reader.close()


def partition_of_id(conflict_id: str) -> int:
    """The partition that an artifact lies in. Raises `Refused` (`NOT_FOUND`) for what is no id of one."""
    found = CONFLICT_ID.fullmatch(conflict_id)
    if found is None:
        raise _not_found(f"{conflict_id!r} is no conflict's id: write it as keylane conflicts does, 3-17")
    return int(found[1])


async def find_conflict(
    journal: Journal, partitions: int, conflict_id: str
) -> tuple[ConflictArtifact, ConflictResolved | None]:
    """The artifact, and its first resolution. Raises `Refused` (`NOT_FOUND`) where it is not on record any more."""
    partition = partition_of_id(conflict_id)
    artifact: ConflictArtifact | None = None
    resolved: ConflictResolved | None = None
    if partition < partitions:
        async for _, _, record, _ in read_conflicts(journal, [partition]):
            if isinstance(record, ConflictArtifact) and record.id == conflict_id:
                artifact = record
            elif isinstance(record, ConflictResolved) and record.conflict == conflict_id:
                resolved = resolved or record
    if artifact is None:
        raise _not_found(f"no conflict {conflict_id} is on record: it never was, or retention has taken it")
    return artifact, resolved


async def show_conflict(journal: Journal, partitions: int, conflict_id: str) -> ConflictShown:
    """One conflict with its parties, whether it is settled, and how it can be. Raises `Refused` (`NOT_FOUND`)."""
    artifact, resolved = await find_conflict(journal, partitions, conflict_id)
    prospect = None
    if resolved is None:
        lane = partition_of_id(conflict_id)
        prospect = await read_review(journal, lane, lambda view: parked_under(view, conflict_id))
    command = None
    if prospect is not None:
        asked = f"{quote(prospect.resource)} {quote(prospect.request_id)}"
        seen = f"--version-seen {quote(prospect.version_seen)} --conflict {conflict_id}"
        command = f"keylane decide {asked} approve {seen} --note WHY"
    elif resolved is None:
        command = f"keylane conflict resolve {conflict_id} --note WHY"
    return ConflictShown(artifact=artifact, since=_since(artifact), resolved=resolved, review=prospect, command=command)


def grouped(records: Iterable[ConflictRecord]) -> list[ConflictGroup]:
    """By fingerprint, the most frequent first; among equals what came last."""
    of: dict[str, list[ConflictArtifact]] = {}
    settled: set[str] = set()
    for record in records:
        if isinstance(record, ConflictResolved):
            settled.add(record.conflict)
        else:
            of.setdefault(record.fingerprint, []).append(record)
    groups = [_group(artifacts, settled) for artifacts in of.values()]
    groups.sort(key=lambda each: each.last, reverse=True)
    return sorted(groups, key=lambda each: -each.count)


def _group(artifacts: list[ConflictArtifact], settled: set[str]) -> ConflictGroup:
    newest = max(artifacts, key=lambda each: each.detected)
    return ConflictGroup(
        fingerprint=newest.fingerprint,
        kind=newest.kind,
        resources=pattern_of(newest.resource),
        actions=tuple(actions_of(newest.action, newest.parties)),
        count=len(artifacts),
        open=sum(each.id not in settled for each in artifacts),
        first=min(each.detected for each in artifacts),
        last=newest.detected,
        newest=newest.id,
        runbook=newest.runbook,
    )


def _since(artifact: ConflictArtifact) -> str:
    """Lane time put beside the wall time of when it was detected: about right."""
    if artifact.since_ms is None:
        return artifact.detected
    before_s = (artifact.clock_ms - artifact.since_ms) / 1_000
    return rfc3339(datetime.fromisoformat(artifact.detected).timestamp() - before_s)


def _not_found(message: str) -> Refused:
    return Refused(error_body("NOT_FOUND", message))
