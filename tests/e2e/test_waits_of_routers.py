"""Deadlocks over lanes of two router processes; they are killed, others go on, and what woke too late says nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from e2e.processes import running

from keylane.journal import Journal, Record, connect
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Place
from keylane.router.core.policy import LockPolicy
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, decode_wait, encode
from keylane.schemas.events import Ended, Granted, Queued
from keylane.schemas.requests import LockRequest
from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key, lane_key

pytestmark = pytest.mark.anyio

PARTITIONS = 2
DEADLINE_S = 90.0
X, Y = [next(key for key in (f"x://{n}" for n in range(9)) if partition_of(key.encode(), 2) == lane) for lane in (0, 1)]
"""Of the lane 0 and of the lane 1."""


class Waits:
    """What a test does beside the routers, with their journal alone."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def acquire(self, id: str, session: str, resource: str, wait_ms: int = 120_000) -> None:
        request = LockRequest(
            id=id, resource=resource, session=session, secret=session * 32, wait_ms=wait_ms, explicit=True
        )
        await self.write(
            Record(topics.REQUESTS, partition_of(resource.encode(), PARTITIONS), resource.encode(), encode(request))
        )

    async def write(self, *records: Record) -> int:
        """Returns the offset of the last."""
        return (await self._journal.append(list(records)))[-1]

    async def until(self, topic: str, found: Callable[[Any], bool], after: int = -1) -> Any:
        """The first record of the topic that is so and lies after that offset."""
        decode = {topics.EVENTS: decode_event, topics.WAITS: decode_wait}[topic]
        count = 1 if topic == topics.WAITS else PARTITIONS
        reader = await self._journal.reader({Place(topic, number): None for number in range(count)})
        try:
            while True:
                for stored in await reader.poll(1_000, 1.0):
                    record = (stored.key, None) if stored.value is None else decode(stored.value)
                    if stored.offset > after and found(record):
                        return record
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()

    async def event(self, kind: type, request: str) -> Any:
        return await self.until(
            topics.EVENTS,
            lambda event: isinstance(event, kind) and getattr(event, "run", getattr(event, "request", "")) == request,
        )

    async def edge(self, request: str, above: int = 0) -> WaitEdge:
        """The request's edge, of a claim above that."""
        found = await self.until(
            topics.WAITS, lambda each: isinstance(each, WaitEdge) and each.request == request and each.claim > above
        )
        assert isinstance(found, WaitEdge)
        return found

    async def deadlock(self, request: str, cycle: tuple[str, ...]) -> None:
        ended = await self.event(Ended, request)
        assert (ended.status, ended.error.code, ended.cycle) == ("refused", "DEADLOCK", cycle)


@asynccontextmanager
async def waits_of(url: str) -> AsyncIterator[Waits]:
    journal = await connect(url)
    try:
        with anyio.fail_after(DEADLINE_S):
            yield Waits(journal)
    finally:
        with anyio.CancelScope(shield=True):
            await journal.close()


async def test_a_cycle_over_two_routers_is_seen_and_seen_again_by_those_that_follow_them(
    journal_url: str, tmp_path: Path
) -> None:
    url = journal_url + ("&session_timeout_ms=6000" if journal_url.startswith("kafka") else "")
    (tmp_path / "keylane.toml").write_text(f'partitions = {PARTITIONS}\nurl = "{url}"\n')
    cycle = ("b", X, "a", Y)
    with ExitStack() as routers:
        both = [routers.enter_context(running("router", url=url, cwd=tmp_path, says="serving")) for _ in range(2)]
        async with waits_of(url) as waits:
            await waits.acquire("ax", "a", X)
            await waits.acquire("by", "b", Y)
            await waits.event(Granted, "ax")
            await waits.event(Granted, "by")
            await waits.acquire("ay", "a", Y)
            before = await waits.edge("ay")
            assert (before.waiter, before.holder, before.resource, before.partition) == ("a", "b", Y, 1)
            await waits.acquire("bx", "b", X, wait_ms=0)
            await waits.deadlock("bx", cycle)

            for router in both:
                router.kill()
                router.wait()
            for _ in range(2):
                routers.enter_context(running("router", url=url, cwd=tmp_path, says="serving"))
            after = await waits.edge("ay", above=before.claim)
            gone = (edge_key(1, before.claim, "ay"), None)
            await waits.until(topics.WAITS, lambda each: each == gone)
            await waits.acquire("bx2", "b", X)
            await waits.deadlock("bx2", cycle)

            # What a router that was fenced says late is of a claim that does not count.
            late = WaitEdge(request="z", waiter="c", holder="b", resource=Y, partition=1, claim=before.claim)
            end = await waits.write(
                Record(topics.WAITS, 0, edge_key(1, late.claim, "z"), encode(late)),
                Record(topics.WAITS, 0, edge_key(1, late.claim, "ay"), None),
                Record(topics.WAITS, 0, lane_key(1), encode(LaneLoaded(partition=1, claim=late.claim))),
            )
            await waits.acquire("bx3", "b", X, wait_ms=0)
            await waits.deadlock("bx3", cycle)
            again = LaneLoaded(partition=1, claim=after.claim)
            await waits.until(topics.WAITS, lambda each: each == again, after=end)
            await waits.until(topics.WAITS, lambda each: each == (edge_key(1, late.claim, "z"), None), after=end)


async def test_sessions_that_wait_in_no_cycle_wait_on(journal_url: str, tmp_path: Path) -> None:
    (tmp_path / "keylane.toml").write_text(f"partitions = {PARTITIONS}\n")
    with running("router", url=journal_url, cwd=tmp_path, says="serving"):
        async with waits_of(journal_url) as waits:
            await waits.acquire("ax", "a", X)
            await waits.event(Granted, "ax")
            await waits.acquire("bx", "b", X)
            await waits.edge("bx")
            await waits.acquire("cx", "c", X, wait_ms=0)
            ended = await waits.event(Ended, "cx")
            assert (ended.status, ended.error.code, ended.cycle) == ("refused", "LOCK_HELD", ())
            queued = await waits.event(Queued, "cx")
            assert ended.clock_ms - queued.clock_ms < LockPolicy().check_ms, "because the graph said so"
