"""Faults put into the router's rules of locks are found in what it writes, under the promise that they break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from verify.faults import assert_broken
from verify.waiting_lanes import Answer, Waiting

from keylane.router.core import dispatch, endings, lane, links, locks, step, transitions
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Now
from keylane.schemas.event_parts import Event
from keylane.schemas.requests import LockRequest, Release, Renewal, SessionEnded
from keylane.schemas.state import Run

Patch = pytest.MonkeyPatch


def any_secret_will_do(patch: Patch) -> None:
    patch.setattr(locks, "has_secret", lambda run, secret: run.lock is not None)


def any_secret_ends_what_is_held(patch: Patch) -> None:
    patch.setattr(transitions, "is_given_up", lambda lane_, run, cancellation: run.lock and run.state == "Held")


def any_token_will_do(patch: Patch) -> None:
    lock_of = locks.lock_of

    def held(lane_: Lane, arrived: Arrived, report: Renewal | Release) -> Run | None:
        run = lane_.runs.get(report.run)
        return run if run is not None and run.lock and run.state == "Held" else lock_of(lane_, arrived, report)

    patch.setattr(step, "lock_of", held)


def workers_renew_locks(patch: Patch) -> None:
    holder = step._holder

    def anybody(lane_: Lane, report: Any) -> Run | None:
        run = lane_.runs.get(report.run)
        is_held = run is not None and run.state == "Held" and run.token == report.token
        return run if is_held else holder(lane_, report)

    patch.setattr(step, "_holder", anybody)


def anybody_has_it_again(patch: Patch) -> None:
    meets_lock = locks.meets_lock

    def meets(lane_: Lane, arrived: Arrived, request: LockRequest, now: Now) -> Any:
        found = meets_lock(lane_, arrived, request, now)
        held = lane_.runs.get(lane_.held.get(arrived.owner, ""))
        return held if found is None and held is not None and held.lock is not None else found

    patch.setattr(step, "meets_lock", meets)


def secrets_are_kept(patch: Patch) -> None:
    patch.setattr(locks, "secret_sha256", lambda secret: secret)


def secrets_are_told(patch: Patch) -> None:
    emit = Lane.emit

    def talkative(self: Lane, kind: type, now: Now, traceparent: str | None = None, /, **fields: Any) -> int:
        if kind.__name__ == "Queued" and fields["run"] in SECRETS:
            fields["actor"] = SECRETS[fields["run"]]
        return emit(self, kind, now, traceparent, **fields)

    acquire = locks.acquire

    def heard(lane_: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
        SECRETS[arrived.record.id] = arrived.record.secret  # type: ignore[union-attr]  # of a LockRequest
        acquire(lane_, run, arrived, now)

    SECRETS: dict[str, str] = {}
    patch.setattr(Lane, "emit", talkative)
    patch.setitem(step.TABLE, LockRequest, (heard, *step.TABLE[LockRequest][1:]))


def renewals_of_locks_do_not_count(patch: Patch) -> None:
    def renew(lane_: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
        assert run is not None
        locks.renew_lock(lane_, run, arrived, now)
        if not run.unclaimed:
            lane_.put(replace(lane_.runs[run.id], lease_until_ms=run.lease_until_ms))

    patch.setitem(step.TABLE, Renewal, (*step.TABLE[Renewal][:3], renew, step.TABLE[Renewal][4]))


def blocked_locks_are_renewed(patch: Patch) -> None:
    """The holder says that it cannot go on, and its lease runs anew; the event says so."""

    def renew(lane_: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
        record = replace(arrived.record, blocked=None)  # type: ignore[type-var]  # a Renewal
        locks.renew_lock(lane_, run, replace(arrived, record=record), now)

    patch.setitem(step.TABLE, Renewal, (*step.TABLE[Renewal][:3], renew, step.TABLE[Renewal][4]))


def nobody_has_to_claim(patch: Patch) -> None:
    grant = dispatch._grant_lock

    def at_once(lane_: Lane, run: Run, lock: Any, now: Now) -> None:
        grant(lane_, replace(run, order=lane_.own.seq, accepted_ms=now.clock_ms), lock, now)

    patch.setattr(dispatch, "_grant_lock", at_once)


def claims_are_short(patch: Patch) -> None:
    grant = dispatch._grant_lock

    def hasty(lane_: Lane, run: Run, lock: Any, now: Now) -> None:
        grant(lane_, run, lock, now)
        held = lane_.runs[run.id]
        if held.unclaimed and held.lease_until_ms is not None:
            lane_.put(replace(held, lease_until_ms=held.lease_until_ms - 1))

    patch.setattr(dispatch, "_grant_lock", hasty)


def waits_are_cut_short(patch: Patch) -> None:
    waiting = locks._waiting

    def impatient(*args: Any) -> Run:
        run = waiting(*args)
        assert run.expires_ms is not None
        return replace(run, expires_ms=(run.accepted_ms + run.expires_ms) // 2)

    patch.setattr(locks, "_waiting", impatient)


def sessions_end_without_what_waits(patch: Patch) -> None:
    def leave(lane_: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
        assert run is not None
        if run.state == "Held":
            locks.leave(lane_, run, arrived, now)

    patch.setitem(step.TABLE, SessionEnded, (step.impossible, leave, step.impossible, leave, step.impossible))


def sessions_end_by_halves(patch: Patch) -> None:
    end_session = locks.end_session

    def half(lane_: Lane, *args: Any) -> list[Run]:
        held = {owner: list(entries) for owner, entries in lane_.locks_of.items()}
        try:
            for entries in lane_.locks_of.values():
                del entries[1:]
            return end_session(lane_, *args)
        finally:
            lane_.locks_of.update(held)

    patch.setattr(step, "end_session", half)


def links_stay(patch: Patch) -> None:
    def relink(lane_: Lane) -> None:
        kept = dict(lane_.links)
        links.relink(lane_)
        for id, link in kept.items():
            if id not in lane_.links:
                lane_.put(link)

    patch.setattr(dispatch, "relink", relink)


def deadlocks_without_a_cycle(patch: Patch) -> None:
    """Whoever waits is told of a cycle with who holds it."""
    say = Waiting.say

    def suspicious(self: Waiting, partition: int, claim: int, request: str, link: Any) -> None:
        say(self, partition, claim, request, link)
        answer = self.answers.get(request)
        if link is not None and answer is not None:
            self.answers[request] = Answer(
                answer.holder, answer.position, (link.waiter, link.resource, link.holder, "deploy://9")
            )

    patch.setattr(Waiting, "say", suspicious)


def lost_locks_are_no_conflict(patch: Patch) -> None:
    conflict = lane.conflict

    def blind(event: Event, id: str) -> Any:
        return None if getattr(event, "reason", "") in ("unclaimed", "session_ended") else conflict(event, id)  # type: ignore[arg-type]  # any event

    patch.setattr(lane, "conflict", blind)


def locks_end_with_work(patch: Patch) -> None:
    """One that is held fails without having been lost."""
    patch.setattr(transitions, "lose_lock", lambda lane_, run, now, reason: endings.end(lane_, run, now, "failed"))


FAULTS: list[tuple[Callable[[Patch], None], int]] = [
    (any_secret_will_do, 14),
    (any_secret_ends_what_is_held, 14),
    (any_token_will_do, 14),
    (workers_renew_locks, 14),
    (anybody_has_it_again, 14),
    (secrets_are_kept, 14),
    (secrets_are_told, 14),
    (renewals_of_locks_do_not_count, 7),
    (blocked_locks_are_renewed, 7),
    (nobody_has_to_claim, 7),
    (claims_are_short, 7),
    (locks_end_with_work, 7),
    (waits_are_cut_short, 4),
    (sessions_end_without_what_waits, 8),
    (sessions_end_by_halves, 8),
    (links_stay, 9),
    (deadlocks_without_a_cycle, 10),
    (lost_locks_are_no_conflict, 11),
]


@pytest.mark.parametrize(("fault", "promise"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_fault_in_the_rules_of_locks_is_found(
    fault: Callable[[Patch], None], promise: int, monkeypatch: Patch
) -> None:
    fault(monkeypatch)
    assert_broken(promise)
