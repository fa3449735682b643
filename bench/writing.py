"""Plain writes that cost the machine little: on Kafka whole batches, which spares aiokafka a future a record.

The generator and the stand-in worker share two cores with the broker and the router, so what they cost matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from aiokafka import AIOKafkaProducer

from keylane.journal import connect
from keylane.journal.port import Record

BATCH_BYTES = 256 * 1024
BATCH_RECORDS = 500
"""Input topics take batches of 260 KiB; a record of 300 bytes has 100 beside."""
Write = Callable[[Sequence[Record]], Awaitable[None]]


def servers_of(url: str) -> str:
    return urlsplit(url).netloc


def prefix_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["prefix"][0]


@asynccontextmanager
async def writer(url: str) -> AsyncIterator[Write]:
    """What writes records to the journal at `url`, acknowledged when it returns."""
    if not url.startswith("kafka://"):
        journal = await connect(url)
        try:

            async def append(records: Sequence[Record]) -> None:
                await journal.append(records)

            yield append
        finally:
            await journal.close()
        return
    producer = AIOKafkaProducer(bootstrap_servers=servers_of(url), enable_idempotence=True, max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        yield _Batches(producer, prefix_of(url)).write
    finally:
        await producer.stop()


class _Batches:
    def __init__(self, producer: AIOKafkaProducer, prefix: str) -> None:
        self._producer = producer
        self._prefix = prefix

    async def write(self, records: Sequence[Record]) -> None:
        by_place: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            by_place.setdefault((record.topic, record.partition), []).append(record)
        sent = []
        for (topic, partition), group in by_place.items():
            for start in range(0, len(group), BATCH_RECORDS):
                batch = self._producer.create_batch()
                for record in group[start : start + BATCH_RECORDS]:
                    added = batch.append(timestamp=None, key=record.key, value=record.value, headers=[])
                    assert added is not None, "a batch takes so many of these"
                sent.append(await self._producer.send_batch(batch, self._prefix + topic, partition=partition))
        await asyncio.gather(*sent)
