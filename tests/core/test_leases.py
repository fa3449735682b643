"""Leases, attempts, retries and late reports: what a run goes through once it has been granted."""

from __future__ import annotations

import pytest
from core.bench import API, FIRST_TOKEN, UNSAID, Bench, events, image, kinds, names, of, only, policy
from msgspec import Raw

from keylane.router.core.endings import backoff_ms
from keylane.router.core.policy import Bounds
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import AttemptFailed, Ended, Fenced, Granted, Lost, Progressed, Refused
from keylane.schemas.items import Checkpoint, Notice, WorkItem
from keylane.schemas.results import Progress

LEASE_MS = 300_000


def held(**defaults: int) -> Bench:
    """r1 held by w, whose session never lapses by itself here."""
    bench = Bench(policy(**defaults))
    bench.policy = bench.lane.policy = type(bench.policy)(defaults=bench.policy.defaults, session_lapse_ms=10**9)
    bench.join("w", slots=4)
    bench.request("r1")
    bench.beat("w", slots=4)
    return bench


def test_a_lease_ends_at_its_own_deadline_and_the_holder_is_told() -> None:
    bench = held()
    assert bench.wait(LEASE_MS - 1) == []
    outputs = bench.wait(1)
    lost = only(Lost, outputs)
    assert (lost.reason, lost.token, lost.attempt, lost.spent, lost.final) == (
        "lease_expired", FIRST_TOKEN + 1, 1, True, False,
    )  # fmt: skip
    notice = only(Notice, outputs)
    assert (notice.kind, notice.token, kinds(outputs)) == ("lost", FIRST_TOKEN + 1, ["lease_expired"])
    assert bench.run("r1").state == "Waiting" and bench.run("r1").ready_ms == bench.clock_ms + lost.retry_in_ms


def test_a_lease_ends_with_its_session() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.beat("w")
    outputs = bench.wait(10_000)
    assert events(outputs) == ["WorkerClosed", "Lost"] and only(Lost, outputs).reason == "session_lapsed"
    assert bench.clock_ms == 10_000


def test_progress_renews_and_a_lapsed_lease_never_comes_back() -> None:
    bench = held()
    bench.wait(LEASE_MS - 1)
    assert events(bench.progress("r1")) == ["Progressed"]
    assert bench.wait(LEASE_MS - 1) == []
    bench.wait(1)
    before = image(bench.lane)["runs"]
    assert events(bench.progress("r1", FIRST_TOKEN + 1)) == ["Fenced"]
    assert image(bench.lane)["runs"] == before


def test_blocked_stops_renewal_and_shows_until_progress_without_it() -> None:
    bench = held()
    bench.wait(100_000)
    assert only(Progressed, bench.progress("r1", blocked="waits for CI " + "x" * 600)).blocked is not None
    assert (bench.run("r1").lease_until_ms, len(bench.run("r1").blocked or "")) == (LEASE_MS, 512)
    bench.progress("r1")
    assert (bench.run("r1").lease_until_ms, bench.run("r1").blocked) == (100_000 + LEASE_MS, None)


def test_no_renewal_reaches_beyond_max_hold() -> None:
    bench = held(max_hold_ms=LEASE_MS + 1_000)
    bench.wait(LEASE_MS - 1)
    bench.progress("r1")
    assert bench.run("r1").lease_until_ms == LEASE_MS + 1_000
    assert events(bench.wait(1_001)) == ["Lost"]


@pytest.mark.requirement("S1.4")
def test_the_next_holder_gets_checkpoint_attempt_and_how_the_last_one_ended() -> None:
    bench = held()
    bench.progress("r1", checkpoint=Raw(b'{"done":2}'), evidence=Raw(b'"log"'), open_questions=("why?",))
    bench.progress("r1")
    bench.wait(LEASE_MS)
    item = only(WorkItem, bench.wait(1_000))
    saved = Checkpoint(data=Raw(b'{"done":2}'), evidence=Raw(b'"log"'), open_questions=("why?",))
    assert (item.checkpoint, item.attempt, item.previous_end) == (saved, 2, "lease_expired")
    assert item.token > FIRST_TOKEN + 1


def test_a_checkpoint_that_is_too_large_is_refused_and_the_lease_renewed_all_the_same() -> None:
    """The holder counts every acknowledged Progress as a renewal, whatever becomes of what it saves."""
    bench = Bench(policy(bounds=Bounds(run_bytes=20)))
    bench.join("w")
    bench.request("r1", payload='"0123456789"')
    bench.wait(1_000)
    refused = only(Refused, bench.progress("r1", checkpoint=Raw(b'"0123456789"')))
    assert (refused.code, refused.command, bench.run("r1").lease_until_ms) == (
        "TOO_LARGE",
        "Progress",
        1_000 + LEASE_MS,
    )
    assert bench.run("r1").checkpoint is None
    assert events(bench.progress("r1", checkpoint=Raw(b"1234"))) == ["Progressed"]


# -- attempts and backoff ---------------------------------------------------------------------------------------


def test_attempts_then_failed_with_the_handlers_error() -> None:
    bench = held(attempts=2, backoff_ms=1_000)
    first = only(AttemptFailed, bench.fail("r1"))
    assert (first.attempt, first.error.code, bench.states()) == (1, "BOOM", {"r1": "Waiting"})
    item = only(WorkItem, bench.wait(first.retry_in_ms))
    assert (item.attempt, item.previous_end) == (2, "failed: BOOM: it broke")
    ended = only(Ended, bench.fail("r1"))
    assert (ended.status, ended.attempt, ended.error and ended.error.code) == ("failed", 2, "BOOM")


def test_a_final_failure_ends_the_run_and_a_named_delay_is_kept() -> None:
    bench = held()
    assert only(AttemptFailed, bench.fail("r1", retry_after_ms=12_345)).retry_in_ms == 12_345
    assert bench.wait(12_344) == []
    assert events(bench.wait(1)) == ["Granted"]
    assert only(Ended, bench.fail("r1", final=True)).attempt == 2


def test_every_attempt_lost_ends_the_run() -> None:
    bench = held(attempts=1)
    outputs = bench.wait(LEASE_MS)
    assert events(outputs) == ["Lost", "Ended"] and only(Lost, outputs).final
    assert only(ConflictArtifact, outputs).next_step == "ask_a_person"


def test_backoff_doubles_within_its_jitter_and_bound_and_is_the_same_anywhere() -> None:
    bench = held(backoff_ms=1_000, backoff_max_ms=5_000, attempts=99)
    delays = []
    for _ in range(6):
        delays.append(only(AttemptFailed, bench.fail("r1")).retry_in_ms)
        bench.wait(5_000)
    for delay, full in zip(delays, (1_000, 2_000, 4_000, 5_000, 5_000, 5_000), strict=True):
        assert full // 2 <= delay <= full
    assert len(set(delays)) > 3
    again = held(backoff_ms=1_000, backoff_max_ms=5_000, attempts=99)
    assert backoff_ms(again.lane, again.run("r1")) == delays[0]


def test_a_retry_is_off_the_resource_and_comes_back_in_its_old_place() -> None:
    bench = held(backoff_ms=10_000)
    for id in ("r2", "r3"):
        bench.request(id, payload=f'"{id}"')
    assert only(Granted, bench.fail("r1")).run == "r2"
    bench.wait(10_000)
    bench.fail("r2", final=True)
    assert bench.states() == {"r1": "Held", "r2": "failed", "r3": "Waiting"}


@pytest.mark.requirement("S0.4")
def test_a_retry_only_goes_forward() -> None:
    """Deploy v1 fails and backs off, v2 completes: v1's retry would overwrite it."""
    bench = held(backoff_ms=10_000)
    bench.request("r2", payload='"v2"', actor="bob")
    bench.fail("r1")
    bench.complete("r2")
    outputs = bench.wait(10_000)
    ended = only(Ended, outputs)
    assert (ended.run, ended.status, ended.superseded_by) == ("r1", "superseded", "r2")
    assert kinds(outputs) == ["superseded"]
    assert [party.request for party in only(ConflictArtifact, outputs).parties] == ["r1", "r2"]


def test_a_retry_goes_ahead_when_the_other_only_failed() -> None:
    bench = held(backoff_ms=10_000)
    bench.request("r2", payload='"v2"')
    bench.fail("r1")
    bench.fail("r2", final=True)
    assert only(Granted, bench.wait(10_000)).run == "r1"


# -- unread items -----------------------------------------------------------------------------------------------


def test_an_item_lost_unread_spends_no_attempt_at_most_three_times() -> None:
    bench = Bench(policy(attempts=2, backoff_ms=1_000))
    seen = []
    for number in range(5):
        bench.join(f"w{number}")
        if number == 0:
            bench.request("r1")
        bench.beat(f"w{number}", read=1)
        lost = only(Lost, bench.leave(f"w{number}"))
        seen.append((lost.attempt, lost.spent, lost.final))
        bench.wait(1_000)
    assert seen == [(1, False, False), (1, False, False), (1, False, False), (1, True, False), (2, True, True)]
    assert bench.states() == {"r1": "failed"}


def test_an_item_that_was_read_spends_its_attempt() -> None:
    bench = held()
    assert only(Lost, bench.leave("w")).spent


def test_whoever_reports_on_an_item_has_read_it() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.progress("r1")
    assert only(Lost, bench.leave("w")).spent


# -- late reports -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", ["progress", "complete", "fail"])
@pytest.mark.parametrize("state", ["Unknown", "Waiting", "Held", "Done"])
def test_a_stale_token_changes_nothing_and_is_on_the_record(report: str, state: str) -> None:
    bench = held(backoff_ms=50_000)
    token = bench.run("r1").token
    if state == "Unknown":
        bench.complete("r1")
        bench.wait(3_600_000)
    elif state == "Waiting":
        bench.fail("r1")
    elif state == "Held":
        bench.fail("r1")
        bench.wait(50_000)
    else:
        bench.complete("r1")
    before = image(bench.lane) | UNSAID | {"sessions": None}
    outputs = getattr(bench, report)("r1", token=token - 7 if state == "Done" and token else token)
    fenced = only(Fenced, outputs)
    assert events(outputs) == ["Fenced"] and kinds(outputs) == ["fenced_report"]
    assert fenced.status == state
    assert fenced.live_token == (bench.run("r1").token if state == "Held" else None)
    assert image(bench.lane) | UNSAID | {"sessions": None} == before


def test_a_fenced_progress_of_a_live_session_is_told_that_it_lost() -> None:
    bench = held(backoff_ms=50_000)
    token = bench.run("r1").token
    about = bench.about("r1", token)
    bench.fail("r1")
    notice = only(Notice, bench.report(Progress(**about)))
    assert (notice.kind, notice.run, notice.token, notice.session) == ("lost", "r1", token, "w")


@pytest.mark.requirement("S1.6")
@pytest.mark.parametrize(("seen", "artifact"), [("v2", []), ("v3", ["inconsistent_state"]), (None, [])])
def test_what_was_observed_is_compared_with_what_was_reported(seen: str | None, artifact: list[str]) -> None:
    bench = held()
    outputs = bench.complete("r1", version="v2", observed_version=seen)
    assert kinds(outputs) == artifact
    assert bench.lane.resources[API].version == (seen or "v2"), "what is there is what was seen"


@pytest.mark.requirement("S0.3")
def test_an_end_wakes_the_next_in_acceptance_order_and_nobody_else() -> None:
    bench = held()
    for id in ("r2", "r3", "r4"):
        bench.request(id, payload=f'"{id}"')
    outputs = bench.complete("r1")
    assert [granted.run for granted in of(Granted, outputs)] == ["r2"]
    assert names(outputs) == ["Ended", "WorkItem", "Granted"]
    assert bench.states() == {"r1": "completed", "r2": "Held", "r3": "Waiting", "r4": "Waiting"}
