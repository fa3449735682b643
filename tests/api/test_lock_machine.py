"""What the holder of a lock learns from its lane's events, on its own clock: without journal or router."""

from __future__ import annotations

from typing import Any

import pytest
from client_lane import TIME

from keylane.lock_machine import UNANSWERED_MAX, LockMachine, ReportMachine, SessionMachine
from keylane.schemas import events
from keylane.schemas.base import ErrorDetail

KEY = "deploy://api"
LANE = 3
SENT_MS = 1_000
TTL_MS = 60_000
MARGIN_MS = 1_000
BASE: dict[str, Any] = {"seq": 5, "clock_ms": 0, "time": TIME, "resource": KEY}
RUN = BASE | {"run": "r-1", "action": "lock"}


def queued(**fields: Any) -> events.Queued:
    return events.Queued(**(RUN | {"request": "r-1", "owner": KEY} | fields))


def granted(claim_ms: int | None = None, **fields: Any) -> events.Granted:
    return events.Granted(
        **(
            RUN
            | {"owner": KEY, "token": 7, "attempt": 1, "session": "s", "holder": "ann", "lease_ms": TTL_MS}
            | {"claim_ms": claim_ms, "requests": ("r-1",)}
            | fields
        )
    )


def coalesced(**fields: Any) -> events.Coalesced:
    return events.Coalesced(**(RUN | {"request": "r-1", "run": "r-0", "token": 7, "lease_ms": TTL_MS} | fields))


def renewed(renewal: str, **fields: Any) -> events.Renewed:
    return events.Renewed(**(RUN | {"token": 7, "renewal": renewal, "lease_ms": TTL_MS} | fields))


def ended(status: str, **fields: Any) -> events.Ended:
    return events.Ended(**(RUN | {"owner": KEY, "status": status, "requests": ("r-1",)} | fields))


def lost(reason: str) -> events.Lost:
    return events.Lost(
        **RUN, token=7, attempt=1, reason=reason, session="s", holder="ann", spent=True, final=True  # type: ignore[arg-type]
    )  # fmt: skip


def fenced(report_id: str, **fields: Any) -> events.Fenced:
    return events.Fenced(**(RUN | {"report": "Renewal", "report_id": report_id, "token": 7, "session": ""} | fields))


def refused(request: str = "r-1", **fields: Any) -> events.Refused:
    said = {"request": request, "code": "LOCK_HELD", "message": "held", "command": "LockRequest"}
    return events.Refused(**(BASE | said | fields))


def stop_asked(by: str) -> events.StopAsked:
    return events.StopAsked(**RUN, token=7, status="cancelled", by=by)


def fed(*said: events.AnyEvent, machine: LockMachine | None = None) -> LockMachine:
    machine = machine or LockMachine("r-1", LANE, SENT_MS)
    for event in said:
        machine.feed(event)
    return machine


def held() -> LockMachine:
    return fed(queued(), granted())


# -- until it is held ---------------------------------------------------------------------------------------------


def test_what_is_granted_as_it_came_counts_from_when_it_was_asked_for() -> None:
    machine = held()
    assert (machine.standing, machine.token, machine.holder, machine.ttl_ms) == ("held", 7, "ann", TTL_MS)
    assert machine.until_ms == SENT_MS + TTL_MS - MARGIN_MS


def test_the_margin_of_a_short_lease_is_a_tenth() -> None:
    assert fed(queued(), granted(lease_ms=2_000)).until_ms == SENT_MS + 1_800


def test_what_had_to_wait_is_not_held_until_its_claim_is_answered_and_counts_from_the_claim() -> None:
    machine = fed(queued(position=1), granted(claim_ms=30_000))
    assert (machine.standing, machine.until_ms) == ("granted", 0)
    machine.sends("c-1", 90_000)
    assert not machine.is_answered("c-1")
    machine.feed(renewed("c-1", claimed=True))
    assert (machine.standing, machine.until_ms, machine.is_answered("c-1")) == (
        "held", 90_000 + TTL_MS - MARGIN_MS, True
    )  # fmt: skip


def test_another_copy_of_the_claim_sent_later_does_not_lengthen_it() -> None:
    machine = fed(queued(), granted(claim_ms=30_000))
    machine.sends("c-1", 90_000)
    fed(renewed("c-1", claimed=True), renewed("c-1"), machine=machine)
    assert machine.until_ms == 90_000 + TTL_MS - MARGIN_MS


def test_a_renewal_that_somebody_else_sent_counts_for_nothing() -> None:
    machine = held()
    machine.feed(renewed("of another"))
    assert machine.until_ms == SENT_MS + TTL_MS - MARGIN_MS


def test_what_its_session_had_already_is_had_under_the_same_token() -> None:
    machine = fed(coalesced(lease_ms=40_000))
    assert (machine.standing, machine.run, machine.token) == ("held", "r-0", 7)
    assert machine.until_ms == SENT_MS + 40_000 - MARGIN_MS
    machine.feed(ended("completed", run="r-0", requests=("r-0",)))
    assert (machine.settled, machine.error, machine.lost) == (True, None, None)


def test_a_first_answer_said_again_changes_nothing() -> None:
    machine = fed(
        queued(), granted(), queued(repeat=True), coalesced(run="r-1", token=None, lease_ms=None, repeat=True)
    )
    assert (machine.standing, machine.token) == ("held", 7)
    assert machine.until_ms == SENT_MS + TTL_MS - MARGIN_MS


def test_a_refusal_names_who_is_in_the_way() -> None:
    error = fed(
        refused(
            holder="ben",
            held_since="2026-11-22T09:00:00Z",
            lease_expires_in_ms=60_000,
            position=2,
            retry_after_ms=5_000,
        )
    ).error
    assert error is not None
    assert (error.code, error.holder, error.held_since, error.position) == (
        "LOCK_HELD",
        "ben",
        "2026-11-22T09:00:00Z",
        2,
    )
    assert (error.retry_after_ms, error.lease_expires_at) == (5_000, "2026-11-22T10:01:00.000Z")
    assert error.conflict_id is None, "a lock that is held is no conflict"


def test_a_wait_that_is_over_names_who_is_in_the_way_too() -> None:
    why = ErrorDetail(code="LOCK_HELD", message="lock (r-0) is holding it")
    event = ended("refused", error=why, holder="ben", lease_expires_in_ms=1, position=1, retry_after_ms=5_000)
    machine = fed(queued(), event)
    assert machine.settled and machine.error is not None
    assert (machine.error.code, machine.error.holder, machine.error.position) == ("LOCK_HELD", "ben", 1)
    assert machine.error.conflict_id is None


def test_a_deadlock_has_its_cycle_and_its_artifact() -> None:
    cycle = ("s1", "deploy://b", "s2", "deploy://a")
    why = ErrorDetail(code="DEADLOCK", message="waiting for it would close a cycle")
    error = fed(queued(), ended("refused", error=why, cycle=cycle, waits_position=9)).error
    assert error is not None
    assert (error.code, error.cycle, error.conflict_id) == ("DEADLOCK", cycle, f"{LANE}-5")


@pytest.mark.parametrize(
    "event",
    [
        events.DeadLettered(
            seq=5, clock_ms=0, time=TIME, topic="requests", offset=1, code="ID_REUSED", reason="used before"
        ),
        refused(code="QUEUE_FULL"),
        events.SentOn(seq=5, clock_ms=0, time=TIME, request="r-1", resource=KEY, to_partition=1),
    ],
)
def test_it_is_over_with_a_code_when_it_is_not_accepted(event: events.AnyEvent) -> None:
    machine = fed(event)
    assert machine.settled and machine.error is not None
    assert machine.error.code in ("ID_REUSED", "QUEUE_FULL", "UNAVAILABLE")


def test_the_refusal_of_another_command_is_not_its_own() -> None:
    assert fed(queued(), refused("other")).standing == "waiting"


# -- while it is held ---------------------------------------------------------------------------------------------


def test_a_renewal_counts_from_when_it_was_sent_once_its_answer_is_read() -> None:
    machine = held()
    machine.sends("c-1", 20_000)
    assert machine.until_ms == SENT_MS + TTL_MS - MARGIN_MS, "sending it is not its acceptance"
    machine.feed(renewed("c-1"))
    assert machine.until_ms == 20_000 + TTL_MS - MARGIN_MS


def test_answers_that_come_in_another_order_never_shorten_it() -> None:
    machine = held()
    machine.sends("c-1", 20_000)
    machine.sends("c-2", 40_000)
    fed(renewed("c-2"), renewed("c-1"), machine=machine)
    assert (machine.until_ms, machine.renewed_ms) == (40_000 + TTL_MS - MARGIN_MS, 40_000)


def test_near_the_longest_hold_no_renewal_reaches_further() -> None:
    machine = held()
    machine.sends("c-1", 50_000)
    machine.feed(renewed("c-1", lease_ms=20_000))
    assert (machine.until_ms, machine.renewable) == (50_000 + 20_000 - MARGIN_MS, False)


def test_one_that_is_blocked_renews_nothing() -> None:
    machine = held()
    machine.sends("c-1", 20_000)
    machine.feed(renewed("c-1", blocked="waits for a quota", lease_ms=41_000))
    assert (machine.until_ms, machine.blocked) == (SENT_MS + TTL_MS - MARGIN_MS, "waits for a quota")
    assert machine.is_answered("c-1") and machine.renewable


def test_a_claim_that_is_blocked_begins_the_lease_all_the_same() -> None:
    machine = fed(queued(), granted(claim_ms=30_000))
    machine.sends("c-1", 20_000)
    machine.feed(renewed("c-1", blocked="waits for a quota", claimed=True))
    assert (machine.until_ms, machine.blocked) == (20_000 + TTL_MS - MARGIN_MS, "waits for a quota")


@pytest.mark.parametrize("reason", ["lease_expired", "session_ended", "unclaimed"])
def test_what_the_lane_says_is_lost_is_lost(reason: str) -> None:
    machine = fed(lost(reason), ended("failed"), machine=held())
    assert (machine.settled, machine.lost) == (True, reason)


def test_a_fenced_renewal_of_its_own_ends_it_and_another_ones_does_not() -> None:
    machine = held()
    machine.sends("c-1", 20_000)
    machine.feed(fenced("of another"))
    assert machine.standing == "held"
    machine.feed(fenced("c-1", status="Done"))
    assert machine.settled and machine.lost == "fenced: the run is Done now"


def test_its_release_ends_it_without_a_loss() -> None:
    for status in ("completed", "cancelled"):
        machine = fed(ended(status), machine=held())
        assert (machine.settled, machine.lost, machine.error) == (True, None, None)


def test_who_asks_for_it_back_is_known() -> None:
    machine = fed(stop_asked("eve"), machine=held())
    assert (machine.standing, machine.stop_by) == ("held", "eve")
    assert fed(stop_asked(""), machine=held()).stop_by == "somebody"


def test_after_its_end_nothing_counts() -> None:
    machine = fed(ended("completed"), lost("lease_expired"), granted(token=9), machine=held())
    assert (machine.lost, machine.token) == (None, 7)


def test_its_memory_of_what_was_not_answered_is_bounded() -> None:
    machine = held()
    for number in range(UNANSWERED_MAX + 3):
        machine.sends(f"c-{number}", 2_000 + number)
    machine.feed(renewed("c-0"))
    assert machine.renewed_ms == SENT_MS, "forgotten, so it does not count"
    machine.feed(renewed(f"c-{UNANSWERED_MAX + 2}"))
    assert machine.renewed_ms == 2_000 + UNANSWERED_MAX + 2


# -- by a credential alone ----------------------------------------------------------------------------------------


def report(*said: events.AnyEvent, is_release: bool = False) -> ReportMachine:
    machine = ReportMachine("c-1", "r-1", 7, LANE, is_release=is_release)
    for event in said:
        machine.feed(event)
    return machine


def test_a_renewal_by_credential_waits_for_its_own_answer() -> None:
    machine = report(renewed("c-0"), fenced("c-0"), ended("completed", token=7))
    assert not machine.settled
    machine.feed(renewed("c-1"))
    assert machine.renewed is not None and machine.settled
    assert report(fenced("c-1", status="Held")).lost == "the run is Held"


@pytest.mark.parametrize(
    ("status", "released", "why"), [("completed", True, None), ("cancelled", True, None), ("failed", False, "failed")]
)
def test_a_release_by_credential_is_answered_by_the_end_of_its_run(
    status: str, released: bool, why: str | None
) -> None:
    machine = report(ended(status, token=6), is_release=True)
    assert not machine.settled, "of another token"
    machine.feed(ended(status, token=7))
    assert (machine.settled, machine.released, machine.lost) == (True, released, why)


def test_a_report_can_be_refused() -> None:
    machine = report(refused("c-1", code="BAD_RECORD", command="Renewal"))
    assert machine.error is not None and machine.error.code == "BAD_RECORD"


def test_the_end_of_a_session_names_what_ended_in_its_lane() -> None:
    machine = SessionMachine("e-1", LANE)
    machine.feed(events.AgentSessionEnded(seq=1, clock_ms=0, time=TIME, ended="e-0", session="s", runs=("r-9",)))
    assert not machine.settled
    machine.feed(events.AgentSessionEnded(seq=2, clock_ms=0, time=TIME, ended="e-1", session="s", runs=("r-1",)))
    assert machine.runs == ("r-1",)
