"""Ways of breaking promises 3, 4 and 6: answers, ends, merged requesters, idempotency keys."""

from __future__ import annotations

from verify.recording import changed, find, inserted, renumbered, value_of, without
from verify.spoiling import Spoiled, breaks, edited, place

from keylane.verify import Configured, Entry

# -- 3: one first answer, one end -------------------------------------------------------------------------------


@breaks(3)
def a_request_without_an_answer(entries: list[Entry]) -> Spoiled:
    asked = find(entries, "WorkRequest", id="r4")
    refused, artifact = find(entries, "Refused", request="r4"), find(entries, "ConflictArtifact", kind="lock_held")
    return renumbered(without(entries, refused, artifact)), [place(entries[asked])]


@breaks(3)
def answered_under_another_id(entries: list[Entry]) -> Spoiled:
    asked = find(entries, "WorkRequest", id="r4")
    again, places = edited(entries, "Refused", request="somebody")
    return again, [place(entries[asked]), *places]


@breaks(3)
def accepted_twice(entries: list[Entry]) -> Spoiled:
    first = find(entries, "Queued", run="r2")
    again = renumbered(inserted(entries, first + 1, first))
    return again, [place(again[first]), place(again[first + 1])]


@breaks(3)
def accepted_then_refused(entries: list[Entry]) -> Spoiled:
    first = find(entries, "Queued", run="r2")
    refusal = value_of(entries[find(entries, "Refused")]) | {"request": "r2", "code": "QUEUE_FULL", "input": None}
    again = renumbered(inserted(entries, find(entries, "Refused") + 1, find(entries, "Refused"), **refusal))
    return again, [place(again[first])]


@breaks(3)
def ended_twice(entries: list[Entry]) -> Spoiled:
    ended = find(entries, "Ended", run="r1")
    again = renumbered(inserted(entries, ended + 1, ended))
    return again, [place(again[ended]), place(again[ended + 1])]


@breaks(3)
def answered_anew_while_it_is_remembered(entries: list[Entry]) -> Spoiled:
    repeat, queued = find(entries, "Ended", repeat=True), find(entries, "Queued", run="r1")
    said = dict.fromkeys(value_of(entries[repeat])) | value_of(entries[queued])
    same = {name: value_of(entries[repeat])[name] for name in ("seq", "clock_ms", "input")}
    again = changed(entries, repeat, **(said | same))
    return again, [place(entries[find(entries, "Ended", run="r1")]), place(entries[repeat])]


@breaks(3)
def a_repeat_of_nothing(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Queued", where={"run": "r9"}, repeat=True)


@breaks(3)
def a_grant_after_the_end(entries: list[Entry]) -> Spoiled:
    ended = find(entries, "Ended", run="r5")
    later = find(entries, "Granted", run="r6")
    again = changed(entries, later, run="r5", requests=["r5"])
    return again, [place(entries[ended]), place(entries[later])]


@breaks(3)
def lost_for_good_and_never_ended(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Lost", where={"run": "r10"}, final=True)
    begin = again[: find(again, "WorkerOpened", session="w2")]
    return begin, places


@breaks(3)
def the_only_request_is_passed_over(entries: list[Entry]) -> Spoiled:
    kept = [*entries[: find(entries, "LaneRecord", 1) + 1], entries[find(entries, "WorkRequest", id="r1")]]
    last = find(kept, "LaneRecord", -1)
    kept = changed(kept, last, positions=value_of(kept[last])["positions"] | {"requests": 1})
    return kept, ["requests/0/0"]


@breaks(3)
def sent_on_to_nowhere(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Refused", request="r4")
    event = dict.fromkeys(value_of(entries[index])) | {
        "type": "SentOn", "seq": value_of(entries[index])["seq"], "clock_ms": 0, "time": "", "input": "requests/3",
        "request": "r4", "resource": "deploy://api", "to_partition": 1,
    }  # fmt: skip
    arrival = Entry("requests", 1, 0, None, entries[find(entries, "WorkRequest", id="r5")].value)
    again = without(changed(entries, index, **event), find(entries, "ConflictArtifact", kind="lock_held"))
    return [*again, arrival], [place(entries[index])]


# -- 4: merged requesters ---------------------------------------------------------------------------------------


@breaks(4)
def an_end_that_forgets_who_was_merged(entries: list[Entry]) -> Spoiled:
    joined = find(entries, "Coalesced", request="r3")
    again, places = edited(entries, "Ended", where={"run": "r2"}, requests=["r2"])
    return again, [place(entries[joined]), *places]


@breaks(4)
def an_end_for_who_was_not_merged(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Ended", where={"run": "r7"}, requests=["r7", "r8"])


@breaks(4)
def a_grant_that_forgets_who_was_merged(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Granted", where={"run": "r2"}, requests=["r2"])


@breaks(4)
def another_outcome_told_later(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Ended", where={"repeat": True}, status="failed")
    return again, [place(entries[find(entries, "Ended", run="r1")]), *places]


@breaks(4)
def withdrawn_by_the_cancellation_of_another(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Cancellation", where={"request": "r8"}, request="r7")
    return again, [*places, place(entries[find(entries, "Withdrawn", request="r8")])]


@breaks(4)
def withdrawn_before_its_deadline(entries: list[Entry]) -> Spoiled:
    again, _ = edited(entries, "WorkRequest", where={"id": "r13"}, deadline_ms=5_000)
    return again, [place(entries[find(entries, "Withdrawn", request="r13")])]


# -- 6: idempotency keys ----------------------------------------------------------------------------------------


@breaks(6)
def two_runs_under_one_key(entries: list[Entry]) -> Spoiled:
    again = changed(entries, find(entries, "WorkRequest", id="r5"), idempotency_key="k")
    again = changed(again, find(entries, "WorkRequest", id="r7"), idempotency_key="k")
    return [*again, Configured(retention_ms=60_000)], [
        place(entries[find(entries, "Granted", run=run)]) for run in ("r5", "r7")
    ]
