"""Arrival rule 4 beyond equal payloads: a requester's own key, what leads and what follows, and when a run is ready."""

from __future__ import annotations

from typing import Any

import pytest
from core.bench import API, Bench, events, image, of, only, policy

from keylane.router.core.policy import ActionPolicy, Bounds
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Coalesced, Delayed, Ended, Granted, Queued, Refused
from keylane.schemas.items import WorkItem

QUIET = {"quiet_ms": 1_000, "max_delay_ms": 2_500, "max_count": 3}


def blocked(**fields: Any) -> Bench:
    """A lane whose resource is held, so that what comes next waits."""
    bench = Bench(policy(**fields))
    bench.join("w", "restart", "block", slots=9)
    bench.request("b", "block")
    return bench


def ask(bench: Bench, id: str, payload: str, **fields: Any) -> list[str]:
    return events(bench.request(id, payload=payload, **({"coalesce_key": "k"} | fields)))


# -- the requester's own key ------------------------------------------------------------------------------------


@pytest.mark.requirement("M.2")
def test_the_newest_payload_leads_and_distinct_others_follow_oldest_first() -> None:
    bench = blocked()
    assert ask(bench, "r1", "1") == ["Queued"]
    for number, payload in enumerate(["2", "1", "3", "2", "4"]):
        assert ask(bench, f"m{number}", payload) == ["Coalesced"]
    item = only(WorkItem, bench.complete("b"))
    assert (bytes(item.payload), [bytes(each) for each in item.merged]) == (b"4", [b"1", b"2", b"3"])
    assert only(Ended, bench.complete("r1")).requests == ("r1", "m0", "m1", "m2", "m3", "m4")


@pytest.mark.parametrize(
    "other",
    [
        {"coalesce_key": "l"},
        {"coalesce_key": None},
        {"expected_version": "v1"},
        {"action": "x"},
        {"resource": "deploy://b"},
    ],
)
def test_a_key_is_one_condition_of_several(other: dict[str, Any]) -> None:
    bench = blocked()
    ask(bench, "r1", "1")
    assert ask(bench, "r2", "1", **other)[0] == "Queued"


@pytest.mark.parametrize("left", ["r1", "m1", "m2"])
def test_who_leaves_takes_along_what_nobody_else_brought(left: str) -> None:
    bench = blocked()
    for id, payload in (("r1", "1"), ("m1", "2"), ("m2", "3"), ("m3", "2")):
        ask(bench, id, payload)
    bench.cancel(left)
    item = only(WorkItem, bench.complete("b"))
    merged = {"r1": [b"3"], "m1": [b"1", b"3"], "m2": [b"1"]}[left]
    assert (bytes(item.payload), [bytes(each) for each in item.merged]) == (b"2", merged)


def test_a_payload_outlives_the_one_who_brought_it_first() -> None:
    bench = blocked()
    for id, payload in (("r1", "1"), ("m1", "2"), ("m2", "2"), ("m3", "1")):
        ask(bench, id, payload)
    for id in ("r1", "m1"):
        bench.cancel(id)
    item = only(WorkItem, bench.complete("b"))
    assert (bytes(item.payload), [bytes(each) for each in item.merged]) == (b"1", [b"2"])


@pytest.mark.parametrize("how", ["held", "retried", "completed"])
def test_what_has_begun_takes_only_the_payload_that_leads(how: str) -> None:
    bench = blocked(coalesce_ms=60_000, backoff_ms=60_000)
    ask(bench, "r1", "1")
    ask(bench, "r2", "2")
    bench.complete("b")
    if how != "held":
        bench.fail("r1") if how == "retried" else bench.complete("r1")
    assert ask(bench, "r3", "2") in (["Coalesced"], ["Ended"])
    assert ask(bench, "r4", "1")[0] == "Queued"


def test_each_side_of_a_conflict_has_its_own_digest() -> None:
    bench = blocked(actions={"stop": ActionPolicy(on_conflict="supersede")})
    ask(bench, "r1", "1")
    ask(bench, "r2", "2")
    sides = only(ConflictArtifact, bench.request("s", "stop")).parties
    assert len({side.digest for side in sides}) == 3


def test_payloads_that_are_merged_are_bounded_and_counted() -> None:
    bench = blocked(bounds=Bounds(run_bytes=100))
    before = bench.lane.carried_bytes
    ask(bench, "r1", '"' + "a" * 38 + '"')
    ask(bench, "r2", '"' + "b" * 38 + '"')
    assert bench.lane.carried_bytes >= before + 80
    assert only(Refused, bench.request("r3", payload='"' + "c" * 38 + '"', coalesce_key="k")).code == "QUEUE_FULL"
    assert ask(bench, "r4", '"' + "a" * 38 + '"') == ["Coalesced"], "it brings nothing new"
    bench.complete("b")
    bench.complete("r1")
    assert bench.lane.carried_bytes < before + 40, "only outcomes are left"
    assert image(bench.restored()) == image(bench.lane)


def test_a_join_writes_its_own_record_and_no_run() -> None:
    bench = blocked(**QUIET)
    ask(bench, "r1", "1")
    run = bench.run("r1")
    ask(bench, "r2", "2")
    assert bench.run("r1") is run


# -- quiet ------------------------------------------------------------------------------------------------------


def granted_at(bench: Bench, gaps_ms: list[int]) -> int:
    """When a run begins that is joined after each of these gaps."""
    bench.join("w", slots=9)
    ask(bench, "r0", "0")
    for number, gap_ms in enumerate(gaps_ms, 1):
        bench.wait(gap_ms)
        ask(bench, f"r{number}", str(number))
    bench.wait(9_000)
    return of(Granted, bench.published)[0].clock_ms


@pytest.mark.parametrize(
    ("gaps_ms", "at_ms"), [([], 1_000), ([600], 1_600), ([999], 1_999), ([900, 10], 910), ([1_000], 1_000)]
)
def test_a_run_is_ready_when_it_was_quiet_or_when_there_are_many(gaps_ms: list[int], at_ms: int) -> None:
    assert granted_at(Bench(policy(coalesce_ms=0, **QUIET)), gaps_ms) == at_ms


def test_it_is_ready_after_its_longest_delay_whatever_comes() -> None:
    assert granted_at(Bench(policy(**QUIET | {"max_count": 99})), [900] * 5) == 2_500


def test_many_are_enough_also_where_their_action_has_begun_too_recently() -> None:
    bench = Bench(policy(coalesce_ms=0, min_interval_ms=3_000, **QUIET | {"max_count": 2}))
    bench.join("w")
    ask(bench, "r1", "1")
    ask(bench, "r2", "2")
    bench.complete("r1")
    bench.wait(2_500)
    bench.beat("w")
    ask(bench, "r3", "3")
    bench.wait(400)
    assert ask(bench, "r4", "4") == ["Coalesced", "Delayed"]
    bench.wait(9_000)
    assert [event.clock_ms for event in of(Granted, bench.published)] == [0, 3_000]


def test_a_quiet_run_blocks_nobody_and_says_how_long_it_waits() -> None:
    bench = Bench(policy(actions={"restart": ActionPolicy(**QUIET)}))
    bench.join("w", "restart", "block", slots=9)
    assert only(Queued, bench.request("r1")).ready_in_ms == 1_000
    assert events(bench.request("b", "block")) == ["Queued", "Granted"]


def test_a_retry_waits_for_its_backoff_alone() -> None:
    bench = Bench(policy(backoff_ms=4, **QUIET | {"coalesce_ms": 9_000}))
    bench.join("w")
    bench.request("r1")
    bench.wait(1_000)
    bench.fail("r1")
    assert only(Coalesced, bench.request("r2")).run == "r1"
    assert of(Granted, bench.wait(4)) != []


# -- interval ---------------------------------------------------------------------------------------------------


def test_runs_of_one_action_begin_no_closer_than_the_interval() -> None:
    bench = Bench(policy(coalesce_ms=0, min_interval_ms=5_000))
    bench.join("w", "restart", "stop", slots=9)
    for number in range(3):
        bench.request(f"r{number}", payload=str(number))
        bench.request(f"s{number}", "stop", str(number), resource=f"deploy://{number}")
    for _ in range(20):
        for run in list(bench.lane.held.values()):
            bench.complete(run)
        bench.beat("w", slots=9)
        bench.wait(1_000)
    begun = {grant.run: grant.clock_ms for grant in of(Granted, bench.published)}
    assert [begun[f"r{number}"] for number in range(3)] == [0, 5_000, 10_000]
    assert {begun[f"s{number}"] for number in range(3)} == {0}, "on other resources nothing waits"


def test_a_retry_does_not_wait_for_the_interval_and_a_reload_does_not_forget_it() -> None:
    bench = Bench(policy(coalesce_ms=0, min_interval_ms=5_000, backoff_ms=2))
    bench.join("w")
    bench.request("r1")
    bench.fail("r1")
    assert of(Granted, bench.wait(2)) != []
    bench.complete("r1")
    bench.reload()
    outputs = bench.request("r2")
    assert (events(outputs), only(Delayed, outputs).ready_in_ms) == (["Queued", "Delayed"], 4_998)
    assert bench.run("r2").ready_ms == 5_000 and bench.lane.resources[API].started == {"restart": 0}
