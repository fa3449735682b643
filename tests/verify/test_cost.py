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
from keylane.router.core.policy import ActionPolicy
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


@pytest.mark.parametrize("history", [one_queue, much_backoff, many_repeats])
def test_twice_as_much_takes_twice_as_long(history: Any) -> None:
    small, large = (history(size) for size in (100, 400))
    per_record = [lines_run(entries) / len(entries) for entries in (small, large)]
    assert per_record[1] < SLACK * per_record[0], per_record
