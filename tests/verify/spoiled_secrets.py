"""Ways of breaking promise 14: who does something to a lock without its secret, and secrets that routers write."""

from __future__ import annotations

from functools import partial
from typing import Any

from core.bench import secret_of
from verify.lock_stories import WEB, lock_story
from verify.recording import find, inserted, renumbered, value_of
from verify.spoiling import Case, Spoiled, edited, place
from verify.spoiling import breaks as breaks_story

from keylane.verify import Entry

breaks = partial(breaks_story, of=lock_story)
NOBODY = secret_of("nobody")


def _by_another(kind: str, event: str, /, *, run: str, where: dict[str, Any], **other: Any) -> Case:
    """A command of somebody else brought about what was done to the lock."""

    def case(entries: list[Entry]) -> Spoiled:
        again, places = edited(entries, kind, where=where, **other)
        return again, [*places, place(entries[find(entries, event, run=run)])]

    case.__name__ = f"{event.lower()}_by_a_{kind.lower()}_with_another_{'_'.join(other)}"
    return case


for each in (
    _by_another("Renewal", "Renewed", run="l7", where={"run": "l7"}, secret=NOBODY),
    _by_another("Renewal", "Renewed", run="l7", where={"run": "l7"}, token=7),
    _by_another("Renewal", "Renewed", run="l7", where={"run": "l7"}, id="other"),
    _by_another("Release", "Ended", run="l3", where={"run": "l3"}, secret=NOBODY),
    _by_another("Release", "Ended", run="l3", where={"run": "l3"}, token=7),
    _by_another("Cancellation", "Ended", run="l11", where={"request": "l11"}, secret=NOBODY),
    _by_another("LockRequest", "Coalesced", run="l1", where={"id": "l2"}, secret=NOBODY),
    _by_another("LockRequest", "Coalesced", run="l1", where={"id": "l2"}, session="sx"),
    _by_another("LockRequest", "Coalesced", run="l1", where={"id": "l2"}, hold="x"),
    _by_another("LockRequest", "Granted", run="l7", where={"id": "l7"}, session="sx"),
):
    breaks(14)(each)


@breaks(14)
def cancelled_by_somebody_while_it_is_held(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "Cancellation", where={"request": "l11"}, secret=None)
    return again, [*places, place(entries[find(entries, "Ended", run="l11")])]


@breaks(14)
def renewed_by_nothing(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Renewed", where={"run": "l7"}, input=None)


@breaks(14)
def given_back_by_nobody(entries: list[Entry]) -> Spoiled:
    return edited(entries, "Ended", where={"run": "l3"}, input=None)


@breaks(14)
def a_worker_that_renews_a_lock(entries: list[Entry]) -> Spoiled:
    renewed = find(entries, "Renewed", run="l7")
    value = value_of(entries[renewed])
    said = {"type": "Progressed", "clock_ms": value["clock_ms"], "input": None, "renewal": None, "lease_ms": None}
    again = renumbered(inserted(entries, renewed + 1, renewed, **said))
    return again, [place(again[renewed + 1])]


@breaks(14)
def a_session_ended_by_another_secret(entries: list[Entry]) -> Spoiled:
    again, _ = edited(entries, "SessionEnded", secret=NOBODY)
    return again, [place(entries[find(entries, "AgentSessionEnded")])]


@breaks(14)
def a_session_ended_by_the_end_of_another(entries: list[Entry]) -> Spoiled:
    again, _ = edited(entries, "SessionEnded", session="s10")
    return again, [place(entries[find(entries, "AgentSessionEnded")])]


@breaks(14)
def a_session_that_ends_the_lock_of_another(entries: list[Entry]) -> Spoiled:
    again, places = edited(entries, "AgentSessionEnded", runs=["l8", "l9", "l10"])
    return again, [place(entries[find(entries, "Queued", run="l10")]), *places]


def _told_in(kind: str, field: str, text: str, /, **where: Any) -> Case:
    def case(entries: list[Entry]) -> Spoiled:
        again, places = edited(entries, kind, where=where, **{field: text})
        return again, [place(entries[find(entries, "LockRequest", session="s10")]), *places]

    case.__name__ = f"a_secret_in_{kind}_{field}"
    return case


for each in (
    _told_in("Queued", "actor", secret_of("s10"), run="l10"),
    _told_in("Refused", "message", f"it is held with {secret_of('s10')}!", request="l4"),
    _told_in("ConflictArtifact", "note", f'"{secret_of("s10")}"', kind="deadlock"),
    _told_in("Run", "secret", secret_of("s10"), id="l10"),
    _told_in("WaitEdge", "secret", secret_of("s10"), request="two-c"),
    _told_in("WorkItem", "previous_end", secret_of("s10"), run="r1"),
):
    breaks(14)(each)


@breaks(14)
def a_secret_that_names_a_record(entries: list[Entry]) -> Spoiled:
    offset = max(each.offset for each in entries if each.topic == "state") + 1
    key = f"secret/{secret_of('s10')}/{WEB}".encode()
    return [*entries, Entry("state", 0, offset, key, None)], [f"state/0/{offset}"]
