"""How a fault that was put into the router is looked for: random histories, until its promise is seen to be broken."""

from __future__ import annotations

import random

from core.walk import MIXED, random_step, settle
from verify.recording import Recorder, judged

from keylane.verify import Configured

HISTORIES = 60
STEPS = 120


def broken_by(seed: int) -> set[int]:
    """The promises that a random history breaks. A fault may also end it early: the core asserts what it can."""
    dice = random.Random(seed)
    bench = Recorder(MIXED)
    at_rest = False
    try:
        for _ in range(STEPS):
            random_step(dice, bench)
        settle(bench)
        at_rest = True
    except (AssertionError, KeyError):
        pass
    lines = [Configured(retention_ms=MIXED.retention_ms), *bench.entries[: bench.commits[-1]]]
    return set(judged(lines, drained=at_rest).found)


def assert_broken(promise: int) -> None:
    """Some random history breaks the promise."""
    found: set[int] = set()
    for seed in range(HISTORIES):
        found |= broken_by(seed)
        if promise in found:
            return
    raise AssertionError(f"promise {promise} was not seen to be broken, only {sorted(found)}")
