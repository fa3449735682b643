"""A small lane for tests of the client: reads requests, and answers each with the events a test names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from msgspec import Raw

from keylane.journal.connect import connect
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Journal, Place, Record, TopicSpec
from keylane.schemas import topics
from keylane.schemas.base import Schema
from keylane.schemas.codec import Undecodable, decode_request, encode
from keylane.schemas.event_parts import Event
from keylane.schemas.events import Changed, Ended, Granted, Queued
from keylane.schemas.metadata import METADATA_KEY, Metadata
from keylane.schemas.requests import Request, ResourceChange, WorkRequest
from keylane.schemas.state import StateRecord, state_key

PARTITIONS = 4
KEY = "deploy://api"
P = partition_of(KEY.encode(), PARTITIONS)
TIME = "2026-11-22T10:00:00+00:00"

Answer = Callable[[Request], Sequence[Event]]


def queued(request: str, run: str | None = None, **fields: object) -> Queued:
    values = {"resource": KEY, "owner": KEY, "action": "restart"} | fields
    return Queued(seq=1, clock_ms=0, time=TIME, request=request, run=run or request, **values)  # type: ignore[arg-type]


def granted(run: str, *requests: str, token: int = 7) -> Granted:
    return Granted(
        seq=2, clock_ms=0, time=TIME, run=run, resource=KEY, owner=KEY,
        action="restart", token=token, attempt=1, session="s", holder="worker-1", lease_ms=300_000,
        requests=requests,
    )  # fmt: skip


def ended(run: str, *requests: str, status: str = "completed", **fields: object) -> Ended:
    return Ended(
        seq=3, clock_ms=0, time=TIME, run=run, resource=KEY, owner=KEY,
        action="restart", status=status, requests=requests, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def changed(change: ResourceChange) -> Changed:
    return Changed(
        seq=1, clock_ms=0, time=TIME, change=change.id, resource=change.resource, owner=change.resource,
        version=change.version, by=change.by, what=change.what, effect="applied",
    )  # fmt: skip


def complete(request: Request) -> Sequence[Event]:
    """Queued, granted, and completed with the payload as its result; a change is applied."""
    if isinstance(request, ResourceChange):
        return (changed(request),)
    assert isinstance(request, WorkRequest)
    return (
        queued(request.id),
        granted(request.id, request.id),
        ended(request.id, request.id, result=Raw(request.payload), version="v2"),
    )


async def set_up(url: str) -> Journal:
    """A journal as a router leaves it on its first start."""
    journal = await connect(url)
    await journal.create_topics(
        [
            TopicSpec(topics.METADATA, 1, compacted=True),
            TopicSpec(topics.REQUESTS, PARTITIONS, max_record_bytes=topics.REQUEST_BYTES_MAX),
            TopicSpec(topics.EVENTS, PARTITIONS),
            TopicSpec(topics.STATE, PARTITIONS, compacted=True),
        ]
    )
    metadata = encode(Metadata(partitions=PARTITIONS))
    await journal.append([Record(topics.METADATA, 0, METADATA_KEY, metadata)])
    return journal


def event_record(partition: int, event: Schema) -> Record:
    return Record(topics.EVENTS, partition, None, encode(event))


def state_record(partition: int, record: StateRecord) -> Record:
    return Record(topics.STATE, partition, state_key(record), encode(record))


@asynccontextmanager
async def lane(journal: Journal, answer: Answer) -> AsyncIterator[list[Request]]:
    """Answers every request of every partition in the background; yields the list of what it has read."""
    read: list[Request] = []

    async def work() -> None:
        reader = await journal.reader({Place(topics.REQUESTS, each): 0 for each in range(PARTITIONS)})
        while True:
            for stored in await reader.poll(100, 60):
                request = decode_request(stored.value)
                assert not isinstance(request, Undecodable)
                read.append(request)
                events = [event_record(stored.partition, event) for event in answer(request)]
                await journal.append(events)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        yield read
        tasks.cancel_scope.cancel()
