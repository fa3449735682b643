"""The promises over random histories, and that neither loading nor the machine makes a difference."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from core.bench import Bench, image, work
from core.promises import Judge
from core.walk import MIXED, TIGHT, fingerprint, random_step, settle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from keylane.router.core.policy import Policy
from keylane.schemas.requests import LockRequest, WorkRequest

TESTS = Path(__file__).resolve().parents[1]
FOR_EVER_MS = 10**12
REMEMBERS = replace(MIXED, retention_ms=FOR_EVER_MS, idempotency_retention_ms=FOR_EVER_MS)
"""Outcomes are never forgotten, so that each id has one end in all of the history."""

histories = settings(
    max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
dice_of = st.randoms(use_true_random=False)
lengths = st.integers(1, 120)


def judged(bench: Bench) -> Judge:
    judge = Judge(bench.policy)
    bench.on_input = judge.saw
    bench.on_output = judge.heard
    return judge


@pytest.mark.requirement("M.2")
@pytest.mark.requirement("M.3")
@histories
@given(dice=dice_of, steps=lengths)
def test_the_promises_hold_over_random_histories(dice: random.Random, steps: int) -> None:
    bench = Bench(REMEMBERS)
    judge = judged(bench)
    asked: set[str] = set()
    saw = bench.on_input

    def note(clock_ms: int, record: object) -> None:
        saw(clock_ms, record)
        if isinstance(record, WorkRequest | LockRequest):
            asked.add(record.id)

    bench.on_input = note
    for _ in range(steps):
        random_step(dice, bench)
        judge.check()
        assert image(bench.restored()) == image(bench.lane), "promise 9: loading is living through it"
    settle(bench)
    judge.check_rest(asked)


@histories
@given(dice=dice_of, steps=lengths)
def test_everything_stays_within_its_bounds(dice: random.Random, steps: int) -> None:
    bench = Bench(TIGHT)
    bounds = TIGHT.bounds
    for _ in range(steps):
        random_step(dice, bench)
        lane = bench.lane
        bench.wait(0)
        assert len(lane.runs) <= bounds.runs and len(lane.sessions) <= bounds.sessions
        # A run that was held waits again whatever the bound: one for each holder.
        assert all(len(queue) <= bounds.waiters_per_resource + 1 for queue in lane.queue.values())
        assert all(len(members) <= bounds.members_per_run for members in lane.members_of.values())
        assert len(lane.recurrences) <= bounds.recurrences
        assert len(lane.refused) <= bounds.refusals and len(lane.kept) <= bounds.kept_cancellations
        assert len(lane.resources) <= max(bounds.resources, len(lane.queue) + len(lane.held))
        assert image(bench.restored()) == image(lane)


@histories
@given(dice=dice_of, steps=lengths)
def test_a_lane_that_crashes_anywhere_goes_on_as_the_one_that_did_not(dice: random.Random, steps: int) -> None:
    """Two lanes, the same inputs; one is loaded anew before each of them. Tokens differ, nothing else does."""
    state = dice.randrange(2**32)
    published = []
    for crashes in (False, True):
        same = random.Random(state)
        bench = Bench(MIXED)
        bench.tokens_a_load = 0
        for _ in range(steps):
            if crashes:
                bench.reload()
            random_step(same, bench)
        published.append(bench.published)
    assert published[0] == published[1]


@pytest.mark.parametrize("hash_seed", ["0", "1", "77"])
def test_the_same_inputs_give_the_same_outputs_under_any_hash_seed(hash_seed: str) -> None:
    program = (
        "from core.walk import MIXED, TIGHT, fingerprint\n"
        "print(*[fingerprint(seed, 300, policy) for seed in range(6) for policy in (MIXED, TIGHT)])"
    )
    environ = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
    run = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [fingerprint(seed, 300, policy) for seed in range(6) for policy in (MIXED, TIGHT)]


def test_the_judge_sees_a_second_grant() -> None:
    """The checker itself can fail: a grant that is published twice is noticed."""
    bench = Bench(Policy())
    judge = judged(bench)
    bench.join("w")
    outputs = bench.feed(work("r1"))
    granted = outputs[-1].record
    with pytest.raises(AssertionError, match="promise 1"):
        judge.heard(replace(granted, seq=judge.last_seq + 1))
    judge.artifacts[1] += 1
    with pytest.raises(AssertionError, match="promise 11"):
        judge.check()
