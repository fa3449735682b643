"""Locks that take their turn among locks and work: who is told what, claims, leases and their ends."""

from __future__ import annotations

import pytest
from core.bench import Bench, events, kinds, of, only, policy
from msgspec.structs import replace

from keylane.router.core.policy import ActionPolicy
from keylane.schemas.events import Coalesced, Ended, Granted, Lost, Refused, Renewed


@pytest.mark.requirement("S2.1")
def test_of_two_that_ask_at_once_one_has_it_and_the_other_is_told_who_has() -> None:
    bench = Bench()
    assert events(bench.lock("l1", actor="agent-1")) == ["Queued", "Granted"]
    outputs = bench.lock("l2", actor="agent-2")
    refused = only(Refused, outputs)
    assert (refused.code, refused.action, refused.command) == ("LOCK_HELD", "lock", "LockRequest")
    assert (refused.holder, refused.position, refused.lease_expires_in_ms) == ("agent-1", 1, 1_800_000)
    assert refused.held_since and refused.retry_after_ms == 5_000
    assert not kinds(outputs), "who only wanted to hold it has no conflict that somebody must see to"


@pytest.mark.requirement("S2.2")
def test_a_wait_ends_with_who_is_in_the_way() -> None:
    bench = Bench()
    bench.lock("l1", actor="agent-1")
    bench.lock("l2", wait_ms=60_000, actor="agent-2")
    bench.lock("l3", wait_ms=5_000)
    ended = only(Ended, bench.wait(5_000))
    assert ended.error is not None
    assert (ended.requests, ended.status, ended.error.code) == (("l3",), "refused", "LOCK_HELD")
    assert (ended.holder, ended.position, ended.lease_expires_in_ms) == ("agent-1", 2, 1_795_000)
    assert ended.held_since and ended.retry_after_ms


def test_a_wait_that_is_over_as_its_turn_comes_names_nobody_in_the_way() -> None:
    """Its timer has not fired yet: what frees the key is read before that."""
    bench = Bench()
    bench.lock("l1", actor="agent-1")
    bench.lock("l2", wait_ms=5_000, actor="agent-2")
    bench.clock_ms += 5_000
    ended = of(Ended, bench.release("l1"))[1]
    assert ended.error is not None
    assert (ended.requests, ended.status, ended.error.code) == (("l2",), "refused", "LOCK_HELD")
    assert (ended.holder, ended.position, ended.retry_after_ms) == (None, 0, 100)


def test_a_lock_waits_behind_work_and_work_behind_a_lock() -> None:
    bench = Bench()
    bench.join("w", "restart")
    bench.request("r1")
    bench.lock("l1", wait_ms=60_000)
    bench.request("r2", payload="2")
    assert of(Granted, bench.complete("r1"))[0].run == "l1"
    bench.renew("l1")
    assert only(Granted, bench.release("l1")).run == "r2"


def test_work_may_be_refused_where_it_meets_a_lock() -> None:
    bench = Bench(policy(actions={"deploy": ActionPolicy(on_conflict_with={"lock": "reject"})}))
    bench.lock("l1", actor="agent-1")
    outputs = bench.request("r1", "deploy")
    assert only(Refused, outputs).holder == "agent-1"
    assert kinds(outputs) == ["lock_held"], "an intention to act is one"


def test_no_work_replaces_a_lock() -> None:
    bench = Bench(policy(on_conflict="supersede", stop_holder=True))
    bench.lock("l1")
    bench.lock("l2", wait_ms=60_000)
    assert events(bench.request("r1")) == ["Queued"]
    assert (bench.run("l1").stop, bench.run("l2").state) == (None, "Waiting")


def test_a_lock_that_nothing_keeps_is_had_without_a_claim_also_by_who_would_wait() -> None:
    assert of(Granted, Bench().lock("l1", wait_ms=60_000))[0].claim_ms is None


def test_who_had_to_wait_for_a_timer_alone_has_to_claim() -> None:
    """Runs that nobody handles step aside without an event: the lock behind them has waited all the same."""
    bench = Bench()
    bench.request("r1", "nobody")
    bench.lock("l1", wait_ms=60_000)
    assert only(Granted, bench.wait(30_000)).claim_ms == 30_000


def test_an_unclaimed_lock_goes_to_the_next() -> None:
    bench = Bench()
    bench.lock("l1")
    bench.lock("l2", wait_ms=60_000)
    bench.lock("l3", wait_ms=90_000)
    assert only(Granted, bench.release("l1")).run == "l2"
    assert not of(Lost, bench.wait(29_999))
    outputs = bench.wait(1)
    assert only(Lost, outputs).reason == "unclaimed"
    assert only(Granted, outputs).run == "l3"
    assert events(bench.renew("l2")) == ["Fenced"], "too late"


def test_a_claim_begins_the_lease() -> None:
    bench = Bench()
    bench.lock("l1")
    bench.lock("l2", wait_ms=60_000, ttl_ms=50_000)
    bench.release("l1")
    bench.wait(29_999)
    renewed = only(Renewed, bench.renew("l2"))
    assert (renewed.claimed, renewed.lease_ms) == (True, 50_000)
    assert not of(Lost, bench.wait(49_999))
    assert only(Lost, bench.wait(1)).reason == "lease_expired"


@pytest.mark.requirement("S3.2")
def test_a_renewal_resets_the_lease_and_an_expired_one_is_renewed_no_more() -> None:
    bench = Bench()
    assert of(Granted, bench.lock("l1"))[0].lease_ms == 1_800_000
    bench.wait(1_799_999)
    bench.renew("l1")
    assert not of(Lost, bench.wait(1_799_999))
    outputs = bench.wait(1)
    assert only(Lost, outputs).final and kinds(outputs) == ["lease_expired"]
    assert only(Ended, outputs).status == "failed"
    assert events(bench.renew("l1")) == ["Fenced"]


def test_who_is_blocked_renews_nothing() -> None:
    bench = Bench()
    bench.lock("l1", ttl_ms=10_000)
    bench.wait(6_000)
    assert only(Renewed, bench.renew("l1", "waits for CI")).lease_ms == 4_000
    assert bench.run("l1").blocked == "waits for CI"
    assert only(Lost, bench.wait(4_000)).reason == "lease_expired"


def test_a_grant_says_no_more_than_the_longest_hold() -> None:
    chosen = policy()
    bench = Bench(replace(chosen, locks=replace(chosen.locks, max_hold_ms=15_000)))
    assert of(Granted, bench.lock("l1"))[0].lease_ms == 15_000
    bench.lock("l2", wait_ms=60_000)
    assert only(Granted, bench.release("l1")).claim_ms == 15_000
    assert only(Lost, bench.wait(15_000)).reason == "unclaimed"


def test_no_renewal_reaches_beyond_the_longest_hold() -> None:
    chosen = policy()
    bench = Bench(replace(chosen, locks=replace(chosen.locks, max_hold_ms=15_000)))
    bench.lock("l1", ttl_ms=10_000)
    bench.wait(9_000)
    assert only(Renewed, bench.renew("l1")).lease_ms == 6_000
    assert not of(Lost, bench.wait(5_999))
    assert only(Lost, bench.wait(1)).reason == "lease_expired"


def test_had_again_after_the_longest_hold_and_before_its_timer_it_has_nothing_left() -> None:
    chosen = policy()
    bench = Bench(replace(chosen, locks=replace(chosen.locks, max_hold_ms=15_000)))
    bench.lock("l1", "s1")
    bench.clock_ms += 15_500
    assert only(Coalesced, bench.lock("l2", "s1")).lease_ms == 0
    assert only(Renewed, bench.renew("l1")).lease_ms == 0
