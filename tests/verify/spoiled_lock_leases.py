"""Ways of breaking promise 7 about locks: leases that end early, come back, or are another's."""

from __future__ import annotations

from functools import partial

from verify.lock_stories import MAX_HOLD_MS, lock_story
from verify.recording import changed, find, inserted, renumbered, value_of
from verify.spoiling import Spoiled, edited, place
from verify.spoiling import breaks as breaks_story

from keylane.verify import Configured, Entry

breaks = partial(breaks_story, of=lock_story)


@breaks(7)
def a_lock_whose_renewal_does_not_count(entries: list[Entry]) -> Spoiled:
    """It is lost when its lease would have ended if it had not been renewed."""
    granted = value_of(entries[find(entries, "Granted", run="l7")])
    again, places = edited(entries, "Lost", where={"run": "l7"}, clock_ms=granted["clock_ms"] + granted["lease_ms"])
    return again, [place(entries[find(entries, "Renewed", run="l7")]), *places]


@breaks(7)
def a_blocked_renewal_that_shortens(entries: list[Entry]) -> Spoiled:
    left_ms = value_of(entries[find(entries, "Renewed", run="l1", blocked="CI")])["lease_ms"]
    return edited(entries, "Renewed", where={"run": "l1", "blocked": "CI"}, lease_ms=left_ms - 1)


@breaks(7)
def a_claim_that_ends_early(entries: list[Entry]) -> Spoiled:
    lost = find(entries, "Lost", run="l6")
    again, places = edited(entries, "Lost", where={"run": "l6"}, clock_ms=value_of(entries[lost])["clock_ms"] - 1)
    return again, [place(entries[find(entries, "Granted", run="l6")]), *places]


@breaks(7)
def granted_after_a_wait_without_a_claim(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Granted", where={"run": "l3"}, claim_ms=None)


@breaks(7)
def claimed_twice(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Renewed", where={"run": "l1"}, claimed=True)


@breaks(7)
def lost_as_unclaimed_though_it_was_claimed(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Lost", where={"run": "l7"}, reason="unclaimed")


@breaks(7)
def lost_as_if_a_worker_had_held_it(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Lost", where={"run": "l7"}, reason="session_lapsed")


@breaks(7)
def lost_with_a_session_that_is_not_over(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Lost", where={"run": "l7"}, reason="session_ended")
    return again, places


@breaks(7)
def lost_and_waiting_again(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Lost", where={"run": "l7"}, final=False, retry_in_ms=5)


@breaks(7)
def a_blocked_renewal_that_extends(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Renewed", where={"run": "l1", "blocked": "CI"}, lease_ms=10_000)


@breaks(7)
def a_blocked_holder_whose_lease_is_renewed(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Renewal", where={"run": "l7"}, blocked="CI")
    return again, [*places, place(entries[find(entries, "Renewed", run="l7")])]


@breaks(7)
def a_lock_that_comes_back(entries: list[Entry]) -> Spoiled:
    lost, like = find(entries, "Lost", run="l7"), find(entries, "Renewed", run="l7")
    clock_ms = value_of(entries[lost])["clock_ms"]
    again = renumbered(inserted(entries, lost + 2, like, clock_ms=clock_ms, input=None))
    return again, [place(again[lost])]


@breaks(7)
def had_again_under_another_token(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Coalesced", where={"request": "l2"}, token=7)


@breaks(7)
def let_into_a_lock_that_only_waits(entries: list[Entry]) -> Spoiled:
    again, _ = edited(entries, "Coalesced", where={"request": "l2"}, run="l9")
    late = find(entries, "Queued", run="l9")
    moved = [*again[: late + 1], again[find(again, "Coalesced", request="l2")], *again[late + 1 :]]
    return renumbered(moved), []


@breaks(7)
def a_lease_for_longer_than_was_asked(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Renewed", where={"run": "l7"}, lease_ms=10_001)


@breaks(7)
def a_lease_for_less_than_was_asked(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "LockRequest", where={"id": "l7"}, ttl_ms=11_000)
    return again, [*places, place(entries[find(entries, "Granted", run="l7")])]


@breaks(7)
def a_lease_that_is_cut_to_no_longest_hold(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Renewed", where={"run": "l7"}, lease_ms=9_000)
    return [Configured(max_hold_ms=MAX_HOLD_MS), *again], places


@breaks(7)
def leases_that_are_cut_to_two_longest_holds(entries: list[Entry]) -> Spoiled:
    again = changed(entries, find(entries, "Coalesced", request="l2"), lease_ms=9_000)
    again, places = edited(again, "Renewed", where={"run": "l1"}, lease_ms=9_500)
    return again, places


@breaks(7)
def a_lease_beyond_the_longest_hold(entries: list[Entry]) -> Spoiled:
    return [Configured(max_hold_ms=10_500), *entries], [place(entries[find(entries, "Renewed", run="l7")])]


@breaks(7)
def a_held_lock_that_fails_by_itself(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Ended", where={"run": "l3"}, status="failed")


@breaks(7)
def a_holder_that_is_turned_away(entries: list[Entry]) -> Spoiled:
    secret = value_of(entries[find(entries, "LockRequest", id="l1")])["secret"]
    again, places = edited(entries, "Renewal", where={"secret": "the secret of nobody"}, secret=secret)
    return again, [*places, place(entries[find(entries, "Fenced", run="l1")])]
