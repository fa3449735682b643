"""What the router really does is never called a violation: random histories, and turns over a journal."""

from __future__ import annotations

import random

import pytest
from core.walk import MIXED, TIGHT, random_step, settle
from verify.recording import Recorder, compacted, judged, told

from keylane.router.core.policy import Policy

SEEDS = 60


@pytest.mark.parametrize("policy", [MIXED, TIGHT], ids=["mixed", "tight"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_history_keeps_every_promise(seed: int, policy: Policy) -> None:
    dice = random.Random(seed)
    bench = Recorder(policy)
    for _ in range(dice.randrange(20, 300)):
        random_step(dice, bench)
    for entries in (bench.entries, compacted(bench.entries)):
        report = judged(entries, drained=False)
        assert not report.violations, told(report)
    settle(bench)
    report = judged(bench.entries)
    assert not report.violations, told(report)
    assert not report.open
