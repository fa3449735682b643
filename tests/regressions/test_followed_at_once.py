"""Two tasks that begin to follow a lane at the same time: the second takes nothing from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import anyio
import pytest

from keylane.journal.memory import MemoryJournal, open_memory
from keylane.journal.port import Place, Record, Stored, TopicSpec
from keylane.receipts import Receipts
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.events import Queued
from keylane.ticket import TicketMachine
from keylane.waiting import Watch

pytestmark = pytest.mark.anyio

KEY = "deploy://api"
QUEUED = Queued(
    seq=1, clock_ms=0, time="2026-11-22T10:00:00Z", request="r1", run="r1", resource=KEY, owner=KEY, action="restart"
)


class Awaiting:
    """A reader that awaits once more after it has moved on, as one over a network may."""

    def __init__(self, inner: Any, taken: anyio.Event, go: anyio.Event) -> None:
        self._inner = inner
        self._taken = taken
        self._go = go

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        found: list[Stored] = await self._inner.poll(max_records, timeout_s)
        if found:
            self._taken.set()
            await self._go.wait()
        return found


class Journal:
    """A memory journal whose answers can be held back."""

    def __init__(self, inner: MemoryJournal) -> None:
        self._inner = inner
        self.asked = 0
        self.first, self.second, self.taken, self.go = (anyio.Event() for _ in range(4))

    async def reader(self, positions: Mapping[Place, int | None]) -> Any:
        return Awaiting(await self._inner.reader(positions), self.taken, self.go)

    async def end_positions(self, places: Sequence[Place]) -> dict[Place, int]:
        self.asked += 1
        gate = self.first if self.asked == 1 else self.second
        await gate.wait()
        return await self._inner.end_positions(places)


async def test_an_answer_that_is_being_read_is_not_lost_to_another_who_follows_the_lane() -> None:
    inner = open_memory(uuid4().hex)
    await inner.create_topics([TopicSpec(topics.EVENTS, 1)])
    journal = Journal(inner)
    receipts = Receipts(journal)  # type: ignore[arg-type]  # as much of a journal as receipts need
    watch = Watch(TicketMachine("r1", KEY, "restart", 0))
    receipts.watch(watch, "r1")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receipts.run)
            async with anyio.create_task_group() as following:
                for _ in range(2):
                    following.start_soon(receipts.follow, 0)
                await anyio.wait_all_tasks_blocked()
                journal.first.set()
                await anyio.wait_all_tasks_blocked()
                await inner.append([Record(topics.EVENTS, 0, None, encode(QUEUED))])
                await journal.taken.wait()
                journal.second.set()
            await anyio.wait_all_tasks_blocked()
            journal.go.set()
            assert await watch.until(lambda machine: machine.status is not None, 1.0)
            tasks.cancel_scope.cancel()
