"""Where records are gone, what they would show is said to be undecided: no false violation, and no false verdict."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from core.walk import MIXED, random_step, settle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from verify.lock_stories import lock_story
from verify.recording import Recorder, changed, compacted, find, judged, told, value_of, without
from verify.spoiling import place
from verify.stories import story

from keylane.verify import Entry, Span, decode_lines, encode_line

Kept = Callable[[Entry], bool]


def walked(seed: int, steps: int = 150) -> Recorder:
    dice = random.Random(seed)
    bench = Recorder(MIXED)
    for _ in range(steps):
        random_step(dice, bench)
    settle(bench)
    return bench


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    "topic", ["events", "requests", "results", "items.default", "conflicts", "deadletters", "waits", "all"]
)
def test_retention_breaks_no_promise(topic: str, seed: int) -> None:
    """Of one topic, or of all but `state`, the beginning is gone."""
    entries = walked(seed).entries
    dice = random.Random(seed)
    ends = {entry.topic: entry.offset + 1 for entry in entries}
    starts = {each: dice.randrange(end + 1) for each, end in ends.items() if each != "state" and topic in (each, "all")}
    kept = [entry for entry in entries if entry.offset >= starts.get(entry.topic, 0)]
    spans = [Span(topic=each, partition=0, end=end) for each, end in ends.items()]
    for history in (kept, compacted(kept)):
        report = judged([*spans, *history])
        assert not report.violations, told(report)


def test_what_retention_took_is_said() -> None:
    entries = list(story())
    late = [entry for entry in entries if entry.topic != "events" or entry.offset >= 20]
    assert set(judged(late).undecided) >= {1, 2, 3, 4, 5, 7, 8, 9, 11}
    spans = [Span(topic="conflicts", partition=0, end=9)]
    without_artifacts = [entry for entry in entries if entry.topic != "conflicts"]
    report = judged([*spans, *without_artifacts])
    assert not report.violations and set(report.undecided) == {11}
    assert {each.promise for each in judged(without_artifacts).violations} == {11}, "nothing says that any is gone"


def test_a_history_without_state_says_what_that_leaves_open() -> None:
    report = judged([entry for entry in story() if entry.topic != "state"])
    assert not report.violations and {3, 8, 9} <= set(report.undecided), told(report)


def test_events_of_a_newer_keylane_are_not_guessed_at() -> None:
    entries = list(story())
    index = find(entries, "Progressed")
    entries[index] = replace(entries[index], value=b'{"type":"Foreseen","seq":7}')
    report = judged(entries)
    assert not report.violations and {1, 3, 5, 8} <= set(report.undecided), told(report)


@pytest.mark.parametrize("seed", range(25))
def test_a_history_that_goes_on_while_it_is_read_breaks_no_promise(seed: int) -> None:
    """State is read first, the other outputs later, the inputs last: each further than the one before."""
    bench = walked(seed)
    entries = bench.entries
    cuts = sorted(random.Random(seed).choices(bench.commits, k=3))
    kept = [
        entry
        for index, entry in enumerate(entries)
        if index < cuts[0 if entry.topic == "state" else 2 if entry.topic in ("requests", "results") else 1]
    ]
    report = judged(kept, drained=False)
    assert not report.violations, told(report)


def test_a_state_that_moved_while_it_was_read_is_no_violation() -> None:
    index = find(list(story()), "WorkerSession", -1, id="w3")
    key = story()[index].key
    entries = [entry for entry in story() if entry.topic != "state" or entry.key != key]
    assert {each.promise for each in judged(entries).violations} == {9}
    moved = Span(topic="state", partition=0, end=999, moving=True)
    report = judged([*entries, moved])
    assert not report.violations and set(report.undecided) == {9}


def test_what_is_open_is_no_violation_until_everything_has_come_to_rest() -> None:
    entries = list(story())
    begin = entries[: find(entries, "Ended", run="r1")]
    report = judged(begin, drained=False)
    assert not report.violations
    assert report.open == {"runs held": 1, "runs waiting": 1, "requests without their end": 3, "results not applied": 1}
    assert {each.promise for each in judged(begin).violations} == {13}


def test_an_id_that_was_forgotten_may_come_again() -> None:
    bench = Recorder(replace(MIXED, retention_ms=1_000, crowded_retention_ms=1_000))
    bench.join("w", "restart", slots=5)
    for _ in range(2):
        bench.request("r1", payload="1")
        bench.complete("r1")
        bench.beat("w", slots=5)
        bench.wait(2_000)
        bench.beat("w", slots=5)
    report = judged(bench.entries)
    assert not report.violations, told(report)


settled = settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("of", [story, lock_story])
@settled
@given(data=st.data())
def test_no_history_is_too_strange_to_be_judged(of: Callable[[], tuple[Entry, ...]], data: st.DataObject) -> None:
    """Whatever a file holds: lines left out, doubled, exchanged, or with other values."""
    entries = list(of())
    for _ in range(data.draw(st.integers(1, 6))):
        index = data.draw(st.integers(0, len(entries) - 1))
        match data.draw(st.integers(0, 4)):
            case 0:
                entries = without(entries, index)
            case 1:
                entries.insert(data.draw(st.integers(0, len(entries) - 1)), entries[index])
            case 2:
                entries[index] = replace(entries[index], value=data.draw(st.none() | st.binary(max_size=20)))
            case 3 if entries[index].value is not None:
                names = sorted(value_of(entries[index])) if (entries[index].value or b"")[:1] == b"{" else []
                if names:
                    value = data.draw(
                        st.none() | st.integers(-5, 2**53) | st.sampled_from(["r1", "w1", "l3", "s8", "x/y", ""])
                    )
                    entries = changed(entries, index, **{data.draw(st.sampled_from(names)): value})
            case _:
                entries[index] = replace(
                    entries[index], topic=data.draw(st.sampled_from(["events", "state", "waits", "requests", "?"]))
                )
    for drained in (True, False):
        for violation in judged(entries, drained=drained).violations:
            assert violation.message and 1 <= violation.promise <= 14
    assert list(decode_lines(encode_line(entry) for entry in entries if entry.value != b"")) is not None


def test_places_are_named_so_that_they_can_be_found() -> None:
    entries = list(story())
    names = {place(entry) for entry in entries}
    again = without(entries, find(entries, "Lost", run="r2"))
    assert all(set(each.places) <= names for each in judged(again).violations)
