"""The turn: what is written together, when it is written, and when timers may fire."""

from __future__ import annotations

import pytest
from turning import API, ITEMS, Clock, beat, begin, fast, join, journal_of, lane_record, put, said, work, written

from keylane.journal.errors import LaneLost
from keylane.journal.port import Record
from keylane.router import turn as turning
from keylane.schemas import topics
from keylane.schemas.codec import decode_request, encode
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.results import Completed, Progress

pytestmark = pytest.mark.anyio

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_outputs_state_and_positions_are_committed_together() -> None:
    journal = await journal_of()
    await put(journal, join(), work("r1"), work("r2", "2"))
    lane = await begin(journal)
    await lane.turn()
    commit, told = lane.noted.calls
    assert told == ("append", [topics.WAITS]), "once in a life, after its first commit"
    assert commit[0] == "commit" and {topics.EVENTS, topics.STATE, ITEMS} == set(commit[1])
    assert lane_record(journal).positions == {"results": 2, "requests": 2}
    assert said(journal) == ["WorkerOpened w", "Queued r1", "Granted r1", "Queued r2"]


async def test_a_turn_that_changes_nothing_writes_nothing() -> None:
    journal = await journal_of()
    lane = await begin(journal)
    await lane.turn()
    first = len(lane.noted.calls)
    await lane.turn(5)
    assert len(lane.noted.calls) == first <= 1


@pytest.mark.parametrize("written_after_all", [False, True])
async def test_after_a_commit_of_unknown_outcome_the_reloaded_lane_goes_on(written_after_all: bool) -> None:
    journal = await journal_of()
    await put(journal, join(), work("r1"))
    lane = await begin(journal)
    journal.log.break_next_commit(written=written_after_all)
    with pytest.raises(LaneLost):
        await lane.turn()
    again = await begin(journal)
    await again.turn()
    await put(journal, work("r2", "2"))
    await again.turn()
    assert said(journal) == ["WorkerOpened w", "Queued r1", "Granted r1", "Queued r2"], "each input once"


async def test_a_fenced_lane_writes_nothing() -> None:
    journal = await journal_of()
    old = await begin(journal)
    new = await begin(journal)
    await put(journal, work("r1"))
    with pytest.raises(LaneLost):
        await old.turn()
    await new.turn()
    assert said(journal) == ["Queued r1"]


async def test_headers_and_trace_travel_from_request_to_item_to_event() -> None:
    journal = await journal_of()
    await put(journal, join())
    await journal.append([Record(topics.REQUESTS, 0, b"k", encode(work("r1")), (("traceparent", TRACE),))])
    await (await begin(journal)).turn()
    for topic, name in ((topics.EVENTS, b"keylane.Granted"), (ITEMS, b"keylane.WorkItem")):
        stored = journal.log.at(topic, 0).records[-1]
        carried = dict(stored.headers)
        assert (carried["ce_type"], carried["traceparent"]) == (name, TRACE)
        assert stored.key == API.encode()
        assert carried["ce_source"] == b"/keylane/lanes/0" and carried["ce_specversion"] == b"1.0"


# -- what waits before it is written ----------------------------------------------------------------------------


async def test_heartbeats_alone_are_gathered_and_can_be_applied_again() -> None:
    journal = await journal_of()
    clock = Clock()
    await put(journal, join())
    lane = await begin(journal, clock=clock)
    await lane.turn()
    begin_commits = len(lane.noted.calls)
    for number in (2, 3, 4):
        clock.s += 1
        await put(journal, beat(number))
        await lane.turn()
    assert len(lane.noted.calls) == begin_commits
    again = await begin(journal, clock=clock)
    await again.turn()
    assert again.lane.sessions["w"].heartbeat == 4
    clock.s += 4
    await put(journal, beat(5))
    await again.turn()
    assert lane_record(journal).positions["results"] == 6


async def test_while_a_deadline_lives_the_clock_is_committed_every_5_s() -> None:
    journal = await journal_of()
    clock = Clock()
    await put(journal, work("r1"))
    lane = await begin(journal, clock=clock)
    await lane.turn()
    clock.s += 4.9
    await lane.turn()
    assert lane_record(journal).clock_ms == 0
    clock.s += 0.1
    await lane.turn()
    assert lane_record(journal).clock_ms == 5_000
    clock.s += 100
    again = await begin(journal, clock=clock)
    assert again.lane.own.clock_ms == 5_000, "it rests while nobody owns the lane"


# -- timers -----------------------------------------------------------------------------------------------------


async def test_a_renewal_that_was_acknowledged_before_the_deadline_counts_though_it_is_read_after() -> None:
    journal = await journal_of()
    clock = Clock()
    await put(journal, join(), work("r1"))
    lane = await begin(journal, fast(lease_ms=5_000), clock)
    await lane.turn()
    token = lane.lane.runs["r1"].token or 0
    ahead = [beat(number) for number in range(1, 5)]
    await put(journal, *ahead, Progress(session="w", pool="default", resource=API, run="r1", token=token))
    clock.s += 6
    lane.limit = 1
    for _ in range(6):
        await lane.turn()
        assert lane.lane.runs["r1"].state == "Held"
    assert said(journal)[-1] == "Progressed r1"
    assert lane.lane.runs["r1"].lease_until_ms == 11_000
    clock.s += 5
    await lane.turn()
    assert said(journal)[-1] == "Lost r1"


async def test_what_comes_after_the_watermark_was_asked_for_does_not_put_timers_off() -> None:
    journal = await journal_of()
    clock = Clock()
    await put(journal, join(), work("r1"))
    lane = await begin(journal, fast(lease_ms=5_000), clock)
    await lane.turn()
    await put(journal, beat(1), beat(2), beat(3))
    clock.s += 6
    lane.limit = 1
    for number in range(4, 6):
        await lane.turn()
        assert "Lost r1" not in said(journal)
        await put(journal, *(beat(10 * number + more) for more in range(10)))
    await lane.turn()
    assert "Lost r1" in said(journal)


async def test_a_timer_that_fell_due_after_the_watermark_was_asked_for_waits_for_the_next() -> None:
    journal = await journal_of()
    clock = Clock()
    await put(journal, work("r1", deadline_ms=1_000), work("r2", resource="deploy://b", deadline_ms=2_000))
    lane = await begin(journal, clock=clock)
    await lane.turn()
    await put(journal, *(beat(number) for number in range(1, 3)))
    clock.s += 1
    lane.limit = 1
    await lane.turn()
    clock.s += 1
    await lane.turn()
    assert "Ended r1" in said(journal) and "Ended r2" not in said(journal)
    await lane.turn(2)
    assert "Ended r2" in said(journal)


# -- the right partition ----------------------------------------------------------------------------------------


async def test_a_request_is_sent_on_by_a_plain_write_before_the_commit() -> None:
    journal = await journal_of(partitions=2)
    await put(journal, work("r1"))
    lane = await begin(journal, partitions=2)
    await lane.turn()
    assert lane.noted.calls[0] == ("append", [topics.REQUESTS]) and lane.noted.calls[1][0] == "commit"
    (stored,) = journal.log.at(topics.REQUESTS, 1).records
    sent = decode_request(stored.value)
    assert (sent.id, sent.hops, stored.key) == ("r1", 1, API.encode())  # type: ignore[union-attr]


async def test_after_a_crash_between_the_two_it_is_sent_on_again() -> None:
    journal = await journal_of(partitions=2)
    await put(journal, work("r1"))
    journal.log.break_next_commit(written=False)
    with pytest.raises(LaneLost):
        await (await begin(journal, partitions=2)).turn()
    await (await begin(journal, partitions=2)).turn()
    assert said(journal) == ["SentOn r1"] and len(journal.log.at(topics.REQUESTS, 1).records) == 2


# -- bad bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"null", b"\xff\xfe", b"[" * 100_000, b'{"type":"Nonsense","id":"x"}', b'{"type":"WorkRequest"}', None],
)
async def test_no_bytes_stop_a_lane(value: bytes | None) -> None:
    journal = await journal_of()
    for topic in (topics.RESULTS, topics.REQUESTS):
        await journal.append([Record(topic, 0, b"\xff", value)])
    await put(journal, work("r1"))
    await (await begin(journal)).turn()
    letters = written(journal, topics.DEADLETTERS)
    assert [(type(letter), letter.topic, letter.offset, letter.code) for letter in letters] == [
        (DeadLetter, topic, 0, "BAD_RECORD") for topic in (topics.RESULTS, topics.REQUESTS)
    ]
    assert said(journal)[-1] == "Queued r1"


async def test_results_are_applied_before_requests_of_the_same_poll() -> None:
    journal = await journal_of()
    await put(journal, join(), work("r1"))
    lane = await begin(journal)
    await lane.turn()
    token = lane.lane.runs["r1"].token or 0
    await put(journal, work("r2", "2", reject_if_busy=True))
    await put(journal, Completed(session="w", pool="default", resource=API, run="r1", token=token))
    await lane.turn()
    assert said(journal)[-3:] == ["Ended r1", "Queued r2", "Granted r2"]


async def test_a_turn_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning, "TURN_BYTES_MAX", 1_000)
    journal = await journal_of()
    await put(journal, *(work(f"r{number}", f'"{number:0600}"') for number in range(6)))
    lane = await begin(journal)
    await lane.turn()
    assert len(said(journal)) == 2
    await lane.turn(2)
    assert len(said(journal)) == 6
