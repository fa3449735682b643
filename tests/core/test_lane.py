"""What a lane keeps and for how long, its tokens, and that loading it is the same as having lived through it."""

from __future__ import annotations

import pytest
from core.bench import API, Bench, events, image, of, only, policy
from msgspec.structs import replace

from keylane.journal.port import Stored
from keylane.router.clock import wall_us
from keylane.router.core.lane import TOKEN_MAX, Lane
from keylane.router.core.policy import ActionPolicy, Bounds, Policy
from keylane.router.core.records import Halted
from keylane.router.core.timers import STALE_ENTRIES_MIN, Timers, Waits
from keylane.router.turn import load
from keylane.schemas.codec import encode
from keylane.schemas.events import Ended, Granted
from keylane.schemas.state import LANE_KEY, LaneRecord

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def done(bench: Bench, *ids: str, resource: str | None = None) -> None:
    """Each of these requested on a resource of its own, and completed."""
    for id in ids:
        bench.request(id, resource=resource or f"deploy://{id}")
        bench.complete(id)


# -- tokens -----------------------------------------------------------------------------------------------------


def loaded(record: LaneRecord | None, token_floor: int = 0) -> Lane:
    lane = Lane(0, Policy(), lambda _: 0)
    stored = [] if record is None else [Stored("state", 0, 0, LANE_KEY, encode(record), (), 0)]
    load(lane, stored, token_floor)
    return lane


def test_tokens_start_at_the_wall_clock_the_floor_or_the_saved_value_whichever_is_greatest() -> None:
    before_us = wall_us()
    assert before_us <= loaded(None).own.token <= wall_us()
    far = 2**51
    assert loaded(None, token_floor=far).own.token == far
    assert loaded(LaneRecord(positions={}, token=far + 5), token_floor=far).own.token == far + 5


def test_each_load_takes_a_higher_claim_and_puts_the_record_among_what_is_written() -> None:
    lane = loaded(LaneRecord(positions={"requests": 7}, claim=3, clock_ms=9))
    assert (lane.own.claim, lane.own.positions, lane.own.clock_ms) == (4, {"requests": 7}, 9)
    assert list(lane.changed) == [LANE_KEY]


def test_state_that_cannot_be_read_halts_the_lane() -> None:
    lane = Lane(0, Policy(), lambda _: 0)
    with pytest.raises(Halted, match="offset 4"):
        load(lane, [Stored("state", 0, 4, b"run/r1", b"{", (), 0)], 0)


def test_tokens_rise_with_every_grant_and_over_loads() -> None:
    bench = Bench()
    bench.join("w", slots=9)
    for number in range(4):
        bench.request(f"r{number}", resource=f"deploy://{number}")
        bench.reload()
    tokens = [granted.token for granted in of(Granted, bench.published)]
    assert len(tokens) == 4 and tokens == sorted(set(tokens))


def test_beyond_the_last_token_the_lane_halts() -> None:
    bench = Bench()
    bench.join("w", slots=2)
    bench.lane.put(replace(bench.lane.own, token=TOKEN_MAX - 1))
    assert only(Granted, bench.request("r1")).token == TOKEN_MAX
    with pytest.raises(Halted, match="2\\^52"):
        bench.request("r2", resource="deploy://b")


# -- retention --------------------------------------------------------------------------------------------------


def test_outcomes_are_remembered_for_the_retention_then_leave_nothing() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.request("r2")
    bench.complete("r1")
    bench.leave("w")
    bench.wait(HOUR_MS - 1)
    assert only(Ended, bench.request("r2")).repeat
    bench.wait(1)
    assert (bench.lane.runs, bench.lane.members, bench.lane.equal, bench.lane.members_of) == ({}, {}, {}, {})
    assert bench.lane.resources != {}, "what was completed last outlives it, for the sake of retries"
    bench.wait(DAY_MS)
    assert [key for key in bench.stored if key != LANE_KEY] == []


def test_a_done_run_keeps_its_outcome_and_not_its_payload() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1", payload='"' + "x" * 1_000 + '"')
    bench.complete("r1")
    assert len(bench.stored[b"run/r1"]) < 600


def test_a_crowded_lane_keeps_outcomes_for_two_minutes_and_no_less() -> None:
    bench = Bench(policy(bounds=Bounds(crowded_runs=1)))
    bench.join("w")
    done(bench, "a", "b")
    bench.wait(119_999)
    assert set(bench.lane.runs) == {"a", "b"}
    bench.wait(1)
    assert set(bench.lane.runs) == {"b"}, "no longer crowded"


def test_outcomes_are_forgotten_oldest_first() -> None:
    bench = Bench()
    bench.join("w")
    done(bench, "a", "b", "c")
    bench.clock_ms += HOUR_MS
    bench.forget(2)
    assert set(bench.lane.runs) == {"c"}


def test_over_the_bound_the_resources_that_were_idle_longest_go_and_nothing_else() -> None:
    bench = Bench(policy(bounds=Bounds(resources=2)))
    bench.join("w")
    bench.request("x", "exotic", resource="deploy://x")
    bench.cancel("overtaking")
    done(bench, "a", "b", "c", "d")
    bench.forget(100)
    assert set(bench.lane.resources) == {"deploy://c", "deploy://d"}
    assert set(bench.lane.kept) == {"overtaking"}
    assert bench.lane.unserved["exotic"].aside is False


@pytest.mark.requirement("S0.4")
def test_a_completion_is_remembered_for_as_long_as_a_retry_waits() -> None:
    """However short the other action's own times are."""
    bench = Bench(
        Policy(
            defaults=ActionPolicy(queue_ms=5 * DAY_MS),
            actions={"quick": ActionPolicy(queue_ms=1_000)},
        )
    )
    bench.join("w", "restart", "quick")
    bench.request("r1")
    bench.fail("r1", retry_after_ms=4 * DAY_MS)
    bench.request("q1", "quick")
    bench.complete("q1")
    bench.leave("w")
    bench.wait(4 * DAY_MS)
    assert only(Ended, bench.join("v", "restart", "quick")).status == "superseded"


# -- loading ----------------------------------------------------------------------------------------------------


def test_a_lane_that_is_loaded_equals_the_one_that_lived() -> None:
    bench = Bench(policy(backoff_ms=60_000, bounds=Bounds(refusals=2)))
    bench.join("w", "restart", "stop", slots=3)
    bench.join("v", "restart", slots=1, generation=2)
    for number in range(6):
        bench.request(f"r{number}", resource=f"deploy://{number % 4}", payload=str(number), deadline_ms=90_000)
        bench.request(f"m{number}", resource=f"deploy://{number % 4}", payload=str(number))
    bench.request("no", resource="deploy://0", payload="9", reject_if_busy=True)
    bench.request("x", "exotic")
    bench.cancel("later")
    bench.fail("r0")
    bench.complete("r1")
    bench.cancel("m2", resource="deploy://2")
    assert image(bench.restored()) == image(bench.lane)
    assert len(bench.lane.queue) > 1 and len(bench.lane.held) > 1, "worth comparing"
    bench.reload()
    assert bench.wait(0) == [], "nothing is due, nothing is granted by loading"


def test_after_a_load_work_goes_on() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.request("r2", payload="2")
    bench.reload()
    assert events(bench.complete("r1")) == ["Ended", "Granted"]
    assert bench.lane.held == {API: "r2"}


# -- timers -----------------------------------------------------------------------------------------------------


def test_timers_come_in_order_of_time_then_key_and_hold_one_deadline_a_key() -> None:
    timers = Timers()
    for key, due_ms in ((b"b", 5), (b"a", 5), (b"c", 9), (b"c", 1)):
        timers.set(key, due_ms)
    order = []
    while timers.next_ms() is not None:
        order.append(timers.first())
        timers.set(timers.first(), None)
    assert order == [b"c", b"a", b"b"] and len(timers) == 0


def test_replaced_deadlines_do_not_pile_up() -> None:
    timers = Timers()
    for due_ms in range(10 * STALE_ENTRIES_MIN):
        timers.set(b"a", 10**9 - due_ms)
        timers.set(b"z", 10**9 + due_ms)
    assert len(timers._heap) <= STALE_ENTRIES_MIN + 5


def test_who_waits_longest_is_known_as_others_come_and_go() -> None:
    waiting = {"a", "b"}
    waits = Waits(waiting.__contains__)
    for since_ms, id in ((5, "a"), (3, "b")):
        waits.enter(since_ms, id)
    assert (len(waits), waits.first_ms()) == (2, 3)
    waiting.remove("b")
    waits.leave()
    assert (len(waits), waits.first_ms()) == (1, 5)
    waiting.add("b")  # as a run that waits for its next attempt
    waits.enter(3, "b")
    assert (len(waits), waits.first_ms()) == (2, 3)


def test_those_that_wait_no_longer_do_not_pile_up() -> None:
    waiting = {"first"}
    waits = Waits(waiting.__contains__)
    waits.enter(0, "first")
    for number in range(10 * STALE_ENTRIES_MIN):
        waits.enter(number, str(number))
        waits.leave()
    assert len(waits._heap) <= STALE_ENTRIES_MIN + 5
    assert (len(waits), waits.first_ms()) == (1, 0)
