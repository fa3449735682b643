"""Bugs planted on purpose, each as a small patch of the real code (`BUGS`): what the simulation must find.

A patch puts one wrong thing in the place of a right one for as long as it is entered. `kinds` are the violations by
which it is to be found, `seeds` how many seeds that may take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from simulation import planted_core, planted_rules, planted_shells

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


core, rules, shells = planted_core, planted_rules, planted_shells

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
    "a renewal counts from its answer": _bug(shells.renewed_from_answer, "acts after end", "two holders", seeds=60),
    "a ticket takes another's end for its own": _bug(shells.ticket_takes_any_end, "ticket differs", seeds=50),
}

FIXED: dict[str, Bug] = {
    "marker_at_the_end": BUGS["an input ends with its last record"],
    "many_are_enough": _rule(rules.many_are_not_enough, "delayed too long"),
}
"""Bugs that were there, by the scenario in `found/` by which they were found."""
