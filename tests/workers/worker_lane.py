"""A lane as small as can be, for tests of the worker process: answers joins, hands out items, notes what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from uuid import uuid4

import anyio
from msgspec import Raw

from keylane.journal import Place, Record, Stored, TopicSpec, Unavailable
from keylane.journal.memory import open_memory
from keylane.schemas import codec, topics
from keylane.schemas.items import ItemRecord, Notice, NoticeKind, SessionOpened, WorkItem
from keylane.schemas.results import Result, WorkerHeartbeat, WorkerJoined, WorkerLeft
from keylane.workers import Worker

PARTITIONS = 2
TOPIC = topics.items("default")
WITHIN_S = 10.0
R = TypeVar("R")


class FakeLanes:
    """The lanes of a journal of two partitions. `heard` has every report with its partition, in order."""

    def __init__(self, *, lapse_ms: int = 10_000) -> None:
        self.url = f"memory://{uuid4().hex}"
        self.journal = open_memory(self.url.removeprefix("memory://"))
        self.log = self.journal.log
        self._write = self.log.write
        self.lapse_ms = lapse_ms
        self.heard: list[tuple[int, Result]] = []
        self.stored: list[Stored] = []
        self.numbers: dict[str, int] = {}
        self.beats: dict[str, int] = {}
        self.tokens = 0
        self._news = anyio.Event()

    async def set_up(self) -> None:
        await self.journal.create_topics([TopicSpec(topics.RESULTS, PARTITIONS), TopicSpec(TOPIC, PARTITIONS)])

    async def listen(self) -> None:
        """Answer joins, until cancelled."""
        reader = await self.journal.reader({Place(topics.RESULTS, p): None for p in range(PARTITIONS)})
        while True:
            for stored in await reader.poll(100, 1.0):
                record = codec.decode_result(stored.value)
                assert not isinstance(record, codec.Undecodable)
                self.heard.append((stored.partition, record))
                self.stored.append(stored)
                if isinstance(record, WorkerJoined):
                    number = self._next(record.session)
                    opened = SessionOpened(session=record.session, number=number, lapse_ms=self.lapse_ms)
                    await self.say(stored.partition, opened)
                elif isinstance(record, WorkerHeartbeat):
                    self.beats[record.session] = record.number
            self._news.set()
            self._news = anyio.Event()

    async def until(self, kind: type[R], true: Callable[[R], bool] = lambda record: True, *, after: int = 0) -> R:
        """The first report of that kind, from the `after`-th record on, for which `true` holds."""
        with anyio.fail_after(WITHIN_S):
            while True:
                for _, record in self.heard[after:]:
                    if isinstance(record, kind) and true(record):
                        return record
                await self._news.wait()

    def sessions(self) -> dict[int, str]:
        """The session that joined each partition last."""
        return {p: record.session for p, record in self.heard if isinstance(record, WorkerJoined)}

    def of(self, kind: type[R]) -> list[R]:
        return [record for _, record in self.heard if isinstance(record, kind)]

    def left(self) -> set[str]:
        return {record.session for record in self.of(WorkerLeft)}

    async def give(
        self,
        session: str,
        *,
        action: str = "restart",
        payload: bytes = b"null",
        lease_ms: int = 60_000,
        skip: int = 0,
        traceparent: str | None = None,
    ) -> WorkItem:
        """Grant an item to the session. `skip` numbers are left out before it."""
        self.tokens += 1
        self.numbers[session] += skip
        item = WorkItem(
            session=session,
            number=self._next(session),
            heartbeat=self.beats.get(session, 0),
            run=f"run-{self.tokens}",
            resource="deploy://api",
            owner="deploy://owner",
            action=action,
            payload=Raw(payload),
            token=self.tokens,
            attempt=1,
            lease_ms=lease_ms,
        )
        await self.say(self.partition_of(session), item, traceparent)
        return item

    async def notify(self, item: WorkItem, kind: NoticeKind) -> None:
        number = self._next(item.session)
        notice = Notice(
            session=item.session, number=number, kind=kind, run=item.run, token=item.token, reason="by the test"
        )
        await self.say(self.partition_of(item.session), notice)

    async def say(self, partition: int, record: ItemRecord, traceparent: str | None = None) -> None:
        headers = codec.headers(record, id=uuid4().hex, source="test", time="now", traceparent=traceparent)
        self._write([Record(TOPIC, partition, b"k", codec.encode(record), headers)])

    def partition_of(self, session: str) -> int:
        return next(p for p, record in self.heard if isinstance(record, WorkerJoined) and record.session == session)

    def _next(self, session: str) -> int:
        self.numbers[session] = self.numbers.get(session, 0) + 1
        return self.numbers[session]

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Nothing can be appended through the journal meanwhile. What the lanes say goes past it."""

        def refuse(records: object) -> list[int]:
            raise Unavailable("the test says so")

        self.log.write = refuse  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            self.log.write = self._write  # type: ignore[method-assign]


@asynccontextmanager
async def lanes(*, lapse_ms: int = 10_000) -> AsyncIterator[FakeLanes]:
    """Lanes that listen."""
    fake = FakeLanes(lapse_ms=lapse_ms)
    await fake.set_up()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fake.listen)
        yield fake
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def serving(fake: FakeLanes, worker: Worker, partitions: int = PARTITIONS) -> AsyncIterator[anyio.CancelScope]:
    """The worker at work, with an open session in so many partitions. Yields the scope whose cancellation drains."""
    before = len(fake.heard)
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def serve() -> None:
            with scope:
                await worker.serve()

        tasks.start_soon(serve)
        opened: set[str] = set()
        while len(opened) < partitions:
            beat = await fake.until(WorkerHeartbeat, lambda beat: beat.session not in opened, after=before)
            opened.add(beat.session)
        yield scope
        scope.cancel()
