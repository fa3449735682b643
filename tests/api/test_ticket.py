"""The ticket and cancel machines: what each event means to the one who asked, and what means nothing."""

from __future__ import annotations

import pytest
from client_lane import TIME, ended, granted, queued

from keylane.command_answers import CancelMachine, ToldMachine
from keylane.naming import dead_letter_name, names
from keylane.schemas.base import ErrorDetail
from keylane.schemas.event_parts import Event
from keylane.schemas.events import (
    ApprovalVoided,
    AttemptFailed,
    CancellationKept,
    Changed,
    Coalesced,
    DeadLettered,
    Decided,
    Delayed,
    Lost,
    Parked,
    Progressed,
    Refused,
    Resolved,
    SentOn,
    StopAsked,
    Withdrawn,
)
from keylane.ticket import TicketMachine

BASE = {"seq": 5, "clock_ms": 0, "time": TIME, "resource": "deploy://api"}
WORK = BASE | {"action": "restart"}


def ticket(*events: Event) -> TicketMachine:
    machine = TicketMachine("r-1", "deploy://api", "restart", 3)
    for event in events:
        machine.feed(event)  # type: ignore[arg-type]
    return machine


def coalesced(run: str = "r-0", **fields: object) -> Coalesced:
    return Coalesced(request="r-1", run=run, **(WORK | fields))  # type: ignore[arg-type]


def refused(code: str = "LOCK_HELD", **fields: object) -> Refused:
    return Refused(**(BASE | {"request": "r-1", "code": code, "message": "held"} | fields))  # type: ignore[arg-type]


def test_queued_is_acceptance_with_its_place_and_whether_it_is_served() -> None:
    status = ticket(queued("r-1", position=2, holder="worker-9", unserved=True)).status
    assert status is not None
    assert (status.state, status.position, status.holder, status.unserved) == ("waiting", 2, "worker-9", True)
    assert (status.run, status.coalesced, status.outcome) == ("r-1", False, None)


def test_a_grant_is_followed_to_the_end() -> None:
    machine = ticket(queued("r-1", unserved=True), granted("r-1", "r-1", token=9))
    assert machine.status is not None
    assert (machine.status.state, machine.status.token, machine.status.unserved) == ("held", 9, False)
    machine.feed(ended("r-1", "r-1", version="v2"))
    assert machine.outcome is not None
    assert (machine.outcome.status, machine.outcome.version, machine.outcome.error) == (
        "completed",
        "v2",
        None,
    )


@pytest.mark.parametrize(
    "event",
    [
        AttemptFailed(
            run="r-1", token=7, attempt=1, error=ErrorDetail(code="X", message="x"), retry_in_ms=1, **WORK  # type: ignore[arg-type]
        ),
        Lost(
            run="r-1", token=7, attempt=1, reason="lease_expired", session="s", holder="w", spent=True,
            final=False, **WORK,  # type: ignore[arg-type]
        ),
    ],
    ids=["failed", "lost"],
)  # fmt: skip
def test_an_attempt_that_ends_puts_it_back_to_waiting(event: Event) -> None:
    machine = ticket(queued("r-1"), granted("r-1", "r-1"), event)
    assert machine.status is not None
    assert (machine.status.state, machine.status.holder) == ("waiting", None)


def test_a_blocked_holder_is_shown_until_it_goes_on() -> None:
    def progressed(blocked: str | None) -> Progressed:
        return Progressed(run="r-1", token=7, blocked=blocked, **WORK)  # type: ignore[arg-type]

    machine = ticket(queued("r-1"), granted("r-1", "r-1"), progressed("waits for a quota"))
    assert machine.status is not None and machine.status.blocked == "waits for a quota"
    machine.feed(progressed(None))
    assert machine.status.blocked is None


def test_a_merged_request_gets_its_runs_outcome() -> None:
    machine = ticket(coalesced(), ended("r-0", "r-0", "r-1"))
    assert machine.outcome is not None
    assert (machine.outcome.run, machine.outcome.coalesced) == ("r-0", True)


def test_one_event_can_be_acceptance_and_end() -> None:
    machine = ticket(ended("r-0", "r-1", coalesced=True))
    assert machine.status is not None and machine.status.state == "done"
    assert machine.outcome is not None and machine.outcome.coalesced


def test_parked_needs_a_decision() -> None:
    machine = ticket(Parked(request="r-1", run="r-1", **WORK))  # type: ignore[arg-type]
    assert machine.status is not None and machine.status.state == "parked"


def test_a_refusal_carries_who_holds_it_and_until_when() -> None:
    outcome = ticket(
        refused(retry_after_ms=500, holder="w", position=1, lease_expires_in_ms=60_000, held_since=TIME)
    ).outcome
    assert outcome is not None and outcome.error is not None
    assert outcome.status == "refused"
    assert outcome.error.lease_expires_at == "2026-11-22T10:01:00.000Z"
    assert (outcome.error.retry_after_ms, outcome.error.holder, outcome.error.position) == (500, "w", 1)
    assert outcome.conflict_id == outcome.error.conflict_id == "3-5"
    assert outcome.error.suggestion


def test_a_repeated_refusal_names_no_artifact_of_its_own() -> None:
    outcome = ticket(refused(repeat=True)).outcome
    assert outcome is not None and outcome.repeated and outcome.conflict_id is None


def test_the_refusal_of_a_cancellation_is_not_the_requests() -> None:
    assert ticket(refused(command="Cancellation", code="TOO_LATE")).status is None


def test_a_repeat_is_known_by_the_first_answer() -> None:
    machine = ticket(queued("r-1", repeat=True), ended("r-1", "r-1"))
    assert machine.outcome is not None and machine.outcome.repeated


def test_the_answer_to_a_second_copy_changes_nothing() -> None:
    machine = ticket(queued("r-1"), granted("r-1", "r-1"))
    before = machine.status
    machine.feed(queued("r-1", repeat=True))
    assert machine.status == before
    machine.feed(ended("r-1", "r-1", repeat=True))
    assert machine.outcome is not None and not machine.outcome.repeated


def test_after_the_end_nothing_counts() -> None:
    machine = ticket(queued("r-1"), ended("r-1", "r-1"))
    before = machine.status
    machine.feed(ended("r-1", "r-1", status="failed", repeat=True))
    machine.feed(refused())
    assert machine.status == before


@pytest.mark.parametrize(
    ("fields", "code", "recorded"),
    [
        ({"status": "failed", "error": ErrorDetail(code="DISK", message="full")}, "DISK", False),
        ({"status": "superseded", "superseded_by": "r-2"}, "SUPERSEDED", True),
        ({"status": "expired"}, "EXPIRED", True),
        ({"status": "rejected"}, "REJECTED", False),
        ({"status": "cancelled"}, "CANCELLED", False),
    ],
)
def test_every_other_end_says_why(fields: dict[str, object], code: str, recorded: bool) -> None:
    outcome = ticket(queued("r-1"), ended("r-1", "r-1", **fields)).outcome
    assert outcome is not None and outcome.error is not None
    assert outcome.error.code == code
    assert (outcome.conflict_id is not None) == recorded


def test_a_result_seen_otherwise_names_its_artifact() -> None:
    outcome = ticket(queued("r-1"), ended("r-1", "r-1", version="v2", observed_version="v1")).outcome
    assert outcome is not None
    assert (outcome.status, outcome.conflict_id) == ("completed", "3-3")


def test_withdrawn_ends_this_request_alone() -> None:
    leaving = Withdrawn(request="r-1", run="r-0", status="expired", **WORK)  # type: ignore[arg-type]
    other = Withdrawn(request="r-0", run="r-0", status="cancelled", **WORK)  # type: ignore[arg-type]
    machine = ticket(coalesced(), other)
    assert machine.outcome is None
    machine.feed(leaving)
    assert machine.outcome is not None and machine.outcome.status == "expired"
    assert machine.outcome.conflict_id == "3-5"


def test_a_withdrawal_that_is_said_again_is_a_repeat_and_no_new_conflict() -> None:
    again = Withdrawn(request="r-1", run="r-0", status="expired", repeat=True, **WORK)  # type: ignore[arg-type]
    outcome = ticket(again).outcome
    assert outcome is not None and (outcome.repeated, outcome.conflict_id) == (True, None)


def test_a_run_that_ends_for_others_is_not_its_end() -> None:
    assert ticket(coalesced(), ended("r-0", "r-0")).outcome is None


def test_a_dead_letter_of_its_own_record_is_a_refusal() -> None:
    letter = DeadLettered(topic="requests", offset=12, code="ID_REUSED", reason="other content", **{
        name: BASE[name] for name in ("seq", "clock_ms", "time")
    })  # type: ignore[arg-type]  # fmt: skip
    assert names(letter) == (dead_letter_name("requests", 12),)
    outcome = ticket(letter).outcome
    assert outcome is not None and outcome.error is not None and outcome.error.code == "ID_REUSED"
    assert outcome.conflict_id == "3-5", "that is a clash, as a record that cannot be read is not"


def test_a_request_sent_on_cannot_be_followed() -> None:
    machine = ticket(SentOn(request="r-1", to_partition=2, **BASE))  # type: ignore[arg-type]
    assert (machine.moved_to, machine.settled, machine.outcome) == (2, True, None)


# -- a person is asked ----------------------------------------------------------------------------------------------


def parked(request: str = "r-1", run: str = "r-1", **fields: object) -> Parked:
    return Parked(request=request, run=run, owner="deploy://api", **(WORK | fields))  # type: ignore[arg-type]


def decided(verdict: str, run: str = "r-1") -> Decided:
    about = {"decision": "d-1", "request": run, "run": run, "owner": "deploy://api", "by": "boss"}
    return Decided(verdict=verdict, version_seen="v1", conflict="3-5", **about, **WORK)  # type: ignore[arg-type]


def voided(run: str = "r-1") -> ApprovalVoided:
    about = {"run": run, "owner": "deploy://api", "decision": "d-1", "by": "boss", "change": "c-1"}
    return ApprovalVoided(expires_in_ms=9, **about, **(WORK | {"seq": 9}))  # type: ignore[arg-type]


def reviewed(machine: TicketMachine) -> tuple[object, ...]:
    assert machine.status is not None
    return (machine.status.state, machine.status.review, machine.status.decided_by, machine.status.conflict_id)


@pytest.mark.requirement("S1.5")
def test_a_requester_is_told_that_its_request_needs_a_decision_and_what_was_decided() -> None:
    machine = ticket(parked())
    assert reviewed(machine) == ("parked", "needs_decision", None, "3-5")
    machine.feed(decided("approve"))
    assert reviewed(machine) == ("waiting", "approved", "boss", None)
    machine.feed(voided())
    assert reviewed(machine) == ("parked", "approval_voided", None, "3-9")
    machine.feed(decided("reject"))
    assert not machine.settled, "its end follows"
    machine.feed(ended("r-1", "r-1", status="rejected", error=ErrorDetail(code="REJECTED", message="no")))
    assert machine.outcome is not None and machine.outcome.status == "rejected"


def test_who_was_merged_is_told_the_same() -> None:
    machine = ticket(coalesced("r-0", parked=True))
    assert reviewed(machine) == ("parked", "needs_decision", None, None)
    machine.feed(decided("approve", "r-0"))
    assert reviewed(machine) == ("waiting", "approved", "boss", None)
    machine = ticket(coalesced("r-0"), granted("r-0", "r-0", "r-1"), parked("r-0", "r-0", reason="attempts"))
    assert reviewed(machine) == ("parked", "needs_decision", None, "3-5")
    machine = ticket(coalesced("r-0"), decided("approve", "r-9"), voided("r-9"))
    assert reviewed(machine)[1] is None, "of another run"


def test_a_repeat_of_being_parked_names_no_artifact() -> None:
    assert reviewed(ticket(parked(repeat=True))) == ("parked", "needs_decision", None, None)
    assert reviewed(ticket(parked(), parked(repeat=True, seq=8)))[3] == "3-5"


def test_a_delay_says_for_how_long_and_a_grant_ends_it() -> None:
    machine = ticket(queued("r-1"), Delayed(run="r-1", ready_in_ms=700, **WORK))  # type: ignore[arg-type]
    assert machine.status is not None and (machine.status.state, machine.status.ready_in_ms) == ("waiting", 700)
    machine.feed(granted("r-1", "r-1"))
    assert machine.status.ready_in_ms is None


# -- other commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        decided("approve"),
        Changed(change="d-1", version="v2", by="a", what="edit", effect="applied", owner="", **BASE),  # type: ignore[arg-type]
        Resolved(resolution="d-1", conflict="3-1", by="a", note="n", **BASE),  # type: ignore[arg-type]
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_first_answer_to_a_persons_command_is_the_answer(event: Event) -> None:
    """A copy of a decision that was applied is refused TOO_LATE: that is nothing to the one who decided."""
    machine = ToldMachine("d-1", 3)
    machine.feed(refused(request="d-2", command="Decision", code="TOO_LATE"))
    assert not machine.settled
    assert "d-1" in names(event)  # type: ignore[arg-type]
    machine.feed(event)  # type: ignore[arg-type]
    machine.feed(refused(request="d-1", command="Decision", code="TOO_LATE"))
    assert (machine.answer, machine.error) == (event, None)


def test_a_persons_command_that_is_refused_says_why_and_where_it_is_on_record() -> None:
    machine = ToldMachine("d-1", 3)
    machine.feed(refused(request="d-1", command="Decision", code="STALE_VERSION"))
    machine.feed(decided("approve"))
    assert machine.answer is None and machine.error is not None
    assert (machine.error.code, machine.error.conflict_id) == ("STALE_VERSION", "3-5")


def test_a_persons_command_that_was_sent_on_cannot_be_followed() -> None:
    machine = ToldMachine("d-1", 3)
    machine.feed(SentOn(request="d-1", to_partition=2, **BASE))  # type: ignore[arg-type]
    assert machine.error is not None and machine.error.code == "UNAVAILABLE"


def cancel(*events: Event) -> CancelMachine:
    machine = CancelMachine("c-1", "r-1", 3)
    for event in events:
        machine.feed(event)  # type: ignore[arg-type]
    return machine


def test_a_cancellation_that_was_sent_on_cannot_be_followed() -> None:
    error = cancel(SentOn(request="c-1", to_partition=2, **BASE)).error  # type: ignore[arg-type]
    assert error is not None and (error.code, "partition 2" in error.message) == ("UNAVAILABLE", True)
    elsewhere = cancel(SentOn(request="r-1", to_partition=2, **BASE))  # type: ignore[arg-type]
    assert elsewhere.error is None, "the request was sent on, which says nothing about its cancellation"


def stop_asked(run: str, status: str = "cancelled") -> StopAsked:
    return StopAsked(run=run, token=7, status=status, by="a", **WORK)  # type: ignore[arg-type]


def test_withdrawal_answers_a_cancellation() -> None:
    assert cancel(Withdrawn(request="r-1", run="r-1", status="cancelled", **WORK)).answer == "withdrawn"  # type: ignore[arg-type]
    assert cancel(ended("r-1", "r-1", status="cancelled")).answer == "withdrawn"


def test_a_stop_of_its_run_answers_a_cancellation() -> None:
    assert cancel(stop_asked("r-1")).answer == "stop_asked"
    assert cancel(stop_asked("r-0")).answer is None
    assert cancel(coalesced(), stop_asked("r-0")).answer == "stop_asked"
    assert cancel(stop_asked("r-1", status="superseded")).answer is None


def test_a_cancellation_too_late_or_of_nothing_is_refused() -> None:
    late = cancel(refused(request="c-1", command="Cancellation", code="TOO_LATE")).error
    assert late is not None and late.code == "TOO_LATE"
    unknown = cancel(CancellationKept(request="r-1", cancellation="c-1", **BASE)).error  # type: ignore[arg-type]
    assert unknown is not None and unknown.code == "NOT_FOUND"
