"""Deadlocks over lanes of two routers in this process: who is refused, and that an answer waits for no timer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from turning import DEADLINE_S, secret_of

from keylane.journal import connect
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Journal, Place, Record
from keylane.router import service
from keylane.router.config import Config
from keylane.router.core.policy import LockPolicy, Policy
from keylane.router.service import serve
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, encode
from keylane.schemas.events import Ended, Granted, Queued
from keylane.schemas.requests import LockRequest, Release
from keylane.telemetry.build import process_registry

pytestmark = pytest.mark.anyio

LANES = 3
KEYS = [next(key for key in map("x://{}".format, count()) if partition_of(key.encode(), LANES) == n) for n in range(3)]
"""One of each lane."""


class Service:
    """Two routers, and what a test does beside them."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.registries: list[CollectorRegistry] = []

    async def write(self, resource: str, record: LockRequest | Release) -> None:
        partition = partition_of(resource.encode(), LANES)
        await self.journal.append([Record(topics.REQUESTS, partition, resource.encode(), encode(record))])

    async def acquire(self, id: str, session: str, lane: int, wait_ms: int = 60_000, *, explicit: bool = True) -> None:
        request = LockRequest(
            id=id,
            resource=KEYS[lane],
            session=session,
            secret=secret_of(session),
            wait_ms=wait_ms,
            explicit=explicit,
        )
        await self.write(KEYS[lane], request)

    async def event(self, kind: type, *runs: str) -> Any:
        """The first about one of these runs."""
        reader = await self.journal.reader({Place(topics.EVENTS, number): None for number in range(LANES)})
        try:
            while True:
                for stored in await reader.poll(1_000, 1.0):
                    event = decode_event(stored.value)
                    if isinstance(event, kind) and event.run in runs:
                        return event
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()

    async def held(self, id: str, session: str, lane: int) -> int:
        await self.acquire(id, session, lane)
        return int((await self.event(Granted, id)).token)

    async def refused(self, id: str, session: str, lane: int, wait_ms: int = 60_000) -> Any:
        await self.acquire(id, session, lane, wait_ms)
        return await self.event(Ended, id)

    async def edges(self, expected: int) -> None:
        """Wait until every router sees so many waits."""
        while {registry.get_sample_value("keylane_wait_edges") for registry in self.registries} != {expected}:
            await anyio.lowlevel.checkpoint()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/journal.db" if request.param == "sqlite" else f"memory://{tmp_path}"


@asynccontextmanager
async def serving(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    config = Config(url=url, partitions=LANES, policy=Policy())
    journals = [await connect(url) for _ in range(3)]
    found = Service(journals[2])

    def noted(scheme: str) -> CollectorRegistry:
        found.registries.append(process_registry(scheme))
        return found.registries[-1]

    monkeypatch.setattr(service, "process_registry", noted)
    try:
        with anyio.fail_after(DEADLINE_S * 2):
            async with anyio.create_task_group() as tasks:
                for journal in journals[:2]:
                    ready = anyio.Event()

                    async def run(journal: Journal = journal, ready: anyio.Event = ready) -> None:
                        await serve(journal, config, journal_scheme="memory", ready=lambda _: ready.set())

                    tasks.start_soon(run)
                    await ready.wait()
                yield found
                tasks.cancel_scope.cancel()
    finally:
        for journal in journals:
            await journal.close()


def cycle(*steps: tuple[str, int]) -> tuple[str, ...]:
    return tuple(name for session, lane in steps for name in (session, KEYS[lane]))


@pytest.mark.parametrize("wait_ms", [0, 60_000])
async def test_who_closes_a_cycle_of_two_is_refused_and_the_other_goes_on(
    url: str, monkeypatch: pytest.MonkeyPatch, wait_ms: int
) -> None:
    async with serving(url, monkeypatch) as routers:
        await routers.held("a0", "a", 0)
        token = await routers.held("b1", "b", 1)
        await routers.acquire("a1", "a", 1)
        await routers.edges(1)
        ended = await routers.refused("b0", "b", 0, wait_ms)
        assert (ended.status, ended.error.code) == ("refused", "DEADLOCK")
        assert ended.cycle == cycle(("b", 0), ("a", 1)) and ended.waits_position is not None
        await routers.write(KEYS[1], Release(id="r", resource=KEYS[1], run="b1", token=token, secret=secret_of("b")))
        assert (await routers.event(Granted, "a1")).claim_ms is not None
        await routers.edges(0)


async def test_a_cycle_of_three_over_three_lanes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(url, monkeypatch) as routers:
        for lane, session in enumerate("abc"):
            await routers.held(f"{session}{lane}", session, lane)
        await routers.acquire("a1", "a", 1)
        await routers.acquire("b2", "b", 2)
        await routers.edges(2)
        ended = await routers.refused("c0", "c", 0)
        assert ended.cycle == cycle(("c", 0), ("a", 1), ("b", 2))


async def test_of_two_who_close_a_cycle_at_once_exactly_one_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(url, monkeypatch) as routers:
        for number in range(8):
            a, b = f"a{number}", f"b{number}"
            tokens = {}
            for session, lane in ((a, 0), (b, 1)):
                tokens[session] = await routers.held(f"{session}-{lane}", session, lane)
            await routers.acquire(f"{a}-1", a, 1, wait_ms=120_000)
            await routers.acquire(f"{b}-0", b, 0, wait_ms=120_000)
            ended = await routers.event(Ended, f"{a}-1", f"{b}-0")
            assert ended.error.code == "DEADLOCK"
            loser, won = (a, b) if ended.run == f"{a}-1" else (b, a)
            home = {a: 0, b: 1}
            release = Release(
                id=f"r{number}", resource=KEYS[home[loser]], run=f"{loser}-{home[loser]}",
                token=tokens[loser], secret=secret_of(loser),
            )  # fmt: skip
            await routers.write(KEYS[home[loser]], release)
            granted = await routers.event(Granted, f"{won}-{home[loser]}")
            for run, token, at in (
                (f"{won}-{home[won]}", tokens[won], home[won]),
                (f"{won}-{home[loser]}", granted.token, home[loser]),
            ):
                again = Release(id=f"r-{run}", resource=KEYS[at], run=run, token=token, secret=secret_of(won))
                await routers.write(KEYS[at], again)
                assert (await routers.event(Ended, run)).status == "completed"
        await routers.edges(0)


async def test_a_wait_in_no_cycle_is_answered_before_any_timer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(url, monkeypatch) as routers:
        await routers.held("a0", "a", 0)
        took_ms = []
        for number in range(10):
            ended = await routers.refused(f"b{number}", f"b{number}", 0, wait_ms=0)
            assert (ended.error.code, ended.cycle) == ("LOCK_HELD", ())
            took_ms.append(ended.clock_ms - (await routers.event(Queued, f"b{number}")).clock_ms)
        assert max(took_ms) < LockPolicy().check_ms, took_ms


async def test_sessions_that_are_not_explicit_are_not_told_of(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(url, monkeypatch) as routers:
        await routers.held("a0", "a", 0)
        await routers.acquire("b0", "b", 0, explicit=False)
        await routers.event(Queued, "b0")
        await routers.acquire("c0", "c", 0)
        await routers.edges(1)
