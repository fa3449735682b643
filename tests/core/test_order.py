"""Arrival rule 5: the step that must come first, and how many may stand at once; at arrival, and at dispatch."""

from __future__ import annotations

from typing import Any

import pytest
from core.bench import API, Bench, events, image, kinds, of, only, policy

from keylane.router.core.policy import ActionPolicy, Bounds, Limit
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Ended, Granted, Refused

DAY_MS = 24 * 3_600_000
DRAIN_ONCE = ActionPolicy(limit=Limit(count=1, until=("undrain",)), backoff_ms=1_000, coalesce_ms=0)


def serving(**fields: Any) -> Bench:
    actions = {
        "drain": DRAIN_ONCE,
        "terminate": ActionPolicy(requires=("drain", "evict")),
        "look": ActionPolicy(harmless=True),
    }
    bench = Bench(policy(**{"actions": actions} | fields))
    bench.join("w", "drain", "evict", "undrain", "terminate", "restart", "look", slots=9)
    return bench


def did(bench: Bench, *actions: str, resource: str = API) -> None:
    """Each of these asked for and completed, one after the other."""
    for action in actions:
        id = f"{action}-{bench.offset}"
        bench.request(id, action, f'"{id}"', resource=resource)
        bench.complete(id)


# -- required steps ---------------------------------------------------------------------------------------------


@pytest.mark.requirement("S4.2")
@pytest.mark.parametrize(
    ("before", "admitted"),
    [
        ((), False),
        (("restart",), False),
        (("drain",), True),
        (("evict",), True),
        (("drain", "look"), True),
        (("drain", "restart"), False),
        (("drain", "terminate"), False),
        (("look",), False),
    ],
)
def test_a_step_is_admitted_only_right_after_the_one_it_requires(before: tuple[str, ...], admitted: bool) -> None:
    bench = serving()
    did(bench, *before)
    outputs = bench.request("t", "terminate", actor="ann")
    if admitted:
        assert events(outputs) == ["Queued", "Granted"]
        return
    refused, artifact = only(Refused, outputs), only(ConflictArtifact, outputs)
    assert (refused.code, artifact.kind, artifact.next_step) == (
        "ORDER_VIOLATION", "order_violation", "read_and_resubmit",
    )  # fmt: skip
    assert artifact.parties[0].actor == "ann"


@pytest.mark.requirement("S4.2")
def test_a_step_that_has_not_ended_or_has_failed_admits_nothing() -> None:
    bench = serving()
    bench.request("d", "drain")
    assert only(Refused, bench.request("t1", "terminate")).code == "ORDER_VIOLATION"
    bench.fail("d", final=True)
    assert only(Refused, bench.request("t2", "terminate")).code == "ORDER_VIOLATION"


def test_a_request_may_require_a_step_of_its_own_beside_the_policys() -> None:
    bench = serving()
    did(bench, "evict")
    assert only(Refused, bench.request("t1", "terminate", requires=("drain",))).code == "ORDER_VIOLATION"
    assert events(bench.request("t2", "terminate", requires=("restart", "evict"))) == ["Queued", "Granted"]
    assert only(Refused, bench.request("x", "restart", requires=("drain",))).code == "ORDER_VIOLATION"


def test_what_requires_another_step_is_not_merged() -> None:
    bench = serving()
    did(bench, "evict")
    bench.request("t1", "restart", requires=("evict", "drain"))
    assert events(bench.request("t2", "restart")) == ["Queued"]
    assert events(bench.request("t3", "restart", requires=("drain", "evict"))) == ["Coalesced"]


@pytest.mark.requirement("S4.2")
def test_a_step_that_is_undone_before_its_turn_refuses_at_dispatch() -> None:
    bench = serving()
    did(bench, "drain")
    bench.request("x", "restart")
    bench.request("t", "terminate")
    outputs = bench.complete("x")
    ended = of(Ended, outputs)[1]
    assert (ended.run, ended.status) == ("t", "refused")
    assert ended.error is not None and ended.error.code == "ORDER_VIOLATION"
    assert kinds(outputs) == ["order_violation"]


def test_steps_are_of_the_requested_key() -> None:
    bench = serving()
    did(bench, "drain", resource="deploy://web")
    assert only(Refused, bench.request("t", "terminate")).code == "ORDER_VIOLATION"


# -- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("S4.4")
def test_a_limit_outlasts_the_work_until_it_is_undone() -> None:
    bench = serving()
    did(bench, "drain")
    outputs = bench.request("d2", "drain", actor="ann")
    refused, artifact = only(Refused, outputs), only(ConflictArtifact, outputs)
    assert (refused.code, refused.retry_after_ms, artifact.kind) == ("LIMIT_REACHED", 5_000, "limit_reached")
    assert [side.action for side in artifact.parties] == ["drain", "drain"]
    did(bench, "undrain")
    assert events(bench.request("d3", "drain")) == ["Queued", "Granted"]


@pytest.mark.requirement("S4.4")
def test_two_that_wait_are_counted_when_their_turn_comes() -> None:
    bench = serving()
    bench.request("x", "restart")
    bench.request("d1", "drain", "1")
    bench.request("d2", "drain", "2")
    bench.complete("x")
    outputs = bench.complete("d1")
    ended = of(Ended, outputs)[1]
    assert (ended.run, ended.status, kinds(outputs)) == ("d2", "refused", ["limit_reached"])
    assert ended.error is not None and ended.error.code == "LIMIT_REACHED"


def test_a_run_does_not_count_against_itself_when_it_is_tried_again() -> None:
    bench = serving()
    bench.request("d1", "drain")
    bench.leave("w")
    assert "d1" in bench.lane.counted
    assert only(Granted, bench.join("v", "drain")).run == "d1"


def test_a_reported_failure_does_not_count_and_a_lost_lease_does() -> None:
    bench = serving()
    bench.request("d1", "drain", "1")
    bench.fail("d1", retry_after_ms=60_000)
    assert events(bench.request("d2", "drain", "2")) == ["Queued", "Granted"]
    bench.beat("w", slots=9)
    bench.leave("w")
    bench.cancel("d2")
    assert bench.states()["d2"] == "cancelled"
    assert only(Refused, bench.request("d3", "drain", "3")).code == "LIMIT_REACHED", "d2 may have taken effect"


def test_an_order_to_stop_that_the_holder_reports_as_failed_does_not_count() -> None:
    bench = serving()
    bench.request("d1", "drain")
    bench.cancel("d1")
    bench.fail("d1")
    assert bench.lane.counted == {}


def test_what_undoes_it_may_be_harmless() -> None:
    bench = serving(actions={"drain": DRAIN_ONCE, "undrain": ActionPolicy(harmless=True)})
    did(bench, "drain", "undrain")
    assert events(bench.request("d", "drain")) == ["Queued", "Granted"]


def test_more_than_one_may_stand() -> None:
    bench = Bench(policy(actions={"drain": ActionPolicy(limit=Limit(count=2, until=("undrain",)), coalesce_ms=0)}))
    bench.join("w", "drain")
    did(bench, "drain", "drain")
    assert only(Refused, bench.request("d", "drain")).code == "LIMIT_REACHED"


def test_order_comes_before_limits_and_limits_before_contention() -> None:
    actions = {
        "drain": ActionPolicy(limit=Limit(count=1, until=("undrain",)), requires=("look",), on_conflict="reject")
    }
    bench = Bench(policy(actions=actions, coalesce_ms=0))
    bench.join("w", "drain", "look")
    did(bench, "look", "drain")
    bench.request("x", "look", "9")
    assert only(Refused, bench.request("d1", "drain")).code == "ORDER_VIOLATION"
    bench.complete("x")
    bench.request("x2", "other")
    assert only(Refused, bench.request("d2", "drain")).code == "LIMIT_REACHED"


# -- what is remembered -----------------------------------------------------------------------------------------


def test_steps_and_limits_are_remembered_for_thirty_idle_days() -> None:
    bench = serving()
    did(bench, "drain")
    bench.leave("w")
    bench.wait(30 * DAY_MS - 1)
    assert only(Refused, bench.request("d2", "drain")).code == "LIMIT_REACHED"
    assert events(bench.request("t", "terminate", "1")) == ["Queued"]
    bench.cancel("t")
    bench.wait(1)
    assert (bench.lane.resources, bench.lane.counted, bench.lane.counted_of) == ({}, {}, {})


def test_what_is_not_idle_is_remembered_for_longer() -> None:
    bench = serving(queue_ms=40 * DAY_MS)
    did(bench, "drain")
    bench.leave("w")
    bench.request("x", "restart")
    bench.wait(31 * DAY_MS)
    assert events(bench.request("t", "terminate")) == ["Queued"]
    assert only(Refused, bench.request("d2", "drain")).code == "LIMIT_REACHED"


def test_no_bound_takes_steps_and_limits_so_a_lane_that_is_full_of_them_refuses_more() -> None:
    bench = serving(bounds=Bounds(resources=4))
    for number in range(2):
        did(bench, "drain", resource=f"deploy://{number}")
    for number in range(9):
        did(bench, "restart", resource=f"deploy://x{number}")
    bench.forget(100)
    assert {f"deploy://{number}" for number in range(2)} <= set(bench.lane.resources)
    assert only(Refused, bench.request("d", "drain", resource="deploy://2")).code == "LANE_FULL"
    assert events(bench.request("r", resource="deploy://2")) == ["Queued", "Granted"]
    assert image(bench.restored()) == image(bench.lane)
