"""Runs that a person has to decide on: what parks them, what a decision is bound to, and what takes it back."""

from __future__ import annotations

from typing import Any

import pytest
from core.bench import API, UNSAID, Bench, events, image, kinds, names, of, only, policy

from keylane.router.core.policy import ActionPolicy, Bounds
from keylane.schemas.conflicts import ConflictArtifact, ConflictResolved
from keylane.schemas.events import (
    ApprovalVoided,
    Coalesced,
    Decided,
    Ended,
    Granted,
    Parked,
    Refused,
    Resolved,
    Withdrawn,
)
from keylane.schemas.items import WorkItem
from keylane.schemas.requests import Decision

DAY_MS = 24 * 3_600_000
ASKS = ActionPolicy(on_conflict="review", coalesce_ms=0, backoff_ms=1_000)


def serving(**fields: Any) -> Bench:
    bench = Bench(policy(**{"actions": {"rollback": ASKS}} | fields))
    bench.join("w", "restart", "rollback", "look", slots=9)
    return bench


def parked(**fields: Any) -> Bench:
    """r1 is held, and the rollback p waits for a person."""
    bench = serving(**fields)
    bench.request("r1")
    bench.request("p", "rollback", "1", actor="ann")
    return bench


# -- what parks -------------------------------------------------------------------------------------------------


@pytest.mark.requirement("S0.2")
def test_what_meets_other_work_is_parked_and_the_artifact_names_both_sides() -> None:
    bench = serving()
    bench.request("r1", actor="bob", expected_version="v1")
    outputs = bench.request("p", "rollback", actor="ann")
    event, artifact = only(Parked, outputs), only(ConflictArtifact, outputs)
    assert names(outputs) == ["Parked", "ConflictArtifact"]
    assert (event.run, event.owner, event.reason, event.expires_in_ms) == ("p", API, "on_conflict", 7 * DAY_MS)
    assert (artifact.kind, artifact.next_step) == ("parked", "ask_a_person")
    assert [(side.actor, side.version) for side in artifact.parties] == [("ann", None), ("bob", "v1")]
    assert bench.lane.parked == {API: [(bench.run("p").order, "p")]}


def test_where_nothing_is_met_nobody_is_asked() -> None:
    assert events(serving().request("p", "rollback")) == ["Queued", "Granted"]


def test_a_parked_run_counts_for_review_alone_and_blocks_nobody() -> None:
    bench = parked(actions={"rollback": ASKS, "strict": ActionPolicy(on_conflict="reject")})
    bench.complete("r1")
    assert only(Parked, bench.request("p2", "rollback", "2")).run == "p2"
    assert events(bench.request("s", "strict")) == ["Queued"]
    bench.cancel("s")
    assert events(bench.request("r2", payload="2", reject_if_busy=True)) == ["Queued", "Granted"]


@pytest.mark.parametrize(("other", "expected"), [("restart", "Parked"), ("look", "Queued"), ("block", "Refused")])
def test_by_the_action_that_is_met_and_a_refusal_comes_before_a_question(other: str, expected: str) -> None:
    by_action = {"look": "queue", "block": "reject"}
    bench = serving(actions={"rollback": ActionPolicy(on_conflict="review", on_conflict_with=by_action)})  # type: ignore[arg-type]
    bench.request("r0", "block" if other == "block" else "look")
    bench.request("r1", other, "1")
    assert events(bench.request("p", "rollback"))[0] == expected


@pytest.mark.requirement("M.2")
def test_an_equal_request_joins_it_and_is_told_that_it_is_parked() -> None:
    bench = parked()
    bench.wait(60_000)
    assert only(Coalesced, bench.request("p2", "rollback", "1")).parked
    assert only(Parked, bench.request("p3", "rollback", "2")).run == "p3", "another payload is another question"
    bench.decide("p2", "reject")
    assert of(Ended, bench.published)[-1].requests == ("p", "p2")


def test_a_repeat_gets_its_first_answer_whatever_has_become_of_it() -> None:
    bench = parked()
    bench.decide("p")
    outputs = bench.request("p", "rollback", "1", actor="ann")
    assert (names(outputs), only(Parked, outputs).repeat) == (["Parked"], True)


def test_waiters_are_bounded_with_those_that_are_parked() -> None:
    bench = parked(bounds=Bounds(waiters_per_resource=2))
    bench.request("r2", payload="2")
    assert only(Refused, bench.request("r3", payload="3")).code == "QUEUE_FULL"


# -- a decision -------------------------------------------------------------------------------------------------


def test_an_approved_run_waits_in_the_place_of_its_acceptance() -> None:
    bench = parked()
    bench.request("r2", payload="2")
    outputs = bench.decide("p", by="boss", note="go")
    decided, resolved = only(Decided, outputs), only(ConflictResolved, outputs)
    assert (decided.request, decided.run, decided.verdict, decided.by, decided.note) == (
        "p",
        "p",
        "approve",
        "boss",
        "go",
    )
    assert (resolved.conflict, resolved.by, resolved.note) == (f"0-{bench.run('p').order}", "boss", "go")
    assert resolved.conflict == decided.conflict
    bench.fail("r1", final=True)
    assert bench.states() == {"r1": "failed", "p": "Held", "r2": "Waiting"}


def test_a_rejected_run_ends_with_the_note() -> None:
    bench = parked()
    outputs = bench.decide("p", "reject", note="not today")
    ended = only(Ended, outputs)
    assert names(outputs) == ["Decided", "ConflictResolved", "Ended"]
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.error.message) == ("rejected", "REJECTED", "not today")
    assert only(Ended, bench.request("p", "rollback", "1", actor="ann")).status == "rejected"


@pytest.mark.parametrize(
    ("seen", "code"), [("v1", "STALE_VERSION"), ("", "VERSION_REQUIRED"), ("v2", None), ("v9", None)]
)
def test_an_approval_is_bound_to_a_version_that_is_not_superseded(seen: str, code: str | None) -> None:
    bench = parked()
    bench.change("v1")
    bench.change("v2")
    outputs = bench.decide("p", version_seen=seen, by="boss")
    if code is None:
        assert events(outputs)[0] == "Decided"
        return
    refused = only(Refused, outputs)
    assert (refused.code, refused.command, refused.actor, refused.known_version) == (code, "Decision", "boss", "v2")
    assert kinds(outputs) == (["stale_version"] if code == "STALE_VERSION" else [])
    assert bench.states()["p"] == "Parked"
    assert events(bench.decide("p", "reject", version_seen=seen)) == ["Decided", "Ended"], "to refuse is always safe"


def test_a_second_decision_hears_how_the_run_stands() -> None:
    bench = parked()
    bench.decide("p")
    refused = only(Refused, bench.decide("p", "reject"))
    assert (refused.code, refused.message) == ("TOO_LATE", "it waits for no decision: it is waiting for its turn")


def test_a_decision_is_bound_to_the_payload_if_it_names_one() -> None:
    bench = parked()
    assert only(Refused, bench.decide("p", digest="other")).code == "STALE_VERSION"
    assert events(bench.decide("p", digest=bench.run("p").digest)) == ["Decided"]


def test_the_version_that_was_seen_travels_with_the_item() -> None:
    bench = serving()
    bench.request("r1")
    bench.change("v1")
    bench.request("p", "rollback", expected_version="v1")
    bench.change("v2")
    bench.decide("p", version_seen="v2")
    item = only(WorkItem, bench.fail("r1", final=True))
    assert (item.run, item.expected_version) == ("p", "v2")


def test_approving_takes_nothing_away_from_order_and_limits() -> None:
    bench = serving(actions={"rollback": ActionPolicy(on_conflict="review", requires=("restart",))})
    bench.request("r0")
    bench.complete("r0")
    bench.request("x", "look")
    bench.request("p", "rollback")
    bench.decide("p")
    bench.complete("x")
    assert bench.states()["p"] == "superseded"


@pytest.mark.parametrize("field", ["by", "version_seen", "digest", "note"])
def test_a_misshapen_decision_is_refused(field: str) -> None:
    bench = parked()
    fields = {"id": "d", "resource": API, "request": "p", "verdict": "approve", "by": "a", "version_seen": ""}
    refused = only(Refused, bench.feed(Decision(**(fields | {field: "x" * 2_049}))))  # type: ignore[arg-type]
    assert (refused.code, bench.states()["p"]) == ("BAD_RECORD", "Parked")


# -- only forward, and back to review -----------------------------------------------------------------------------


@pytest.mark.requirement("S0.4")
def test_an_approved_run_is_superseded_by_what_completes_before_its_turn() -> None:
    bench = parked()
    bench.decide("p")
    outputs = bench.complete("r1")
    ended = of(Ended, outputs)[1]
    assert (ended.run, ended.status, ended.superseded_by, kinds(outputs)) == ("p", "superseded", "r1", ["superseded"])


def test_what_completed_before_the_decision_or_is_harmless_does_not_count() -> None:
    bench = parked(actions={"rollback": ASKS, "restart": ActionPolicy(harmless=True)})
    bench.request("r2", "look", resource="deploy://web")
    bench.decide("p")
    assert only(Granted, bench.complete("r1")).run == "p"


@pytest.mark.requirement("S1.7")
def test_a_change_takes_back_the_approvals_that_were_given_before_it() -> None:
    bench = parked()
    bench.decide("p", by="boss", id="d1")
    outputs = bench.change("v2", by="cy", id="c1")
    event, artifact = only(ApprovalVoided, outputs), of(ConflictArtifact, outputs)[0]
    assert (event.run, event.decision, event.by, event.change, event.known_version) == ("p", "d1", "boss", "c1", "v2")
    assert (artifact.kind, [side.actor for side in artifact.parties]) == ("approval_voided", ["ann", "cy"])
    assert bench.states()["p"] == "Parked"
    resolved = only(ConflictResolved, bench.decide("p", version_seen="v2"))
    assert resolved.conflict == artifact.id
    assert bench.states()["p"] == "Waiting"


@pytest.mark.requirement("S1.7")
@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_change_while_it_is_held_takes_the_approval_back_before_the_next_attempt(how: str) -> None:
    bench = parked()
    bench.decide("p")
    bench.fail("r1", final=True)
    bench.change("v2")
    bench.beat("w", slots=9)
    bench.fail("p") if how == "failed" else bench.leave("w")
    bench.join("v", "rollback")
    bench.wait(1_000)
    assert (bench.states()["p"], events(bench.published)[-1]) == ("Parked", "ApprovalVoided")
    assert image(bench.restored()) == image(bench.lane)


def test_a_change_that_is_no_news_voids_nothing() -> None:
    bench = parked()
    bench.change("v1", source="web", sequence=5)
    bench.decide("p", version_seen="v1")
    bench.change("v1", source="hook")
    bench.change("v0", source="web", sequence=4)
    assert bench.states()["p"] == "Waiting"


# -- after the last attempt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["failed", "lost"])
def test_after_the_last_attempt_a_person_may_be_asked(how: str) -> None:
    bench = serving(attempts=1, then="review", actions={})
    bench.request("r1")
    bench.beat("w", slots=9)
    outputs = bench.fail("r1") if how == "failed" else bench.leave("w")
    event = only(Parked, outputs)
    assert (event.reason, event.attempt, event.token is not None) == ("attempts", 1, True)
    assert kinds(outputs) == (["parked"] if how == "failed" else ["lease_expired", "parked"])
    assert (bench.states()["r1"], bench.run("r1").session, bench.lane.held) == ("Parked", "", {})
    bench.join("v", "restart")
    assert only(Granted, bench.decide("r1")).attempt == 2
    bench.fail("r1")
    assert bench.states()["r1"] == "Parked", "one attempt an approval"
    assert events(bench.request("r1")) == ["Queued"], "its first answer"


def test_what_the_holder_says_is_final_asks_nobody() -> None:
    bench = serving(attempts=1, then="review")
    bench.request("r1")
    bench.fail("r1", final=True)
    assert bench.states()["r1"] == "failed"


# -- no state waits for ever --------------------------------------------------------------------------------------


def test_what_nobody_decides_ends_undecided() -> None:
    bench = parked(actions={"rollback": ActionPolicy(on_conflict="review", review_ms=5_000)})
    assert bench.wait(4_999) == []
    outputs = bench.wait(1)
    ended = only(Ended, outputs)
    assert ended.error is not None
    assert (ended.status, ended.error.message[:9], kinds(outputs)) == ("expired", "undecided", ["wait_expired"])
    assert only(Refused, bench.decide("p")).code == "TOO_LATE"


def test_what_is_known_of_a_resource_is_kept_while_a_person_is_asked() -> None:
    bench = parked(bounds=Bounds(resources=1))
    bench.change("v1")
    bench.change("v2")
    bench.fail("r1", final=True)
    for number in range(3):
        bench.request(f"x{number}", resource=f"deploy://{number}")
        bench.complete(f"x{number}")
    bench.forget(100)
    assert only(Refused, bench.decide("p", version_seen="v1")).code == "STALE_VERSION"


def test_deadlines_go_on_while_a_person_is_asked() -> None:
    bench = parked()
    bench.request("p2", "rollback", "1", deadline_ms=5_000)
    bench.request("q", "rollback", "2", deadline_ms=6_000)
    assert only(Withdrawn, bench.wait(5_000)).request == "p2"
    assert (only(Ended, bench.wait(1_000)).run, bench.states()["p"]) == ("q", "Parked")


def test_a_loaded_lane_asks_the_same_person_the_same() -> None:
    bench = parked()
    bench.request("p2", "rollback", "2")
    bench.decide("p2", version_seen="v1")
    assert image(bench.restored()) == image(bench.lane)
    bench.reload()
    assert events(bench.decide("p")) == ["Decided"]
    assert bench.states() == {"r1": "Held", "p": "Waiting", "p2": "Waiting"}


@pytest.mark.requirement("S1.7")
def test_a_decision_about_an_earlier_asking_is_not_taken_for_the_one_of_now() -> None:
    """The record of an approval that was voided comes again: nobody has said yes to what is there now."""
    bench = parked()
    bench.change("v1")
    asked = f"{bench.lane.partition}-{bench.run('p').review.order}"  # type: ignore[union-attr]
    bench.decide("p", id="d", version_seen="v1", conflict=asked)
    bench.change("v2")
    before = bench.run("p")
    refused = only(Refused, bench.decide("p", "reject", id="d", version_seen="v1", conflict=asked))
    assert (refused.code, bench.run("p")) == ("TOO_LATE", before)
    again = f"{bench.lane.partition}-{before.review.order}"  # type: ignore[union-attr]
    assert again in refused.message
    assert only(Decided, bench.decide("p", version_seen="v2", conflict=again)).conflict == again


# -- conflicts that ask for no decision ---------------------------------------------------------------------------


@pytest.mark.requirement("S1.9")
def test_a_person_closes_a_conflict_with_a_note() -> None:
    bench = serving()
    bench.request("r1")
    artifact = only(ConflictArtifact, bench.complete("r1", token=1))
    before = image(bench.lane) | UNSAID
    outputs = bench.resolve(artifact.id, id="x", by="ann", note="a worker of before", resource=artifact.resource)
    assert names(outputs) == ["Resolved", "ConflictResolved"]
    said, resolved = only(Resolved, outputs), only(ConflictResolved, outputs)
    assert (said.resolution, said.conflict, said.by, said.note) == ("x", artifact.id, "ann", "a worker of before")
    assert (resolved.conflict, resolved.resource, resolved.by) == (artifact.id, artifact.resource, "ann")
    assert image(bench.lane) | UNSAID == before, "it is on the record, and changes nothing"


@pytest.mark.parametrize(
    "conflict", ["{other}-1", "{own}-0", "{own}-99", "{own}-01", "{own}-", "{own}-\u0661", "x", "{own}"]
)
def test_what_this_lane_cannot_have_published_is_not_found(conflict: str) -> None:
    bench = parked()
    own = bench.lane.partition
    refused = only(Refused, bench.resolve(conflict.format(own=own, other=own + 1)))
    assert (refused.code, refused.command, refused.actor) == ("NOT_FOUND", "Resolution", "ann")


def test_what_waits_for_a_decision_is_closed_by_one() -> None:
    bench = parked()
    artifact = of(ConflictArtifact, bench.published)[-1]
    refused = only(Refused, bench.resolve(artifact.id))
    assert (refused.code, bench.run("p").state) == ("BAD_RECORD", "Parked")
    assert "decide" in refused.message
    bench.cancel("p")
    assert names(bench.resolve(artifact.id)) == ["Resolved", "ConflictResolved"], "nobody will decide on it any more"


@pytest.mark.parametrize("field", ["by", "note", "conflict"])
def test_a_resolution_says_who_why_and_which(field: str) -> None:
    bench = parked()
    fields = {"conflict": f"{bench.lane.partition}-1"} | {field: ""}
    assert only(Refused, bench.resolve(**fields)).code == "BAD_RECORD"  # type: ignore[arg-type]
    assert only(Refused, bench.resolve(**fields | {field: "x" * 2_049})).code == "BAD_RECORD"  # type: ignore[arg-type]


def test_a_resolution_of_a_resource_that_is_no_key_is_taken() -> None:
    """A late report may have named anything, and its conflict is to be closed all the same."""
    bench = parked()
    long = "no key \x1b" + "x" * 2_000
    said = only(Resolved, bench.resolve(f"{bench.lane.partition}-1", resource=long))
    assert said.resource == long[:512]
