"""Ways of breaking promise 10: deadlocks that are told by what is no cycle of waits."""

from __future__ import annotations

from functools import partial

from verify.lock_stories import API, DB, WEB, lock_story
from verify.recording import changed, find, value_of
from verify.spoiling import Spoiled, edited, place
from verify.spoiling import breaks as breaks_story

from keylane.verify import Entry

breaks = partial(breaks_story, of=lock_story)


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
