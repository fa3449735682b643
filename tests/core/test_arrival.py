"""The arrival rules, in their order: what becomes of a work request, and which artifact is published for it."""

from __future__ import annotations

from typing import Any

import pytest
from core.bench import API, TRACE, UNSAID, Bench, events, image, kinds, names, of, only, policy, work

from keylane.journal.partitioner import partition_of
from keylane.router.core.policy import ActionPolicy, Bounds, Limit
from keylane.schemas.codec import Undecodable
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.events import Coalesced, DeadLettered, Ended, Queued, Refused, SentOn
from keylane.schemas.items import WorkItem
from keylane.schemas.requests import Cancellation, Decision

# -- rule 1: size and shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": ""}, "BAD_RECORD"),
        ({"id": "x" * 129}, "BAD_RECORD"),
        ({"id": "a\nb"}, "BAD_RECORD"),
        ({"action": ""}, "BAD_RECORD"),
        ({"action": "x" * 129}, "BAD_RECORD"),
        ({"actor": "x" * 257}, "BAD_RECORD"),
        ({"resource": "no key"}, "BAD_KEY"),
        ({"deadline_ms": 0}, "BAD_RECORD"),
        ({"deadline_ms": -1}, "BAD_RECORD"),
        ({"deadline_ms": 31 * 24 * 3_600_000}, "BAD_RECORD"),
        ({"payload": '"' + "x" * 99 + '"'}, "TOO_LARGE"),
        ({"payload": "[" * 5_000 + "]" * 5_000}, "BAD_RECORD"),
        ({"idempotency_key": ""}, "BAD_RECORD"),
        ({"idempotency_key": "k" * 129}, "BAD_RECORD"),
        ({"expected_version": ""}, "BAD_RECORD"),
        ({"expected_version": "v" * 257}, "BAD_RECORD"),
        ({"coalesce_key": ""}, "BAD_RECORD"),
        ({"coalesce_key": "k" * 129}, "BAD_RECORD"),
        ({"requires": ("",)}, "BAD_RECORD"),
        ({"requires": ("drain",) * 17}, "BAD_RECORD"),
    ],
)
def test_a_misshapen_request_is_refused_once_and_nothing_else_happens(fields: dict[str, Any], code: str) -> None:
    bench = Bench(policy(bounds=Bounds(run_bytes=100 if code == "TOO_LARGE" else 100_000)))
    bench.join("w")
    before = image(bench.lane) | UNSAID
    outputs = bench.feed(work(**({"id": "r1"} | fields)))
    assert names(outputs) == ["Refused"]
    assert only(Refused, outputs).code == code
    assert only(Refused, outputs).request == fields.get("id", "r1")[:128]
    assert image(bench.lane) | UNSAID == before


@pytest.mark.parametrize(
    "command",
    [
        Cancellation(id="c", resource=API, request="x" * 129),
        Cancellation(id="c", resource=API, request=""),
        Cancellation(id="c", resource=API, request="r1", actor="x" * 257),
        Decision(id="c", resource=API, request="x" * 129, verdict="approve", by="a", version_seen="v"),
    ],
)
def test_commands_about_a_request_are_bounded_in_what_they_name(command: Cancellation | Decision) -> None:
    bench = Bench()
    refused = only(Refused, bench.feed(command))
    assert (refused.request, refused.code, bench.lane.kept) == ("c", "BAD_RECORD", {})


def test_keys_are_compared_in_canonical_form() -> None:
    bench = Bench()
    bench.request("r1", resource="DEPLOY://api/")
    assert only(Coalesced, bench.request("r2", resource=API)).run == "r1"


# -- rule 2: seen before ----------------------------------------------------------------------------------------


def test_a_repeat_of_an_accepted_request_gets_its_first_answer_marked() -> None:
    bench = Bench()
    bench.request("r1")
    bench.request("r2")
    before = image(bench.lane) | UNSAID
    first, second = only(Queued, bench.request("r1")), only(Coalesced, bench.request("r2"))
    assert (first.request, first.run, first.repeat) == ("r1", "r1", True)
    assert (second.request, second.run, second.repeat) == ("r2", "r1", True)
    assert image(bench.lane) | UNSAID == before


def test_a_repeat_of_one_that_left_gets_its_withdrawal() -> None:
    bench = Bench()
    bench.request("r1")
    bench.request("r2")
    bench.cancel("r1")
    outputs = bench.request("r1")
    assert events(outputs) == ["Withdrawn"] and outputs[0].record.repeat  # type: ignore[attr-defined]
    bench.join("w")
    bench.complete("r1")
    outputs = bench.request("r1")
    assert events(outputs) == ["Withdrawn"], "it left before the outcome, and is not told the outcome"


def test_a_repeat_after_the_end_gets_the_outcome() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.complete("r1", result='{"ok":1}', version="v2")
    again = only(Ended, bench.request("r1"))
    assert (again.requests, again.status, again.repeat, again.coalesced) == (("r1",), "completed", True, False)
    assert (bytes(again.result), again.version) == (b'{"ok":1}', "v2")


def test_a_repeat_of_a_refused_request_is_refused_again_without_a_second_artifact() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    first = bench.request("r2", payload="1", reject_if_busy=True)
    bench.complete("r1")
    again = bench.request("r2", payload="1", reject_if_busy=True)
    assert kinds(first) == ["lock_held"] and names(again) == ["Refused"]
    assert (only(Refused, again).code, only(Refused, again).repeat) == ("LOCK_HELD", True)


@pytest.mark.parametrize("first", ["accepted", "refused", "done"])
def test_a_reused_id_is_a_dead_letter_and_an_artifact_and_is_never_answered(first: str) -> None:
    bench = Bench()
    bench.join("w")
    if first == "refused":
        bench.request("r0")
    bench.request("r1", payload="1", reject_if_busy=first == "refused")
    if first == "done":
        bench.complete("r1")
    before = image(bench.lane) | UNSAID
    outputs = bench.request("r1", payload="2")
    assert names(outputs) == ["DeadLettered", "ConflictArtifact", "DeadLetter"]
    assert only(DeadLettered, outputs).code == "ID_REUSED" and kinds(outputs) == ["id_reused"]
    assert image(bench.lane) | UNSAID == before


@pytest.mark.parametrize("first", ["accepted", "refused"])
@pytest.mark.parametrize("what", ["misshapen", "undecodable", "sent on twice"])
def test_a_bad_record_under_a_known_id_is_not_answered_under_it(first: str, what: str) -> None:
    """Its first sender would take the answer for its own end."""
    here = partition_of(API.encode(), 4)
    bench = Bench(partition=here, partitions=4)
    if first == "refused":
        bench.request("r0")
    bench.request("r1", payload="1", reject_if_busy=first == "refused")
    wrong = {
        "misshapen": work("r1", action=""),
        "undecodable": Undecodable("bad", "r1", API),
        "sent on twice": work("r1", resource=_elsewhere(here, 4), hops=1),
    }[what]
    outputs = bench.feed(wrong)
    assert names(outputs)[0] == "DeadLettered" and of(Refused, outputs) == []


def test_a_request_that_has_seen_more_than_the_lane_is_refused_unless_its_first_answer_is_known() -> None:
    bench = Bench()
    refused = only(Refused, bench.request("r1", seen=10_000))
    assert (refused.code, refused.request) == ("INTERNAL", "r1")
    bench.request("r2", seen=0)
    assert events(bench.request("r2", seen=10_000)) == ["Queued"], "accepted once: never refused later"


def test_refusals_are_remembered_up_to_a_bound_newest_first() -> None:
    bench = Bench(policy(bounds=Bounds(refusals=2)))
    bench.request("r0")
    for number in (1, 2, 3):
        bench.request(f"r{number}", payload=str(number), reject_if_busy=True)
    assert list(bench.lane.refused) == ["r2", "r3"]
    bench.join("w")
    bench.complete("r0")
    assert only(Refused, bench.request("r3", payload="3", reject_if_busy=True)).repeat
    assert events(bench.request("r1", payload="1", reject_if_busy=True)) == ["Queued", "Granted"]


# -- rule 4: coalescing -----------------------------------------------------------------------------------------


@pytest.mark.requirement("M.2")
def test_equal_requests_become_one_run_and_all_get_its_outcome() -> None:
    bench = Bench()
    bench.request("r1", payload='{"a":1,"b":[2]}')
    joined = only(Coalesced, bench.request("r2", payload='{ "b": [2], "a": 1 }'))
    assert joined.run == "r1"
    bench.join("w")
    assert only(Coalesced, bench.request("r3", payload='{"a":1,"b":[2]}')).run == "r1", "held, within the window"
    assert only(Ended, bench.complete("r1")).requests == ("r1", "r2", "r3")


@pytest.mark.parametrize("other", [{"payload": "2"}, {"action": "stop"}, {"resource": "deploy://web"}])
def test_what_differs_is_not_merged(other: dict[str, Any]) -> None:
    bench = Bench()
    bench.request("r1", payload="1")
    assert events(bench.request("r2", **({"payload": "1"} | other))) == ["Queued"]


def test_a_waiting_run_takes_equal_requests_for_as_long_as_it_waits() -> None:
    bench = Bench()
    bench.request("r1")
    bench.wait(20_000)
    assert events(bench.request("r2")) == ["Coalesced"]


def test_a_held_run_takes_them_within_the_window_only() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.wait(999)
    assert events(bench.request("r2")) == ["Coalesced"]
    bench.wait(1)
    assert events(bench.request("r3")) == ["Queued"]


def test_a_completed_run_answers_with_one_event_within_the_window() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.complete("r1", result="7")
    outputs = bench.request("r2")
    ended = only(Ended, outputs)
    assert names(outputs) == ["Ended"]
    assert (ended.run, ended.requests, ended.coalesced, ended.repeat) == ("r1", ("r2",), True, False)
    again = only(Ended, bench.request("r2"))
    assert (again.requests, again.repeat, again.coalesced) == (("r2",), True, False)
    bench.wait(1_000)
    assert events(bench.request("r3")) == ["Queued", "Granted"]


def test_nothing_joins_a_failed_run() -> None:
    bench = Bench(policy(attempts=1))
    bench.join("w")
    bench.request("r1")
    bench.fail("r1")
    assert events(bench.request("r2")) == ["Queued", "Granted"]


def test_nothing_joins_a_completed_run_after_another_completed_on_the_resource() -> None:
    bench = Bench(policy(coalesce_ms=60_000))
    bench.join("w", "restart", "stop")
    bench.request("r1")
    bench.complete("r1")
    bench.request("r2", "stop")
    bench.complete("r2")
    assert events(bench.request("r3")) == ["Queued", "Granted"]


def test_nothing_joins_a_run_whose_holder_was_asked_to_stop() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.cancel("r1")
    assert events(bench.request("r2")) == ["Queued"]


def test_nothing_joins_a_retried_run_that_newer_work_has_overtaken() -> None:
    """r1's retry will be superseded by r2: r3, which was asked for after r2, must not go down with it."""
    bench = Bench(policy(backoff_ms=10_000))
    bench.join("w")
    bench.request("r1", payload="1")
    bench.fail("r1")
    bench.request("r2", payload="2")
    bench.complete("r2")
    assert events(bench.request("r3", payload="1")) == ["Queued", "Granted"]


def test_a_request_whose_cancellation_overtook_it_is_not_merged_either() -> None:
    bench = Bench()
    bench.request("r1")
    bench.cancel("r2")
    outputs = bench.request("r2")
    assert events(outputs) == ["Queued", "Ended"]
    assert (only(Ended, outputs).requests, only(Ended, outputs).status) == (("r2",), "cancelled")
    assert bench.states()["r1"] == "Waiting" and bench.lane.kept == {}


# -- the order of the rules ---------------------------------------------------------------------------------------


PRECEDENCE: list[tuple[str, dict[str, Any]]] = [
    ("ID_REUSED", {"id": "used"}),
    ("INTERNAL", {"seen": 10_000}),
    ("IDEMPOTENCY_MISMATCH", {"idempotency_key": "used"}),
    ("VERSION_REQUIRED", {"expected_version": None}),
    ("STALE_VERSION", {"expected_version": "v1"}),
    ("ORDER_VIOLATION", {"requires": ("never",)}),
    ("LIMIT_REACHED", {"action": "drain"}),
    ("LOCK_HELD", {"reject_if_busy": True}),
    ("QUEUE_FULL", {}),
]
"""What a request is refused for, first to last, with what of it makes that so; all else makes every later one so."""


@pytest.mark.parametrize("first", range(len(PRECEDENCE)))
def test_the_first_rule_that_applies_decides(first: int) -> None:
    """Everything that comes later is so as well: it is never what is said."""
    demands = ActionPolicy(limit=Limit(count=1, until=("undrain",)), version_required=True, coalesce_ms=0)
    bench = Bench(policy(actions={"drain": demands}, bounds=Bounds(waiters_per_resource=1)))
    bench.join("w", "drain", "restart")
    bench.request("used", "restart", "0", idempotency_key="used")
    bench.change("v1")
    bench.change("v2")
    bench.complete("used")
    bench.request("d", "drain", "1", expected_version="v3")
    bench.complete("d")
    bench.request("held", "restart", "2")
    bench.request("waits", "restart", "3")
    fields: dict[str, Any] = {"id": "new", "action": "drain", "expected_version": "v9"}
    for code, makes in reversed(PRECEDENCE[first:]):
        if code == "STALE_VERSION" and PRECEDENCE[first][0] == "VERSION_REQUIRED":
            continue  # the one needs a version, the other none
        fields |= makes
    if first > [code for code, _ in PRECEDENCE].index("LIMIT_REACHED"):
        fields |= {"action": "restart"}
    outputs = bench.feed(work(**(fields | {"payload": "9"})))
    told = outputs[0].record
    assert isinstance(told, Refused | DeadLettered) and told.code == PRECEDENCE[first][0]


# -- the right partition ----------------------------------------------------------------------------------------


def _elsewhere(here: int, partitions: int) -> str:
    keys = (f"deploy://app{number}" for number in range(100))
    return next(key for key in keys if partition_of(key.encode(), partitions) != here)


def test_a_request_at_the_wrong_partition_is_sent_on_once_then_is_a_dead_letter() -> None:
    here = partition_of(API.encode(), 4)
    elsewhere = _elsewhere(here, 4)
    there = partition_of(elsewhere.encode(), 4)
    bench = Bench(partition=here, partitions=4)
    for command in (work("r1", resource=elsewhere), Cancellation(id="c1", resource=elsewhere, request="r1")):
        outputs = bench.feed(command)
        assert names(outputs) == ["SentOn"]
        assert only(SentOn, outputs).to_partition == there
        forward = bench.forwards.pop()
        assert (forward.partition, forward.key, forward.record.hops) == (there, elsewhere, 1)  # type: ignore[union-attr]
    assert isinstance(forward.record, Cancellation) and bench.lane.runs == {}
    outputs = bench.feed(work("r2", resource=elsewhere, hops=1))
    assert names(outputs) == ["DeadLettered", "DeadLetter", "Refused"]
    assert (only(Refused, outputs).code, bench.forwards) == ("BAD_RECORD", [])


def test_bytes_that_are_no_record_are_a_dead_letter_that_names_their_place_and_an_answer() -> None:
    bench = Bench()
    outputs = bench.feed(Undecodable("no JSON", None, None), key="k", excerpt="{{{")
    letter = only(DeadLetter, outputs)
    assert names(outputs) == ["DeadLettered", "DeadLetter"]
    place = (letter.topic, letter.partition, letter.offset, letter.code, letter.reason, letter.key, letter.excerpt)
    assert place == ("requests", 0, 1, "BAD_RECORD", "no JSON", "k", "{{{")
    outputs = bench.feed(Undecodable("bad field", "r1", API))
    assert names(outputs) == ["DeadLettered", "DeadLetter", "Refused"]
    refused = only(Refused, outputs)
    assert (refused.request, refused.resource, refused.command) == ("r1", API, "WorkRequest")


def test_an_item_carries_what_was_asked_for_and_the_trace() -> None:
    bench = Bench()
    bench.join("w")
    outputs = bench.request("r1", payload='{"a":1}', actor="ann")
    item = only(WorkItem, outputs)
    assert (item.run, item.resource, item.owner, item.action, item.actor) == ("r1", API, API, "restart", "ann")
    assert (bytes(item.payload), item.requests, item.attempt, item.number) == (b'{"a":1}', ("r1",), 1, 2)
    assert {output.traceparent for output in outputs} == {TRACE}
