"""Records as other producers may write them: otherwise spelt, at the wrong partition, of later versions, or none."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from msgspec import Raw
from simulation.findings import true_owner
from simulation.scenario import Act, Scenario
from simulation.true_conflicts import TrueConflicts
from simulation.truth import Truth

from keylane.journal.partitioner import partition_of
from keylane.journal.port import Record
from keylane.schemas import topics
from keylane.schemas.base import ErrorDetail, Schema
from keylane.schemas.codec import encode
from keylane.schemas.requests import (
    Cancellation,
    Decision,
    LockRequest,
    Release,
    Renewal,
    Resolution,
    ResourceChange,
    SessionEnded,
    WorkRequest,
)
from keylane.schemas.results import Completed, Failed, Progress, WorkerHeartbeat, WorkerJoined, WorkerLeft

GARBAGE = (b"{", b"", b'{"type":"WorkRequest","id":"g"}', b'{"type":"Sing","id":"h","resource":"deploy://r0"}', b"\xff")


def odd_record(act: Act, scenario: Scenario, truth: Truth) -> tuple[Record, bool]:
    """The record of an act that goes through no client; and whether it is a request that must have its end.

    Some of it is about what lies in the journal at this moment: `truth` knows it.
    """
    dice = random.Random(f"odd/{scenario.seed}/{act.id}/{act.at_ms}")
    partition = partition_of(true_owner(act.resource).encode(), scenario.partitions)
    topic, is_request = topics.REQUESTS, False
    record: Schema
    match act.does:
        case "request_raw":
            # Of what a lane has said already, mostly; else its store seems to have been set back.
            record, is_request = _work(act, act.resource, seen=dice.choice([None, 0, 1, 10**6])), True
        case "request_alias":
            record, is_request = _work(act, _alias(act.resource, dice)), True
        case "submit" | "submit_twice":
            record, is_request = _work(act, act.resource), True
        case "reuse_id":
            record = _work(act, act.resource)
        case "request_astray":
            record, is_request = _work(act, act.resource, hops=dice.choice([0, 0, 1])), True
            partition = (partition + 1) % scenario.partitions
        case "garbage":
            topic = dice.choice([topics.REQUESTS, topics.RESULTS])
            return Record(topic, partition, b"odd", dice.choice(GARBAGE)), False
        case "false_report" if partition in truth.completions and dice.random() < 0.3:
            # One that was sent again though it had arrived.
            again = truth.completions[partition]
            return Record(again.topic, partition, again.key, again.value), False
        case "false_report":
            topic, record = topics.RESULTS, _report(act, dice)
        case "resolve":
            conflict = _conflict(partition, truth.rules.conflicts, dice)
            record = Resolution(id=f"{act.id}-resolve", conflict=conflict, resource=act.resource, by="ann", note="seen")
        case _:
            record = _command(act)
    return Record(topic, partition, act.resource.encode(), encode(record)), is_request


def _work(act: Act, resource: str, **fields: Any) -> WorkRequest:
    return WorkRequest(
        id=act.id,
        resource=resource,
        action=act.action,
        payload=Raw(act.payload.encode()),
        actor="odd",
        idempotency_key=act.idempotency_key,
        expected_version=act.expected_version,
        coalesce_key=act.coalesce_key,
        requires=act.requires,
        deadline_ms=None if act.deadline_s is None else round(act.deadline_s * 1_000),
        reject_if_busy=act.reject_if_busy,
        **fields,
    )


def _alias(resource: str, dice: random.Random) -> str:
    """Another spelling of the same key; `findings.true_resource` knows them."""
    kind, _, name = resource.partition("://")
    host, _, path = name.partition("/")  # in whose spelling alone letters may be large
    large = f"{kind.upper()}://{host.upper()}" + (f"/{path}" if path else "")
    return dice.choice([large, resource + "/", resource.replace("//r", "//%72")])


def _conflict(partition: int, conflicts: TrueConflicts, dice: random.Random) -> str:
    """One that still waits for a decision, mostly; else any that is there, or what may be none, or is none."""
    asking, published = conflicts.asking(partition), conflicts.published(partition)
    chosen = dice.random()
    if asking and chosen < 0.6:
        return dice.choice(asking)
    if published and chosen < 0.9:
        return dice.choice(published)
    return dice.choice([f"{partition}-{dice.randrange(200)}", f"{partition + 1}-1", "none"])


def _command(act: Act) -> Schema:
    id, key = f"{act.id}-{act.does}" + (f"-{act.number}" if act.number else ""), act.resource
    about: dict[str, Any] = {"id": id, "resource": key, "run": act.id, "token": 1, "secret": "s"}
    match act.does:
        case "decide":
            digest = {"": None, "seen": hashlib.sha256(act.payload.encode()).hexdigest(), "other": "0"}[act.digest]
            return Decision(
                id=id,
                resource=key,
                request=act.id,
                verdict=act.verdict,
                by="ann",
                version_seen=act.version,
                digest=digest,
            )
        case "lock":
            return LockRequest(id=id, resource=key, session="s", secret="s")
        case "change":
            return ResourceChange(
                id=id,
                resource=key,
                version=act.version,
                by="ann",
                what=act.what,
                source=act.source,
                sequence=act.sequence,
            )
        case "end_session":
            return SessionEnded(id=id, session="s", secret="s")
        case "renew":
            return Renewal(**about)
        case "release":
            return Release(**about)
    return Cancellation(id=id, resource=key, request=act.id)


def _report(act: Act, dice: random.Random) -> Schema:
    about: dict[str, Any] = {
        "session": "nobody",
        "pool": "default",
        "resource": act.resource,
        "run": act.id,
        "token": 1,
    }
    return dice.choice(
        [
            Completed(**about),
            Failed(**about, error=ErrorDetail(code="X", message="x")),
            Progress(**about),
            WorkerHeartbeat(session="nobody", pool="default", number=1, slots=1, read=0),
            WorkerLeft(session="nobody", pool="default"),
            WorkerJoined(session="odd", pool="elsewhere", name="odd", actions=("a",), slots=1, generation=1),
        ]
    )
