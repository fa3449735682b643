"""Histories of locks: good ones keep every promise; and what cannot be told of one is said to be undecided."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from core.bench import secret_of
from msgspec.structs import replace
from verify.lock_stories import API, MAX_HOLD_MS, POLICY, deadlock_of_two, deadlocks_over_lanes, lock_story
from verify.recording import Recorder, changed, compacted, find, judged, told, value_of

from keylane.schemas import topics
from keylane.verify import Configured, Entry, Line, Span, decode_lines, encode_line, redacted

WHOLE = Configured(retention_ms=POLICY.retention_ms, locks_per_session=256, max_hold_ms=MAX_HOLD_MS)


def kinds(entries: Sequence[Entry]) -> set[tuple[str, ...]]:
    """What became of locks, as events tell it."""
    said = [value_of(each) for each in entries if each.topic == topics.EVENTS]
    names = ("status", "reason", "claimed", "code")
    return {(each["type"], *(str(each[name]) for name in names if name in each)) for each in said}


def test_the_story_has_everything_that_becomes_of_a_lock() -> None:
    assert kinds(lock_story()) >= {
        ("Coalesced",), ("Renewed",), ("Renewed", "True"), ("Fenced", "Held"), ("Fenced", "Done"),
        ("StopAsked", "cancelled"), ("Lost", "lease_expired"), ("Lost", "unclaimed"), ("Lost", "session_ended"),
        ("AgentSessionEnded",), ("Refused", "LOCK_HELD"), ("Ended", "refused"), ("Ended", "completed"),
        ("Ended", "cancelled"), ("Ended", "failed"),
    }  # fmt: skip
    deadlocks = [each for each in lock_story() if b'"cycle"' in (each.value or b"")]
    assert [len(value_of(each)["cycle"]) for each in deadlocks] == [4, 6]


@pytest.mark.parametrize("story", [lock_story, deadlock_of_two, deadlocks_over_lanes])
@pytest.mark.parametrize("known", [(), (WHOLE,)], ids=["as it is", "with its configuration"])
def test_a_good_history_of_locks_keeps_every_promise(
    story: Callable[[], tuple[Entry, ...]], known: tuple[Line, ...]
) -> None:
    for entries in (story(), sorted(story(), key=lambda each: each.topic)):  # outputs before inputs, too
        report = judged([*known, *entries])
        assert not report.violations and not report.undecided and not report.open, told(report)


def test_of_waits_that_are_gone_nothing_is_guessed() -> None:
    entries = list(deadlock_of_two())
    newest = {each.key: each.offset for each in entries if each.topic == topics.WAITS}
    left = [each for each in entries if each.topic != topics.WAITS or newest[each.key] == each.offset]
    for kept in (left, [each for each in entries if each.topic != topics.WAITS]):
        report = judged(compacted(kept))
        assert not report.violations and set(report.undecided) == {10}, told(report)
    end = Span(topic=topics.WAITS, partition=0, end=0)
    report = judged([end, *(each for each in entries if each.topic != topics.WAITS)])
    assert {each.promise for each in report.violations} == {10}, "it is known that nothing was ever written there"


def test_a_lease_that_is_cut_to_the_longest_hold_is_right_where_that_is_known() -> None:
    bench = Recorder(POLICY)
    bench.lock("l1", "s1", ttl_ms=60_000)
    bench.wait(50_000)
    bench.renew("l1")
    held = judged(bench.entries, drained=False)
    assert not held.violations and not held.undecided, told(held)  # state has how long it may be held
    bench.wait(20_000)
    bench.renew("l1", "CI")
    bench.wait(30_000)
    assert bench.states() == {"l1": "failed"}
    report = judged(bench.entries)
    assert not report.violations and set(report.undecided) == {7}, told(report)
    report = judged([WHOLE, *bench.entries])
    assert not report.violations and not report.undecided, told(report)


def test_a_renewal_that_is_read_after_the_longest_hold_and_before_its_timer_gives_nothing_more() -> None:
    bench = Recorder(POLICY)
    bench.lock("l1", "s1", ttl_ms=60_000)
    bench.wait(50_000)
    bench.renew("l1")
    bench.clock_ms += 50_100  # the lane has stood still, and reads before it fires its timers
    bench.renew("l1")
    bench.wait(1)
    assert bench.states() == {"l1": "failed"}
    report = judged([WHOLE, *bench.entries])
    assert not report.violations and not report.undecided, told(report)


def test_a_history_without_its_requests_says_that_nobody_is_known() -> None:
    end = max(each.offset for each in lock_story() if each.topic == topics.REQUESTS) + 1
    span = Span(topic=topics.REQUESTS, partition=0, end=end)
    report = judged([span, *(each for each in lock_story() if each.topic != topics.REQUESTS)])
    assert not report.violations and 14 in report.undecided, told(report)


def test_a_redacted_history_of_locks_is_judged_alike_but_for_secrets_in_outputs() -> None:
    hidden = [redacted(entry, b"salt") for entry in lock_story()]
    assert not [each for each in hidden if secret_of("").encode() in (each.value or b"")]
    report = judged(decode_lines(encode_line(entry) for entry in hidden))
    assert not report.violations and set(report.undecided) == {14}, told(report)
    renewal = find(hidden, "Renewal", run="l3")
    other = value_of(hidden[find(hidden, "Renewal", secret=value_of(hidden[renewal])["secret"])])
    assert other["run"] == "l3", "another secret is another digest"
    spoiled = changed(hidden, renewal, secret=value_of(hidden[find(hidden, "Renewal", run="l1")])["secret"])
    assert {each.promise for each in judged(spoiled).violations} == {14}


def test_what_an_agent_tells_itself_is_no_secret() -> None:
    bench = Recorder(POLICY)
    bench.join("w1")
    bench.lock("l1", "s1")
    bench.request("r1", payload=f'"{secret_of("s1")}"')
    bench.release("l1")
    bench.complete("r1")
    assert secret_of("s1").encode() in (bench.entries[find(bench.entries, "WorkItem")].value or b"")
    report = judged(bench.entries)
    assert not report.violations, told(report)


@pytest.mark.parametrize("length", range(16, 33))
def test_a_secret_is_found_at_whatever_place_it_stands(length: int) -> None:
    secret = "0123456789abcdefghijklmnopqrstuvwxyz"[:length]
    bench = Recorder(POLICY)
    bench.lock("l1", "s1", secret=secret)
    bench.release("l1", secret=secret)
    assert not judged(bench.entries).violations
    index = find(bench.entries, "Ended")
    for before in range(8):
        entries = changed(bench.entries, index, extra="." * before + secret + "." * 8)
        for lines in (entries, sorted(entries, key=lambda each: each.topic)):
            (found,) = judged(lines).violations
            assert found.promise == 14 and found.places == ("requests/0/0", f"events/0/{entries[index].offset}")


def test_a_lock_is_work_for_no_worker() -> None:
    """The session of an agent may be called as one of a worker was."""
    bench = Recorder(POLICY)
    bench.join("s1")
    bench.leave("s1")
    bench.lock("l1", "s1", ttl_ms=5_000)
    bench.join("s1")
    bench.wait(6_000)
    report = judged(bench.entries, drained=False)
    assert not report.violations, told(report)


def test_an_id_may_be_used_for_a_lock_and_then_for_work() -> None:
    bench = Recorder(replace(POLICY, retention_ms=1_000, crowded_retention_ms=1_000))
    bench.lock("x", "s1")
    bench.release("x")
    bench.release("x")
    bench.wait(2_000)
    bench.lock("x", "s2", API)
    bench.end_session("s1")
    bench.release("x")
    report = judged(bench.entries)
    assert not report.violations, told(report)
