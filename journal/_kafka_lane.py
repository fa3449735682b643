"""A lane session on Kafka: one transactional producer, the state partition, the input partitions.

Here live the rules R1 to R5 of the Kafka adapter (`docs/decisions/kafka-adapter.md`); not what a lane decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import anyio

from . import _kafka_vendor as vendor
from ._kafka_access import begin, denial
from ._kafka_connection import Cluster
from ._kafka_names import Names
from ._kafka_reader import Ends, KafkaReader, open_reader
from .errors import JournalError, LaneLost, TooLarge
from .port import Place, Record, Stored
from .rules import record_bytes

# The broker ends a transaction by itself after this; until then a killed lane stalls its readers.
TRANSACTION_TIMEOUT_MS = 3_000
# Twice that: what was not committed by then will not be.
COMMIT_TIMEOUT_S = 6.0
LOAD_BATCH = 10_000
# At most, beside key, value and headers: five numbers of variable length and a byte; two such a header.
RECORD_OVERHEAD_BYTES = 21
HEADER_OVERHEAD_BYTES = 10

Limits = Callable[[Collection[str]], Awaitable[Mapping[str, int]]]
Append = Callable[[Sequence[Record]], Awaitable[object]]


class KafkaLane:
    """See the port's `LaneSession`. One task uses it.

    The producer's transactional id is the partition's for ever (R4), so that initialising it again fences
    every earlier claimant and ends its open transaction. Positions travel in the lane's own records, never
    by `send_offsets_to_transaction`, which would let a non-owner move another's (R3).
    """

    def __init__(
        self,
        cluster: Cluster,
        names: Names,
        producer: vendor.Producer,
        place: Place,
        inputs: Sequence[str],
        *,
        limits: Limits,
        append: Append,
        committed_ends: Ends,
        ends: Ends,
    ) -> None:
        self.partition = place.partition
        self._cluster = cluster
        self._names = names
        self._producer = producer
        self._state = place
        self._inputs = [Place(topic, place.partition) for topic in inputs]
        self._limits = limits
        self._append = append
        self._committed_ends = committed_ends
        self._ends = ends
        self._reader: KafkaReader | None = None
        self._lost: LaneLost | None = None
        self.closed = False

    async def load(self) -> list[Stored]:
        """See the port. Reads committed records up to an end asked for after the claim (R5).

        No earlier transaction is open any more by then, so nothing of the lane's lies behind that end.
        """
        self._check()
        end = (await self._committed_ends([self._state]))[self._state]
        reader = await open_reader(
            self._cluster, self._names, {self._state: None}, self._committed_ends, committed=True, check_end=False
        )
        newest: dict[bytes | None, Stored] = {}
        try:
            while reader.positions()[self._state] < end:
                for record in await reader.poll(LOAD_BATCH, 0.1):
                    newest.pop(record.key, None)
                    if record.value is not None:
                        newest[record.key] = record
        finally:
            await reader.close()
        return list(newest.values())

    async def seek(self, positions: Mapping[str, int]) -> dict[str, int]:
        self._check()
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        start = {place: positions.get(place.topic) for place in self._inputs}
        # Uncommitted: nothing transactional is written to inputs, so a dead producer must not hide them.
        self._reader = await open_reader(self._cluster, self._names, start, self._ends, committed=False, check_end=True)
        return {place.topic: position for place, position in self._reader.positions().items()}

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        self._check()
        assert self._reader is not None, "seek comes before poll"
        return await self._reader.poll(max_records, timeout_s)

    def positions(self) -> dict[str, int]:
        assert self._reader is not None, "seek comes before poll"
        return {place.topic: position for place, position in self._reader.positions().items()}

    async def high_watermarks(self) -> dict[str, int]:
        self._check()
        return {place.topic: end for place, end in (await self._ends(self._inputs)).items()}

    async def append(self, records: Sequence[Record]) -> None:
        self._check()
        await self._append(records)

    async def commit(self, records: Sequence[Record]) -> None:
        """See the port. Any failure ends the session: what the broker made of it is read by the next one.

        `LaneLost.fenced` is also set when the broker ended a transaction that took longer than
        `TRANSACTION_TIMEOUT_MS`: the answers are the same, and to think of a later claimant is the safe way.
        """
        self._check()
        if not records:
            return
        assert all(record.partition == self.partition for record in records), "a lane writes its own number"
        try:
            limits = await self._limits({record.topic for record in records})
            await self._transact(pack(self._producer, records, limits))
        except JournalError as error:  # nothing was written
            self._lost = LaneLost(f"an earlier commit failed: {error}", fenced=False)
            raise
        except BaseException as error:  # cancellation too: the commit may land after it
            self._lost = self._judge(error)
            if denial(error) is not None:  # an answer, so there was no commit
                raise vendor.translate(f"committing to partition {self.partition}", error) from error
            if isinstance(error, Exception):
                raise self._lost from error
            raise

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._reader is not None:
            await self._reader.close()
        await vendor.discard(self._producer)

    async def _transact(self, batches: Sequence[tuple[str, vendor.Batch]]) -> None:
        with anyio.fail_after(COMMIT_TIMEOUT_S):
            await self._producer.begin_transaction()
            sent = [
                await self._producer.send_batch(batch, self._names.full(topic), partition=self.partition)
                for topic, batch in batches
            ]
            # R2: commit_transaction would not notice a batch that failed, and commit the others.
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            failed = next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)
            if failed is None:
                await self._producer.commit_transaction()
                return
        await self._abort()
        if vendor.is_too_large(failed):
            raise TooLarge(f"the broker refused a batch for partition {self.partition} as too large")
        raise failed

    async def _abort(self) -> None:
        """Spare the readers the transaction timeout; where it fails, the next claim does it."""
        try:
            with anyio.move_on_after(vendor.STOP_TIMEOUT_S):
                await self._producer.abort_transaction()
        except (*vendor.VENDOR_ERRORS, AssertionError):
            return  # aiokafka asserts that its producer is still alive

    def _judge(self, error: BaseException) -> LaneLost:
        where = f"partition {self.partition}"
        if vendor.is_fenced(error):
            return LaneLost(f"{where} was claimed by another, or a transaction timed out", fenced=True)
        return LaneLost(f"{where}: the outcome of a commit is unknown: {error!r}", fenced=False)

    def _check(self) -> None:
        if self._lost is not None:
            raise LaneLost(f"the session is over: {self._lost}", fenced=self._lost.fenced)
        if self.closed:
            raise LaneLost("the session is closed", fenced=False)


def pack(
    producer: vendor.Producer, records: Sequence[Record], limits: Mapping[str, int]
) -> list[tuple[str, vendor.Batch]]:
    """Batches within each topic's limit, the first of every topic before any second.

    So all partitions join the transaction in one request, before any batch waits for an earlier one. The
    producer's own accumulator was not used: it makes a future a record, and knows no topic's limit.
    """
    batches: dict[str, list[vendor.Batch]] = {}
    room: dict[str, int] = {}
    now_ms = time.time_ns() // 1_000_000  # aiokafka would ask the clock for each record
    for record in records:
        topic, _, key, value, headers = record
        size = allowed_bytes(record, limits) + RECORD_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES * len(headers)
        left = room.get(topic, 0) - size
        if left < 0:
            batches.setdefault(topic, []).append(producer.create_batch())
            left = min(limits[topic], vendor.MAX_BATCH_BYTES) - size
        room[topic] = left
        appended = batches[topic][-1].append(timestamp=now_ms, key=key, value=value, headers=list(headers))
        assert appended is not None
    rounds = max(map(len, batches.values()))
    return [(topic, queue[i]) for i in range(rounds) for topic, queue in batches.items() if i < len(queue)]


def allowed_bytes(record: Record, limits: Mapping[str, int]) -> int:
    """The record's size as the port counts it. Raises `TooLarge` where its topic does not take that."""
    size = record_bytes(record)
    if size > limits[record.topic]:
        raise TooLarge(f"a record of {size} bytes is over the {limits[record.topic]} that {record.topic} takes")
    return size


async def claim_lane(
    cluster: Cluster,
    names: Names,
    place: Place,
    inputs: Sequence[str],
    *,
    limits: Limits,
    append: Append,
    committed_ends: Ends,
    ends: Ends,
) -> KafkaLane:
    """Fence every earlier claimant of `place.partition` and return the session that owns it."""
    producer = vendor.lane_producer(cluster, names.full(f"lane.{place.partition}"), TRANSACTION_TIMEOUT_MS)
    try:
        with vendor.asking(f"claiming partition {place.partition}"):
            await begin(cluster, producer.start())
    except BaseException:
        await vendor.discard(producer)
        raise
    return KafkaLane(
        cluster,
        names,
        producer,
        place,
        inputs,
        limits=limits,
        append=append,
        committed_ends=committed_ends,
        ends=ends,
    )
