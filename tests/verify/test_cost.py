"""Judging takes time in proportion to n log n: lines of our code that run are counted, not seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from core.bench import policy
from verify.recording import Recorder, judged

import keylane.verify
from keylane.router.core.policy import ActionPolicy, Bounds
from keylane.verify import Entry

FOLDER = str(Path(keylane.verify.__file__).parent)
SLACK = 1.3


def lines_run(entries: list[Entry]) -> int:
    count = 0

    def each(frame: FrameType, kind: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        count += kind == "line"
        return each

    before = sys.gettrace()
    sys.settrace(each)
    try:
        judged(entries)
    finally:
        sys.settrace(before)
    return count


def one_queue(size: int) -> list[Entry]:
    """All of it waits for one resource, of two actions, one of which nobody serves; then it is worked off."""
    bench = Recorder(policy(actions={"drain": ActionPolicy(queue_ms=10**9)}))
    for number in range(size):
        bench.request(f"r{number}", ("restart", "drain")[number % 2], payload=str(number))
    bench.wait(31_000)
    bench.join("w", "restart", slots=1)
    for number in range(0, size, 2):
        bench.complete(f"r{number}")
    return bench.entries


def much_backoff(size: int) -> list[Entry]:
    """Everything fails once and waits, and what came later goes first."""
    bench = Recorder(policy(lease_ms=10**9))
    bench.join("w", "restart", slots=1)
    for number in range(size):
        bench.request(f"r{number}", payload=str(number))
        bench.fail(f"r{number}", retry_after_ms=9_000)
    bench.beat("w")
    bench.wait(9_500)
    for number in range(size):
        bench.beat("w")
        bench.complete(f"r{number}")
    return bench.entries


def many_repeats(size: int) -> list[Entry]:
    bench = Recorder()
    bench.join("w", "restart", slots=1)
    bench.request("r0")
    for _ in range(size):
        bench.request("r0")
        bench.beat("w")
        bench.progress("r0")
    return bench.entries


def one_lock(size: int) -> list[Entry]:
    """Held and renewed for long, while others wait for it and are withdrawn; then all of them have it in turn."""
    bench = Recorder(policy(bounds=Bounds(locks_per_session=10**6)))
    bench.lock("l", "s")
    for number in range(size):
        bench.lock(f"l{number}", "all", hold=str(number), wait_ms=86_400_000)
        bench.renew("l")
    for number in range(0, size, 2):
        bench.cancel(f"l{number}")
    bench.release("l")
    for number in range(1, size, 2):
        bench.renew(f"l{number}")
        bench.release(f"l{number}")
    return bench.entries


def many_sessions(size: int) -> list[Entry]:
    """Each holds one and waits for the next, so that every wait is one more of a chain; and then each ends."""
    bench = Recorder(policy())
    for number in range(size):
        bench.lock(f"a{number}", f"s{number}", f"deploy://{number}", explicit=True)
    for number in range(size - 1):
        bench.lock(f"b{number}", f"s{number}", f"deploy://{number + 1}", explicit=True, wait_ms=60_000)
    for number in reversed(range(size)):
        bench.end_session(f"s{number}")
        bench.end_session(f"s{number}")
    bench.wait(60_000)
    return bench.entries


def many_deadlocks(size: int) -> list[Entry]:
    """Two sessions, again and again."""
    bench = Recorder(policy())
    for number in range(size):
        one, other = f"x{number}", f"y{number}"
        bench.lock(one, "one", "deploy://x", explicit=True)
        bench.lock(other, "two", "deploy://y", explicit=True)
        bench.lock(f"{one}y", "one", "deploy://y", explicit=True, wait_ms=60_000)
        bench.lock(f"{other}x", "two", "deploy://x", explicit=True, wait_ms=60_000)
        bench.checked(f"{other}x")
        for session in ("one", "two"):
            bench.end_session(session)
    assert any(b'"cycle"' in (each.value or b"") for each in bench.entries)
    return bench.entries


HISTORIES = [one_queue, much_backoff, many_repeats, one_lock, many_sessions, many_deadlocks]


@pytest.mark.parametrize("history", HISTORIES)
def test_twice_as_much_takes_twice_as_long(history: Any) -> None:
    small, large = (history(size) for size in (100, 400))
    per_record = [lines_run(entries) / len(entries) for entries in (small, large)]
    assert per_record[1] < SLACK * per_record[0], per_record
