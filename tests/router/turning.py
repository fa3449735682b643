"""A lane on a memory journal: driven turn by turn with a clock moved by hand, or run as the router runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from msgspec import Raw
from prometheus_client import CollectorRegistry

from keylane.journal.memory import MemoryJournal, MemoryLog, MemorySession
from keylane.journal.port import Membership, Place, Record
from keylane.router.clock import LaneClock
from keylane.router.core.lane import Lane
from keylane.router.core.policy import ActionPolicy, Policy
from keylane.router.lane_task import LaneTask
from keylane.router.meter import LaneMeter
from keylane.router.metrics import RouterMetrics
from keylane.router.setup import topic_specs
from keylane.router.turn import INPUTS, LaneTurns, load
from keylane.router.waits_task import WaitsTask
from keylane.schemas import topics
from keylane.schemas.base import Schema
from keylane.schemas.codec import decode_conflict, decode_dead_letter, decode_event, decode_item, decode_state, encode
from keylane.schemas.requests import LockRequest, WorkRequest
from keylane.schemas.results import Result, WorkerHeartbeat, WorkerJoined
from keylane.schemas.state import LANE_KEY

API = "deploy://api"
ITEMS = topics.items("default")
DECODERS = {
    topics.EVENTS: decode_event,
    topics.CONFLICTS: decode_conflict,
    topics.DEADLETTERS: decode_dead_letter,
    ITEMS: decode_item,
}
DEADLINE_S = 10.0


async def journal_of(partitions: int = 1, **max_bytes: int) -> MemoryJournal:
    """A journal as a router sets it up; `max_bytes` by topic where it is to be small."""
    journal = MemoryJournal(MemoryLog())
    specs = topic_specs(partitions, ("default",))
    await journal.create_topics(
        [
            spec._replace(max_record_bytes=max_bytes.get(spec.name.split(".")[0], spec.max_record_bytes))
            for spec in specs
        ]
    )
    return journal


async def put(journal: MemoryJournal, *records: Schema, partition: int = 0) -> None:
    """Append commands and reports as agents and workers do: a join with the heartbeat that follows it."""
    written = []
    for record in (each for given in records for each in _with_first_heartbeat(given)):
        topic = topics.RESULTS if isinstance(record, Result) else topics.REQUESTS
        written.append(Record(topic, partition, b"k", encode(record)))
    await journal.append(written)


def _with_first_heartbeat(record: Schema) -> tuple[Schema, ...]:
    return (record, beat(1, record.session)) if isinstance(record, WorkerJoined) else (record,)


def work(id: str, payload: str = "null", resource: str = API, action: str = "restart", **fields: Any) -> WorkRequest:
    return WorkRequest(id=id, resource=resource, action=action, payload=Raw(payload.encode()), **fields)


def lock(id: str, session: str, resource: str = API, *, wait_ms: int = 60_000, explicit: bool = True) -> LockRequest:
    """`id` asks for a lock for `session`, which may hold others."""
    return LockRequest(
        id=id, resource=resource, session=session, secret=secret_of(session), wait_ms=wait_ms, explicit=explicit
    )


def secret_of(session: str) -> str:
    return f"secret-of-{session}".ljust(32, ".")


def join(session: str = "w", slots: int = 100) -> WorkerJoined:
    return WorkerJoined(session=session, pool="default", name=session, actions=("restart",), slots=slots, generation=1)


def beat(number: int, session: str = "w", read: int = 0) -> WorkerHeartbeat:
    return WorkerHeartbeat(session=session, pool="default", number=number, slots=100, read=read)


def written(journal: MemoryJournal, topic: str = topics.EVENTS, partition: int = 0) -> list[Any]:
    """Every record of an output topic."""
    return [DECODERS[topic](stored.value) for stored in journal.log.at(topic, partition).records]


def said(journal: MemoryJournal, partition: int = 0) -> list[str]:
    """The events by name, with the request or run that each is about."""
    found = []
    for event in written(journal, partition=partition):
        about = getattr(event, "request", "") or getattr(event, "run", "") or getattr(event, "session", "")
        found.append(f"{type(event).__name__} {about}".strip())
    return found


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


class Noted:
    """A lane session that notes in which order it is written to."""

    def __init__(self, session: MemorySession) -> None:
        self.session = session
        self.calls: list[tuple[str, list[str]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    async def append(self, records: Sequence[Record]) -> None:
        self.calls.append(("append", [record.topic for record in records]))
        await self.session.append(records)

    async def commit(self, records: Sequence[Record]) -> None:
        self.calls.append(("commit", [record.topic for record in records]))
        await self.session.commit(records)


class Turning:
    """One life of a lane. `turn` takes one turn without waiting for input."""

    def __init__(self, turns: LaneTurns, noted: Noted, clock: Clock) -> None:
        self.turns = turns
        self.noted = noted
        self.clock = clock
        self.lane = turns.lane

    async def turn(self, times: int = 1) -> None:
        for _ in range(times):
            if not self.turns._unapplied:
                self.turns._unapplied = await self.noted.session.poll(self.limit, 0.0)
            await self.turns.turn()

    limit = 1_000


async def begin(
    journal: MemoryJournal,
    policy: Policy | None = None,
    clock: Clock | None = None,
    partitions: int = 1,
    meter: LaneMeter | None = None,
) -> Turning:
    """Claim and load the lane 0, as `LaneTask` does."""
    session = await journal.claim(0, INPUTS, topics.STATE)
    place = (lambda owner: 0) if partitions == 1 else (lambda owner: 1)
    lane = Lane(0, policy or Policy(), place)
    load(lane, await session.load(), 0)
    positions = await session.seek(lane.own.positions)
    clock = clock or Clock()
    noted = Noted(session)
    turns = LaneTurns(lane, noted, LaneClock(lane.own.clock_ms, clock), positions, {}, False, meter or lane_meter())
    return Turning(turns, noted, clock)


def lane_meter(partition: int = 0) -> LaneMeter:
    """A meter for whoever does not look at it."""
    return LaneMeter(RouterMetrics(CollectorRegistry(), Policy(), 1), partition, INPUTS)


async def agreed() -> None:
    """The metadata is as it was."""


@asynccontextmanager
async def running(
    journal: MemoryJournal, policy: Policy | None = None, partition: int = 0, membership: Membership | None = None
) -> AsyncIterator[LaneTask]:
    """A lane's task in the background, stopped gracefully at the end."""
    membership = membership or await journal.join("routers", topics.REQUESTS)
    loaded = anyio.Event()
    waits = WaitsTask(journal)
    task = LaneTask(
        partition,
        journal,
        membership,
        policy or Policy(),
        lambda owner: partition,
        0,
        lambda _: loaded.set(),
        lane_meter(partition),
        agreed,
        waits,
    )
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as reading, anyio.create_task_group() as group:
            reading.start_soon(waits.run)
            group.start_soon(task.run)
            try:
                yield task
            finally:
                task.stop()
                await task.finished.wait()
                reading.cancel_scope.cancel()


async def until(journal: MemoryJournal, *expected: str, partition: int = 0) -> None:
    """Wait until each of these has been said."""
    reader = await journal.reader({Place(topics.EVENTS, partition): None})
    while not set(expected) <= set(said(journal, partition)):
        await reader.poll(1_000, 1.0)


def claims(journal: MemoryJournal, partition: int = 0) -> int:
    return journal.log.epochs[topics.STATE, partition]


def lane_record(journal: MemoryJournal) -> Any:
    records = [each for each in journal.log.at(topics.STATE, 0).records if each.key == LANE_KEY]
    return decode_state(records[-1].value)


def fast(**defaults: Any) -> Policy:
    return Policy(defaults=ActionPolicy(**defaults))
