"""`python -m bench.passthrough SERVERS FROM TO OUTPUT…`: the ceiling. Copies what it reads, in transactions, with
aiokafka alone; nothing is decoded and nothing decided.

Each OUTPUT is how many copies of a record, in the mean, go to topic TO with the output's number behind it.
Transactions are as keylane's must be: one producer a partition, at most a thousand records at a time. Batches are
built by hand, which is the fastest that aiokafka does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence

import aiokafka
import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from bench.load import PARTITIONS

TURN_RECORDS = 1_000
BATCH_BYTES = 1_000_000
POLL_MS = 1_000
CONCURRENT_WAIT_S = 0.002
"""Between transactions, as keylane has it; aiokafka's own 20 ms would make this no ceiling."""


class Lane:
    """One partition's consumer and producer."""

    def __init__(self, servers: str, source: TopicPartition, target: str, outputs: Sequence[float]) -> None:
        self._source = source
        self._target = target
        self._outputs = outputs
        self._owed = [0.0] * len(outputs)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        self._producer = AIOKafkaProducer(
            bootstrap_servers=servers, transactional_id=f"{target}{source.partition}", max_batch_size=BATCH_BYTES
        )

    async def start(self) -> None:
        await self._consumer.start()
        await self._producer.start()
        self._consumer.assign([self._source])

    async def run(self) -> None:
        while True:
            found = await self._consumer.getmany(self._source, timeout_ms=POLL_MS, max_records=TURN_RECORDS)
            if found:
                await self._copy(found[self._source])

    async def _copy(self, records: Sequence[aiokafka.ConsumerRecord]) -> None:
        async with self._producer.transaction():
            sent = []
            for number, copies in enumerate(self._outputs):
                for batch in self._batches(records, number, copies):
                    topic = f"{self._target}{number}"
                    sent.append(await self._producer.send_batch(batch, topic, partition=self._source.partition))
            await asyncio.gather(*sent)

    def _batches(
        self, records: Sequence[aiokafka.ConsumerRecord], number: int, copies: float
    ) -> Iterator[BatchBuilder]:
        owed = self._owed[number]
        batch = self._producer.create_batch()
        for record in records:
            owed += copies
            while owed >= 1:
                owed -= 1
                if batch.append(timestamp=None, key=record.key, value=record.value, headers=[]) is None:
                    yield batch
                    batch = self._producer.create_batch()
                    batch.append(timestamp=None, key=record.key, value=record.value, headers=[])
        self._owed[number] = owed
        if batch.record_count():
            yield batch


async def main(servers: str, source: str, target: str, *outputs: str) -> None:
    aiokafka.producer.sender.BACKOFF_OVERRIDE = CONCURRENT_WAIT_S
    counts = [float(output) for output in outputs]
    lanes = [Lane(servers, TopicPartition(source, number), target, counts) for number in range(PARTITIONS)]
    await asyncio.gather(*(lane.start() for lane in lanes))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    # Until it is killed: it has nothing to put away, and a transaction that it leaves open the broker ends.
    await asyncio.gather(*(lane.run() for lane in lanes))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
