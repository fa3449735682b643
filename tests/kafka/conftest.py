"""What the tests of the Kafka adapter share: topics and lanes of a test's own on the shared broker."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest
from kafka.running import Broker, settled

from keylane.journal.connect import connect
from keylane.journal.kafka import KafkaJournal
from keylane.journal.port import LaneSession, Place, Stored, TopicSpec

PARTITIONS = 2
numbers = itertools.count()


class Site:
    """Topics and transactional ids that no other test uses, by any journal that a test opens on them."""

    def __init__(self, broker: Broker, name: str, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.name = name
        self.requests, self.results, self.events, self.state = "requests", "results", "events", "state"
        self._stack = stack

    def url(self, port: int | None = None) -> str:
        port = port or self.broker.port
        return f"kafka://127.0.0.1:{port}?prefix={self.name}.&session_timeout_ms=3000"

    def full(self, topic: str) -> str:
        """What the cluster calls a topic."""
        return f"{self.name}.{topic}"

    async def journal(self, port: int | None = None) -> KafkaJournal:
        journal = await connect(self.url(port))
        assert isinstance(journal, KafkaJournal)
        self._stack.push_async_callback(journal.close)
        return journal

    async def claim(self, journal: KafkaJournal, partition: int = 0) -> LaneSession:
        session = await journal.claim(partition, [self.results, self.requests], self.state)
        self._stack.push_async_callback(session.close)
        return session

    async def committed(
        self, journal: KafkaJournal, topic: str, partition: int = 0, *, left_open: bool = False
    ) -> list[Stored]:
        """All the committed records of a partition up to its end of now. `left_open`: a transaction is."""
        place = Place(topic, partition)
        if not left_open:
            await settled(journal, place)
        end = (await journal.end_positions([place]))[place]
        reader = await journal.reader({place: None})
        records = []
        try:
            with anyio.fail_after(20):
                while reader.positions()[place] < end:
                    records += await reader.poll(1000, 0.1)
        finally:
            await reader.close()
        return records


@pytest.fixture
async def site(kafka_broker: Broker, worker_id: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(kafka_broker, f"{worker_id}-{next(numbers)}", stack)
        journal = await site.journal()
        await journal.create_topics(
            [
                TopicSpec(site.requests, PARTITIONS, max_record_bytes=256 * 1024),
                TopicSpec(site.results, PARTITIONS),
                TopicSpec(site.events, PARTITIONS, retention_ms=3_600_000),
                TopicSpec(site.state, PARTITIONS, compacted=True),
            ]
        )
        yield site
