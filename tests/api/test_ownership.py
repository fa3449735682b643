"""What `who` says of a lane: every state of a resource and of its runs, reached by the core's own steps."""

from __future__ import annotations

import pytest
from core.bench import API, TIME, Bench, policy
from owned import ASKS, SAVED, at, seen, text, waits, who, worked

from keylane.outcome import Wait
from keylane.render import text_of
from keylane.request_status import request_status
from keylane.router.core.policy import ActionPolicy

# -- who holds it -------------------------------------------------------------------------------------------------


def test_nobody_holds_what_nobody_asked_for() -> None:
    owned = who(Bench())
    assert (owned.states, owned.held, owned.waiting, owned.touched) == ((), None, (), ())


@pytest.mark.requirement("S1.1")
def test_from_claimed_over_leased_to_applying() -> None:
    bench = worked(read=0)
    assert who(bench).states == ("claimed",), "granted, and nobody has read the item yet"
    bench.beat("w")
    assert who(bench).states == ("leased",)
    bench.wait(1)
    bench.progress("r1")
    owned = who(bench)
    assert owned.states == ("applying",) and owned.held is not None
    assert (owned.held.holder, owned.held.actor, owned.held.lease_left_ms) == ("w", "ann", 300_000)
    assert owned.held.lease_ends == at(300_001)
    assert f"held by w (token {owned.held.token}, applying, 300 s left)" in text(owned)


def test_a_first_checkpoint_shows_work_as_well() -> None:
    bench = worked()
    bench.progress("r1", checkpoint=SAVED)
    owned = who(bench)
    assert owned.states == ("applying",), "what the holder saved itself was not handed to it"


@pytest.mark.requirement("S1.1")
@pytest.mark.requirement("S1.3")
def test_blocked_is_a_state_of_its_own_and_its_lease_runs_out() -> None:
    bench = worked()
    bench.wait(2_000)
    bench.progress("r1", blocked="waits for a quota")
    owned = who(bench)
    assert owned.states == ("blocked",) and owned.held is not None
    assert (owned.held.blocked, owned.held.lease_ends) == ("waits for a quota", at(300_000))
    assert f"blocked: waits for a quota; lost at {at(300_000)}" in text(owned)


@pytest.mark.requirement("S1.3")
@pytest.mark.parametrize(
    ("then", "attempt", "on_loss"), [("fail", 1, "retry"), ("fail", 2, "fail"), ("review", 2, "review")]
)
def test_what_becomes_of_a_run_when_its_lease_is_lost_is_said_before_and_then_so(
    then: str, attempt: int, on_loss: str
) -> None:
    bench = worked(attempts=2, then=then)
    for _ in range(attempt - 1):
        bench.fail("r1")
        bench.wait(2_000)
    held = who(bench).held
    assert held is not None and (held.state, held.on_loss) == ("leased" if attempt == 1 else "claimed", "retry")
    bench.beat("w")  # it has read the item: else the attempt would not count
    held = who(bench).held
    assert held is not None and (held.attempt, held.renewed_by, held.on_loss) == (attempt, "progress", on_loss)
    bench.leave("w")
    run = bench.lane.runs["r1"]
    assert {"Waiting": "retry", "Done": "fail", "Parked": "review"}[run.state] == on_loss


def test_a_holder_that_was_asked_to_stop_is_stopping() -> None:
    bench = worked()
    bench.cancel("r1")
    owned = who(bench)
    assert owned.states == ("stopping",) and owned.held is not None and owned.held.on_loss == "end"


@pytest.mark.requirement("S1.1")
def test_a_lease_whose_time_has_passed_and_that_nobody_has_ended_is_stale() -> None:
    bench = worked()
    lapse_ms = bench.lane.policy.session_lapse_ms
    assert who(bench, later_ms=lapse_ms - 1).states == ("leased",)
    owned = who(bench, later_ms=lapse_ms)
    assert owned.states == ("stale_lease",), "its worker's time is over before its own"
    assert "stale lease" in text(owned) and "no router has ended it" in text(owned)
    for _ in range(100):
        bench.wait(3_000)
        bench.beat("w")
    assert who(bench).held is None, "where a router is there, it is ended"


@pytest.mark.requirement("S1.1")
@pytest.mark.requirement("S1.4")
def test_what_an_earlier_holder_saved_is_handed_off_to_the_next() -> None:
    bench = worked()
    bench.progress("r1", checkpoint=SAVED)
    bench.leave("w")
    owned = who(bench)
    (pending,) = owned.waiting
    assert owned.states == ("waiting", "handed_off")
    assert (pending.handed_off, pending.previous_end, pending.attempt) == (True, "session_left", 1)
    bench.wait(2_000)
    bench.join("w2")
    bench.beat("w2")
    owned = who(bench)
    assert owned.states == ("leased", "handed_off") and owned.held is not None
    assert (owned.held.holder, owned.held.attempt, owned.held.previous_end) == ("w2", 2, "session_left")
    assert "handed off: goes on from what was saved; the attempt before ended: session_left" in text(owned)


# -- why something waits ------------------------------------------------------------------------------------------


@pytest.mark.requirement("S1.1")
def test_for_the_holder_and_for_the_run_before_it() -> None:
    bench = worked()
    bench.wait(5_000)
    bench.request("r2", payload="2", actor="bob")
    bench.request("r3", payload="3", deadline_ms=60_000)
    first, second = who(bench).waiting
    assert first.wait == Wait(
        reason="held",
        policy="on_conflict",
        holder="w",
        behind="r1",
        since=at(5_000),
        until=at(300_000),
        expires=at(24 * 3_600_000 + 5_000),
    )
    assert (second.position, second.wait.reason, second.wait.behind) == (1, "queued", "r2")
    assert (second.wait.holder, second.wait.until, second.wait.expires) == ("w", None, at(65_000))
    assert "for w, who holds it with r1" in text(who(bench)) and "behind r2, while w holds it" in text(who(bench))


def test_what_is_parked_or_not_ready_is_nobody_to_wait_for() -> None:
    bench = worked(actions={"rollback": ASKS})
    bench.request("p", "rollback")
    bench.request("r2", payload="2")
    assert waits(bench, "r2").behind == "r1"
    bench.request("r3", payload="3")
    bench.fail("r1")
    owned = who(bench)
    assert owned.held is not None and owned.held.run == "r2", "it passes r1, which is between attempts"
    assert {run: waits(bench, run).behind for run in ("r1", "p", "r3")} == {"r1": "r2", "p": "r2", "r3": "r2"}
    assert [waits(bench, run).reason for run in ("r1", "p", "r3")] == ["backoff", "review", "held"]


def test_for_a_free_slot() -> None:
    bench = worked()
    bench.request("other", resource="deploy://other")
    (pending,) = who(bench, "deploy://other").waiting
    assert (pending.wait.reason, pending.wait.policy, pending.wait.until) == ("no_slot", None, None)
    assert "for a free slot of a worker" in text(who(bench, "deploy://other"))


def test_for_a_worker_that_handles_its_action() -> None:
    bench = worked()
    bench.wait(1_000)
    bench.request("u", "polish", resource="deploy://u")
    (pending,) = who(bench, "deploy://u").waiting
    assert (pending.wait.reason, pending.wait.policy) == ("no_worker", "unserved_after")
    assert pending.wait.since == at(1_000)


@pytest.mark.parametrize(
    ("policies", "delay"),
    [
        ({"quiet_ms": 700, "max_delay_ms": 9_000, "max_count": 9}, "quiet"),
        ({"min_interval_ms": 5_000}, "min_interval"),
        ({"quiet_ms": 700, "max_delay_ms": 9_000, "max_count": 9, "min_interval_ms": 5_000}, "quiet"),
    ],
)
def test_for_its_time_and_by_which_policy(policies: dict[str, int], delay: str) -> None:
    bench = Bench(policy(coalesce_ms=0, actions={"scale": ActionPolicy(coalesce_ms=0, **policies)}))  # type: ignore[arg-type]
    bench.join("w", "scale")
    bench.request("s1", "scale")
    bench.wait(700)
    bench.complete("s1")
    bench.request("s2", "scale", "2")
    wait = waits(bench, "s2")
    assert (wait.reason, wait.policy) == (delay, delay)
    ready_ms = bench.run("s2").ready_ms
    assert ready_ms is not None and wait.until == at(ready_ms)
    if delay == "quiet" and "min_interval_ms" in policies:
        bench.wait(700)
        assert waits(bench, "s2").reason == "min_interval", "one after the other"


def test_between_attempts() -> None:
    bench = worked()
    bench.fail("r1")
    wait = waits(bench, "r1")
    ready_ms = bench.run("r1").ready_ms
    assert ready_ms is not None
    assert (wait.reason, wait.policy, wait.until) == ("backoff", "backoff", at(ready_ms))


def test_a_request_is_told_the_same_by_status_with_its_own_deadline() -> None:
    bench = worked()
    bench.request("r2", payload="2")
    bench.request("r3", payload="2", deadline_ms=1_000)
    status = request_status(seen(bench), API, "r3")
    assert status is not None and status.wait is not None
    assert (status.run, status.wait.reason, status.wait.expires) == ("r2", "held", at(1_000))
    assert waits(bench, "r2").expires == at(24 * 3_600_000), "another in its run has no deadline"
    assert "for w, who holds it with r1" in "\n".join(row for row, _ in text_of(status))
    held = request_status(seen(bench), API, "r1")
    assert held is not None and held.wait is None


# -- decisions and conflicts --------------------------------------------------------------------------------------


@pytest.mark.requirement("S1.1")
@pytest.mark.requirement("S1.8")
def test_what_waits_on_review_names_the_conflict_and_the_command_to_decide() -> None:
    bench = worked(actions={"rollback": ASKS})
    bench.request("r-9", "rollback", actor="bob")
    owned = who(bench)
    (pending,) = owned.waiting
    assert owned.states == ("leased", "waiting_on_review", "conflict_detected")
    assert (pending.wait.reason, pending.wait.policy, pending.wait.since) == ("review", "on_conflict", TIME)
    assert pending.conflict == f"0-{bench.run('r-9').order}"
    assert "waiting: rollback r-9 by bob, needs a decision: keylane decide deploy://api r-9" in text(owned)


def test_the_command_to_decide_is_no_place_for_a_requesters_own_words() -> None:
    bench = worked(actions={"rollback": ASKS})
    bench.request("--reject; rm", "rollback")
    assert "keylane decide" not in text(who(bench))
    bench.request("a; rm", "rollback", "2")
    assert "keylane decide deploy://api 'a; rm'" in text(who(bench))


def test_the_last_attempt_that_failed_is_a_question_of_its_own() -> None:
    bench = worked(attempts=1, then="review")
    bench.fail("r1")
    assert waits(bench, "r1").policy == "then"


@pytest.mark.requirement("S1.8")
def test_on_approve_it_goes_after_others_and_is_superseded_where_they_complete_on_the_same_key() -> None:
    bench = worked(actions={"rollback": ASKS})
    bench.request("r2", payload="2")
    bench.request("p", "rollback", expected_version="v1")
    bench.request("r3", payload="3", expected_version="v1")
    on = [each.on_approve for each in who(bench).waiting]
    assert on[0] is None and on[2] is None and on[1] is not None
    assert (on[1].then, on[1].after, on[1].version, on[1].ends) == ("superseded", ("r1", "r2"), "v1", ("r3",))
    assert "superseded if r1 or r2 completes before it" in text(who(bench))
    # And so it comes: the approval says it of what then happens.
    bench.decide("p")
    bench.complete("r1")
    bench.complete("r2")
    assert bench.states()["p"] == "superseded"


@pytest.mark.requirement("S1.8")
def test_on_approve_it_is_granted_where_nothing_is_before_it_and_ends_what_expects_the_same_version() -> None:
    bench = worked(actions={"rollback": ASKS})
    bench.request("p", "rollback")
    bench.complete("r1", version="v2")
    bench.leave("w")
    bench.request("r4", payload="4", expected_version="v2")
    (on, _) = (each.on_approve for each in who(bench).waiting)
    assert on is not None and (on.then, on.after, on.version, on.ends) == ("no_worker", (), "v2", ("r4",))
    bench.join("w", "restart", "rollback", slots=0, generation=2)
    (on, _) = (each.on_approve for each in who(bench).waiting)
    assert on is not None and on.then == "granted"
    bench.decide("p", version_seen="v2")
    (approved, _) = who(bench).waiting
    assert (approved.approved_by, approved.state, approved.on_approve) == ("boss", "waiting", None)
    bench.beat("w", slots=1)
    bench.complete("p", version="v3")
    assert bench.states()["p"] == "completed" and bench.states()["r4"] == "refused"


def test_on_approve_what_expects_a_superseded_version_is_refused() -> None:
    bench = worked(actions={"rollback": ASKS})
    bench.request("p", "rollback", expected_version="v1")
    bench.change("v1")
    bench.change("")
    (pending,) = who(bench).waiting
    assert pending.on_approve is not None and pending.on_approve.then == "refused"


@pytest.mark.requirement("S1.6")
def test_what_was_found_otherwise_than_reported_stands_as_a_conflict_until_somebody_changes_it() -> None:
    bench = worked()
    bench.complete("r1", version="v2", observed_version="v1")
    owned = who(bench)
    assert owned.states == ("conflict_detected",) and owned.last is not None
    assert owned.last.conflict == f"0-{bench.run('r1').ended_order}"
    bench.change("v3")
    assert who(bench).states == ()


# -- who touched it last ------------------------------------------------------------------------------------------


@pytest.mark.requirement("S1.8")
@pytest.mark.requirement("S1.7")
def test_who_touched_it_last_a_holder_or_a_person_outside() -> None:
    bench = worked()
    bench.wait(3_000)
    bench.complete("r1", version="v2")
    owned = who(bench)
    assert [(each.kind, each.id, each.by, each.actor, each.what, each.at) for each in owned.touched] == [
        ("run", "r1", "w", "ann", "restart", at(3_000)),
    ]
    bench.change("v3", id="c-1", by="eve", what="edited")
    owned = who(bench)
    assert [(each.kind, each.id, each.by, each.what) for each in owned.touched] == [
        ("change", "c-1", "eve", "edited"), ("run", "r1", "w", "restart"),
    ]  # fmt: skip
    assert owned.version == "v3" and owned.touched[0].at == TIME
    assert f"touched: edited c-1 by eve, outside keylane, {TIME}" in text(owned)


def test_what_ended_without_a_holder_has_touched_nothing() -> None:
    bench = worked()
    bench.request("r2", payload="2")
    bench.cancel("r2")
    owned = who(bench)
    assert owned.touched == () and owned.last is not None and owned.last.status == "cancelled"


def test_state_of_a_router_that_does_not_say_why_a_run_is_not_ready_is_read_all_the_same() -> None:
    bench = worked()
    bench.fail("r1")
    said = bench.stored[b"run/r1"]
    bench.stored[b"run/r1"] = said.replace(b',"delayed":"backoff"', b"")
    assert len(bench.stored[b"run/r1"]) < len(said)
    assert waits(bench, "r1").reason == "backoff"
    assert waits(bench, "r1").until is not None


def test_a_long_queue_is_told_in_full_and_an_approval_names_few_of_it() -> None:
    bench = worked(actions={"rollback": ASKS})
    for number in range(40):
        bench.request(f"q{number}", payload=str(number), expected_version="v1")
    bench.request("p", "rollback", expected_version="v1")
    for number in range(40):
        bench.request(f"z{number}", payload=str(100 + number), expected_version="v1")
    owned = who(bench)
    assert [each.position for each in owned.waiting] == list(range(81))
    on = owned.waiting[40].on_approve
    assert on is not None and on.after == ("r1", *(f"q{number}" for number in range(15)))
    assert on.ends == tuple(f"z{number}" for number in range(16))
