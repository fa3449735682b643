"""Ways of breaking promises about locks: grants, answers, what is written together, state, artifacts, bounds."""

from __future__ import annotations

from functools import partial

from verify.lock_stories import lock_story
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
