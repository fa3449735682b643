"""Bugs planted on purpose, each as a small patch of the real code (`BUGS`): what the simulation must find.

A patch puts one wrong thing in the place of a right one for as long as it is entered. `kinds` are the violations by
which it is to be found, `seeds` how many seeds that may take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from simulation import planted_core, planted_locks, planted_rules, planted_shells

Patch = tuple[Any, str, Any]
"""What is changed: an object's attribute, or a mapping's key, and what takes its place."""


class Bug(NamedTuple):
    """A planted bug."""

    patches: Callable[[], list[Patch]]
    kinds: frozenset[str]
    seeds: int
    mix: str | None = None
    """The mix of faults that brings it out; None: all of them, as the seeds draw them."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """While this lasts, the code is wrong."""
        before = []
        for target, name, value in self.patches():
            if isinstance(target, dict):
                before.append((target, name, target[name]))
                target[name] = value
            else:
                before.append((target, name, getattr(target, name)))
                setattr(target, name, value)
        try:
            yield
        finally:
            for target, name, value in reversed(before):
                if isinstance(target, dict):
                    target[name] = value
                else:
                    setattr(target, name, value)


def _bug(patches: Callable[[], list[Patch]], *kinds: str, seeds: int = 20, mix: str | None = None) -> Bug:
    return Bug(patches, frozenset(kinds), seeds, mix)


def _rule(patches: Callable[[], list[Patch]], *kinds: str, seeds: int = 10) -> Bug:
    """A bug of a rule of work: all of them are drawn, and hardly a fault."""
    return Bug(patches, frozenset(kinds), seeds, "rules")


def _lock(patches: Callable[[], list[Patch]], *kinds: str, seeds: int = 10, mix: str = "locks") -> Bug:
    """A bug of locks: they are drawn for sure, and hardly a fault."""
    return Bug(patches, frozenset(kinds), seeds, mix)


core, rules, shells, locks = planted_core, planted_rules, planted_shells, planted_locks

BUGS: dict[str, Bug] = {
    # tokens and leases
    "a token is minted twice": _bug(core.token_minted_twice, "token reused", "promise 2"),
    "a load mints old tokens anew": _bug(core.load_reuses_tokens, "token reused", "promise 2", mix="crashes"),
    "reports are not fenced": _bug(core.reports_not_fenced, "not fenced", mix="stalls", seeds=40),
    "leases end a moment early": _bug(core.leases_end_early, "promise 7"),
    "sessions lapse a moment early": _bug(core.sessions_lapse_early, "promise 7", mix="crashes"),
    "a lost lease comes back": _bug(core.lease_comes_back, "promise 7", "promise 1", mix="outlived", seeds=60),
    "a late report ends a run": _bug(core.late_report_ends, "promise 7", "promise 3", mix="outlived", seeds=60),
    "who is blocked loses time": _bug(core.blocked_loses_time, "promise 7"),
    "a grant lasts half of its lease": _bug(core.half_a_lease, "acts after end", "promise 7"),
    # requests
    "a requester is lost": _bug(core.requester_lost, "promise 3", "promise 4", "ticket differs"),
    "an outcome ends a request twice": _bug(core.second_ending, "promise 3"),
    "equal requests are not merged": _bug(core.two_pending, "two pending"),
    "a cancellation ends everybody's run": _bug(core.cancel_ends_all, "not cancelled", seeds=40),
    "outcomes are forgotten early": _bug(core.forgotten_early, "promise 3", "promise 9", "promise 8"),
    "a used id takes any content": _bug(core.digest_ignored, "id reused unnoticed"),
    "keys are not canonical": _bug(core.keys_as_spelt, "two live grants"),
    "a refusal is forgotten": _bug(core.refusal_not_kept, "refusal forgotten"),
    "a person's word is passed over": _bug(core.word_passed_over, "promise 8"),
    # order
    "a grant outside dispatch": _bug(core.grant_at_arrival, "promise 5", "promise 1", "two live grants", "turn failed"),
    "the newest waits least": _bug(core.newest_first, "promise 5"),
    "a retry goes back": _bug(core.retry_goes_back, "not forward"),
    "an older session is current": _bug(core.older_session, "older session", mix="crashes", seeds=40),
    # the rules of work
    "an idempotency key is ignored": _rule(rules.key_ignored, "key ignored", "promise 6"),
    "an idempotency key takes any work": _rule(rules.key_takes_any_work, "key mistaken"),
    "nothing is superseded": _rule(rules.nothing_is_superseded, "stale"),
    "a required version is not": _rule(rules.version_not_required, "no version"),
    "versions are not asked for again": _rule(rules.versions_not_asked_again, "stale"),
    "steps are not asked for again": _rule(rules.steps_not_asked_again, "out of order", seeds=25),
    "limits are not asked for again": _rule(rules.limits_not_asked_again, "over limit", seeds=75),
    "what is approved goes back": _rule(rules.approved_goes_back, "not forward", seeds=25),
    "what is harmless counts": _rule(rules.harmless_counts, "wrongly replaced", "wrongly refused", "out of order"),
    "others are not waited for": _rule(rules.never_quiet, "not quiet"),
    "others are waited for without end": _rule(rules.quiet_without_end, "delayed too long", seeds=25),
    "an action begins too soon": _rule(rules.no_interval, "too soon", seeds=25),
    "a merged payload is lost": _rule(rules.merged_payload_lost, "payload lost"),
    "a coalescing key takes any work": _rule(rules.coalesce_key_over_all, "merged unlike"),
    "steps are not required": _rule(rules.steps_not_required, "out of order"),
    "a limit is never lifted": _rule(rules.limit_never_lifted, "wrongly refused", seeds=60),
    "a limit ends with the work": _rule(rules.limit_ends_with_the_work, "over limit", seeds=25),
    "what failed counts": _rule(rules.failure_counts, "wrongly refused", seeds=25),
    "one policy against all actions": _rule(rules.one_mode_for_all, "not rejected", "wrong review"),
    "nobody is rejected": _rule(rules.nobody_is_rejected, "not rejected"),
    "nobody is replaced": _rule(rules.nobody_is_replaced, "not replaced"),
    "nobody is asked": _rule(rules.nobody_is_asked, "wrong review"),
    "each key is its own owner": _rule(rules.each_key_its_own, "wrong owner", "promise 1"),
    "any pool will do": _rule(rules.any_pool, "wrong pool", seeds=25),
    "a change leaves approvals": _rule(rules.approvals_stand, "approval not voided", seeds=50),
    "decisions are on anything": _rule(rules.decided_on_anything, "decided on another"),
    "decisions are on any version": _rule(rules.decided_on_any_version, "decided on another", seeds=25),
    "what waits for a decision is closed": _rule(rules.closed_undecided, "closed undecided"),
    "a person has half the time": _rule(rules.given_up_early, "undecided early"),
    "a person has any time": _rule(rules.never_given_up, "no rest", "promise 13"),
    "a checkpoint is lost": _rule(rules.checkpoint_lost, "checkpoint lost"),
    "who is blocked renews": _rule(rules.blocked_renews, "wrong lease"),
    "who lost a run still holds it": _rule(rules.holder_stays, "wrong holder"),
    "nobody knows why a run waits": _rule(rules.delay_without_reason, "wrong delay"),
    "clashes are not counted": _rule(rules.recurrence_not_kept, "miscounted"),
    "a holder is not told of a change": _rule(rules.holder_not_told, "holder not told"),
    "changes are taken in any order": _rule(rules.changes_in_any_order, "change mistaken"),
    # locks
    "a claim is a lease": _lock(locks.claim_counted_as_lease, "wrong lease"),
    "what nobody claims is kept": _lock(locks.unclaimed_never_expires, "without end"),
    "any secret will do": _lock(locks.any_secret, "wrongly renewed", "lock ended otherwise", "wrongly had"),
    "a secret is kept": _lock(locks.secret_is_kept, "secret told"),
    "a lost lock comes back": _lock(locks.lost_lock_comes_back, "wrongly renewed"),
    "who is blocked keeps a lock": _lock(locks.blocked_renews, "wrong lease"),
    "any token gives a lock back": _lock(locks.any_token_releases, "lock ended otherwise"),
    "a lock is renewed by way of another": _lock(locks.any_resource_renews, "wrongly renewed"),
    "a lock is held without end": _lock(locks.held_without_end, "wrong lease"),
    "what waits outlives its session": _lock(locks.waiting_outlives_session, "outlives its session", seeds=30),
    "a session is ended by anybody": _lock(locks.session_of_any_secret, "session ended otherwise"),
    "the newest lock waits least": _lock(locks.past_a_waiter, "past a waiter"),
    "who would not wait does": _lock(locks.nobody_is_refused_at_once, "lock not refused"),
    "a refusal waits for no graph": _lock(locks.everybody_is_refused_at_once, "wrongly refused", seeds=30),
    "a lock is waited for without end": _lock(locks.waits_for_ever, "without end"),
    "a lock is waited for half as long": _lock(locks.waits_half_as_long, "lock ended otherwise"),
    "another hold has the lock": _lock(locks.another_hold_has_it, "wrongly had", seeds=30),
    "a lock had again runs on": _lock(locks.had_again_without_time, "wrong lease", seeds=30),
    "who claims nothing is asked to stop": _lock(locks.unclaimed_is_asked_to_stop, "not cancelled at once", seeds=30),
    "anybody takes a lock away": _lock(locks.anybody_takes_it_away, "lock ended otherwise"),
    "locks count as work": _lock(locks.locks_count_as_work, "wrongly replaced", "wrongly refused", seeds=30),
    "timers of locks do not wait for the inputs": _lock(
        shells.timers_do_not_wait, "ended unread", mix="overtaken", seeds=40
    ),
    "holders use all of a lock's lease, and more": _lock(
        shells.no_margin_for_locks, "acts after end", "two holders", mix="deaf", seeds=30
    ),
    "a lock's renewal counts from its answer": _lock(
        shells.lock_renewed_from_answer, "acts after end", "two holders", mix="deaf", seeds=60
    ),
    # deadlocks
    "a link is left": _lock(locks.link_left, "link left"),
    "a link names another holder": _lock(locks.link_of_another_holder, "wrong link"),
    "a session waits for itself": _lock(locks.link_to_itself, "link left", seeds=30),
    "a deadlock has no artifact": _lock(locks.deadlock_without_artifact, "promise 11"),
    "an edge of before answers": _lock(locks.answered_for_an_old_holder, "lock ended otherwise", seeds=60),
    "edges of any claim count": _lock(locks.edges_of_any_claim, "lock ended otherwise", mix="takeovers", seeds=60),
    "cycles are not seen": _lock(locks.cycles_are_not_seen, "deadlock stands"),
    "cycles of three are not seen": _lock(locks.longer_cycles_are_not_seen, "deadlock stands", seeds=60),
    "a load says no edge again": _lock(locks.edges_are_not_said_again, "edge missing", mix="takeovers", seeds=60),
    "an edge names a holder of before": _lock(locks.edges_are_not_said_of_another_holder, "edge missing", seeds=30),
    "an edge is not taken back": _lock(locks.edges_are_not_taken_back, "no rest"),
    "who was fenced takes back an edge": _lock(
        locks.keys_without_claim, "edge missing", "no rest", mix="belated", seeds=80
    ),
    # records
    "an index is not rebuilt": _bug(core.index_not_rebuilt, "reload differs", "turn failed"),
    "an artifact is missing": _bug(core.artifact_missing, "promise 11"),
    "a sequence number comes again": _bug(core.sequence_again, "promise 8", "promise 9", mix="crashes"),
    "a record is not written": _bug(core.record_not_written, "reload differs", "promise 9"),
    # turns and lanes
    "timers do not wait for the inputs": _bug(shells.timers_do_not_wait, "ended unread", mix="behind", seeds=40),
    "positions are written before outputs": _bug(shells.positions_first, "promise 8", "promise 3", seeds=40),
    "the lane clock runs while nobody owns it": _bug(
        shells.clock_runs_unowned, "clock ran on", mix="handovers", seeds=20
    ),
    "a zombie claims at once": _bug(shells.claims_at_once, "claimed unconfirmed", mix="lossy", seeds=30),
    "forwards are lost": _bug(shells.forwards_lost, "promise 3", seeds=30),
    # the journal
    "a commit does not wait for its sends": _bug(shells.sends_not_awaited, "promise 8", mix="lossy", seeds=50),
    "an unanswered end is asked again": _bug(shells.end_asked_again, "another transaction ended", mix="late", seeds=50),
    "caught up by the last stable offset": _bug(shells.last_stable_offset, "ended unread", mix="hidden", seeds=50),
    "an input ends with its last record": _bug(shells.ends_with_its_last_record, "no rest", mix="hidden", seeds=30),
    "positions from a stale group offset": _bug(shells.stale_positions, "promise 8", mix="crashes"),
    "claims do not fence": _bug(shells.claims_do_not_fence, "promise 8", "promise 1", mix="zombies", seeds=50),
    # workers and clients
    "holders use all of a lease, and more": _bug(shells.no_margin, "acts after end", "two holders", seeds=30),
    "a renewal counts from its answer": _bug(
        shells.renewed_from_answer, "acts after end", "two holders", mix="unheard", seeds=40
    ),
    "a ticket takes another's end for its own": _bug(shells.ticket_takes_any_end, "ticket differs", seeds=50),
}

FIXED: dict[str, Bug] = {
    "marker_at_the_end": BUGS["an input ends with its last record"],
    "many_are_enough": _rule(rules.many_are_not_enough, "delayed too long"),
}
"""Bugs that were there, by the scenario in `found/` by which they were found."""
