"""What a contract test begins with: topics of its own on a fresh log, and words for common steps."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import anyio
from contract.adapters import Adapter
from contract.children import DEADLINE_S

from keylane.journal import (
    Journal,
    LaneSession,
    Membership,
    Place,
    Reader,
    Record,
    Stored,
    TopicSpec,
    connect,
)

PARTITIONS = 2
INPUT_MAX_BYTES = 64 * 1024
EVENTS_RETENTION_MS = 7 * 24 * 3600 * 1000

numbers = itertools.count()


class Site:
    """A fresh log, one journal on it, and short ways to say what the tests say often."""

    def __init__(self, adapter: Adapter, stack: AsyncExitStack) -> None:
        self.adapter = adapter
        self.stack = stack
        self.name = f"{adapter.prefix}{next(numbers)}"
        self.requests, self.results, self.events, self.state = (
            f"{self.name}.{topic}" for topic in ("requests", "results", "events", "state")
        )
        self.specs = [
            TopicSpec(self.requests, PARTITIONS, max_record_bytes=INPUT_MAX_BYTES),
            TopicSpec(self.results, PARTITIONS, max_record_bytes=INPUT_MAX_BYTES),
            TopicSpec(self.events, PARTITIONS, retention_ms=EVENTS_RETENTION_MS),
            TopicSpec(self.state, PARTITIONS, compacted=True),
        ]
        self.journal: Journal

    async def open(self) -> Journal:
        """One more journal on this log, as another process would have it."""
        journal = await connect(self.adapter.url)
        self.stack.push_async_callback(journal.close)
        return journal

    async def claim(self, journal: Journal | None = None, partition: int = 0) -> LaneSession:
        """Claim a lane and seek to the start of its inputs, results first."""
        session = await (journal or self.journal).claim(partition, [self.results, self.requests], self.state)
        self.stack.push_async_callback(session.close)
        await session.seek({})
        return session

    async def join(self, journal: Journal | None = None) -> Membership:
        return await (journal or self.journal).join(f"{self.name}.group", self.requests)

    async def reader(self, positions: Mapping[Place, int | None]) -> Reader:
        reader = await self.journal.reader(positions)
        self.stack.push_async_callback(reader.close)
        return reader

    async def append(self, topic: str, *values: bytes, partition: int = 0) -> list[int]:
        """Append records of one partition, keyed by their values."""
        return await self.journal.append([Record(topic, partition, value, value) for value in values])

    async def committed(self, topic: str, partition: int = 0) -> list[Stored]:
        """All committed records of a partition, up to its end as it is now."""
        place = Place(topic, partition)
        await self.adapter.settled(self.journal, place)
        end = (await self.journal.end_positions([place]))[place]
        reader = await self.reader({place: None})
        records: list[Stored] = []
        with anyio.fail_after(DEADLINE_S):
            while reader.positions()[place] < end:
                records += await reader.poll(1000, 0.1)
        return records


def values(records: Sequence[Stored]) -> list[bytes | None]:
    return [record.value for record in records]


async def poll_for(session: LaneSession, count: int, max_records: int = 1000) -> list[Stored]:
    """Poll until that many records have come."""
    records: list[Stored] = []
    with anyio.fail_after(DEADLINE_S):
        while len(records) < count:
            records += await session.poll(max_records, 1)
    return records
