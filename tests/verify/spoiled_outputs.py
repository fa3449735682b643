"""Ways of breaking promises 8 to 13: what is written together, state, cycles, artifacts, bounds, coming to rest."""

from __future__ import annotations

from verify.recording import changed, find, inserted, renumbered, value_of, without
from verify.spoiling import Case, Spoiled, breaks, edited, place

from keylane.verify import Entry

# -- 8: together or not at all, and once ------------------------------------------------------------------------


@breaks(8)
def an_event_is_missing(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Lost", run="r2")
    return without(entries, index), [f"events/0/{entries[index].offset + 1}"]


@breaks(8)
def the_last_event_is_missing(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Ended", run="r12")
    return without(entries, index), [place(entries[find(entries, "LaneRecord", -1)])]


@breaks(8)
def an_event_is_written_twice(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Ended", run="r5")
    again = inserted(entries, index + 1, index)
    return again, [place(entries[index])]


@breaks(8)
def events_in_another_order(entries: list[Entry]) -> Spoiled:
    one, other = find(entries, "Queued", run="r9"), find(entries, "Withdrawn", request="r8")
    return changed(changed(entries, one, seq=25), other, seq=26), [place(entries[other])]


@breaks(8)
def an_input_is_applied_twice(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Queued", where={"run": "r9"}, input="requests/9")


@breaks(8)
def a_grant_without_its_item(entries: list[Entry]) -> Spoiled:
    item = find(entries, "WorkItem", run="r12")
    return without(entries, item), [place(entries[find(entries, "Granted", run="r12")])]


@breaks(8)
def a_gap_in_what_a_session_was_sent(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Notice")
    after = next(
        each for each in entries[index + 1 :] if each.topic == "items.default" and b'"number"' in (each.value or b"")
    )
    return without(entries, index), [place(after)]


@breaks(8)
def an_item_that_says_something_else(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "WorkItem", where={"run": "r5"}, attempt=2)
    return again, [place(entries[find(entries, "Granted", run="r5")]), *places]


@breaks(8)
def an_item_that_was_never_granted(entries: list[Entry]) -> Spoiled:
    return edited(entries, "WorkItem", where={"run": "r5"}, token=17)


@breaks(8)
def positions_before_the_output(entries: list[Entry]) -> Spoiled:
    """The lane's record counts the answer, and not the request: it would be applied again."""
    index = find(entries, "LaneRecord", -1)
    positions = value_of(entries[index])["positions"]
    again = changed(entries, index, positions=positions | {"requests": positions["requests"] - 1})
    return again, [place(entries[index])]


@breaks(8)
def positions_beyond_the_output(entries: list[Entry]) -> Spoiled:
    """The lane's record counts a request that is answered only later: a crash between would lose it."""
    index = find(entries, "LaneRecord", 4)
    positions = value_of(entries[index])["positions"]
    again = changed(entries, index, positions=positions | {"requests": positions["requests"] + 1})
    return again, [place(entries[index])]


@breaks(8)
def a_position_that_goes_back(entries: list[Entry]) -> Spoiled:
    index = find(entries, "LaneRecord", 10)
    positions = value_of(entries[index])["positions"]
    again = changed(entries, index, positions=positions | {"results": 0})
    return again, [place(entries[index])]


@breaks(8)
def set_aside_without_a_dead_letter(entries: list[Entry]) -> Spoiled:
    letter = find(entries, "DeadLetter")
    return without(entries, letter), [place(entries[find(entries, "DeadLettered")])]


@breaks(8)
def a_report_is_passed_over(entries: list[Entry]) -> Spoiled:
    report = find(entries, "Progress", run="r2")
    event = find(entries, "Progressed", run="r2")
    return renumbered(without(entries, event)), [place(entries[report])]


# -- 9: state ---------------------------------------------------------------------------------------------------


@breaks(9)
def state_with_another_end(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Run", -1, where={"id": "r12"}, status="failed")


@breaks(9)
def state_in_which_it_still_waits(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Run", -1, where={"id": "r12"}, state="Waiting")


@breaks(9)
def state_without_a_session(entries: list[Entry]) -> Spoiled:
    index = find(entries, "WorkerSession", -1, id="w3")
    gone = Entry("state", 0, entries[-1].offset + 1, entries[index].key, None)
    return [*entries, gone], [place(entries[find(entries, "WorkerOpened", session="w3")])]


@breaks(9)
def state_with_a_run_that_nobody_asked_for(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Run", -1, id="r12")
    other = changed(entries, index, id="r99")[index]
    offset = max(each.offset for each in entries if each.topic == "state") + 1
    return [*entries, Entry("state", 0, offset, b"run/r99", other.value)], [f"state/0/{offset}"]


# -- 10: cycles -------------------------------------------------------------------------------------------------


@breaks(10)
def a_deadlock_without_a_cycle(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Refused", where={"request": "r4"}, code="DEADLOCK", cycle=["s1", "deploy://api"])


# -- 11: artifacts ----------------------------------------------------------------------------------------------

KINDS = ("lock_held", "inconsistent_state", "lease_expired", "fenced_report", "id_reused", "superseded", "wait_expired")


def _no_artifact(kind: str) -> Case:
    def case(entries: list[Entry]) -> Spoiled:
        index = find(entries, "ConflictArtifact", kind=kind)
        seq = value_of(entries[index])["event_seq"]
        event = next(each for each in entries if each.topic == "events" and value_of(each)["seq"] == seq)
        return renumbered(without(entries, index)), [place(event)]

    case.__name__ = f"no_artifact_for_{kind}"
    return case


for each_kind in KINDS:
    breaks(11)(_no_artifact(each_kind))


@breaks(11)
def two_artifacts_for_one_clash(entries: list[Entry]) -> Spoiled:
    index = find(entries, "ConflictArtifact", kind="fenced_report")
    again = renumbered(inserted(entries, index + 1, index))
    return again, [place(again[index]), place(again[index + 1])]


@breaks(11)
def an_artifact_without_a_clash(entries: list[Entry]) -> Spoiled:
    again, _ = edited(entries, "Ended", where={"run": "r1"}, observed_version="v1")
    return again, [place(entries[find(entries, "ConflictArtifact", kind="inconsistent_state")])]


@breaks(11)
def an_artifact_of_another_kind(entries: list[Entry]) -> Spoiled:
    return edited(entries, "ConflictArtifact", where={"kind": "fenced_report"}, kind="superseded")


# -- 12: bounds -------------------------------------------------------------------------------------------------


@breaks(12)
def a_record_that_is_too_large(entries: list[Entry]) -> Spoiled:
    return edited(entries, "WorkRequest", where={"id": "r5"}, payload="x" * 300_000)


# -- 13: rest ---------------------------------------------------------------------------------------------------


@breaks(13)
def a_run_that_never_ends(entries: list[Entry]) -> Spoiled:
    ended = find(entries, "Ended", run="r12")
    again = renumbered(entries[:ended])
    return again, [place(entries[find(entries, "Queued", run="r12")])]


@breaks(13)
def a_request_that_is_never_applied(entries: list[Entry]) -> Spoiled:
    value = entries[find(entries, "WorkRequest", id="r5")].value
    offset = max(each.offset for each in entries if each.topic == "requests") + 1
    return [*entries, Entry("requests", 0, offset, None, value)], [f"requests/0/{offset}"]
