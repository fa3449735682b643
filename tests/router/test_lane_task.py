"""A lane under supervision: poison is isolated, loss is recovered from, and only an operator's matter halts."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from msgspec import Raw
from turning import (
    API,
    Clock,
    begin,
    claims,
    join,
    journal_of,
    put,
    running,
    said,
    until,
    work,
    written,
)

from keylane.journal.memory import MemoryJournal
from keylane.journal.port import Place, Record
from keylane.router.core.policy import Policy
from keylane.router.core.records import Due
from keylane.router.core.sessions import SESSION_TABLE
from keylane.router.core.step import STATES, TABLE
from keylane.schemas import topics
from keylane.schemas.requests import Cancellation, WorkRequest
from keylane.schemas.results import Completed

pytestmark = pytest.mark.anyio


def poison(monkeypatch: pytest.MonkeyPatch, kind: type, state: str, id: str) -> None:
    """Let this cell fail for this request or run."""
    row = list(TABLE[kind])
    cell = row[STATES.index(state)]

    def fails(lane: Any, run: Any, arrived: Any, now: Any) -> None:
        if (run.id if run is not None else arrived.record.id) == id:
            raise RuntimeError("poisoned")
        cell(lane, run, arrived, now)

    row[STATES.index(state)] = fails
    monkeypatch.setitem(TABLE, kind, tuple(row))


def letters(journal: MemoryJournal) -> list[tuple[str, int, str]]:
    return [(letter.topic, letter.offset, letter.code) for letter in written(journal, topics.DEADLETTERS)]


async def test_a_record_that_makes_a_step_fail_is_set_aside_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poison(monkeypatch, WorkRequest, "Unknown", "bad")
    journal = await journal_of()
    requests = [work(f"r{number}", resource=f"deploy://{number}") for number in range(40)]
    await put(journal, *requests[:30], work("bad", "9"), *requests[30:])
    async with running(journal):
        await until(journal, "Queued r39", "Refused bad")
    assert letters(journal) == [("requests", 30, "INTERNAL")]
    heard = said(journal)
    assert [name for name in heard if name.startswith("Queued")] == [f"Queued {request.id}" for request in requests]
    (refused,) = [event for event in written(journal) if getattr(event, "request", "") == "bad"]
    assert refused.code == "INTERNAL"
    assert claims(journal) <= 3, "once to find it, once to set it aside: not once a record"


async def test_a_known_id_is_not_answered_when_its_repeat_is_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, WorkRequest, "Waiting", "r1")
    journal = await journal_of()
    await put(journal, work("r1"))
    async with running(journal):
        await until(journal, "Queued r1")
        await put(journal, work("r1"), work("r2", resource="deploy://b"))
        await until(journal, "Queued r2")
    assert said(journal) == ["Queued r1", "DeadLettered", "Queued r2"]


async def test_a_record_whose_outputs_are_too_large_is_set_aside() -> None:
    journal = await journal_of(items=2_000)
    await put(journal, join())
    others = [work(f"r{number}", resource=f"deploy://{number}") for number in range(10)]
    await put(journal, *others[:5], work("big", '"' + "x" * 3_000 + '"'), *others[5:])
    async with running(journal):
        await until(journal, "Queued r9", "Refused big")
    assert letters(journal) == [("requests", 5, "INTERNAL")]
    assert "Queued big" not in said(journal) and claims(journal) <= 3


async def test_of_a_report_and_a_request_read_at_once_the_guilty_one_is_set_aside() -> None:
    journal = await journal_of(events=3_000)
    await put(journal, join(), work("r1"))
    lane = await begin(journal)
    await lane.turn()
    about = {"session": "w", "pool": "default", "resource": API, "run": "r1", "token": lane.lane.runs["r1"].token}
    await put(journal, Completed(**about, result=Raw(b'"' + b"x" * 4_000 + b'"')), work("r2", resource="deploy://b"))
    async with running(journal):
        await until(journal, "Queued r2")
    assert letters(journal) == [("results", 2, "INTERNAL")]
    assert "Granted r2" in said(journal)


async def test_a_timer_that_fails_ends_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, Due, "Waiting", "bad")
    journal = await journal_of()
    await put(journal, work("bad", deadline_ms=20), work("r2", resource="deploy://b", deadline_ms=20))
    async with running(journal):
        await until(journal, "Ended bad", "Ended r2")
        await put(journal, work("r3", resource="deploy://c"))
        await until(journal, "Queued r3")
    ended = {event.run: event for event in written(journal) if type(event).__name__ == "Ended"}
    assert (ended["bad"].status, ended["bad"].error.code) == ("failed", "INTERNAL")
    assert (ended["r2"].status, ended["r2"].error.code) == ("expired", "EXPIRED")


async def test_a_session_whose_lapse_fails_is_forgotten_with_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("poisoned")

    monkeypatch.setitem(SESSION_TABLE, "Due", (fails, fails))
    journal = await journal_of()
    await put(journal, join(), work("r1"))
    async with running(journal, Policy(session_lapse_ms=200)):
        await until(journal, "Ended r1")
        await put(journal, work("r2", "2"), Cancellation(id="c", resource=API, request="r2"))
        await until(journal, "Ended r2")
    assert "DeadLettered" not in said(journal)


async def test_a_timer_that_fails_to_forget_is_set_aside_too(monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, Due, "Done", "bad")
    journal = await journal_of()
    policy = Policy(retention_ms=50, crowded_retention_ms=50)
    await put(journal, work("bad", deadline_ms=20))
    async with running(journal, policy) as task:
        await until(journal, "Ended bad")
        state = journal.log.at(topics.STATE, 0)
        while not any(stored.key == b"run/bad" and stored.value is None for stored in state.records):
            await journal.log.wait(anyio.current_time() + 5.0)
        await put(journal, work("r2", resource="deploy://b"))
        await until(journal, "Queued r2")
        assert not task.finished.is_set()
    assert said(journal).count("Ended bad") == 1


async def test_after_a_lost_commit_the_lane_loads_again_and_goes_on() -> None:
    journal = await journal_of()
    journal.log.break_next_commit(written=False)
    await put(journal, work("r1"))
    async with running(journal):
        await until(journal, "Queued r1")
        journal.log.break_next_commit(written=True)
        await put(journal, work("r2", "2"))
        await until(journal, "Queued r2")
        await put(journal, work("r3", "3"))
        await until(journal, "Queued r3")
    assert said(journal) == ["Queued r1", "Queued r2", "Queued r3"]


async def test_state_that_cannot_be_read_halts_one_lane_loudly_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = await journal_of(partitions=2)
    await journal.append([Record(topics.STATE, 0, b"run/r1", b"{")])
    with caplog.at_level(logging.CRITICAL, logger="keylane.router"):
        async with running(journal) as halted, running(journal, partition=1):
            await halted.finished.wait()
            await put(journal, work("r1"), partition=1)
            await until(journal, "Queued r1", partition=1)
    assert [record.message.split(":")[0] for record in caplog.records] == ["lane 0 halted"]


async def test_input_that_was_removed_before_it_was_read_halts_the_lane(caplog: pytest.LogCaptureFixture) -> None:
    journal = await journal_of()
    await put(journal, work("r1"))
    await (await begin(journal)).turn()
    await put(journal, work("r2", "2"), work("r3", "3"))
    journal.log.forget(Place(topics.REQUESTS, 0), 2)
    with caplog.at_level(logging.CRITICAL, logger="keylane.router"):
        async with running(journal) as task:
            await task.finished.wait()
    assert "lane 0 halted" in caplog.text and said(journal) == ["Queued r1"]


async def test_a_stop_ends_after_the_turn_under_way_and_nothing_is_lost() -> None:
    journal = await journal_of()
    async with running(journal) as task:
        await put(journal, work("r1"))
        await until(journal, "Queued r1")
        task.stop()
        await task.finished.wait()
        await put(journal, work("r2", "2"))
    assert said(journal) == ["Queued r1"]
    again = await begin(journal, clock=Clock())
    await again.turn()
    assert said(journal) == ["Queued r1", "Queued r2"]


class Doubtful:
    """A membership of which it is not known, until `sure`, that the group still counts it in."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.sure = False

    def confirmed_since(self, since_s: float) -> bool:
        self.asked.set()
        return self.sure


async def test_a_fenced_lane_claims_again_only_when_the_group_counts_it_in() -> None:
    journal = await journal_of()
    group = Doubtful()
    async with running(journal, membership=group):  # type: ignore[arg-type]  # as much of one as a lane asks
        await put(journal, work("r1"))
        await until(journal, "Queued r1")
        other = await begin(journal)
        await put(journal, work("r2", "2"))
        await group.asked.wait()
        assert claims(journal) == 2
        await other.turn()
        assert said(journal) == ["Queued r1", "Queued r2"]
        group.sure = True
        await put(journal, work("r3", "3"))
        await until(journal, "Queued r3")
        assert claims(journal) == 3
    assert said(journal) == ["Queued r1", "Queued r2", "Queued r3"]
