"""How long a request takes at a fixed rate of requests, from when it was *to be* sent: a generator that falls behind
lengthens the times that it measures (no coordinated omission), and says by how much.

Generator, reader and stand-in worker are one process, the same for every side.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
from aiokafka import AIOKafkaProducer
from anyio.abc import TaskStatus
from msgspec import Struct
from msgspec.json import Decoder

from bench import load, summary
from bench.processes import Failed
from bench.say import say
from bench.writing import prefix_of, servers_of
from keylane.journal.port import Journal, Place, Record, Stored
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.results import Completed

WARM_S = 2.0
"""At the rate that is measured; not counted."""
LATE_S = 20.0
"""For those under way, after the last was sent."""
TICK_S = 0.001
BEAT_S = 2.0
POLL_RECORDS = 2_000

Post = Callable[[Record], Awaitable[object]]
"""Hands a record over without waiting until it is acknowledged: the loop is open."""


ITEM = ("ce_type", b"keylane.WorkItem")
ENDED = ("ce_type", b"keylane.Ended")
COPIES = "copy-0"
"""The pass-through's first output, which has every request once or more."""


class Item(Struct):
    """As much of an item as its completion names."""

    number: int
    run: str
    resource: str
    token: int


class Ended(Struct):
    requests: tuple[str, ...]


class Request(Struct):
    id: str


class Times(Struct, frozen=True):
    """Milliseconds since the intended sending."""

    samples: int
    median_ms: float
    p99_ms: float


class Schedule:
    """When each request is to be sent, and when it came back. Its id is the schedule's name and its number."""

    def __init__(self, name: str, rate: float, seconds: float) -> None:
        self.name = name
        self.rate = rate
        self.records = list(load.requests(round(rate * (seconds + WARM_S)), prefix=name))
        self.began_s = 0.0
        self.waits_s: dict[str, dict[int, float]] = {}

    def due_s(self, number: int) -> float:
        return self.began_s + number / self.rate

    def note(self, what: str, number: int, at_s: float) -> None:
        self.waits_s[what].setdefault(number, at_s - self.due_s(number))

    def seen(self, what: str, id: str) -> None:
        """A request of this schedule, or of another, came to `what` now."""
        if id.startswith(self.name):
            self.note(what, int(id[len(self.name) :]), time.monotonic())

    def is_complete(self) -> bool:
        return all(len(waits_s) == len(self.records) for waits_s in self.waits_s.values())

    def times(self) -> dict[str, Times]:
        """Of all but the first, which warmed everything."""
        first = round(self.rate * WARM_S)
        found = {}
        for what, waits_s in self.waits_s.items():
            if missing := len(self.records) - len(waits_s):
                raise Failed(f"{missing} of {len(self.records)} requests did not come to {what} in {LATE_S:.0f} s")
            in_ms = [wait_s * 1_000 for number, wait_s in waits_s.items() if number >= first]
            found[what] = Times(len(in_ms), summary.percentile(in_ms, 50), summary.percentile(in_ms, 99))
        return found


class Reading(Protocol):
    """Reads until cancelled; says when it has taken its place, from which on it misses nothing."""

    async def __call__(self, schedule: Schedule, *, task_status: TaskStatus[None]) -> None: ...


async def measure(schedule: Schedule, post: Post, readings: Mapping[str, Reading]) -> dict[str, Times]:
    """What each reading saw, and under `sent` how late the generator was, which is part of the others."""
    schedule.waits_s = {what: {} for what in ("sent", *readings)}
    gc.collect()
    gc.disable()  # its pauses would be this process's, not the side's
    try:
        async with anyio.create_task_group() as tasks:
            for reading in readings.values():
                await tasks.start(reading, schedule)
            schedule.began_s = time.monotonic() + TICK_S
            await _generate(schedule, post)
            with anyio.move_on_after(LATE_S):
                while not schedule.is_complete():  # noqa: ASYNC110 (readers fill it)
                    await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
    finally:
        gc.enable()
    return schedule.times()


async def _generate(schedule: Schedule, post: Post) -> None:
    number = 0
    while number < len(schedule.records):
        now_s = time.monotonic()
        while number < len(schedule.records) and schedule.due_s(number) <= now_s:
            schedule.note("sent", number, time.monotonic())
            await post(schedule.records[number])
            number += 1
        await anyio.sleep(TICK_S)


@asynccontextmanager
async def posting(url: str, journal: Journal) -> AsyncIterator[Post]:
    """As a client in a hurry writes: each record by itself, acknowledged by all replicas, many at a time."""
    if url.startswith("kafka://"):
        producer = AIOKafkaProducer(bootstrap_servers=servers_of(url), enable_idempotence=True)
        prefix = prefix_of(url)
        await producer.start()
        try:

            async def send(record: Record) -> object:
                return await producer.send(prefix + record.topic, record.value, record.key, record.partition)

            yield send
        finally:
            await producer.stop()
        return
    async with anyio.create_task_group() as tasks:

        async def append(record: Record) -> None:
            tasks.start_soon(journal.append, [record])

        yield append


def describe(name: str, schedule: Schedule, times: Mapping[str, Times]) -> None:
    """A line of progress."""
    found = "; ".join(f"{what} {each.median_ms:.1f} ms, p99 {each.p99_ms:.1f}" for what, each in times.items())
    say(f"{name}, {schedule.rate:.0f} a second: {found}")


class Ends:
    """The requester's and the workers' ends of a keylane journal; `copies` for a side that only copies."""

    def __init__(self, journal: Journal, post: Post) -> None:
        self._journal = journal
        self._post = post
        self._read = [0] * load.PARTITIONS
        self._beats = 1
        self._item = Decoder(Item).decode
        self._ended = Decoder(Ended).decode
        self._request = Decoder(Request).decode

    async def open(self) -> None:
        """A session in each partition, with its first heartbeat."""
        await self._journal.append(load.joins())

    async def beat(self) -> None:
        """Until cancelled."""
        while True:
            self._beats += 1
            for record in load.beats(self._beats, self._read):
                await self._post(record)
            await anyio.sleep(BEAT_S)

    async def items(self, schedule: Schedule, *, task_status: TaskStatus[None]) -> None:
        """Reads items, and completes each at once."""
        async for stored in self._records(topics.items(load.POOL), task_status):
            if ITEM not in stored.headers:
                continue
            item = self._item(stored.value or b"")
            schedule.seen("item", item.run)
            self._read[stored.partition] = item.number
            id = load.session(stored.partition)
            done = Completed(session=id, pool=load.POOL, resource=item.resource, run=item.run, token=item.token)
            await self._post(Record(topics.RESULTS, stored.partition, stored.key, encode(done)))

    async def outcomes(self, schedule: Schedule, *, task_status: TaskStatus[None]) -> None:
        async for stored in self._records(topics.EVENTS, task_status):
            if ENDED in stored.headers:
                for id in self._ended(stored.value or b"").requests:
                    schedule.seen("outcome", id)

    async def copies(self, schedule: Schedule, *, task_status: TaskStatus[None]) -> None:
        async for stored in self._records(COPIES, task_status):
            schedule.seen("output", self._request(stored.value or b"").id)

    async def _records(self, topic: str, task_status: TaskStatus[None]) -> AsyncIterator[Stored]:
        """What comes from now on."""
        places = [Place(topic, number) for number in range(load.PARTITIONS)]
        reader = await self._journal.reader(dict(await self._journal.end_positions(places)))
        task_status.started()
        try:
            while True:
                for stored in await reader.poll(POLL_RECORDS, 1.0):
                    yield stored
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()
