"""Arrival rules 6 and 7: what meets other work on its resource, and what finds the lane full."""

from __future__ import annotations

import pytest
from core.bench import Bench, events, names, of, only, policy

from keylane.router.core.policy import ActionPolicy, Bounds
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Ended, Queued, Refused, StopAsked
from keylane.schemas.items import Notice

# -- rule 6: contention -----------------------------------------------------------------------------------------


@pytest.mark.requirement("S0.2")
def test_queue_a_different_change_waits_with_its_position_and_the_holder() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    queued = only(Queued, bench.request("r2", payload="2"))
    assert (queued.position, queued.holder, queued.unserved) == (0, "w", False)
    assert only(Queued, bench.request("r3", payload="3")).position == 1


@pytest.mark.requirement("S2.1")
def test_reject_says_who_holds_it_since_when_and_when_to_come_back() -> None:
    bench = Bench(policy(on_conflict="reject"))
    bench.join("w")
    bench.request("r1", actor="ann")
    bench.wait(1_000)
    outputs = bench.request("r2", payload="2", actor="bob")
    refused, artifact = only(Refused, outputs), only(ConflictArtifact, outputs)
    assert names(outputs) == ["Refused", "ConflictArtifact"]
    assert (refused.code, refused.holder, refused.held_since) == ("LOCK_HELD", "w", bench.run("r1").since)
    assert (refused.lease_expires_in_ms, refused.position, refused.retry_after_ms) == (299_000, 1, 5_000)
    assert [party.actor for party in artifact.parties] == ["bob", "ann"]
    assert (artifact.kind, artifact.next_step, artifact.since_ms) == ("lock_held", "wait_and_retry", 0)
    bench.wait(298_950)
    assert only(Refused, bench.request("r3", payload="3")).retry_after_ms == 100


def test_a_request_may_ask_for_rejection_where_it_would_wait() -> None:
    bench = Bench()
    bench.request("r1")
    assert only(Refused, bench.request("r2", payload="2", reject_if_busy=True)).code == "LOCK_HELD"
    assert events(bench.request("r3", payload="3")) == ["Queued"]


def test_supersede_ends_waiting_runs_and_tells_each_requester_what_replaced_it() -> None:
    bench = Bench(policy(on_conflict="supersede"))
    bench.request("r1", payload="1", actor="ann")
    bench.request("r2", payload="1", actor="bob")
    outputs = bench.request("r3", payload="3", actor="cy")
    ended, artifact = only(Ended, outputs), only(ConflictArtifact, outputs)
    assert events(outputs) == ["Queued", "Ended"]
    assert (ended.status, ended.requests, ended.superseded_by) == ("superseded", ("r1", "r2"), "r3")
    assert [(p.request, p.actor) for p in artifact.parties] == [("r3", "cy"), ("r1", "ann"), ("r2", "bob")]


@pytest.mark.parametrize("stop", [False, True])
def test_supersede_asks_the_holder_to_stop_only_where_the_policy_says_so(stop: bool) -> None:
    bench = Bench(policy(on_conflict="supersede", stop_holder=stop))
    bench.join("w")
    bench.request("r1", payload="1")
    outputs = bench.request("r2", payload="2")
    assert events(outputs) == (["Queued", "StopAsked"] if stop else ["Queued"])
    assert [notice.kind for notice in of(Notice, outputs)] == (["stop"] if stop else [])
    outputs = bench.fail("r1")
    if stop:
        ended = of(Ended, outputs)[0]
        assert (ended.status, ended.superseded_by) == ("superseded", "r2")
        assert [party.request for party in only(ConflictArtifact, outputs).parties] == ["r1"]
    else:
        assert events(outputs)[0] == "AttemptFailed"


def test_a_stopped_holder_may_still_complete() -> None:
    bench = Bench(policy(on_conflict="supersede", stop_holder=True))
    bench.join("w")
    bench.request("r1", payload="1")
    assert only(StopAsked, bench.request("r2", payload="2")).by == "r2"
    assert events(bench.request("r3", payload="3")) == ["Queued", "Ended"], "asked once"
    assert of(Ended, bench.complete("r1"))[0].status == "completed"


def test_on_conflict_by_the_other_runs_action() -> None:
    rollback = ActionPolicy(on_conflict="reject", on_conflict_with={"restart": "queue", "hotfix": "supersede"})
    bench = Bench(policy(actions={"rollback": rollback}))
    bench.request("r1", "restart")
    assert events(bench.request("r2", "rollback", "2")) == ["Queued"]
    other = {"resource": "deploy://web"}
    bench.request("h1", "hotfix", **other)
    assert events(bench.request("r3", "rollback", "3", **other)) == ["Queued", "Ended"]
    assert only(Refused, bench.request("r4", "rollback", "4", **other)).code == "LOCK_HELD", "itself: the default"


# -- rule 7: bounds ---------------------------------------------------------------------------------------------


def test_waiters_per_resource_are_bounded() -> None:
    bench = Bench(policy(bounds=Bounds(waiters_per_resource=2)))
    for number in range(2):
        bench.request(f"r{number}", payload=str(number))
    outputs = bench.request("r2", payload="2")
    refused = only(Refused, outputs)
    assert (names(outputs), refused.code, refused.retry_after_ms) == (["Refused"], "QUEUE_FULL", 1_000)
    assert events(bench.request("x", resource="deploy://web")) == ["Queued"]


def test_runs_of_a_lane_are_bounded_and_outcomes_count() -> None:
    bench = Bench(policy(bounds=Bounds(runs=1)))
    bench.join("w")
    bench.request("r1")
    bench.complete("r1")
    assert only(Refused, bench.request("r2", payload="2")).code == "LANE_FULL"
    bench.cancel("r3")
    assert only(Refused, bench.request("r3", payload="2")).code == "LANE_FULL", "nor by way of cancellations"


@pytest.mark.parametrize("completed", [False, True])
def test_members_of_a_run_are_bounded(completed: bool) -> None:
    bench = Bench(policy(bounds=Bounds(members_per_run=2)))
    bench.join("w")
    bench.request("r1")
    bench.request("r2")
    if completed:
        bench.complete("r1")
    assert only(Refused, bench.request("r3")).code == "QUEUE_FULL"
    assert bench.lane.member_count(bench.lane.runs["r1"]) == 2


def test_actions_that_nobody_handles_are_bounded_and_do_not_shut_out_others() -> None:
    bench = Bench(policy(bounds=Bounds(unserved_actions=1)))
    bench.join("w")
    bench.request("r1", "a")
    assert only(Refused, bench.request("r2", "b", resource="deploy://b")).code == "LANE_FULL"
    assert events(bench.request("r3", "a", resource="deploy://c")) == ["Queued"]
    assert events(bench.request("r4", "restart", resource="deploy://d")) == ["Queued", "Granted"]
