"""Ways of breaking promises about locks: grants and leases, what is written together, state, deadlocks, artifacts."""

from __future__ import annotations

from functools import partial

from verify.lock_stories import API, DB, MAX_HOLD_MS, WEB, lock_story
from verify.recording import changed, find, inserted, renumbered, value_of, without
from verify.spoiling import Spoiled, edited, place
from verify.spoiling import breaks as breaks_story

from keylane.verify import Configured, Entry

breaks = partial(breaks_story, of=lock_story)

# -- 1, 2, 5: grants --------------------------------------------------------------------------------------------


@breaks(1)
def a_lock_granted_while_a_worker_holds_it(entries: list[Entry]) -> Spoiled:
    ended, later = find(entries, "Ended", run="r1"), find(entries, "Granted", run="l3")
    again = renumbered(inserted(entries, ended, later))
    return again, [place(again[find(again, "Granted", run="r1")]), place(again[ended])]


@breaks(1)
def work_granted_while_a_lock_is_held(entries: list[Entry]) -> Spoiled:
    ended, later = find(entries, "Ended", run="l1"), find(entries, "Granted", run="r1")
    again = renumbered(inserted(entries, ended, later))
    return again, [place(again[find(again, "Granted", run="l1")]), place(again[ended])]


@breaks(2)
def a_lock_under_a_lower_token_than_the_work_before(entries: list[Entry]) -> Spoiled:
    first, second = find(entries, "Granted", run="r1"), find(entries, "Granted", run="l3")
    return changed(entries, second, token=value_of(entries[first])["token"] - 1), [place(entries[first])]


@breaks(5)
def a_lock_granted_before_work_that_came_before_it(entries: list[Entry]) -> Spoiled:
    """r1 waited and was served; it and l3 are granted the other way round."""
    first, second = find(entries, "Granted", run="r1"), find(entries, "Granted", run="l3")
    one, other = value_of(entries[first]), value_of(entries[second])
    swap = ("run", "action", "requests", "session", "claim_ms")
    again = changed(entries, first, **{name: other[name] for name in swap})
    again = changed(again, second, **{name: one.get(name) for name in swap})
    return again, [place(entries[find(entries, "Queued", run=run)]) for run in ("r1", "l3")]


@breaks(5)
def work_granted_before_a_lock_that_came_before_it(entries: list[Entry]) -> Spoiled:
    """The same, said to have been accepted the other way round: a lock needs no worker to be ready."""
    one, other = find(entries, "Queued", run="r1"), find(entries, "Queued", run="l3")
    lock = value_of(entries[other]) | {"input": None}
    again = inserted(entries, one, other, **lock)
    return renumbered(without(again, other + 1)), []


# -- 3, 4: answers and ends -------------------------------------------------------------------------------------


@breaks(3)
def a_lock_request_without_an_answer(entries: list[Entry]) -> Spoiled:
    asked, refused = find(entries, "LockRequest", id="l4"), find(entries, "Refused", request="l4")
    return renumbered(without(entries, refused)), [place(entries[asked])]


@breaks(3)
def a_lock_that_is_refused_after_it_was_accepted(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Refused", where={"request": "l4"}, request="l3")
    return again, [place(entries[find(entries, "Queued", run="l3")]), *places]


@breaks(3)
def a_lock_that_ends_twice(entries: list[Entry]) -> Spoiled:
    ended = find(entries, "Ended", run="l5")
    again = renumbered(inserted(entries, ended + 1, ended))
    return again, [place(again[ended]), place(again[ended + 1])]


@breaks(4)
def an_end_that_forgets_who_had_it_again(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Ended", where={"run": "l1"}, requests=["l1"])
    return again, [place(entries[find(entries, "Coalesced", request="l2")]), *places]


@breaks(4)
def refused_before_it_had_waited(entries: list[Entry]) -> Spoiled:
    again, _ = edited(entries, "LockRequest", where={"id": "l5"}, wait_ms=5_000)
    return again, [place(entries[find(entries, kind, run="l5")]) for kind in ("Queued", "Ended")]


@breaks(4)
def withdrawn_by_the_cancellation_of_another_lock(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Cancellation", where={"request": "l12"}, request="l13")
    return again, [*places, place(entries[find(entries, "Ended", run="l12")])]


@breaks(4)
def a_held_lock_ended_by_the_cancellation_of_another(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Cancellation", where={"request": "l11"}, request="l13")
    return again, [*places, place(entries[find(entries, "Ended", run="l11")])]


# -- 7: leases --------------------------------------------------------------------------------------------------


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


# -- 8: what one record brings about ----------------------------------------------------------------------------


@breaks(8)
def a_session_ends_and_its_lock_does_not(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "AgentSessionEnded", runs=["l8", "l9", "l7"])
    return again, [*places, place(entries[find(entries, "Ended", run="l7")])]


@breaks(8)
def a_session_ends_and_leaves_a_lock_out(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "AgentSessionEnded", runs=["l8"])
    return again, [place(entries[find(entries, "Queued", run="l9")]), *places]


@breaks(8)
def a_session_ends_and_nobody_says_so(entries: list[Entry]) -> Spoiled:
    asked = find(entries, "SessionEnded")
    gone = [
        index for index, each in enumerate(entries) if f'"{_named(entries[asked])}"'.encode() in (each.value or b"")
    ]
    return renumbered(without(entries, *(index for index in gone if entries[index].topic == "events"))), [
        place(entries[asked])
    ]


def _named(entry: Entry) -> str:
    """How an event names the record that it answers."""
    return f"{entry.topic}/{entry.offset}"


@breaks(8)
def a_release_that_is_passed_over(entries: list[Entry]) -> Spoiled:
    """The second one of l1 is silent, since it was given back: said to be of another token, it may not be."""
    return edited(entries, "Release", 1, where={"run": "l1"}, token=1)


@breaks(8)
def an_item_of_a_lock(entries: list[Entry]) -> Spoiled:
    token = value_of(entries[find(entries, "Granted", run="l1")])["token"]
    return edited(entries, "WorkItem", where={"run": "r1"}, token=token)


# -- 9: state ---------------------------------------------------------------------------------------------------


@breaks(9)
def a_lock_of_another_secret_in_state(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Run", -1, id="l13")
    lock = value_of(entries[index])["lock"]
    return changed(entries, index, lock=lock | {"secret_sha256": "0" * 64}), []


@breaks(9)
def a_lock_of_another_session_in_state(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Run", -1, id="l13")
    return changed(entries, index, lock=value_of(entries[index])["lock"] | {"session": "sx"}), []


@breaks(9)
def a_claim_that_state_does_not_have(entries: list[Entry]) -> Spoiled:
    begin = entries[: find(entries, "Lost", run="l6")]
    return edited(begin, "Run", -1, where={"id": "l6"}, unclaimed=None)


@breaks(9)
def a_longer_lease_in_state(entries: list[Entry]) -> Spoiled:
    begin = entries[: find(entries, "Lost", run="l7")]
    index = find(begin, "Run", -1, id="l7")
    return edited(begin, "Run", -1, where={"id": "l7"}, lease_until_ms=value_of(begin[index])["lease_until_ms"] + 1)


def _appended(entries: list[Entry], link: Entry) -> Spoiled:
    offset = max(each.offset for each in entries if each.topic == "state") + 1
    return [*entries, Entry("state", 0, offset, link.key, link.value)], [f"state/0/{offset}"]


@breaks(9)
def a_wait_that_is_over_in_state(entries: list[Entry]) -> Spoiled:
    return _appended(entries, entries[find(entries, "WaitLink", request="two-aw")])


@breaks(9)
def a_wait_for_who_holds_nothing_in_state(entries: list[Entry]) -> Spoiled:
    index = find(entries, "WaitLink", request="two-c")
    return _appended(entries, changed(entries, index, until_ms=999_999)[index])


# -- 10: deadlocks ----------------------------------------------------------------------------------------------


def _deadlocks(entries: list[Entry]) -> tuple[int, int]:
    """The events that tell of the one of two and of that of three."""
    return find(entries, "Ended", run="two-ba"), find(entries, "Ended", run="three-ca")


@breaks(10)
def a_cycle_with_a_step_that_nobody_waits(entries: list[Entry]) -> Spoiled:
    two, _ = _deadlocks(entries)
    return changed(entries, two, cycle=["sb", API, "sa", DB]), [place(entries[two])]


@breaks(10)
def a_cycle_through_one_that_waits_for_somebody_else(entries: list[Entry]) -> Spoiled:
    _, three = _deadlocks(entries)
    return changed(entries, three, cycle=["sc", API, "sa", DB, "sb", WEB]), [place(entries[three])]


@breaks(10)
def a_path_that_comes_to_nothing(entries: list[Entry]) -> Spoiled:
    two, _ = _deadlocks(entries)
    return changed(entries, two, cycle=["sb", API, "sb", WEB]), [place(entries[two])]


@breaks(10)
def a_deadlock_at_the_edge_of_another(entries: list[Entry]) -> Spoiled:
    two, _ = _deadlocks(entries)
    position = value_of(entries[find(entries, "Ended", run="three-ca")])["waits_position"]
    return changed(entries, two, waits_position=position), [f"waits/0/{position}", place(entries[two])]


@breaks(10)
def a_deadlock_by_no_edge(entries: list[Entry]) -> Spoiled:
    two, _ = _deadlocks(entries)
    return changed(entries, two, waits_position=None), [place(entries[two])]


@breaks(10)
def a_cycle_whose_other_wait_was_never_written(entries: list[Entry]) -> Spoiled:
    two, _ = _deadlocks(entries)
    return changed(entries, find(entries, "WaitEdge", request="two-aw"), holder="sx"), [place(entries[two])]


@breaks(10)
def a_cycle_through_a_wait_of_before_the_lane_was_loaded(entries: list[Entry]) -> Spoiled:
    _, three = _deadlocks(entries)
    said_again = find(entries, "WaitEdge", -1, request="three-bd")
    assert said_again > find(entries, "LaneLoaded")
    return changed(entries, said_again, claim=0), [place(entries[three])]


@breaks(10)
def a_cycle_through_a_wait_that_is_over(entries: list[Entry]) -> Spoiled:
    """In place of the edge of another wait there is the end of the one that the cycle needs."""
    two, _ = _deadlocks(entries)
    other = find(entries, "WaitEdge", request="two-c")
    again = list(entries)
    again[other] = Entry(
        "waits", 0, entries[other].offset, entries[find(entries, "WaitEdge", request="two-aw")].key, None
    )
    return again, [place(entries[two])]


@breaks(10)
def a_deadlock_that_is_told_as_it_comes(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Refused", where={"request": "l4"}, code="DEADLOCK", cycle=["s4", API, "s1", WEB])
    return again, places


# -- 11, 12, 13 -------------------------------------------------------------------------------------------------


@breaks(11)
def no_artifact_for_a_deadlock(entries: list[Entry]) -> Spoiled:
    index = find(entries, "ConflictArtifact", kind="deadlock")
    return renumbered(without(entries, index)), [place(entries[find(entries, "Ended", run="two-ba")])]


def _without_artifact_of(entries: list[Entry], event: int) -> Spoiled:
    index = find(entries, "ConflictArtifact", event_seq=value_of(entries[event])["seq"])
    return renumbered(without(entries, index)), [place(entries[event])]


@breaks(11)
def no_artifact_for_a_lock_that_was_lost(entries: list[Entry]) -> Spoiled:
    return _without_artifact_of(entries, find(entries, "Lost", run="l7"))


@breaks(11)
def no_artifact_for_a_lock_that_nobody_claimed(entries: list[Entry]) -> Spoiled:
    return _without_artifact_of(entries, find(entries, "Lost", run="l6"))


@breaks(11)
def no_artifact_for_a_lock_lost_with_its_session(entries: list[Entry]) -> Spoiled:
    return _without_artifact_of(entries, find(entries, "Lost", run="l8"))


@breaks(11)
def no_artifact_for_a_late_release(entries: list[Entry]) -> Spoiled:
    return _without_artifact_of(entries, find(entries, "Fenced", run="l7"))


@breaks(11)
def an_artifact_for_a_lock_that_is_held(entries: list[Entry]) -> Spoiled:
    artifact, refused = find(entries, "ConflictArtifact", kind="deadlock"), find(entries, "Refused", request="l4")
    seq = value_of(entries[refused])["seq"]
    again = changed(entries, artifact, event_seq=seq, kind="lock_held", id=f"0-{seq}")
    return again, [place(entries[artifact])]


@breaks(11)
def an_artifact_for_a_lock_that_was_waited_for_in_vain(entries: list[Entry]) -> Spoiled:
    artifact, refused = find(entries, "ConflictArtifact", kind="deadlock"), find(entries, "Ended", run="l5")
    seq = value_of(entries[refused])["seq"]
    again = changed(entries, artifact, event_seq=seq, kind="lock_held", id=f"0-{seq}")
    return again, [place(entries[artifact])]


@breaks(12)
def more_locks_than_a_session_may_have(entries: list[Entry]) -> Spoiled:
    return [Configured(locks_per_session=1), *entries], []


@breaks(13)
def a_lock_that_is_never_given_back(entries: list[Entry]) -> Spoiled:
    begin = entries[: find(entries, "Release", -1)]
    return begin, [place(entries[find(entries, "Queued", run="three-a")])]
