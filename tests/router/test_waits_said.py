"""What a lane says of its links on `waits`, and when; and what it does with what it hears of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from turning import API, Clock, Turning, begin, claims, journal_of, lock, put, running, said, secret_of, until, written

from keylane.journal.errors import LaneLost, Unavailable
from keylane.journal.memory import MemoryJournal, MemoryLog, MemorySession
from keylane.journal.port import Record
from keylane.router import turn
from keylane.router.core.records import WaitChecked
from keylane.router.core.step import STATES, TABLE
from keylane.router.lane_waits import AGAIN_MS, ANSWER_MS
from keylane.router.setup import topic_specs
from keylane.schemas import topics
from keylane.schemas.codec import decode_wait
from keylane.schemas.requests import Release, SessionEnded
from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key, lane_key

pytestmark = pytest.mark.anyio
OTHER = "deploy://other"


def waits(journal: MemoryJournal) -> list[tuple[bytes, Any]]:
    """All that was said, with its keys."""
    records = journal.log.at(topics.WAITS, 0).records
    return [(each.key or b"", None if each.value is None else decode_wait(each.value)) for each in records]


def edge(request: str, waiter: str, holder: str, claim: int = 1, resource: str = API) -> tuple[bytes, WaitEdge]:
    said = WaitEdge(request=request, waiter=waiter, holder=holder, resource=resource, partition=0, claim=claim)
    return edge_key(0, claim, request), said


def loaded(claim: int) -> tuple[bytes, LaneLoaded]:
    return lane_key(0), LaneLoaded(partition=0, claim=claim)


def release(lane: Turning, run: str, session: str) -> Release:
    token = lane.lane.runs[run].token or 0
    return Release(id=f"release-{run}", resource=API, run=run, token=token, secret=secret_of(session))


async def one_waits(journal: MemoryJournal, clock: Clock | None = None) -> Turning:
    """The session `a` holds the lock, and `b` waits for it."""
    await put(journal, lock("r1", "a"), lock("r2", "b"))
    lane = await begin(journal, clock=clock)
    await lane.turn()
    return lane


async def test_a_lane_without_links_says_once_that_it_was_loaded() -> None:
    journal = await journal_of()
    lane = await begin(journal)
    await lane.turn(3)
    assert waits(journal) == [], "under a claim that is not committed another life may begin as well"
    for number in range(3):
        await put(journal, lock(f"r{number}", "a", f"x://{number}"))
        await lane.turn()
    assert waits(journal) == [loaded(1)]


async def test_a_wait_is_said_after_the_commit_that_has_it() -> None:
    journal = await journal_of()
    lane = await one_waits(journal)
    assert waits(journal) == [loaded(1), edge("r2", "b", "a")]
    assert [name for name, _ in lane.noted.calls] == ["commit", "append"]
    await lane.turn(3)
    assert len(waits(journal)) == 2


async def test_a_wait_for_another_holder_replaces_it_and_one_that_is_over_is_removed() -> None:
    journal = await journal_of()
    lane = await one_waits(journal)
    await put(journal, lock("r3", "c"))
    await lane.turn()
    await put(journal, release(lane, "r1", "a"))
    await lane.turn()
    assert lane.lane.runs["r2"].state == "Held"
    assert sorted(waits(journal)[2:], key=repr) == sorted(
        [edge("r3", "c", "a"), (edge_key(0, 1, "r2"), None), edge("r3", "c", "b")], key=repr
    )
    await put(journal, release(lane, "r2", "b"))
    await lane.turn()
    assert waits(journal)[-1] == (edge_key(0, 1, "r3"), None) and lane.lane.links == {}
    before = len(waits(journal))
    await put(journal, lock("r4", "d", OTHER))
    await lane.turn(2)
    assert len(waits(journal)) == before


async def test_a_wait_that_comes_and_goes_within_a_turn_is_not_said() -> None:
    journal = await journal_of()
    lane = await begin(journal)
    await put(journal, lock("r1", "a"))
    await lane.turn()
    await put(journal, lock("r2", "b"), release(lane, "r1", "a"))
    await lane.turn()
    assert lane.lane.runs["r2"].state == "Held" and waits(journal) == [loaded(1)]


async def test_a_lane_that_is_loaded_says_its_waits_anew_at_once() -> None:
    journal = await journal_of()
    await one_waits(journal)
    again = await begin(journal)
    await again.turn()
    assert waits(journal)[2:] == [loaded(2), edge("r2", "b", "a", claim=2)]
    assert [name for name, _ in again.noted.calls] == ["commit", "append"]


@pytest.mark.parametrize("written_after_all", [False, True])
async def test_a_life_whose_commit_failed_says_nothing(written_after_all: bool) -> None:
    """So no two lives say anything under one claim."""
    journal = await journal_of()
    journal.log.break_next_commit(written=written_after_all)
    with pytest.raises(LaneLost):
        await one_waits(journal)
    assert waits(journal) == []
    await (await begin(journal)).turn()
    claim = 2 if written_after_all else 1
    assert waits(journal) == [loaded(claim), edge("r2", "b", "a", claim=claim)]


async def test_a_fenced_lane_says_nothing_of_a_turn_that_was_not_committed() -> None:
    journal = await journal_of()
    old = await one_waits(journal)
    await begin(journal)
    await put(journal, lock("r3", "c"))
    with pytest.raises(LaneLost):
        await old.turn()
    assert len(waits(journal)) == 2


class Mute(MemorySession):
    """A session whose plain writes fail while the journal says so."""

    async def append(self, records: Sequence[Record]) -> None:
        if self._log.specs[topics.WAITS].max_record_bytes == 1:
            raise Unavailable("nobody leads waits")
        await super().append(records)


class MuteJournal(MemoryJournal):
    def mute(self, muted: bool) -> None:
        self.log.specs[topics.WAITS] = self.log.specs[topics.WAITS]._replace(max_record_bytes=1 if muted else 1_000_000)

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> MemorySession:
        await super().claim(partition, inputs, state)
        return Mute(self.log, partition, inputs, state)


async def muted() -> MuteJournal:
    """One in which nothing can be written to `waits`."""
    journal = MuteJournal(MemoryLog())
    await journal.create_topics(topic_specs(1, ("default",)))
    journal.mute(True)
    return journal


async def test_trouble_with_waits_is_none_of_the_lane_which_says_all_of_it_later() -> None:
    """A lane that would be dropped for it would take all work of all lanes with it: `waits` is one partition."""
    journal, clock = await muted(), Clock()
    lane = await one_waits(journal, clock)
    assert said(journal) == ["Queued r1", "Granted r1", "Queued r2"]
    journal.mute(False)
    await put(journal, lock("r3", "c"))
    await lane.turn()
    assert waits(journal) == [], "not at every turn, since each attempt may hold it up"
    clock.s += AGAIN_MS / 1_000
    await put(journal, lock("r4", "d"))
    await lane.turn()
    assert waits(journal) == [loaded(1), *(edge(f"r{n}", waiter, "a") for n, waiter in ((2, "b"), (3, "c"), (4, "d")))]


async def test_what_was_over_meanwhile_is_removed_also_where_it_is_not_known_whether_it_was_said() -> None:
    journal, clock = await muted(), Clock()
    journal.mute(False)
    lane = await one_waits(journal, clock)
    await put(journal, lock("r3", "c"))
    journal.mute(True)
    await lane.turn()
    await put(journal, *(SessionEnded(id=f"end-{of}", session=of, secret=secret_of(of)) for of in "bc"))
    await lane.turn()
    journal.mute(False)
    clock.s += AGAIN_MS / 1_000
    await put(journal, lock("r4", "d"))
    await lane.turn()
    told = waits(journal)[2:]
    assert told[0] == loaded(1) and told[-1] == edge("r4", "d", "a")
    assert sorted(told[1:-1]) == [(edge_key(0, 1, "r2"), None), (edge_key(0, 1, "r3"), None)]


async def test_waits_that_do_not_answer_hold_up_a_turn_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(records: Sequence[Record]) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(turn, "SAY_S", 0.01)
    journal = await journal_of()
    await put(journal, lock("r1", "a"), lock("r2", "b"))
    lane = await begin(journal)
    monkeypatch.setattr(lane.noted, "append", never)
    with anyio.fail_after(5):
        await lane.turn()
    assert said(journal) == ["Queued r1", "Granted r1", "Queued r2"]


# -- what is heard ----------------------------------------------------------------------------------------------


def cycle_of(*sessions: str) -> tuple[str, ...]:
    return tuple(name for session in sessions for name in (session, API))


async def test_what_is_heard_is_applied_before_what_is_read() -> None:
    journal = await journal_of()
    lane = await one_waits(journal)
    lane.turns.waits.heard(WaitChecked("r2", "a", 1, cycle_of("b", "a")))
    await put(journal, release(lane, "r1", "a"))
    await lane.turn()
    assert said(journal)[3:] == ["Ended r2", "Ended r1"]
    ended = written(journal)[3]
    assert (ended.error.code, ended.cycle, ended.waits_position) == ("DEADLOCK", cycle_of("b", "a"), 1)
    assert waits(journal)[2:] == [(edge_key(0, 1, "r2"), None)]


async def test_of_two_answers_the_newest_counts_and_each_is_heard_once() -> None:
    journal = await journal_of()
    lane = await one_waits(journal)
    heard = lane.turns.waits
    heard.heard(WaitChecked("r2", "a", 1, cycle_of("b", "a")))
    heard.heard(WaitChecked("r2", "a", 1))
    assert heard.answers(10) == [WaitChecked("r2", "a", 1)] and heard.answers(10) == []


async def test_while_an_answer_may_come_the_lane_waits_for_input_only_briefly() -> None:
    journal = await journal_of()
    clock = Clock()
    lane = await one_waits(journal, clock)
    assert lane.turns._patience_s() == turn.ANSWER_POLL_S
    lane.turns.waits.heard(WaitChecked("r2", "z", 0))
    await lane.turn()
    assert lane.turns._patience_s() == turn.ANSWER_POLL_S, "that was said of another holder"
    lane.turns.waits.heard(WaitChecked("r2", "a", 1))
    await lane.turn()
    assert lane.turns._patience_s() == turn.IDLE_POLL_S
    await put(journal, lock("r3", "c"))
    await lane.turn()
    clock.s += ANSWER_MS / 1_000 - 0.001
    assert lane.turns._patience_s() == turn.ANSWER_POLL_S
    clock.s += 0.001
    assert lane.turns._patience_s() == turn.IDLE_POLL_S, "whoever waited for it has its answer"


async def test_an_answer_that_makes_a_turn_fail_is_set_aside_with_its_link_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = list(TABLE[WaitChecked])
    cell = row[STATES.index("Waiting")]
    failed = anyio.Event()

    def fails(lane: Any, run: Any, arrived: Any, now: Any) -> None:
        if run.id == "bad":
            failed.set()
            raise RuntimeError("poisoned")
        cell(lane, run, arrived, now)

    row[STATES.index("Waiting")] = fails
    monkeypatch.setitem(TABLE, WaitChecked, tuple(row))
    journal = await journal_of()
    async with running(journal):
        await put(journal, lock("r1", "a"), lock("r2", "a", OTHER), lock("bad", "b"))
        await failed.wait()
        await put(journal, lock("r3", "c", OTHER, wait_ms=0))
        await until(journal, "Ended r3")
        state = journal.log.at(topics.STATE, 0)
        while not any(stored.key == b"link/bad" and stored.value is None for stored in state.records):
            await journal.log.wait(anyio.current_time() + 5.0)
        lives = claims(journal)
        await put(journal, lock("r4", "d", OTHER, wait_ms=0))
        await until(journal, "Ended r4")
        assert claims(journal) == lives == 3, "once to find it, once to set it aside"
    newest = {key: record for key, record in waits(journal) if key.endswith(b"/bad")}
    assert not any(newest.values()), "nothing is left of its edge"
    assert "DeadLettered" not in said(journal) and "Ended bad" not in said(journal)
