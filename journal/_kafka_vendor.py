"""aiokafka behind typed protocols: its objects, its errors, and what must be done to them before use.

Every place that touches aiokafka's private parts is here: a new version is read against this file.
Topics, brokers and rights have `_kafka_admin.py` with `_kafka_requests.py`, and what is not let in has
`_kafka_access.py`: nothing else imports it. What the adapter promises is not here but in `kafka.py`,
`_kafka_lane.py` and so on.

aiokafka is pinned exactly. The rules R1 to R5 are in `docs/decisions/kafka-adapter.md`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import anyio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    ConcurrentTransactions,
    ConsumerStoppedError,
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    ProducerClosed,
    ProducerFenced,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from ._kafka_access import begin, denial, why_not
from ._kafka_connection import Cluster
from .errors import AccessDenied, JournalError, PositionLost, TooLarge, Unavailable
from .port import Place, Stored

MAX_BATCH_BYTES = 1024 * 1024
# Kafka's limit is for a batch. One record's has beside key, value and headers 61 bytes, at most 21 for the
# record and, for short headers, 2 each.
BATCH_OVERHEAD_BYTES = 512
PLAIN_BATCH_BYTES = 64 * 1024
ANSWER_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 2.0
# Between a commit and the broker's last marker, the next transaction is told CONCURRENT_TRANSACTIONS.
# aiokafka would wait 20 ms, or 100 ms after the first partition: more than all the rest of a turn.
CONCURRENT_WAIT_S = 0.002
CONCURRENT_TRIES = 100

VENDOR_ERRORS = (KafkaError, IllegalOperation, ConsumerStoppedError, OSError)

# aiokafka logs what it also raises, and every reconnect; whoever wants that back sets a level of their own.
if logging.getLogger("aiokafka").level == logging.NOTSET:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class Batch(Protocol):
    """Records that travel together to one partition."""

    def append(
        self,
        *,
        timestamp: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> object | None: ...


class Sent(Protocol):
    @property
    def offset(self) -> int: ...


class Producer(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def begin_transaction(self) -> None: ...
    async def commit_transaction(self) -> None: ...
    async def abort_transaction(self) -> None: ...
    def create_batch(self) -> Batch: ...
    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[Sent]: ...
    async def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        timestamp_ms: int | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> asyncio.Future[Sent]: ...


class Fetched(Protocol):
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int


@dataclass
class Unreadable:
    """A record of which aiokafka can read no more than that it is there."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = 0


class Consumer(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def assign(self, partitions: Sequence[Place]) -> None: ...
    def seek(self, partition: Place, offset: int) -> None: ...
    def pause(self, *partitions: Place) -> None: ...
    async def position(self, partition: Place) -> int: ...
    async def beginning_offsets(self, partitions: Collection[Place]) -> dict[Place, int]: ...
    async def end_offsets(self, partitions: Collection[Place]) -> dict[Place, int]: ...
    async def getmany(
        self, *partitions: Place, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[Place, list[Fetched]]: ...


class Coordinator(Protocol):
    """The group coordinator's client side; aiokafka shows its generation nowhere public."""

    generation: int
    _rejoin_needed_fut: asyncio.Future[None]

    async def _do_heartbeat(self) -> bool: ...
    def check_errors(self) -> None: ...


class Unanswered(Exception):
    """A transactional request that got no answer (R1).

    Not a `KafkaError`, for aiokafka retries those: a late copy of a retried `EndTxn` commits the next, open
    transaction (KAFKA-17754). As it is, the sender ends, and the producer with it.
    """


def translate(what: str, error: BaseException) -> JournalError:
    """The journal's error for aiokafka's. Fencing is not here: only a lane session can judge it."""
    if (denied := denial(error)) is not None:
        return AccessDenied(f"{what}: {denied}")
    if is_too_large(error):
        return TooLarge(f"{what}: the broker refused a record or batch as too large")
    if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
        return PositionLost(f"{what}: the position is outside the log: {error}")
    if isinstance(error, TimeoutError):
        return Unavailable(f"{what}: no answer in time")
    return Unavailable(f"{what}: {type(error).__name__}: {error}")


@contextmanager
def asking(what: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[None]:
    """A deadline around aiokafka (some of its calls hang while a broker is paused), and `translate`."""
    try:
        with anyio.fail_after(timeout_s):
            yield
    except (*VENDOR_ERRORS, Unanswered) as error:  # TimeoutError is an OSError
        raise translate(what, error) from error


def is_fenced(error: BaseException) -> bool:
    return isinstance(error, ProducerFenced | InvalidProducerEpoch)


def is_too_large(error: BaseException) -> bool:
    return isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)


class PendingBatches(set[Batch]):
    """aiokafka's set of what is being sent, from which it removes a batch twice that fails while it waits to be sent
    again: an exception in a callback, which the event loop reports."""

    remove = set.discard


def plain_producer(cluster: Cluster) -> Producer:
    """For acknowledged writes outside transactions, shared by all who append."""
    producer = AIOKafkaProducer(
        **cluster.keywords(),
        acks="all",
        enable_idempotence=True,
        # Smaller than any input topic's limit, which Kafka applies to a batch and not to a record.
        max_batch_size=PLAIN_BATCH_BYTES,
        max_request_size=64 * MAX_BATCH_BYTES,
    )
    producer._message_accumulator._pending_batches = PendingBatches()
    return cast("Producer", producer)


def lane_producer(cluster: Cluster, transactional_id: str, transaction_timeout_ms: int) -> Producer:
    """A transactional producer that never asks twice (R1)."""
    producer = AIOKafkaProducer(
        **cluster.keywords(),
        transactional_id=transactional_id,
        transaction_timeout_ms=transaction_timeout_ms,
        max_batch_size=MAX_BATCH_BYTES + BATCH_OVERHEAD_BYTES,
        retry_backoff_ms=50,
    )
    producer._message_accumulator._pending_batches = PendingBatches()
    ask_once(producer)
    return cast("Producer", producer)


def ask_once(producer: AIOKafkaProducer) -> None:
    """Replace this producer's `client.send`: transactional requests without an answer end it (R1).

    An *answer* that says "the last transaction is still being ended" is asked again here, soon, for
    aiokafka's own wait is long. Done on the instance: a patched class would change other users' producers.
    """
    send: Callable[..., Awaitable[object]] = producer.client.send
    once = (InitProducerIdRequest, AddPartitionsToTxnRequest, EndTxnRequest)

    async def guarded(node_id: int, request: object, **options: object) -> object:
        if not isinstance(request, once):
            return await send(node_id, request, **options)
        for _ in range(CONCURRENT_TRIES):
            try:
                answer = await send(node_id, request, **options)
            except KafkaError as error:
                raise Unanswered(f"{type(request).__name__}: {error!r}") from error
            if not is_concurrent(answer):
                break
            await asyncio.sleep(CONCURRENT_WAIT_S)
        return answer

    producer.client.send = guarded


def is_concurrent(answer: object) -> bool:
    """Whether an answer to any of the three requests is CONCURRENT_TRANSACTIONS."""
    if hasattr(answer, "error_code"):
        return for_code(answer.error_code) is ConcurrentTransactions
    errors = cast("Sequence[tuple[str, Sequence[tuple[int, int]]]]", getattr(answer, "errors", ()))
    return any(for_code(code) is ConcurrentTransactions for _, places in errors for _, code in places)


async def discard(producer: Producer) -> None:
    """Let go of a producer in whatever state it is, within `STOP_TIMEOUT_S`, without finishing its work.

    `stop` flushes first, which hangs while a broker is paused. Cancelling the sender is what keeps a
    pending `EndTxn` from being sent after we gave up on it; failing its batches first would let it go out.
    """
    vendor = cast("AIOKafkaProducer", producer)
    sender: asyncio.Task[None] | None = vendor._sender.sender_task
    with anyio.CancelScope(shield=True):
        if sender is None or sender.done() or not vendor._message_accumulator._pending_batches:
            await ended(vendor.stop())
        vendor._closed = True  # else __del__ complains
        while sender is not None and not sender.done():
            sender.cancel()  # the second time reaches the request that it waits for
            await asyncio.wait([sender], timeout=0.05)
        await vendor.client.close()
        drop_batches(vendor)


async def ended(stopping: Coroutine[object, object, None]) -> bool:
    """Whether aiokafka's `stop` came to its end within `STOP_TIMEOUT_S`.

    In a task of its own, for a consumer whose broker is gone lets the cancellation of its own fetch escape.
    """
    task = asyncio.ensure_future(stopping)
    await asyncio.wait([task], timeout=STOP_TIMEOUT_S)
    if not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=STOP_TIMEOUT_S)
    return task.done() and not task.cancelled() and task.exception() is None


def drop_batches(vendor: AIOKafkaProducer) -> None:
    """Fail what is left, for an interrupted `stop` still waits for it, and look at what nobody awaits.

    An exception on a future that is never looked at is reported by the event loop.
    """
    accumulator = vendor._message_accumulator
    batches = [*accumulator._pending_batches, *(batch for queue in accumulator._batches.values() for batch in queue)]
    accumulator.fail_all(ProducerClosed())
    left = [future for batch in batches for future in (batch.future, batch._drain_waiter)]
    for future in (*left, vendor._txn_manager._transaction_waiter):
        if future is not None and future.done() and not future.cancelled():
            future.exception()


def consumer(cluster: Cluster, *, committed: bool) -> Consumer:
    """For assigned partitions. Without a reset policy: a position outside the log is an error, not a jump."""
    vendor = AIOKafkaConsumer(
        **cluster.keywords(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed" if committed else "read_uncommitted",
    )
    return cast("Consumer", vendor)


def member(cluster: Cluster, group: str, session_timeout_ms: int, heartbeat_ms: int) -> Consumer:
    """A dynamic member of a group (a static one sends no LeaveGroup, so its partitions stay unowned)."""
    vendor = AIOKafkaConsumer(
        **cluster.keywords(),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=session_timeout_ms,
        heartbeat_interval_ms=heartbeat_ms,
        # A JoinGroup is answered only when all members have joined.
        request_timeout_ms=2 * session_timeout_ms + 5_000,
        # It serves membership only and never polls; that must not look like a stuck application.
        max_poll_interval_ms=2**50,
    )
    return cast("Consumer", vendor)


def subscribe(
    vendor: Consumer, topic: str, revoked: Callable[[], None], assigned: Callable[[Collection[Place]], None]
) -> None:
    """Join the group for `topic`; the callbacks run inside the rebalance."""

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_revoked(self, _: Collection[Place]) -> None:
            revoked()

        def on_partitions_assigned(self, places: Collection[Place]) -> None:
            assigned(places)

    cast("AIOKafkaConsumer", vendor).subscribe([topic], listener=Listener())


def coordinator(vendor: Consumer) -> Coordinator:
    return cast("Coordinator", cast("AIOKafkaConsumer", vendor)._coordinator)


async def start(cluster: Cluster, vendor: Consumer, topics: Collection[str]) -> None:
    """Connect, and learn where `topics` are; aiokafka would find out by waits of 100 ms at first use.

    It would also ask for ever where a topic is that it may not see.
    """
    await begin(cluster, vendor.start())
    client = cast("AIOKafkaConsumer", vendor)._client
    await client.set_topics(topics)
    if denied := client.cluster.unauthorized_topics & set(topics):
        raise TopicAuthorizationFailedError(denied)


async def reach(cluster: Cluster, vendor: Consumer) -> None:
    """Go where the bootstrap server sent this client. Raises `AccessDenied` where that is not to be trusted: aiokafka
    would try again for ever. A broker that is down is another matter, for there may be others."""
    client = cast("AIOKafkaConsumer", vendor)._client
    node = client.get_random_node()
    if node is None or await client.ready(node):
        return
    broker = client.cluster.broker_metadata(node)
    if broker is not None and isinstance(found := await why_not(cluster, [(broker.host, broker.port)]), AccessDenied):
        raise found


async def end_offsets(vendor: Consumer, places: Collection[Place]) -> dict[Place, int]:
    """As of now. A topic that may not be seen is said, and not asked for until the deadline."""
    client = cast("AIOKafkaConsumer", vendor)._client
    for topic in {place.topic for place in places}:
        await client._wait_on_metadata(topic)
    return await vendor.end_offsets(places)


async def stop(vendor: Consumer) -> None:
    """Stop a consumer (a member leaves its group) within `STOP_TIMEOUT_S`."""
    with anyio.CancelScope(shield=True):
        if not await ended(cast("AIOKafkaConsumer", vendor).stop()):
            await cast("AIOKafkaConsumer", vendor)._client.close()


def places(topics_and_partitions: Sequence[Place]) -> list[Place]:
    """As aiokafka wants them; equal to and hashing like a `Place`, both being tuples of the same two."""
    return [cast("Place", TopicPartition(*place)) for place in topics_and_partitions]


def stored(place: Place, record: Fetched) -> Stored:
    return Stored(
        place.topic,
        place.partition,
        record.offset,
        record.key,
        record.value,
        tuple((name, value or b"") for name, value in record.headers),  # Kafka's may have none
        record.timestamp,
    )
