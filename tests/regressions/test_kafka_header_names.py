"""A header whose name is no UTF-8: aiokafka raises at it for ever, so one record of any producer stopped a lane."""

from __future__ import annotations

import struct
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c_py
from kafka.running import Broker

from keylane.journal.connect import connect
from keylane.journal.port import Record, Stored, TopicSpec

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

NAME = b"trQZ"
CRC_AT, CRC_FROM = 17, 21
"""Where a batch of format 2 has its checksum, and from where on that counts."""


class Spoilt:
    """Builds a batch with bytes in its header's name that no string has."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def build(self) -> bytearray:
        raw = bytearray(self._builder.build())
        at = raw.index(NAME)
        raw[at : at + len(NAME)] = b"tr\xff\xfe"
        raw[CRC_AT:CRC_FROM] = struct.pack(">I", calc_crc32c_py(bytes(raw[CRC_FROM:])))
        return raw


async def send_spoilt(broker: Broker, topic: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{broker.port}")
    await producer.start()
    try:
        batch = producer.create_batch()
        batch.append(key=None, value=b"bad", timestamp=None, headers=[(NAME.decode(), b"x")])
        batch.close()
        batch._builder = Spoilt(batch._builder)
        await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


async def test_it_is_handed_on_bare_and_what_lies_around_it_whole(kafka_broker: Broker, worker_id: str) -> None:
    prefix = f"names-{worker_id}."
    journal = await connect(f"{kafka_broker.url}?prefix={prefix}")
    try:
        await journal.create_topics(
            [TopicSpec("requests", 1), TopicSpec("results", 1), TopicSpec("state", 1, compacted=True)]
        )
        session = await journal.claim(0, ["results", "requests"], "state")
        await session.seek({})
        await journal.append([Record("results", 0, None, b"beside"), Record("requests", 0, None, b"before")])
        await send_spoilt(kafka_broker, f"{prefix}requests")
        await journal.append([Record("requests", 0, None, b"after")])
        found: list[Stored] = []
        with anyio.fail_after(20):
            while len(found) < 4:
                found += await session.poll(100, 1.0)
    finally:
        await journal.close()
    assert sorted((stored.topic, stored.offset, stored.value) for stored in found) == [
        ("requests", 0, b"before"),
        ("requests", 1, None),
        ("requests", 2, b"after"),
        ("results", 0, b"beside"),
    ]
