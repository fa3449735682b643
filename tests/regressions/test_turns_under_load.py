"""A lane that looks for a culprit, or whose input changes nothing, goes on and does not fall behind for good."""

from __future__ import annotations

import pytest
from msgspec import Raw
from router.turning import lane_meter

from keylane.journal.memory import MemoryJournal, MemoryLog, MemorySession
from keylane.journal.port import Place, Record
from keylane.router.clock import LaneClock
from keylane.router.core.lane import Lane
from keylane.router.core.policy import Policy
from keylane.router.setup import topic_specs
from keylane.router.turn import INPUTS, LaneTurns, load
from keylane.schemas import topics
from keylane.schemas.base import Schema
from keylane.schemas.codec import encode
from keylane.schemas.requests import WorkRequest
from keylane.schemas.results import WorkerLeft

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


class Life:
    """One life of a lane, taken turn by turn without waiting."""

    def __init__(self, journal: MemoryJournal, session: MemorySession, turns: LaneTurns, clock: Clock) -> None:
        self.journal = journal
        self.session = session
        self.turns = turns
        self.clock = clock

    async def put(self, *records: Schema, topic: str = topics.REQUESTS) -> None:
        await self.journal.append([Record(topic, 0, b"k", encode(record)) for record in records])

    async def turn(self) -> None:
        if not self.turns._unapplied:
            self.turns._unapplied = await self.session.poll(1_000, 0.0)
        await self.turns.turn()


async def journal_of() -> MemoryJournal:
    journal = MemoryJournal(MemoryLog())
    await journal.create_topics(topic_specs(1, ("default",)))
    return journal


async def life(journal: MemoryJournal, *, careful: bool = False) -> Life:
    session = await journal.claim(0, INPUTS, topics.STATE)
    lane, clock = Lane(0, Policy(), lambda owner: 0), Clock()
    load(lane, await session.load(), 0)
    positions = await session.seek(lane.own.positions)
    turns = LaneTurns(lane, session, LaneClock(lane.own.clock_ms, clock), positions, {}, careful, lane_meter())
    return Life(journal, session, turns, clock)


def work(id: str, deadline_ms: int | None = None) -> WorkRequest:
    return WorkRequest(
        id=id, resource=f"deploy://{id}", action="restart", payload=Raw(b"null"), deadline_ms=deadline_ms
    )


async def test_careful_turns_fire_timers_and_end_while_more_comes_than_they_can_take() -> None:
    """Each careful turn takes one record; two come meanwhile. Several timers are due, and more fall due."""
    lane = await life(await journal_of(), careful=True)
    await lane.put(*(work(f"d{number}", deadline_ms=10) for number in range(5)))
    for _ in range(10):
        await lane.turn()
    lane.clock.s += 5
    failed_ms = lane.turns._clock.now().clock_ms
    for number in range(300):
        await lane.put(work(f"a{number}", deadline_ms=20), work(f"b{number}", deadline_ms=20))
        lane.clock.s += 0.01
        await lane.turn()
        if lane.turns.is_clear(failed_ms):
            break
    else:
        pytest.fail("careful turns do not end")
    assert {lane.turns.lane.runs[f"d{number}"].state for number in range(5)} == {"Done"}


async def test_positions_are_committed_though_what_was_read_changed_nothing() -> None:
    """Else a lane that rests is halted at its next load, when retention has taken what it had read long ago."""
    journal = await journal_of()
    lane = await life(journal)
    lane.clock.s += 10
    await lane.turn()
    await lane.put(WorkerLeft(session="gone", pool="default"), topic=topics.RESULTS)
    await lane.turn()
    lane.clock.s += 10
    await lane.turn()
    journal.log.forget(Place(topics.RESULTS, 0), 1)
    loaded = await life(journal)
    assert loaded.turns.lane.own.positions[topics.RESULTS] == 1
