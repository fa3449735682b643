"""A router as a whole: what it pins, when it is ready, and how it leaves."""

from __future__ import annotations

import anyio
import pytest
from turning import DEADLINE_S, put, said, until, work

from keylane.journal.memory import MemoryJournal, MemoryLog
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Record
from keylane.router.config import BadConfig, Config
from keylane.router.core.policy import Policy
from keylane.router.service import serve
from keylane.router.setup import prepare, read_metadata
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.metadata import METADATA_KEY, Metadata, ScopeRule

pytestmark = pytest.mark.anyio


def config(partitions: int = 2) -> Config:
    return Config(url="memory://x", partitions=partitions, policy=Policy())


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal(MemoryLog())


async def pin(journal: MemoryJournal, value: bytes) -> None:
    await journal.append([Record(topics.METADATA, 0, METADATA_KEY, value)])


async def test_the_first_router_sets_the_journal_up_and_the_next_finds_it_so(journal: MemoryJournal) -> None:
    assert await prepare(journal, config()) == Metadata(partitions=2)
    assert await prepare(journal, config()) == Metadata(partitions=2)
    assert journal.log.at(topics.METADATA, 0).end == 1, "pinned once"
    assert {await journal.partitions(name) for name in (topics.EVENTS, topics.STATE, "items.default")} == {2}
    assert await journal.partitions(topics.WAITS) == 1


@pytest.mark.parametrize(
    "pinned",
    [
        Metadata(partitions=3),
        Metadata(partitions=2, hash="crc32"),
        Metadata(partitions=2, scopes=(ScopeRule(match="a", owner="b"),)),
        Metadata(partitions=2, changing=True),
    ],
)
async def test_a_router_that_would_order_differently_does_not_start(journal: MemoryJournal, pinned: Metadata) -> None:
    await prepare(journal, config(pinned.partitions))
    await pin(journal, encode(pinned))
    with pytest.raises(BadConfig, match="pinned"):
        await prepare(journal, config())


async def test_the_scope_rules_of_the_first_router_are_pinned(journal: MemoryJournal) -> None:
    rules = (ScopeRule(match="x://{a}/{b}", owner="x://{a}"),)
    scoped = Config(url="memory://x", partitions=2, policy=Policy(), scopes=rules)
    assert (await prepare(journal, scoped)).scopes == rules
    with pytest.raises(BadConfig, match="scope rules: 1"):
        await prepare(journal, config())


async def test_a_router_that_differs_creates_no_topic(journal: MemoryJournal) -> None:
    await prepare(journal, config())
    before = set(journal.log.specs)
    other = Config(url="memory://x", partitions=3, policy=Policy(pools=("default", "more")))
    with pytest.raises(BadConfig):
        await prepare(journal, other)
    assert set(journal.log.specs) == before


async def test_the_last_metadata_holds_and_its_token_floor_is_taken_over(journal: MemoryJournal) -> None:
    await prepare(journal, config())
    await pin(journal, encode(Metadata(partitions=2, token_floor=77)))
    assert (await prepare(journal, config())).token_floor == 77


async def test_metadata_that_cannot_be_read_is_refused(journal: MemoryJournal) -> None:
    await prepare(journal, config())
    await pin(journal, b"{")
    with pytest.raises(BadConfig, match="offset 1"):
        await read_metadata(journal)


async def test_a_router_serves_every_partition_once_it_is_ready_and_leaves_when_cancelled(
    journal: MemoryJournal,
) -> None:
    ready = anyio.Event()
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await serve(journal, config(), journal_scheme="memory", ready=lambda _: ready.set())

            tasks.start_soon(run)
            await ready.wait()
            keys = {partition_of(f"deploy://{n}".encode(), 2): f"deploy://{n}" for n in range(20)}
            for partition, key in keys.items():
                await put(journal, work(f"r{partition}", resource=key), partition=partition)
                await until(journal, f"Queued r{partition}", partition=partition)
            tasks.cancel_scope.cancel()
    assert journal.log.groups["routers"].agreed == {}, "left at once, not by lapsing"


async def test_a_second_router_takes_over_what_the_first_leaves(journal: MemoryJournal) -> None:
    with anyio.fail_after(DEADLINE_S):
        first = anyio.CancelScope()
        ready = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def run_first() -> None:
                with first:
                    await serve(journal, config(1), journal_scheme="memory", ready=lambda _: ready.set())

            async def run_second() -> None:
                await serve(journal, config(1), journal_scheme="memory", ready=lambda _: None)

            tasks.start_soon(run_first)
            await ready.wait()
            await put(journal, work("r1"))
            await until(journal, "Queued r1")
            tasks.start_soon(run_second)
            first.cancel()
            await put(journal, work("r2", "2"))
            await until(journal, "Queued r2")
            tasks.cancel_scope.cancel()
    assert said(journal) == ["Queued r1", "Queued r2"]


async def test_a_lane_that_halts_keeps_neither_its_router_from_being_ready_nor_others_from_work(
    journal: MemoryJournal,
) -> None:
    await prepare(journal, config())
    await journal.append([Record(topics.STATE, 0, b"run/r1", b"{")])
    ready = anyio.Event()
    key = next(f"deploy://{n}" for n in range(20) if partition_of(f"deploy://{n}".encode(), 2) == 1)
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await serve(journal, config(), journal_scheme="memory", ready=lambda _: ready.set())

            tasks.start_soon(run)
            await ready.wait()
            await put(journal, work("r1", resource=key), partition=1)
            await until(journal, "Queued r1", partition=1)
            tasks.cancel_scope.cancel()
