"""How requesters leave: cancellations and deadlines; and how runs that nobody takes up come to an end."""

from __future__ import annotations

import pytest
from core.bench import API, Bench, events, kinds, names, of, only, policy

from keylane.router.core.policy import Bounds
from keylane.schemas.events import CancellationKept, Ended, Granted, Queued, Refused, StopAsked, Withdrawn
from keylane.schemas.items import Notice

DAY_MS = 24 * 3_600_000


def test_one_of_several_requesters_leaves_and_the_run_goes_on() -> None:
    bench = Bench()
    for id in ("r1", "r2", "r3"):
        bench.request(id)
    withdrawn = only(Withdrawn, bench.cancel("r1"))
    assert (withdrawn.request, withdrawn.run, withdrawn.status, withdrawn.by) == ("r1", "r1", "cancelled", "boss")
    bench.join("w")
    assert events(bench.cancel("r3")) == ["Withdrawn"], "of a held run too"
    assert only(Ended, bench.complete("r1")).requests == ("r2",)


def test_the_last_requester_of_a_waiting_run_ends_it() -> None:
    bench = Bench()
    bench.request("r1")
    ended = only(Ended, bench.cancel("r1"))
    assert (ended.status, ended.requests, ended.attempt, ended.token) == ("cancelled", ("r1",), 0, None)


def test_the_last_requester_of_a_held_run_has_its_holder_asked_to_stop() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    outputs = bench.cancel("r1")
    assert names(outputs) == ["Notice", "StopAsked"]
    assert (only(Notice, outputs).kind, only(StopAsked, outputs).by) == ("stop", "boss")
    assert only(Refused, bench.cancel("r1", id="c2")).code == "TOO_LATE"
    ended = only(Ended, bench.fail("r1"))
    assert (ended.status, ended.requests) == ("cancelled", ("r1",))


@pytest.mark.parametrize("how", ["complete", "lapse"])
def test_after_a_stop_was_asked_for_the_holder_may_complete_or_be_lost(how: str) -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.cancel("r1")
    outputs = bench.complete("r1") if how == "complete" else bench.wait(10_000)
    assert only(Ended, outputs).status == ("completed" if how == "complete" else "cancelled")


def test_a_cancellation_after_the_end_is_too_late_and_answered_under_its_own_id() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.complete("r1")
    refused = only(Refused, bench.cancel("r1", id="c9"))
    assert (refused.request, refused.command, refused.code) == ("c9", "Cancellation", "TOO_LATE")
    bench.request("r2")
    bench.request("r3")
    bench.cancel("r3")
    assert only(Refused, bench.cancel("r3")).code == "TOO_LATE"


def test_a_cancellation_that_overtook_its_request_ends_it_as_it_arrives() -> None:
    bench = Bench()
    kept = only(CancellationKept, bench.cancel("r1"))
    assert (kept.request, kept.cancellation) == ("r1", "c-r1")
    bench.join("w")
    outputs = bench.request("r1")
    assert events(outputs) == ["Queued", "Ended"] and of(Granted, outputs) == []
    assert only(Ended, outputs).status == "cancelled" and bench.lane.kept == {}


def test_kept_cancellations_are_bounded_and_forgotten() -> None:
    bench = Bench(policy(bounds=Bounds(kept_cancellations=2)))
    for id in ("r1", "r2", "r3"):
        bench.cancel(id)
    assert list(bench.lane.kept) == ["r2", "r3"]
    bench.wait(3_600_000)
    assert bench.lane.kept == {}


# -- deadlines --------------------------------------------------------------------------------------------------


def test_a_deadline_ends_the_wait_of_its_requester_only() -> None:
    bench = Bench()
    bench.request("r1", deadline_ms=5_000)
    bench.request("r2")
    outputs = bench.wait(5_000)
    withdrawn = only(Withdrawn, outputs)
    assert (withdrawn.request, withdrawn.status, kinds(outputs)) == ("r1", "expired", ["wait_expired"])
    assert [member.id for member in bench.lane.live_members(bench.run("r1"))] == ["r2"]


def test_the_last_deadline_ends_the_run_and_each_requester_has_one_artifact() -> None:
    bench = Bench()
    bench.request("r1", deadline_ms=5_000)
    bench.request("r2", deadline_ms=5_000)
    outputs = bench.wait(5_000)
    assert events(outputs) == ["Withdrawn", "Ended"] and kinds(outputs) == ["wait_expired"] * 2
    ended = only(Ended, outputs)
    assert (ended.status, ended.requests, ended.error and ended.error.code) == ("expired", ("r2",), "EXPIRED")


def test_no_deadline_while_held_but_again_before_a_retry() -> None:
    bench = Bench(policy(backoff_ms=10_000))
    bench.join("w")
    bench.request("r1", deadline_ms=5_000)
    bench.wait(4_000)
    bench.beat("w")
    assert bench.wait(4_000) == []
    assert events(bench.fail("r1")) == ["AttemptFailed"]
    assert only(Ended, bench.wait(0)).status == "expired"


def test_a_deadline_that_has_passed_is_seen_at_dispatch_before_its_timer_fires() -> None:
    bench = Bench()
    bench.join("w", slots=1)
    bench.request("r1")
    bench.request("r2", payload="2", deadline_ms=5_000)
    bench.clock_ms += 6_000
    outputs = bench.complete("r1")
    assert [(ended.run, ended.status) for ended in of(Ended, outputs)] == [("r1", "completed"), ("r2", "expired")]
    assert of(Granted, outputs) == []


# -- actions that nobody handles --------------------------------------------------------------------------------


def test_an_unserved_action_says_so_at_once_steps_aside_after_30_s_and_keeps_its_place() -> None:
    bench = Bench()
    bench.join("w", "restart")
    assert only(Queued, bench.request("r1", "exotic")).unserved
    assert only(Queued, bench.request("r2", "restart")).unserved is False
    for _ in range(3):
        bench.wait(9_990)
        bench.beat("w")
    assert bench.states() == {"r1": "Waiting", "r2": "Waiting"}, "it blocks the key for 30 s"
    assert only(Granted, bench.wait(30)).run == "r2"
    bench.request("r3", "restart", "3")
    assert of(Granted, bench.join("x", "exotic")) == [], "r2 holds the key"
    assert only(Granted, bench.complete("r2")).run == "r1", "accepted before r3"
    assert "exotic" not in bench.lane.unserved


def test_an_action_whose_last_worker_left_is_unserved_from_then_on() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.request("r2", payload="2")
    bench.leave("w")
    assert bench.lane.unserved["restart"].since_ms == 0
    bench.wait(30_000)
    assert bench.lane.unserved["restart"].aside
    assert only(Granted, bench.join("w2")).run == "r1"


def test_a_run_that_nobody_takes_up_ends_with_the_reason() -> None:
    bench = Bench()
    bench.request("r1")
    assert bench.wait(DAY_MS - 1) == []
    outputs = bench.wait(1)
    ended = only(Ended, outputs)
    assert (ended.status, kinds(outputs)) == ("expired", ["wait_expired"])
    assert ended.error is not None and ended.error.message.startswith("no_worker")
    assert bench.wait(3_600_000) == [] and bench.lane.unserved == {}


def test_a_run_whose_turn_does_not_come_ends_with_that_reason() -> None:
    bench = Bench(policy(queue_ms=5_000))
    bench.join("w")
    bench.request("r1")
    bench.request("r2", payload="2")
    ended = only(Ended, bench.wait(5_000))
    assert (ended.run, ended.error and ended.error.message) == ("r2", "its turn did not come")


def test_an_action_that_was_unserved_and_is_served_again_is_not_said_to_have_no_worker() -> None:
    bench = Bench()
    bench.request("r1", "exotic")
    bench.cancel("r1")
    bench.join("w", "exotic")
    assert bench.lane.unserved == {}
    assert only(Queued, bench.request("r2", "exotic", resource=API)).unserved is False


def test_a_cancellation_kept_for_another_resource_does_not_end_a_request() -> None:
    bench = Bench()
    bench.cancel("r1", "deploy://other")
    assert events(bench.request("r1")) == ["Queued"]
