"""Locks: each cell of the table that is about one, what proves whose it is, and what bounds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from core.bench import API, UNSAID, Bench, events, image, names, of, only, policy, secret_of

from keylane.router.core import step as stepping
from keylane.router.core.policy import Bounds
from keylane.router.core.records import Arrived
from keylane.router.core.transitions import impossible
from keylane.schemas.codec import encode
from keylane.schemas.event_parts import Party
from keylane.schemas.events import Coalesced, Ended, Fenced, Lost, Queued, Refused, StopAsked
from keylane.schemas.metadata import ScopeRule
from keylane.schemas.requests import Cancellation, LockRequest, Renewal
from keylane.schemas.results import Completed, Progress

NOBODYS = "the secret of nobody"


def in_state(state: str) -> Bench:
    """A lane in which the lock l1 is in this state; what it waits for is the lock l0."""
    bench = Bench()
    if state == "Waiting":
        bench.lock("l0", "s0", explicit=True)
        bench.lock("l1", "s1", wait_ms=60_000, explicit=True)
    elif state != "Unknown":
        bench.lock("l1", "s1", explicit=True)
    if state == "Done":
        bench.release("l1")
    return bench


def again(bench: Bench) -> Any:
    return bench.feed(bench.asked["l1"])


def due(bench: Bench) -> Any:
    begin = len(bench.published)
    times = [bench.lane.deciding.due_ms.get(b"run/l1"), bench.lane.outcomes.due_ms("l1")]
    bench.clock_ms = next(time for time in times if time is not None)
    stepping.step_due(bench.lane, b"run/l1", bench.now)
    bench.commit()
    return bench.published[begin:]


CELLS: list[tuple[str, str, Callable[[Bench], Any], list[str], str | None]] = [
    ("LockRequest", "Unknown", lambda b: b.lock("l1", "s1"), ["Queued", "Granted"], "Held"),
    ("LockRequest", "Waiting", again, ["Queued"], "Waiting"),
    ("LockRequest", "Held", again, ["Queued"], "Held"),
    ("LockRequest", "Done", again, ["Ended"], "Done"),
    ("Renewal", "Unknown", lambda b: b.renew("l1"), ["Fenced", "ConflictArtifact"], None),
    ("Renewal", "Held", lambda b: b.renew("l1"), ["Renewed"], "Held"),
    ("Release", "Unknown", lambda b: b.release("l1"), ["Fenced", "ConflictArtifact"], None),
    ("Release", "Held", lambda b: b.release("l1"), ["Ended"], "Done"),
    ("Release", "Done", lambda b: b.release("l1"), [], "Done"),
    ("Cancellation", "Waiting", lambda b: b.cancel("l1"), ["Ended"], "Done"),
    ("Cancellation", "Held", lambda b: b.cancel("l1"), ["StopAsked"], "Held"),
    ("Cancellation", "Done", lambda b: b.cancel("l1"), ["Refused"], "Done"),
    ("SessionEnded", "Waiting", lambda b: b.end_session("s1"), ["AgentSessionEnded", "Ended"], "Done"),
    (
        "SessionEnded",
        "Held",
        lambda b: b.end_session("s1"),
        ["AgentSessionEnded", "Lost", "ConflictArtifact", "Ended"],
        "Done",
    ),
    ("WaitChecked", "Unknown", lambda b: b.checked("l1", "s0", "s1", API), [], None),
    ("WaitChecked", "Waiting", lambda b: b.checked("l1"), [], "Waiting"),
    ("WaitChecked", "Held", lambda b: b.checked("l1", "s0", "s1", API), [], "Held"),
    ("WaitChecked", "Done", lambda b: b.checked("l1", "s0", "s1", API), [], "Done"),
    ("Decision", "Waiting", lambda b: b.decide("l1"), ["Refused"], "Waiting"),
    ("Decision", "Held", lambda b: b.decide("l1"), ["Refused"], "Held"),
    ("ResourceChange", "Waiting", lambda b: b.change("v2"), ["Changed"], "Waiting"),
    ("ResourceChange", "Held", lambda b: b.change("v2"), ["Changed"], "Held"),
    ("Due", "Waiting", due, ["Ended"], "Done"),
    ("Due", "Held", due, ["Lost", "ConflictArtifact", "Ended"], "Done"),
    ("Due", "Done", due, [], None),
]


@pytest.mark.parametrize(("kind", "state", "act", "expected", "after"), CELLS)
def test_each_cell(kind: str, state: str, act: Callable[[Bench], Any], expected: list[str], after: str | None) -> None:
    bench = in_state(state)
    before = image(bench.lane)
    assert names(act(bench)) == expected
    run = bench.lane.runs.get("l1")
    assert (None if run is None else run.state) == after
    if not expected or expected[0] in ("Refused", "Fenced"):
        if state != "Done" or kind != "Due":
            assert image(bench.lane) | UNSAID == before | UNSAID, "nothing has changed"
    assert image(bench.restored()) == image(bench.lane)


# -- whose it is --------------------------------------------------------------------------------------------------

WRONG: list[dict[str, Any]] = [
    {"secret": NOBODYS},
    {"secret": secret_of("s2")},
    {"token": 0},
    {"token": -1},
    {"token": 2**40},
    {"resource": "deploy://web"},
]


@pytest.mark.requirement("S3.4")
@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("report", ["renew", "release"])
def test_only_who_has_the_secret_and_the_live_token_renews_or_gives_back(report: str, wrong: dict[str, Any]) -> None:
    bench = in_state("Held")
    before = image(bench.lane) | UNSAID
    bench.wait(1_000)
    fenced = only(Fenced, getattr(bench, report)("l1", **wrong))
    assert fenced.report_id.startswith("h-"), "whoever sent it finds its own"
    assert image(bench.lane) | UNSAID == before


@pytest.mark.requirement("S3.4")
def test_a_lock_of_before_is_not_renewed_under_its_old_token() -> None:
    bench = in_state("Held")
    old = bench.run("l1").token
    bench.release("l1")
    bench.lock("l2", "s1")
    assert events(bench.renew("l2", token=old)) == ["Fenced"]
    assert events(bench.renew("l1", token=bench.run("l2").token)) == ["Fenced"]


def test_a_worker_has_no_say_about_a_lock() -> None:
    bench = in_state("Held")
    about = bench.about("l1")
    assert events(bench.report(Progress(**about))) == ["Fenced"]
    assert events(bench.report(Completed(**about))) == ["Fenced"]
    assert bench.run("l1").state == "Held"


@pytest.mark.requirement("S3.4")
@pytest.mark.parametrize("key", ["api", "", "not a uri", "deploy:"])
def test_what_is_no_uri_and_no_arn_is_no_lock(key: str) -> None:
    refused = only(Refused, Bench().lock("l1", resource=key))
    assert (refused.code, refused.command) == ("BAD_KEY", "LockRequest")


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": ""},
        {"secret": "short"},
        {"secret": "x" * 129},
        {"secret": "sixteen\ncharacters"},
        {"session": "x" * 129},
        {"hold": "x" * 129},
        {"wait_ms": -1},
        {"wait_ms": 86_400_001},
        {"ttl_ms": 999},
        {"ttl_ms": 86_400_001},
        {"actor": "x" * 257},
    ],
    ids=str,
)
def test_what_is_out_of_shape_is_refused(wrong: dict[str, Any]) -> None:
    fields = {"id": "l1", "resource": API, "session": "s1", "secret": secret_of("s1")} | wrong
    assert only(Refused, Bench().feed(LockRequest(**fields))).code == "BAD_RECORD"


def test_no_work_is_asked_for_under_the_action_of_locks() -> None:
    assert only(Refused, Bench().request("r1", "lock")).code == "BAD_RECORD"


def test_no_output_and_no_state_has_a_secret() -> None:
    bench = Bench()
    bench.lock("l1", "s1", explicit=True)
    bench.lock("l2", "s2", wait_ms=1_000, explicit=True)
    bench.lock("l1", "s3")  # a reused id
    bench.lock("l4", "s1", ttl_ms=1)
    bench.renew("l1", secret=NOBODYS)
    bench.release("l1", token=7)
    bench.give_up("l2")
    bench.end_session("s1")
    said = [encode(output.record) for output in bench.published] + list(bench.stored.values())
    assert said and not [text for text in said if b"the secret of" in text]


# -- its own lock again -------------------------------------------------------------------------------------------


@pytest.mark.requirement("S3.1")
def test_a_session_has_its_own_lock_again_and_everybody_who_asked_learns_the_end() -> None:
    bench = Bench()
    bench.lock("l1", "s1", ttl_ms=10_000)
    bench.wait(6_000)
    joined = only(Coalesced, bench.lock("l2", "s1"))
    assert (joined.run, joined.token, joined.lease_ms) == ("l1", bench.run("l1").token, 10_000)
    assert not of(Lost, bench.wait(9_999)), "its lease runs anew"
    assert only(Ended, bench.release("l1")).requests == ("l1", "l2")


@pytest.mark.parametrize("other", [{"hold": "h"}, {"secret": NOBODYS}], ids=str)
def test_under_another_hold_or_secret_it_is_not_its_own(other: dict[str, str]) -> None:
    bench = Bench()
    bench.lock("l1", "s1")
    assert only(Refused, bench.lock("l2", "s1", **other)).code == "LOCK_HELD"


def test_two_requested_keys_of_one_owning_key_are_one_lock() -> None:
    rule = ScopeRule(match="k8s://{c}/pods/{ns}/{app}/{pod}", owner="k8s://{c}/deployments/{ns}/{app}")
    bench = Bench(scopes=[rule])
    one, two = (f"k8s://prod/pods/shop/cart/{pod}" for pod in "12")
    bench.lock("l1", "s1", one)
    assert only(Refused, bench.lock("l2", "s2", two)).code == "LOCK_HELD"
    assert only(Coalesced, bench.lock("l3", "s1", two)).run == "l1"
    assert events(bench.renew("l1", resource=two)) == ["Renewed"]
    cancellation = Cancellation(id="g", resource=two, request="l3", secret=secret_of("s1"))
    assert events(bench.feed(cancellation)) == ["Withdrawn"]


def test_who_joined_and_leaves_leaves_the_lock_to_who_had_it() -> None:
    bench = Bench()
    bench.lock("l1", "s1")
    bench.lock("l2", "s1")
    assert events(bench.give_up("l2", secret=secret_of("s1"))) == ["Withdrawn"]
    assert bench.run("l1").state == "Held"
    assert only(Ended, bench.give_up("l1")).status == "cancelled"


def test_a_request_that_was_cancelled_before_it_came_holds_nothing() -> None:
    bench = Bench()
    bench.cancel("l1")
    assert events(bench.lock("l1")) == ["Queued", "Ended"]
    assert not bench.lane.held


# -- giving it up -------------------------------------------------------------------------------------------------


def test_the_secret_gives_back_a_lock_that_is_held_by_cancelling_it() -> None:
    bench = in_state("Held")
    assert only(Ended, bench.give_up("l1")).status == "cancelled"


def test_whoever_cancels_a_held_lock_without_it_only_asks() -> None:
    bench = in_state("Held")
    asked = only(StopAsked, bench.give_up("l1", secret=NOBODYS))
    assert (asked.run, asked.status) == ("l1", "cancelled")
    assert events(bench.renew("l1")) == ["Renewed"], "it may still need a while"
    assert only(Ended, bench.release("l1")).status == "cancelled"
    assert events(bench.release("l1")) == [], "a repeated one"


def test_a_stopped_lock_that_is_lost_ends_as_was_asked() -> None:
    bench = in_state("Held")
    bench.cancel("l1")
    assert only(Ended, bench.wait(1_800_000)).status == "cancelled"


def test_giving_back_completes_nothing_on_the_resource() -> None:
    bench = in_state("Held")
    bench.release("l1")
    assert not bench.lane.resources


@pytest.mark.requirement("S3.3")
def test_all_locks_of_a_session_go_with_it_and_no_others() -> None:
    bench = Bench()
    bench.lock("l1", "s1", "deploy://a")
    bench.lock("l2", "s1", "deploy://b")
    bench.lock("l3", "s2", "deploy://c")
    bench.lock("l4", "s1", "deploy://c", wait_ms=60_000)
    bench.lock("l5", "s1", "deploy://d", secret=NOBODYS)
    outputs = bench.end_session("s1")
    assert {run.id: run.state for run in bench.lane.runs.values()} == {
        "l1": "Done", "l2": "Done", "l4": "Done", "l3": "Held", "l5": "Held",
    }  # fmt: skip
    assert [lost.reason for lost in of(Lost, outputs)] == ["session_ended", "session_ended"]


# -- bounds -------------------------------------------------------------------------------------------------------


def test_a_session_holds_and_awaits_so_many_locks() -> None:
    bench = Bench(policy(bounds=Bounds(locks_per_session=2)))
    bench.lock("l1", "s1", "deploy://a")
    bench.lock("l2", "s1", "deploy://b")
    assert only(Refused, bench.lock("l3", "s1", "deploy://c")).code == "QUEUE_FULL"
    bench.release("l1")
    assert events(bench.lock("l4", "s1", "deploy://c")) == ["Queued", "Granted"]


def test_a_lock_is_had_again_so_many_times() -> None:
    bench = Bench(policy(bounds=Bounds(members_per_run=2)))
    bench.lock("l1", "s1")
    bench.lock("l2", "s1")
    assert only(Refused, bench.lock("l3", "s1")).code == "QUEUE_FULL"


def test_so_many_wait_for_one_resource() -> None:
    bench = Bench(policy(bounds=Bounds(waiters_per_resource=1)))
    bench.lock("l1")
    bench.lock("l2", wait_ms=1_000)
    assert only(Refused, bench.lock("l3", wait_ms=1_000)).code == "QUEUE_FULL"


def test_a_fenced_report_names_both_sides() -> None:
    bench = in_state("Held")
    fenced = only(Fenced, bench.renew("l1", token=1))
    assert fenced.parties[0] == Party(request="l1", token=1)
    assert fenced.parties[1].session == "s1"


def test_a_queued_lock_says_who_holds() -> None:
    bench = Bench()
    bench.lock("l1", actor="agent-1")
    queued = only(Queued, bench.lock("l2", wait_ms=1_000))
    assert (queued.holder, queued.position, queued.unserved) == ("agent-1", 0, False)


def test_what_cannot_happen_is_told_without_the_secret_of_the_command() -> None:
    """It is the reason of a dead letter, which everybody reads."""
    bench = in_state("Waiting")
    renewal = Renewal(**bench.held_by("l1"))
    with pytest.raises(AssertionError, match="Renewal cannot meet l1, which is Waiting") as raised:
        impossible(bench.lane, bench.run("l1"), Arrived(record=renewal), bench.now)
    assert renewal.secret not in str(raised.value)
