"""Bugs for the rules of work, each as what it changes (`planted.BUGS`)."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from simulation.planted_core import Patches, row

from keylane.router.core import (
    arrival,
    changes,
    coalescing,
    dispatch,
    endings,
    order,
    placing,
    repeats,
    resources,
    reviews,
    transitions,
)
from keylane.router.core.lane import Lane
from keylane.router.core.policy import ActionPolicy
from keylane.router.core.records import Gone
from keylane.schemas.items import WorkItem
from keylane.schemas.requests import Resolution, ResourceChange, WorkRequest
from keylane.schemas.results import Progress
from keylane.schemas.scopes import Scopes
from keylane.schemas.state import Recurrence, Run


def nothing(*_: Any) -> None:
    """In the place of a rule: it never applies."""


def key_ignored() -> Patches:
    return [(arrival, "under_key", nothing)]


def key_takes_any_work() -> Patches:
    return [(module, "work_digest", lambda *_: "same") for module in (repeats, coalescing)]


def nothing_is_superseded() -> Patches:
    versions = resources._versions

    def current(*arguments: Any, **named: Any) -> Any:
        return versions(*arguments, **named)[0], ()

    return [(resources, "_versions", current)]


def version_not_required() -> Patches:
    outdated = arrival.outdated

    def only_named(lane: Lane, arrived: Any, request: WorkRequest, now: Any) -> Any:
        return None if request.expected_version is None else outdated(lane, arrived, request, now)

    return [(arrival, "outdated", only_named)]


def versions_not_asked_again() -> Patches:
    return [(dispatch, "stale", nothing), (changes, "stale", nothing)]


def steps_not_asked_again() -> Patches:
    return [(dispatch, "out_of_order", nothing), (changes, "out_of_order", nothing)]


def limits_not_asked_again() -> Patches:
    return [(dispatch, "over_limit", nothing)]


def approved_goes_back() -> Patches:
    return [(dispatch, "firm_order", lambda run: run.granted_order)]


def harmless_counts() -> Patches:
    note = endings.note_completed

    def as_any_other(lane: Lane, run: Run, *arguments: Any) -> None:
        note(lane, replace(run, action="restart"), *arguments)

    return [(endings, "note_completed", as_any_other)]


def never_quiet() -> Patches:
    queue = arrival._queue

    def at_once(lane: Lane, arrived: Any, request: Any, policy: ActionPolicy, now: Any) -> None:
        queue(lane, arrived, request, replace(policy, quiet_ms=0), now)

    return [(arrival, "_queue", at_once)]


def quiet_without_end() -> Patches:
    def always_anew(lane: Lane, run: Run) -> int:
        others = lane.members_of.get(run.id)
        joined_ms = lane.members[others[-1][1]].accepted_ms if others else run.accepted_ms
        return joined_ms + lane.policy.of(run.action).quiet_ms

    return [(transitions, "settled_ms", always_anew)]


def no_interval() -> Patches:
    return [(dispatch, "may_start_ms", nothing)]


def merged_payload_lost() -> Patches:
    return [(dispatch, "payloads", lambda lane, run: (run.payload, ()))]


def coalesce_key_over_all() -> Patches:
    likeness = coalescing.likeness

    def loosely(of: Any, digest: str) -> Any:
        if of.coalesce_key is not None:
            return (of.resource, of.coalesce_key)
        return likeness(of, digest)

    return [(coalescing, "likeness", loosely), (placing, "likeness", loosely)]


def steps_not_required() -> Patches:
    return [(module, "out_of_order", nothing) for module in (order, dispatch, changes)]


def limit_never_lifted() -> Patches:
    return [(resources, "lift", nothing)]


def limit_ends_with_the_work() -> Patches:
    lift = order.lift

    def early(lane: Lane, key: str, what: str) -> None:
        lift(lane, key, what)
        for _, id in list(lane.counted_of.get((lane.owner_of(key), what), ())):
            lane.put(Gone(b"counted/" + id.encode()))

    return [(resources, "lift", early)]


def failure_counts() -> Patches:
    return [(transitions, "note_failed", nothing)]


def one_mode_for_all() -> Patches:
    return [(ActionPolicy, "against", lambda self, action: self.on_conflict)]


def nobody_is_rejected() -> Patches:
    return [(arrival, "lock_held", nothing)]


def nobody_is_replaced() -> Patches:
    return [(arrival, "supersede", nothing)]


def nobody_is_asked() -> Patches:
    return [(arrival, "asks_a_person", lambda *_: [])]


def each_key_its_own() -> Patches:
    return [(Scopes, "owner_of", lambda self, key: key)]


def any_pool() -> Patches:
    current = Lane.current_sessions

    def of_all(self: Lane, pool: str, action: str) -> Any:
        return [session for each in self.policy.pools for session in current(self, each, action)]

    return [(Lane, "current_sessions", of_all)]


def approvals_stand() -> Patches:
    return [(module, "is_void", lambda *_: False) for module in (dispatch, changes)]


def decided_on_anything() -> Patches:
    return [(reviews, "_outdated", nothing)]


def decided_on_any_version() -> Patches:
    return [(reviews, "stale", nothing)]


def closed_undecided() -> Patches:
    return [row(Resolution, 2, lambda lane, run, arrived, now: reviews.resolve(lane, None, arrived, now))]


def given_up_early() -> Patches:
    accept = arrival._accept

    def hastily(
        lane: Lane, arrived: Any, request: Any, now: Any, order: int, state: Any, lasts_ms: int, *rest: Any
    ) -> None:
        accept(lane, arrived, request, now, order, state, lasts_ms // 2 if state == "Parked" else lasts_ms, *rest)

    return [(arrival, "_accept", hastily)]


def never_given_up() -> Patches:
    due_ms = placing.due_ms

    def unless_parked(run: Run, deadline_ms: int | None) -> int | None:
        return None if run.state == "Parked" else due_ms(run, deadline_ms)

    return [(placing, "due_ms", unless_parked)]


def checkpoint_lost() -> Patches:
    def without(**fields: Any) -> WorkItem:
        return WorkItem(**(fields | {"checkpoint": None}))

    return [(dispatch, "WorkItem", without)]


def blocked_renews() -> Patches:
    renew = row(Progress, 3, None)[0][Progress][3]

    def renewed(lane: Lane, run: Any, arrived: Any, now: Any) -> None:
        renew(lane, run, arrived, now)
        held = lane.runs[run.id]
        lane.put(replace(held, lease_until_ms=min(now.clock_ms + held.lease_ms, held.hold_until_ms or 0)))

    return [row(Progress, 3, renewed)]


def holder_stays() -> Patches:
    unheld = endings._unheld
    return [(endings, "_unheld", lambda run: replace(unheld(run), holder=run.holder))]


def delay_without_reason() -> Patches:
    delay = endings.delay

    def silently(lane: Lane, run: Run, *arguments: Any) -> None:
        delay(lane, run, *arguments)
        lane.put(replace(lane.runs[run.id], delayed=None))

    return [(dispatch, "delay", silently), (transitions, "delay", silently)]


def recurrence_not_kept() -> Patches:
    put = Lane.put

    def dropped(self: Lane, record: Any) -> None:
        if not isinstance(record, Recurrence):
            put(self, record)

    return [(Lane, "put", dropped)]


def holder_not_told() -> Patches:
    return [row(ResourceChange, 3, nothing)]


def changes_in_any_order() -> Patches:
    effect_of = changes.effect_of

    def newest(resource: Any, change: ResourceChange) -> Any:
        effect = effect_of(resource, change)
        return "applied" if effect == "older" else effect

    return [(changes, "effect_of", newest)]


def many_are_not_enough() -> Patches:
    """As it was before the simulation found it: enough have joined, and what the interval delayed waits for quiet."""
    settled_ms = transitions.settled_ms

    def by_quiet_alone(lane: Lane, run: Run) -> int:
        policy = lane.policy.of(run.action)
        without = replace(policy, max_count=0)
        before = lane.policy
        lane.policy = replace(before, actions=before.actions | {run.action: without})
        try:
            return settled_ms(lane, run)
        finally:
            lane.policy = before

    return [(transitions, "settled_ms", by_quiet_alone)]
