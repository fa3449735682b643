"""Bugs for locks, sessions and deadlocks, each as what it changes (`planted.BUGS`)."""

from __future__ import annotations

from itertools import count
from typing import Any

from msgspec.structs import replace
from simulation.planted_core import Patches, row
from simulation.planted_rules import nothing

from keylane.router import lane_waits
from keylane.router.core import (
    dispatch,
    endings,
    lane,
    links,
    locks,
    placing,
    projections,
    step,
    transitions,
    waiting,
)
from keylane.router.core.lane import Lane
from keylane.router.core.records import Gone, WaitChecked
from keylane.router.core.waiting import WaitGraph
from keylane.router.lane_waits import LaneWaits
from keylane.schemas.conflicts import ConflictRecord
from keylane.schemas.events import Ended, Renewed
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, SessionEnded
from keylane.schemas.state import LockTerms, Run, WaitLink


def claim_counted_as_lease() -> Patches:
    grant = dispatch._grant_lock

    def at_once(of: Lane, run: Run, lock: LockTerms, now: Any) -> None:
        grant(of, run, lock, now)
        held = of.runs[run.id]
        of.put(replace(held, unclaimed=False, lease_until_ms=now.clock_ms + held.lease_ms))

    return [(dispatch, "_grant_lock", at_once)]


def unclaimed_never_expires() -> Patches:
    due_ms = placing.due_ms
    return [(placing, "due_ms", lambda run, deadline_ms: None if run.unclaimed else due_ms(run, deadline_ms))]


def any_secret() -> Patches:
    return [(locks, "has_secret", lambda run, secret: run.lock is not None and secret is not None)]


def secret_is_kept() -> Patches:
    def is_same(run: Run, secret: str | None) -> bool:
        return run.lock is not None and run.lock.secret_sha256 == secret

    return [(locks, "secret_sha256", lambda secret: secret), (locks, "has_secret", is_same)]


def lost_lock_comes_back() -> Patches:
    fence = locks_cell(Renewal, 0)

    def back(of: Lane, run: Any, arrived: Any, now: Any) -> None:
        report = arrived.record
        real = of.runs.get(report.run)
        if real is None or real.lock is None or real.status != "failed" or real.token != report.token:
            fence(of, run, arrived, now)
            return
        of.emit(
            Renewed, now, run=real.id, resource=real.resource, action="lock", token=real.token, renewal=report.id,
            lease_ms=real.lock.ttl_ms,
        )  # fmt: skip

    return [row(Renewal, 0, back)]


def locks_cell(kind: type, column: int) -> Any:
    """What is in that cell of the table."""
    return step.TABLE[kind][column]


def blocked_renews() -> Patches:
    renew = locks_cell(Renewal, 3)

    def renewed(of: Lane, run: Any, arrived: Any, now: Any) -> None:
        renew(of, run, arrived, now)
        held = of.runs[run.id]
        of.put(replace(held, lease_until_ms=min(now.clock_ms + held.lease_ms, held.hold_until_ms or 0)))

    return [row(Renewal, 3, renewed)]


def any_token_releases() -> Patches:
    lock_of = locks.lock_of

    def whichever(of: Lane, arrived: Any, report: Any) -> Run | None:
        run = of.runs.get(report.run)
        if isinstance(report, Release) and run is not None and run.token is not None:
            report = replace(report, token=run.token)
        return lock_of(of, arrived, report)

    return [(step, "lock_of", whichever)]


def any_resource_renews() -> Patches:
    lock_of = locks.lock_of

    def wherever(of: Lane, arrived: Any, report: Any) -> Run | None:
        run = of.runs.get(report.run)
        return lock_of(of, arrived if run is None else replace(arrived, owner=run.owner), report)

    return [(step, "lock_of", wherever)]


def held_without_end() -> Patches:
    renew = locks_cell(Renewal, 3)

    def renewed(of: Lane, run: Any, arrived: Any, now: Any) -> None:
        renew(of, replace(run, hold_until_ms=now.clock_ms + 1_000_000), arrived, now)

    return [row(Renewal, 3, renewed)]


def waiting_outlives_session() -> Patches:
    end_session = locks.end_session

    def held_alone(*arguments: Any) -> list[Run]:
        return [run for run in end_session(*arguments) if run.state == "Held"]

    return [(step, "end_session", held_alone)]


def session_of_any_secret() -> Patches:
    end_session = locks.end_session

    def whosever(of: Lane, arrived: Any, ended: SessionEnded, now: Any) -> list[Run]:
        right, locks.has_secret = locks.has_secret, lambda run, secret: True
        try:
            return end_session(of, arrived, ended, now)
        finally:
            locks.has_secret = right

    return [(step, "end_session", whosever)]


def past_a_waiter() -> Patches:
    right = placing._rehead

    def newest_lock(of: Lane, owner: str) -> None:
        entries = of.queue.get(owner, [])
        if len(entries) > 1 and all(of.runs[id].lock is not None for _, id in entries):
            entries.reverse()
            try:
                right(of, owner)
            finally:
                entries.reverse()
        else:
            right(of, owner)

    return [(placing, "_rehead", newest_lock)]


def nobody_is_refused_at_once() -> Patches:
    return [(locks, "_taken", nothing)]


def everybody_is_refused_at_once() -> Patches:
    taken = locks._taken

    def at_once(of: Lane, request: LockRequest, *rest: Any) -> Any:
        return taken(of, replace(request, explicit=False), *rest)

    return [(locks, "_taken", at_once)]


def waits_for_ever() -> Patches:
    due_ms = placing.due_ms

    def never(run: Run, deadline_ms: int | None) -> int | None:
        return None if run.lock is not None and run.state == "Waiting" else due_ms(run, deadline_ms)

    return [(placing, "due_ms", never)]


def waits_half_as_long() -> Patches:
    waiting = locks._waiting

    def hastily(of: Lane, arrived: Any, request: LockRequest, now: Any, order: int) -> Run:
        return replace(waiting(of, arrived, request, now, order), expires_ms=now.clock_ms + request.wait_ms // 2 + 1)

    return [(locks, "_waiting", hastily)]


def another_hold_has_it() -> Patches:
    meets = locks.meets_lock

    def whatever_hold(of: Lane, arrived: Any, request: LockRequest, now: Any) -> Any:
        holder = of.held.get(arrived.owner)
        lock = None if holder is None else of.runs[holder].lock
        as_held = request if lock is None else replace(request, hold=lock.hold)
        return meets(of, arrived, as_held, now)

    return [(step, "meets_lock", whatever_hold)]


def had_again_without_time() -> Patches:
    have_again = locks_cell(LockRequest, 3)

    def as_before(of: Lane, run: Any, arrived: Any, now: Any) -> None:
        have_again(of, run, arrived, now)
        of.put(replace(of.runs[run.id], lease_until_ms=run.lease_until_ms))

    return [row(LockRequest, 3, as_before)]


def unclaimed_is_asked_to_stop() -> Patches:
    def only_its_own(of: Lane, run: Run, cancellation: Cancellation) -> bool:
        return run.state == "Held" and locks.has_secret(run, cancellation.secret)

    return [(transitions, "is_given_up", only_its_own)]


def anybody_takes_it_away() -> Patches:
    return [(transitions, "is_given_up", lambda of, run, cancellation: run.state == "Held" and run.lock is not None)]


def locks_count_as_work() -> Patches:
    end = endings.end

    def as_work(of: Lane, run: Run, now: Any, status: Any, **fields: Any) -> None:
        end(of, run, now, status, **fields)
        if status == "completed" and run.lock is not None:
            endings.note_completed(of, run, now, of.own.seq, None, None)

    return [(locks, "end", as_work)]


def link_left() -> Patches:
    return [(links, "Gone", lambda key: Gone(b"unserved/nothing"))]


def link_of_another_holder() -> Patches:
    link = links._link

    def once(of: Lane, run: Run, holder: str | None) -> None:
        if run.id not in of.links or holder is None:
            link(of, run, holder)

    return [(links, "_link", once)]


def link_to_itself() -> Patches:
    link = links._link

    def always(of: Lane, run: Run, holder: str | None) -> None:
        link(of, run, holder)
        if holder is not None and run.lock is not None and holder == run.lock.session:
            of.put(
                WaitLink(
                    request=run.id, waiter=holder, holder=holder, owner=run.owner, resource=run.resource,
                    order=run.order,
                )
            )  # fmt: skip

    return [(links, "_link", always)]


def deadlock_without_artifact() -> Patches:
    conflict = projections.conflict

    def most(event: Any, id: str) -> ConflictRecord | None:
        return None if isinstance(event, Ended) and event.cycle else conflict(event, id)

    return [(lane, "conflict", most)]


def answers_come_late() -> Patches:
    """No bug: what is heard of an edge is heard late, so that it may be of a holder of before."""
    answers = LaneWaits.answers
    calls = count()

    def now_and_then(self: LaneWaits, most: int) -> list[WaitChecked]:
        return answers(self, most) if next(calls) % 12 == 0 else []

    def first(self: LaneWaits, checked: WaitChecked) -> None:
        self._answers.setdefault(checked.request, checked)

    return [(LaneWaits, "answers", now_and_then), (LaneWaits, "heard", first)]


def answered_for_an_old_holder() -> Patches:
    check = locks_cell(WaitChecked, 1)

    def whichever(of: Lane, run: Any, arrived: Any, now: Any) -> None:
        link = of.links.get(run.id)
        checked = arrived.record if link is None else arrived.record._replace(holder=link.holder)
        check(of, run, replace(arrived, record=checked), now)

    return [*answers_come_late(), row(WaitChecked, 1, whichever)]


def edges_of_any_claim() -> Patches:
    def claimed(self: WaitGraph, partition: int, claim: int) -> list[Any]:
        self.claims.setdefault(partition, 0)
        return []

    return [(WaitGraph, "_claimed", claimed)]


def cycles_are_not_seen() -> Patches:
    return [(WaitGraph, "_path", lambda self, offset, before: ())]


def longer_cycles_are_not_seen() -> Patches:
    path = WaitGraph._path

    def of_two(self: WaitGraph, offset: int, before: int) -> Any:
        found = path(self, offset, before)
        return () if found and len(found) > 1 else found

    return [(WaitGraph, "_path", of_two)]


def edges_are_not_said_again() -> Patches:
    news = LaneWaits.news

    def of_this_turn(self: LaneWaits, of: Lane) -> Any:
        said = news(self, of)
        if self.is_loaded:
            return said
        self._saying = {}
        return said[:1]

    return [(LaneWaits, "news", of_this_turn)]


def edges_are_not_said_of_another_holder() -> Patches:
    edge = LaneWaits._edge

    def of_before(self: LaneWaits, link: WaitLink) -> Any:
        return self._said.get(link.request) or edge(self, link)

    return [(LaneWaits, "_edge", of_before)]


def edges_are_not_taken_back() -> Patches:
    news = LaneWaits.news

    def without(self: LaneWaits, of: Lane) -> Any:
        return [record for record in news(self, of) if record.value is not None]

    return [(LaneWaits, "news", without)]


def keys_without_claim() -> Patches:
    def plain(partition: int, claim: int, request: str) -> bytes:
        return f"edge/{partition}/0/{request}".encode()

    return [(module, "edge_key", plain) for module in (lane_waits, waiting)]
