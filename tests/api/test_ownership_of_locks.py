"""What `who`, `status`, `leases` and `locks` say of locks, reached by the core's own steps."""

from __future__ import annotations

from core.bench import API, Bench, policy
from owned import ASKS, at, seen, text, waits, who

from keylane.locks import LockInfo, lock_infos
from keylane.outcome import Wait
from keylane.request_status import request_status

TTL_MS = 60_000


def locked(**fields: object) -> Bench:
    """l1 is held by the session s1, which is ann's."""
    bench = Bench(policy(actions={"rollback": ASKS}))
    bench.lock("l1", "s1", actor="ann", ttl_ms=TTL_MS, **fields)
    return bench


def test_a_lock_is_leased_by_its_requester_and_renewed_by_renewals() -> None:
    bench = locked()
    owned = who(bench)
    assert owned.states == ("leased",) and owned.held is not None
    held = owned.held
    assert (held.holder, held.action, held.renewed_by, held.on_loss) == ("ann", "lock", "renewal", "end")
    assert (held.lease_left_ms, held.lease_ends) == (TTL_MS, at(TTL_MS))
    assert f"lost at {at(TTL_MS)}, unless its holder renews it; then the next one has it" in text(owned)
    bench.wait(1_000)
    bench.renew("l1")
    assert who(bench).states == ("leased",), "applying is said of work alone"


def test_the_lock_of_who_named_no_actor_is_its_sessions() -> None:
    bench = Bench()
    bench.lock("l1", "s1")
    held = who(bench).held
    assert held is not None and (held.holder, held.actor) == ("s1", "")


def test_after_its_wait_a_lock_is_claimed_until_its_requester_answers() -> None:
    bench = locked()
    bench.lock("l2", "s2", actor="ben", wait_ms=30_000, ttl_ms=TTL_MS)
    bench.wait(10)
    bench.release("l1")
    owned = who(bench)
    assert owned.states == ("claimed",) and owned.held is not None
    assert (owned.held.on_loss, owned.held.lease_ends) == ("end", at(30_010))
    bench.renew("l2")
    assert who(bench).states == ("leased",)


def test_blocked_and_stopping_are_states_of_locks_too() -> None:
    bench = locked()
    bench.renew("l1", blocked="waits for a review")
    owned = who(bench)
    assert owned.states == ("blocked",) and owned.held is not None and owned.held.blocked == "waits for a review"
    bench.cancel("l1")
    owned = who(bench)
    assert owned.states == ("stopping",) and owned.held is not None and owned.held.on_loss == "end"


def test_a_lock_waits_behind_its_holder_and_no_policy_makes_it() -> None:
    bench = locked()
    bench.wait(5)
    bench.lock("l2", "s2", actor="ben", wait_ms=30_000)
    bench.lock("l3", "s3", wait_ms=20_000)
    assert waits(bench, "l2") == Wait(
        reason="held", holder="ann", behind="l1", since=at(5), until=at(TTL_MS), expires=at(30_005)
    ), text(who(bench))
    assert waits(bench, "l3").reason == "queued"
    status = request_status(seen(bench), API, "l3")
    assert status is not None and status.wait is not None
    assert (status.state, status.position, status.holder, status.wait.expires) == ("waiting", 1, "ann", at(20_005))


def test_work_waits_behind_a_lock() -> None:
    bench = locked()
    bench.join("w", "restart")
    bench.request("r1")
    assert (waits(bench, "r1").reason, waits(bench, "r1").policy) == ("held", "on_conflict")


def test_how_a_lock_ended_is_told_under_its_request() -> None:
    bench = locked()
    bench.release("l1")
    status = request_status(seen(bench), API, "l1")
    assert status is not None and status.outcome is not None and status.outcome.status == "completed"
    bench.lock("l2", "s2", ttl_ms=1_000)
    bench.wait(1_001)
    status = request_status(seen(bench), API, "l2")
    assert status is not None and status.outcome is not None and status.outcome.error is not None
    assert (status.outcome.status, status.outcome.error.code) == ("failed", "EXPIRED")


def test_a_lock_ends_no_approval_when_it_is_given_back() -> None:
    bench = locked()
    bench.join("w", "rollback", "restart")
    bench.request("r1", "rollback")
    (pending,) = who(bench).waiting
    assert pending.on_approve is not None
    assert (pending.on_approve.then, pending.on_approve.after, pending.on_approve.ended_by) == ("waits", ("l1",), ())


def infos(bench: Bench, owner: str | None = None, session: str | None = None) -> list[LockInfo]:
    return lock_infos(seen(bench), owner, session)


def test_locks_that_are_not_over_are_listed_in_acceptance_order() -> None:
    bench = locked()
    bench.wait(5)
    bench.lock("l2", "s2", actor="ben", wait_ms=30_000, hold="h")
    bench.lock("l3", "s1", "deploy://other", ttl_ms=TTL_MS)
    bench.join("w", "restart")
    bench.request("r1", resource="deploy://third")
    held, waiting, other = infos(bench)
    assert held == LockInfo(
        resource=API, owner=API, run="l1", session="s1", hold="", actor="ann", holder="ann", state="held",
        token=bench.run("l1").token, since=bench.run("l1").since, lease_ends=at(TTL_MS),
    )  # fmt: skip
    assert waiting == LockInfo(
        resource=API, owner=API, run="l2", session="s2", hold="h", actor="ben", holder="ann", state="waiting",
        since=bench.run("l2").accepted, position=0,
    )  # fmt: skip
    assert (other.run, other.holder) == ("l3", "s1")
    assert [each.run for each in infos(bench, owner=API)] == ["l1", "l2"]
    assert [each.run for each in infos(bench, session="s1")] == ["l1", "l3"]
    bench.release("l1")
    assert [(each.run, each.state) for each in infos(bench, owner=API)] == [("l2", "claimed")]


def test_the_place_of_a_lock_counts_work_that_waits_before_it() -> None:
    bench = locked()
    bench.join("w", "restart")
    bench.request("r1")
    bench.lock("l2", "s2", wait_ms=1_000)
    assert [each.position for each in infos(bench)] == [None, 1]
