"""What is the memory journal's alone: it can be driven without an event loop, and ends with its last holder."""

import gc
from collections.abc import Coroutine
from typing import TypeVar

import pytest

from keylane.journal import Assignment, LaneLost, Place, Record, TopicSpec
from keylane.journal.memory import MemoryJournal, MemoryLog, open_memory
from keylane.journal.rules import TOMBSTONE_KEPT_MS

T = TypeVar("T")

SPECS = [
    TopicSpec("requests", 2),
    TopicSpec("events", 2, retention_ms=1000),
    TopicSpec("state", 2, compacted=True),
]


def run(coroutine: Coroutine[object, None, T]) -> T:
    """Drive a coroutine that must not suspend; there is no event loop here."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it suspended")


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(clock: Clock) -> MemoryJournal:
    journal = MemoryJournal(MemoryLog(clock))
    run(journal.create_topics(SPECS))
    return journal


def test_a_whole_turn_runs_without_an_event_loop(journal: MemoryJournal) -> None:
    member = run(journal.join("group", "requests"))
    assert run(member.changed(0)) == Assignment(1, frozenset({0, 1}))
    assert run(member.changed(0)) is None
    run(journal.append([Record("requests", 0, b"k", b"v")]))
    session = run(journal.claim(0, ["requests"], "state"))
    run(session.seek({}))
    [record] = run(session.poll(10, 0))
    run(session.commit([Record("state", 0, b"lane", b"%d" % (record.offset + 1))]))
    assert run(session.poll(10, 0)) == []
    assert [state.value for state in run(session.load())] == [b"1"]
    run(journal.claim(0, ["requests"], "state"))
    with pytest.raises(LaneLost):
        run(session.poll(10, 0))


def test_retention_goes_by_the_given_clock(journal: MemoryJournal, clock: Clock) -> None:
    run(journal.append([Record("events", 0, b"k", b"old")]))
    clock.now_ms += 1001
    run(journal.append([Record("events", 0, b"k", b"new")]))
    reader = run(journal.reader({Place("events", 0): None}))
    assert [record.value for record in run(reader.poll(10, 0))] == [b"new"]


def test_what_is_written_over_and_deleted_does_not_pile_up(journal: MemoryJournal, clock: Clock) -> None:
    for n in range(2000):
        run(journal.append([Record("state", 0, b"%d" % n, b"v"), Record("state", 0, b"%d" % n, None)]))
        clock.now_ms += TOMBSTONE_KEPT_MS // 100
    place = journal.log.at("state", 0)
    assert len(place.records) < 500
    assert len(place.newest) < 500


def test_a_name_is_shared_while_somebody_holds_it() -> None:
    first, second = open_memory("shared"), open_memory("shared")
    run(first.create_topics(SPECS))
    assert run(second.partitions("requests")) == 2
    run(first.close())
    run(second.close())
    gc.collect()
    assert run(open_memory("shared").partitions("requests")) is None
