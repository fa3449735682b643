"""A batch that waits to be sent again when its producer is discarded: the event loop had an exception to report."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from keylane.journal import _kafka_vendor as vendor
from keylane.journal._kafka_connection import Cluster

pytestmark = pytest.mark.anyio


async def test_what_was_to_be_sent_again_fails_quietly(unused_port: int) -> None:
    """As when a broker goes away: the request fails, its batch is put back, and the producer is given up."""
    producer = vendor.plain_producer(Cluster((f"127.0.0.1:{unused_port}",)))
    assert isinstance(producer, AIOKafkaProducer)
    accumulator, place = producer._message_accumulator, TopicPartition("t", 0)
    producer._txn_manager.set_pid_and_epoch(1, 0)
    sent = await accumulator.add_message(place, None, b"value", timeout=1)
    accumulator.reenqueue(accumulator._pop_batch(place))
    vendor.drop_batches(producer)
    await anyio.lowlevel.checkpoint()  # callbacks run; what one of them raises fails the test
    assert sent.exception() is not None
    await producer.client.close()
    producer._closed = True
