"""Reading `waits`: each lane hears of its own edges, what is left over is removed, and trouble is waited out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from turning import DEADLINE_S

from keylane.journal import connect
from keylane.journal.errors import PositionLost, Unavailable
from keylane.journal.port import Journal, Place, Reader, Record, Stored
from keylane.journal.rules import TOMBSTONE_KEPT_MS
from keylane.router import waits_task
from keylane.router.core.records import WaitChecked
from keylane.router.setup import topic_specs
from keylane.router.waits_task import PLACE, WaitsTask
from keylane.schemas import topics
from keylane.schemas.codec import decode_wait, encode
from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key, lane_key

pytestmark = pytest.mark.anyio


class Heard:
    """Stands where a lane is, and keeps what it is told."""

    def __init__(self, partition: int = 0, claim: int = 1, *, is_loaded: bool = True) -> None:
        self.partition = partition
        self.claim = claim
        self.is_loaded = is_loaded
        self.all: list[WaitChecked] = []
        self._more = anyio.Event()

    def heard(self, checked: WaitChecked) -> None:
        self.all.append(checked)
        self._more.set()

    async def until(self, count: int) -> list[WaitChecked]:
        while len(self.all) < count:
            await self._more.wait()
            self._more = anyio.Event()
        return self.all


@pytest.fixture(params=["memory", "sqlite"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    url = f"sqlite:///{tmp_path}/journal.db" if request.param == "sqlite" else f"memory://{tmp_path}"
    journal = await connect(url)
    await journal.create_topics(topic_specs(2, ("default",)))
    yield journal
    await journal.close()


@asynccontextmanager
async def reading(journal: Any) -> AsyncIterator[WaitsTask]:
    task = WaitsTask(journal)
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(task.run)
            yield task
            tasks.cancel_scope.cancel()


@contextmanager
def following(task: WaitsTask, *lanes: Heard) -> Iterator[None]:
    if not lanes:
        yield
        return
    with task.following(lanes[0]), following(task, *lanes[1:]):  # type: ignore[arg-type]  # as much of one as is asked
        yield


def edge(request: str, waiter: str, holder: str, partition: int = 0, claim: int = 1) -> Record:
    said = WaitEdge(
        request=request, waiter=waiter, holder=holder, resource=f"of-{holder}", partition=partition, claim=claim
    )
    return Record(*PLACE, edge_key(partition, claim, request), encode(said))


def over(request: str, partition: int = 0, claim: int = 1) -> Record:
    return Record(*PLACE, edge_key(partition, claim, request), None)


def loaded(claim: int, partition: int = 0) -> Record:
    return Record(*PLACE, lane_key(partition), encode(LaneLoaded(partition=partition, claim=claim)))


async def until(journal: Journal, reached: Callable[[list[Stored]], bool]) -> list[Stored]:
    """Read `waits` until what was read is so."""
    reader = await journal.reader({PLACE: None})
    found: list[Stored] = []
    while not reached(found):
        found += await reader.poll(1_000, 1.0)
    await reader.close()
    return found


def has(key: bytes, value: bytes | None) -> Callable[[list[Stored]], bool]:
    """Whether that is the newest under the key."""
    return lambda found: {each.key: each.value for each in found}.get(key, b"") == value


async def test_each_lane_hears_of_its_own_edges_in_the_one_order(journal: Journal) -> None:
    one, two = Heard(0), Heard(1, claim=5)
    async with reading(journal) as task:
        with following(task, one, two):
            await journal.append([edge("r1", "a", "b"), edge("r2", "c", "d", partition=1, claim=4)])
            await journal.append([edge("r3", "b", "a", partition=1, claim=5), edge("r4", "x", "y")])
            assert await one.until(2) == [WaitChecked("r1", "b", 0), WaitChecked("r4", "y", 3)]
            cycle = ("b", "of-a", "a", "of-b")
            assert await two.until(1) == [WaitChecked("r3", "a", 2, cycle)]
            assert task.edges() == 2, "a lower claim's is not in, nor what closes a cycle"


async def test_what_was_there_before_it_began_counts(journal: Journal) -> None:
    await journal.append([loaded(1), edge("r1", "a", "b"), edge("r2", "c", "d"), over("r2")])
    lane = Heard(1)
    async with reading(journal) as task:
        with following(task, lane):
            await journal.append([edge("r3", "b", "a", partition=1)])
            assert (await lane.until(1))[0].cycle == ("b", "of-a", "a", "of-b")
            assert task.edges() == 1


async def test_a_lane_that_is_gone_hears_nothing_and_its_successor_of_its_own_claim_only(journal: Journal) -> None:
    old, new, other = Heard(0, claim=1), Heard(0, claim=2), Heard(1)
    async with reading(journal) as task:
        with following(task, other):
            with following(task, old):
                await journal.append([edge("r1", "a", "b")])
                await old.until(1)
                with following(task, new):  # the old one would not end
                    pass
            with following(task, old), following(task, new):
                await journal.append([edge("r2", "c", "d"), loaded(2), edge("r2", "c", "d", claim=2)])
                await new.until(1)
            await journal.append([edge("r3", "e", "f", claim=2), edge("r4", "g", "h", partition=1)])
            await other.until(1)
    assert [each.request for each in old.all] == ["r1"] and [each.request for each in new.all] == ["r2"]


async def test_a_wait_that_comes_in_or_goes_for_another_is_told_again(journal: Journal) -> None:
    lane = Heard(1)
    async with reading(journal) as task:
        with following(task, lane):
            await journal.append([edge("r1", "a", "b"), edge("r2", "b", "a", partition=1)])
            await lane.until(1)
            await journal.append([over("r1")])
            told = await lane.until(2)
    assert [(each.position, bool(each.cycle)) for each in told] == [(1, True), (1, False)]


# -- trouble ----------------------------------------------------------------------------------------------------


class Troubled:
    """A journal whose reader fails: at its beginning, then where it is, and lastly not at all."""

    def __init__(self, journal: Journal, failures: list[Exception]) -> None:
        self._journal = journal
        self.failures = failures
        self.begun = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def reader(self, positions: Mapping[Place, int | None]) -> Reader:
        self.begun += 1
        if self.begun == 1:
            raise Unavailable("not yet")
        reader = await self._journal.reader(positions)
        poll = reader.poll

        async def failing(max_records: int, timeout_s: float) -> list[Stored]:
            found = await poll(max_records, timeout_s)
            if self.failures and any(each.key and each.key.startswith(b"edge/") for each in found):
                raise self.failures.pop()
            return found

        reader.poll = failing  # type: ignore[method-assign]
        return reader


@pytest.mark.parametrize("failure", [Unavailable("gone"), PositionLost("before the start"), RuntimeError("a bug")])
async def test_it_begins_anew_after_any_trouble(journal: Journal, failure: Exception) -> None:
    troubled = Troubled(journal, [failure])
    lane = Heard()
    async with reading(troubled) as task:
        with following(task, lane):
            await journal.append([edge("r1", "a", "b")])
            assert await lane.until(1) == [WaitChecked("r1", "b", 0)]
            await journal.append([edge("r2", "b", "a")])
            assert (await lane.until(2))[1].cycle == ("b", "of-a", "a", "of-b")
    assert troubled.begun == 3 and not troubled.failures


async def test_what_is_unreadable_is_passed_over(journal: Journal) -> None:
    lane = Heard()
    async with reading(journal) as task:
        with following(task, lane):
            await journal.append([Record(*PLACE, b"edge/0/1/x", b"{"), Record(*PLACE, None, b"\xff")])
            await journal.append([Record(*PLACE, b"", b"null"), edge("r1", "a", "b")])
            assert await lane.until(1) == [WaitChecked("r1", "b", 3)]


async def test_after_standing_still_it_reads_anew(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an edge whose tombstone came and went meanwhile would stay."""
    monkeypatch.setattr(waits_task, "STOOD_STILL_S", 0.0)
    monkeypatch.setattr(waits_task, "POLL_S", 0.01)
    anew = anyio.Event()
    end_positions = journal.end_positions

    async def noted(places: Any) -> Any:
        if lane.all:
            anew.set()
        return await end_positions(places)

    monkeypatch.setattr(journal, "end_positions", noted)
    lane = Heard()
    async with reading(journal) as task:
        with following(task, lane):
            await journal.append([edge("r1", "a", "b")])
            await lane.until(1)
            await anew.wait()
            assert (await lane.until(2))[1] == lane.all[0], "what holds is told again, and is the same"


# -- what is left over ------------------------------------------------------------------------------------------


async def test_edges_of_lower_claims_are_removed_by_whoever_has_the_lane(journal: Journal) -> None:
    await journal.append([edge("r1", "a", "b"), edge("r2", "c", "d"), over("r2"), edge("r3", "e", "f", partition=1)])
    await journal.append([loaded(2), loaded(2, partition=1)])
    async with reading(journal) as task:
        with following(task, Heard(0, claim=2)):
            await until(journal, has(edge_key(0, 1, "r1"), None))
            await journal.append([edge("r4", "g", "h", claim=1)])  # of a fenced router that wakes late
            found = await until(journal, has(edge_key(0, 1, "r4"), None))
    assert has(edge_key(1, 1, "r3"), edge("r3", "e", "f", partition=1).value)(found), "another's to remove"
    values = [each.key for each in found if each.value is None]
    assert values.count(edge_key(0, 1, "r2")) <= 1, "what is removed is not removed again"


async def test_edges_that_a_predecessor_left_are_removed_though_they_were_read_long_before(journal: Journal) -> None:
    other = Heard(1)
    async with reading(journal) as task:
        with following(task, other):
            await journal.append([edge("r1", "a", "b"), loaded(2), edge("r2", "c", "d", partition=1)])
            await other.until(1)
            with following(task, Heard(0, claim=3, is_loaded=False)):
                await journal.append([loaded(3)])
                await until(journal, has(edge_key(0, 1, "r1"), None))


async def test_the_word_that_a_lane_was_loaded_is_said_again_where_a_fenced_router_wrote_over_it(
    journal: Journal,
) -> None:
    async with reading(journal) as task:
        with following(task, Heard(0, claim=3)):
            await journal.append([loaded(3), loaded(2)])
            found = await until(journal, lambda read: any(each.offset == 2 for each in read))
    (again,) = [each for each in found if each.offset == 2]
    assert decode_wait(again.value) == LaneLoaded(partition=0, claim=3)


async def test_what_a_lane_said_before_is_not_taken_for_written_over(journal: Journal) -> None:
    await journal.append([loaded(2), loaded(3)])
    lane = Heard(0, claim=3)
    async with reading(journal) as task:
        with following(task, lane):
            await journal.append([edge("r1", "a", "b", claim=3)])
            await lane.until(1)
            await task._mend(is_idle=True)
    assert (await journal.end_positions([PLACE]))[PLACE] == 3


def test_it_reads_anew_long_before_a_tombstone_that_it_missed_is_gone() -> None:
    assert (waits_task.STOOD_STILL_S + waits_task.POLL_S) * 1_000 < TOMBSTONE_KEPT_MS / 2


def test_the_place_is_the_one_partition_of_the_topic() -> None:
    assert PLACE == (topics.WAITS, 0) and {spec.name: spec.partitions for spec in topic_specs(8, ())}["waits"] == 1
