"""Ways of breaking promises 1, 2, 5 and 7: grants, tokens, order, leases."""

from __future__ import annotations

from verify.recording import changed, find, inserted, renumbered, value_of, without
from verify.spoiling import Spoiled, breaks, edited, place

from keylane.verify import Entry

# -- 1: one live grant ------------------------------------------------------------------------------------------


@breaks(1)
def granted_to_another_while_it_is_held(entries: list[Entry]) -> Spoiled:
    first = find(entries, "Granted")
    ended = find(entries, "Ended", run="r1")
    grant = value_of(entries[find(entries, "Granted", run="r2")]) | {"token": 1_015, "clock_ms": 7_000}
    again = renumbered(inserted(entries, ended, first, **grant))
    return again, [place(again[first]), place(again[ended])]


@breaks(1)
def the_same_run_granted_twice(entries: list[Entry]) -> Spoiled:
    first = find(entries, "Granted")
    again = renumbered(inserted(entries, first + 1, first, token=1_015))
    return again, [place(again[first]), place(again[first + 1])]


@breaks(1)
def a_loss_is_left_out(entries: list[Entry]) -> Spoiled:
    again = renumbered(without(entries, find(entries, "Lost", run="r10")))
    grants = [find(again, "Granted", nth, run="r10") for nth in (0, 1)]
    return again, [place(again[index]) for index in grants]


@breaks(1)
def one_key_in_two_partitions(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Queued", run="r1")
    other = Entry("events", 1, 0, None, changed(entries, index, seq=1)[index].value)
    return [*entries, other], [place(entries[index]), "events/1/0"]


@breaks(1)
def two_holders_in_state(entries: list[Entry]) -> Spoiled:
    index = find(entries, "Run", state="Held", id="r1")
    twice = [changed(entries, index, id=id)[index] for id in ("x1", "x2")]
    offset = max(each.offset for each in entries if each.topic == "state")
    added = [Entry("state", 0, offset + n, f"run/x{n}".encode(), each.value) for n, each in enumerate(twice, 1)]
    return [*entries, *added], [place(each) for each in added]


# -- 2: tokens --------------------------------------------------------------------------------------------------


@breaks(2)
def a_token_used_again(entries: list[Entry]) -> Spoiled:
    first, second = find(entries, "Granted", run="r1"), find(entries, "Granted", run="r2")
    again = changed(entries, second, token=value_of(entries[first])["token"])
    return again, [place(entries[first]), place(entries[second])]


@breaks(2)
def a_token_that_is_lower_on_another_key(entries: list[Entry]) -> Spoiled:
    first, second = find(entries, "Granted", run="r7"), find(entries, "Granted", run="r10")
    return changed(entries, second, token=1_002), [place(entries[first]), place(entries[second])]


@breaks(2)
def a_counter_behind_the_grants(entries: list[Entry]) -> Spoiled:
    last = find(entries, "LaneRecord", -1)
    return changed(entries, last, token=1_005), [place(entries[last])]


@breaks(2)
def a_claim_that_goes_back(entries: list[Entry]) -> Spoiled:
    return edited(entries, "LaneRecord", 3, claim=7)


# -- 5: order ---------------------------------------------------------------------------------------------------


@breaks(5)
def a_later_run_of_the_same_action_goes_first(entries: list[Entry]) -> Spoiled:
    """r2 waits and r5, accepted later, is granted: said to be in no backoff, r2 had to go first."""
    again, _ = edited(entries, "AttemptFailed", retry_in_ms=0)
    accepted = [find(entries, "Queued", run=run) for run in ("r2", "r5")]
    granted = find(entries, "Granted", run="r5")
    return again, [place(entries[index]) for index in (*accepted, granted)]


@breaks(5)
def a_later_run_of_another_action_goes_first(entries: list[Entry]) -> Spoiled:
    """r6 is of another action than r7, which has run before in this life of the lane and is served."""
    first, second = find(entries, "Granted", run="r6"), find(entries, "Granted", run="r7")
    six, seven = value_of(entries[first]), value_of(entries[second])
    swap = ("run", "action", "requests")
    again = changed(entries, first, **{name: seven[name] for name in swap})
    again = changed(again, second, **{name: six[name] for name in swap})
    queued = find(entries, "Queued", run="r7")
    moved = [*again[:first], again[queued], *again[first:queued], *again[queued + 1 :]]
    return renumbered(moved), []


# -- 7: leases --------------------------------------------------------------------------------------------------


@breaks(7)
def a_lease_that_ends_early(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Lost", where={"run": "r2"}, clock_ms=11_999)
    return again, [place(entries[find(entries, "Granted", run="r2")]), *places]


@breaks(7)
def a_renewal_that_does_not_count(entries: list[Entry]) -> Spoiled:
    """r10 is lost with its session; said to be lost by its own time, it was renewed three seconds before."""
    again, places = edited(entries, "Lost", where={"run": "r10"}, reason="lease_expired")
    return again, [place(entries[find(entries, "Progressed", -1, run="r10")]), *places]


@breaks(7)
def a_session_that_lapses_early(entries: list[Entry]) -> Spoiled:
    """Its last heartbeat was applied after the event before it."""
    closed = find(entries, "WorkerClosed", session="w1")
    again = entries
    for index in (closed, find(entries, "Lost", run="r7"), find(entries, "Lost", run="r10")):
        again = changed(again, index, clock_ms=22_999)
    beat = find(entries, "WorkerHeartbeat", -1, session="w1")
    return again, [place(entries[beat]), place(entries[closed])]


@breaks(7)
def lost_with_a_session_that_is_open(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Lost", where={"run": "r2"}, reason="session_lapsed")
    return again, places


@breaks(7)
def a_lease_that_comes_back(entries: list[Entry]) -> Spoiled:
    lost = find(entries, "Lost", run="r2")
    like = find(entries, "Progressed", run="r2")
    again = renumbered(inserted(entries, lost + 2, like, token=1_002, clock_ms=12_000, blocked=None, input=None))
    return again, [place(again[lost])]


@breaks(7)
def completed_after_the_lease_was_lost(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Ended", where={"run": "r7"}, token=1_006)
    return again, places


@breaks(7)
def granted_to_a_session_that_is_over(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Granted", 1, where={"run": "r7"}, session="w1")
    return again, [place(entries[find(entries, "WorkerClosed", session="w1")]), *places]


@breaks(7)
def left_and_never_said_so(entries: list[Entry]) -> Spoiled:
    left = find(entries, "WorkerLeft")
    again = changed(entries, left, type="WorkerHeartbeat", number=9, slots=5, read=3)
    return again, [place(entries[left]), place(entries[find(entries, "WorkerClosed", session="w2")])]


@breaks(7)
def a_report_of_somebody_else_is_believed(entries: list[Entry]) -> Spoiled:
    report = find(entries, "Progress", -1, run="r10")
    again = changed(entries, report, token=1_006)
    return again, [place(entries[report]), place(entries[find(entries, "Progressed", -1, run="r10")])]


@breaks(7)
def a_clock_that_goes_back(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Ended", where={"run": "r1"}, clock_ms=1)
