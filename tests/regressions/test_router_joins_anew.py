"""A router whose group does not answer for a moment joins anew; it does not end, and takes no lane down with it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from msgspec import Raw

from keylane.journal.errors import Unavailable
from keylane.journal.memory import MemoryJournal, MemoryLog
from keylane.journal.port import Assignment, Place, Record
from keylane.router.config import Config
from keylane.router.core.policy import Policy
from keylane.router.service import serve
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, encode
from keylane.schemas.events import Queued
from keylane.schemas.requests import WorkRequest

pytestmark = pytest.mark.anyio


class Failing:
    """A membership that fails once, after its first assignment."""

    def __init__(self, inner: Any, fails: list[str]) -> None:
        self._inner = inner
        self._fails = fails
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def changed(self, timeout_s: float) -> Assignment | None:
        if self._told and self._fails:
            raise Unavailable(self._fails.pop())
        assignment: Assignment | None = await self._inner.changed(timeout_s)
        self._told = self._told or assignment is not None
        return assignment

    async def leave(self) -> None:
        await self._inner.leave()
        raise Unavailable("so does leaving")


class Journal(MemoryJournal):
    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.fails = ["the write lock is not to be had"]
        self.joined = 0
        self.joined_anew = anyio.Event()

    async def join(self, group: str, topic: str) -> Any:
        self.joined += 1
        if self.joined == 2:
            raise Unavailable("nor is it to be joined at once")
        if self.joined == 3:
            self.joined_anew.set()
        return Failing(await super().join(group, topic), self.fails)


async def test_a_group_that_fails_for_a_moment_ends_no_router() -> None:
    journal = Journal(MemoryLog())
    request = WorkRequest(id="r1", resource="deploy://api", action="restart", payload=Raw(b"null"))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            ready = anyio.Event()
            tasks.start_soon(
                lambda: serve(
                    journal,
                    Config(url=None, partitions=1, policy=Policy()),
                    journal_scheme="memory",
                    ready=lambda _: ready.set(),
                )
            )
            await ready.wait()
            await journal.joined_anew.wait()
            await journal.append([Record(topics.REQUESTS, 0, b"k", encode(request))])
            reader = await journal.reader({Place(topics.EVENTS, 0): None})
            found = [decode_event(stored.value) for stored in await reader.poll(10, 10.0)]
            assert [event.request for event in found if isinstance(event, Queued)] == ["r1"]
            tasks.cancel_scope.cancel()
