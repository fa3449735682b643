"""Arrival rule 2: an idempotency key names accepted work, for as long as it is remembered, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from core.bench import Bench, events, image, kinds, only, policy

from keylane.router.core.policy import Bounds
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Coalesced, Ended, Refused

HOUR_MS = 3_600_000


def serving(**bounds: int) -> Bench:
    bench = Bench(policy(coalesce_ms=0, bounds=Bounds(**bounds)))
    bench.join("w", "restart", "stop")
    return bench


@pytest.mark.requirement("S1.5")
def test_in_progress_the_same_run_whatever_the_window() -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k")
    assert events(bench.request("r2")) == ["Queued"], "without the key it is other work"
    assert only(Coalesced, bench.request("r3", idempotency_key="k")).run == "r1"
    assert only(Ended, bench.complete("r1")[:1]).requests == ("r1", "r3")


@pytest.mark.requirement("S1.5")
@pytest.mark.parametrize("how", ["completed", "failed"])
def test_afterwards_the_outcome_that_it_had(how: str) -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k")
    bench.complete("r1", result="7") if how == "completed" else bench.fail("r1", final=True)
    outputs = bench.request("r2", idempotency_key="k")
    ended = only(Ended, outputs)
    assert events(outputs) == ["Ended"]
    assert (ended.run, ended.requests, ended.status, ended.coalesced) == ("r1", ("r2",), how, True)
    assert ended.superseded_since is None
    again = only(Ended, bench.request("r2", idempotency_key="k"))
    assert (again.repeat, again.coalesced) == (True, False)


@pytest.mark.requirement("S1.5")
def test_an_outcome_that_newer_work_has_superseded_says_so() -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k")
    bench.complete("r1")
    bench.request("r2", "stop")
    bench.complete("r2")
    assert only(Ended, bench.request("r3", idempotency_key="k")).superseded_since == "r2"
    assert only(Ended, bench.request("r1", idempotency_key="k")).superseded_since == "r2"


@pytest.mark.parametrize("other", [{"payload": "2"}, {"action": "stop"}, {"expected_version": "v2"}])
@pytest.mark.parametrize("done", [False, True])
def test_other_work_under_the_key_is_a_mismatch(other: dict[str, Any], done: bool) -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k", actor="ann")
    if done:
        bench.complete("r1")
    before = image(bench.lane)["runs"]
    outputs = bench.request("r2", idempotency_key="k", actor="bob", **other)
    assert only(Refused, outputs).code == "IDEMPOTENCY_MISMATCH"
    artifact = only(ConflictArtifact, outputs)
    assert (artifact.kind, [side.actor for side in artifact.parties]) == ("idempotency_mismatch", ["bob", "ann"])
    assert image(bench.lane)["runs"] == before


def test_who_asks_and_for_how_long_is_no_part_of_the_work() -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k", actor="ann")
    outputs = bench.request("r2", idempotency_key="k", actor="bob", deadline_ms=5_000, reject_if_busy=True)
    assert events(outputs) == ["Coalesced"]


def test_keys_are_of_the_owning_key() -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k")
    assert events(bench.request("r2", idempotency_key="k", resource="deploy://web")) == ["Queued"]


def test_a_refusal_is_not_remembered_under_the_key() -> None:
    """An agent that comes again after `LOCK_HELD` would get `LOCK_HELD` for ever."""
    bench = serving()
    bench.request("r1")
    bench.request("r2", payload="2", idempotency_key="k", reject_if_busy=True)
    bench.complete("r1")
    assert events(bench.request("r3", payload="2", idempotency_key="k")) == ["Queued", "Granted"]


@pytest.mark.parametrize("other", ["same", "other"])
def test_what_ended_without_a_grant_frees_the_key(other: str) -> None:
    bench = serving()
    bench.request("r0")
    bench.request("r1", payload="1", idempotency_key="k")
    bench.cancel("r1")
    payload = "1" if other == "same" else "2"
    assert events(bench.request("r2", payload=payload, idempotency_key="k")) == ["Queued"]
    assert events(bench.request("r3", payload=payload, idempotency_key="k")) == ["Coalesced"]


def test_what_was_granted_once_keeps_the_key_though_it_was_cancelled_before_the_next_attempt() -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k")
    bench.fail("r1")
    bench.cancel("r1")
    ended = only(Ended, bench.request("r2", idempotency_key="k"))
    assert (ended.status, ended.run) == ("cancelled", "r1")


def test_keys_outlast_outcomes_and_are_forgotten_with_theirs() -> None:
    bench = serving(crowded_runs=1)
    bench.request("r1", idempotency_key="k")
    bench.complete("r1")
    for number in range(3):
        bench.request(f"x{number}", resource=f"deploy://{number}")
        bench.complete(f"x{number}")
    bench.leave("w")
    bench.wait(24 * HOUR_MS - 1)
    assert list(bench.lane.runs) == ["r1"] and image(bench.restored()) == image(bench.lane)
    assert only(Ended, bench.request("r2", idempotency_key="k")).run == "r1"
    bench.wait(1)
    assert (bench.lane.runs, bench.lane.members, bench.lane.keyed) == ({}, {}, {})


def test_a_key_that_joins_a_finished_run_is_remembered_as_long() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.complete("r1")
    assert events(bench.request("r2", idempotency_key="k")) == ["Ended"]
    bench.leave("w")
    bench.wait(23 * HOUR_MS)
    assert only(Ended, bench.request("r3", idempotency_key="k")).run == "r1"
    assert kinds(bench.request("r4", payload="4", idempotency_key="k")) == ["idempotency_mismatch"]
