"""Kafka's headers may have no value. Whatever a record carries, it stops no lane."""

from __future__ import annotations

from typing import Any, NamedTuple

import anyio
import pytest
from msgspec import Raw
from router.turning import agreed, lane_meter

from keylane.journal import _kafka_vendor as vendor
from keylane.journal.memory import MemoryJournal, MemoryLog
from keylane.journal.port import Place, Record
from keylane.router import turn
from keylane.router.core.policy import Policy
from keylane.router.core.records import Arrived
from keylane.router.lane_task import LaneTask
from keylane.router.setup import topic_specs
from keylane.router.waits_task import WaitsTask
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, encode, traceparent_of
from keylane.schemas.events import DeadLettered, Queued
from keylane.schemas.requests import WorkRequest

pytestmark = pytest.mark.anyio


class Fetched(NamedTuple):
    offset: int = 3
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: Any = (("traceparent", None), ("other", b"x"))
    timestamp: int = 0


def test_a_header_without_a_value_is_an_empty_one() -> None:
    stored = vendor.stored(Place(topics.REQUESTS, 0), Fetched())
    assert stored.headers == (("traceparent", b""), ("other", b"x"))
    assert traceparent_of(stored.headers) is None


def work(id: str) -> Record:
    request = WorkRequest(id=id, resource=f"deploy://{id}", action="restart", payload=Raw(b"null"))
    return Record(topics.REQUESTS, 0, b"k", encode(request))


async def test_a_record_that_cannot_even_be_looked_at_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = turn.decode

    def fails(stored: Any) -> Arrived:
        if stored.offset == 1:
            raise AttributeError("a fault in decoding")
        return decode(stored)

    monkeypatch.setattr(turn, "decode", fails)
    journal = MemoryJournal(MemoryLog())
    await journal.create_topics(topic_specs(1, ("default",)))
    await journal.append([work("r1"), work("bad"), work("r2")])
    membership = await journal.join("routers", topics.REQUESTS)
    waits = WaitsTask(journal)
    lane = LaneTask(
        0, journal, membership, Policy(), lambda owner: 0, 0, lambda partition: None, lane_meter(), agreed, waits
    )
    reader = await journal.reader({Place(topics.EVENTS, 0): None})
    found: list[Any] = []
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lane.run)
            while len(found) < 3:
                found += [decode_event(stored.value) for stored in await reader.poll(10, 10.0)]
            lane.stop()
    assert [type(event) for event in found] == [Queued, DeadLettered, Queued]
    assert (found[1].topic, found[1].offset) == (topics.REQUESTS, 1)
