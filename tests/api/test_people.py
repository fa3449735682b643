"""A person's commands through the client, over a small lane; and what is told to whom decides, as folds of a state."""

from __future__ import annotations

import inspect

import anyio
import pytest
from client_lane import KEY, TIME, P, lane, state_record
from msgspec import Raw

from keylane import Client, Refused, SyncClient, Unavailable, publishing, reviews
from keylane.conflicts import grouped
from keylane.journal import errors as journal_errors
from keylane.journal.memory import MemoryJournal
from keylane.journal.port import Record, Stored
from keylane.request_status import request_status
from keylane.reviews import leading_digest, parked_run, review_of
from keylane.schemas.conflicts import ConflictArtifact, ConflictResolved
from keylane.schemas.event_parts import Event, Party
from keylane.schemas.events import Changed, Decided
from keylane.schemas.events import Refused as RefusedEvent
from keylane.schemas.requests import Decision, Request, ResourceChange
from keylane.schemas.state import LaneRecord, Member, Resource, Review, Run, StateRecord
from keylane.views import fold

SAID = {"seq": 7, "clock_ms": 0, "time": TIME, "resource": KEY, "owner": KEY}
ASKED = Review(order=4, since_ms=0, since=TIME, reason="on_conflict")


def run(id: str, state: str = "Waiting", order: int = 1, **fields: object) -> Run:
    values = {
        "resource": KEY, "owner": KEY, "action": "restart", "digest": "d", "request_digest": "x",
        "accepted_ms": 0, "payload": Raw(b"1"),
    } | fields  # fmt: skip
    return Run(id=id, order=order, state=state, **values)  # type: ignore[arg-type]


def stored(*records: StateRecord) -> list[Stored]:
    lane = LaneRecord(positions={}, clock_ms=1_000, seq=9)
    written = [state_record(P, each) for each in (lane, *records)]
    return [
        Stored(each.topic, each.partition, offset, each.key, each.value, (), 0) for offset, each in enumerate(written)
    ]


def decided(decision: Decision) -> Decided:
    return Decided(
        decision=decision.id, request=decision.request, run=decision.request, action="restart",
        verdict=decision.verdict, by=decision.by, version_seen=decision.version_seen, note=decision.note,
        conflict=decision.conflict, **SAID,  # type: ignore[arg-type]
    )  # fmt: skip


def too_late(decision: Decision) -> RefusedEvent:
    return RefusedEvent(
        seq=8, clock_ms=0, time=TIME, request=decision.id, resource=KEY, code="TOO_LATE", message="it is waiting",
        command="Decision",
    )  # fmt: skip


@pytest.mark.anyio
async def test_a_decision_is_bound_to_what_is_parked_and_published_again_under_its_id(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acknowledgement is lost, so it lies there twice. The second copy is too late; the person is not told so."""
    seen: list[str] = []

    def answer(request: Request) -> list[Event]:
        assert isinstance(request, Decision)
        seen.append(request.id)
        return [decided(request) if len(seen) == 1 else too_late(request)]

    append, failed = MemoryJournal.append, []

    async def unsure(self: MemoryJournal, records: list[Record]) -> list[int]:
        offsets = await append(self, records)
        if records[0].topic == "requests" and not failed:
            failed.append(True)
            raise journal_errors.Unavailable("no acknowledgement")
        return offsets

    await journal.append([state_record(P, run("r-1", "Parked", review=ASKED))])
    async with lane(journal, answer) as read, Client(url, actor="boss") as client:
        monkeypatch.setattr(MemoryJournal, "append", unsure)
        told = await client.decide(KEY, "r-1", "approve", version_seen="v1", note="ok")
        with anyio.fail_after(5):
            while len(read) < 2:
                await anyio.lowlevel.checkpoint()
    assert (told.decision, told.by) == (seen[0], "boss")
    first, second = read
    assert first == second, "the same record again"
    assert isinstance(first, Decision)
    assert (first.digest, first.conflict, first.version_seen) == ("d", f"{P}-4", "v1")


@pytest.mark.anyio
async def test_what_was_seen_goes_along_although_the_state_says_otherwise(url: str, journal: MemoryJournal) -> None:
    await journal.append([state_record(P, run("r-1", "Parked", review=ASKED))])
    async with lane(journal, lambda request: [decided(request)]) as read, Client(url) as client:  # type: ignore[arg-type]
        seen = await client.review(KEY, "r-1")
        await journal.append([state_record(P, run("r-1", "Parked", digest="other", review=ASKED))])
        await client.decide(KEY, "r-1", "reject", version_seen="", note="no", by="ann", seen=seen)
        with pytest.raises(Refused) as refused:
            await client.review(KEY, "r-2")
    (decision,) = read
    assert isinstance(decision, Decision) and (decision.digest, decision.by) == ("d", "ann")
    assert refused.value.code == "NOT_FOUND"


@pytest.mark.anyio
async def test_nobody_answers(url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "ANSWER_S", 0.05)
    async with Client(url) as client:
        with pytest.raises(Unavailable, match="no router answered Decision"):
            await client.decide(KEY, "r-1", "approve", version_seen="v1", note="ok")
        with pytest.raises(Unavailable, match="no router answered ResourceChange"):
            await client.changed(KEY, "v2", by="ann", what="edit")


@pytest.mark.anyio
async def test_a_change_says_all_that_is_known_of_it(url: str, journal: MemoryJournal) -> None:
    def answer(request: Request) -> list[Event]:
        assert isinstance(request, ResourceChange)
        return [Changed(change=request.id, version="v2", by="ann", what="edit", effect="older", **SAID)]  # type: ignore[arg-type]

    async with lane(journal, answer) as read, Client(url) as client:
        told = await client.changed("DEPLOY://api/", "v2", by="ann", what="edit", at=TIME, source="web", sequence=7)
    assert told.effect == "older"
    (change,) = read
    assert isinstance(change, ResourceChange)
    assert (change.resource, change.by, change.what, change.at) == (KEY, "ann", "edit", TIME)
    assert (change.source, change.sequence, change.version) == ("web", 7, "v2")


@pytest.mark.parametrize("name", ["changed", "decide", "review", "resolve"])
def test_the_blocking_client_has_the_same_doors(name: str) -> None:
    assert inspect.signature(getattr(SyncClient, name)) == inspect.signature(getattr(Client, name))


# -- what approving will do -------------------------------------------------------------------------------------------


def asked_of(*records: StateRecord, version: str | None = "v2") -> reviews.Review:
    """About the parked run p."""
    resource = Resource(key=KEY, completed_order=0, completed_run="", completed_action="", forget_ms=9, version=version)
    view = fold(stored(resource, *records), P)
    parked = parked_run(view, KEY, "p")
    assert parked is not None
    return review_of(view, parked)


PARKED = run("p", "Parked", 5, action="rollback", review=ASKED, actor="ann", expected_version="v1")


@pytest.mark.requirement("S1.8")
def test_it_is_granted_next_where_nothing_is_before_it() -> None:
    asked = asked_of(PARKED, run("later", order=6))
    on = asked.on_approve
    assert (on.then, on.after, on.ended_by, on.ends, on.version) == ("no_worker", (), (), (), "v2")
    assert (asked.version_seen, asked.expected_version, asked.conflict_id) == ("v2", "v1", f"{P}-4")
    assert (asked.payload, asked.digest, asked.requests, asked.actor) == (1, "d", ("p",), "ann")
    assert asked_of(PARKED, version=None).version_seen == ""


@pytest.mark.requirement("S1.8")
def test_it_comes_after_the_holder_and_what_was_accepted_earlier_and_is_superseded_by_those_of_its_resource() -> None:
    holder = run("h", "Held", 1, holder="worker-1", token=5, session="s")
    elsewhere = run("pod", order=2, resource="deploy://pod")
    resting = run("rests", order=3, ready_ms=5_000)
    asked = asked_of(PARKED, holder, elsewhere, resting)
    assert (asked.on_approve.then, asked.on_approve.after) == ("superseded", ("h", "pod"))
    assert asked.on_approve.ended_by == ("h",), "a pod's completion changes another resource; who rests lets it pass"


@pytest.mark.requirement("S1.8")
def test_what_was_approved_begun_or_decided_on_its_version_goes_no_further_once_it_completes() -> None:
    approved = run("a", order=6, review=Review(order=1, since_ms=0, since=TIME, reason="on_conflict", decided_order=2))
    begun = run("b", order=7, granted_order=3, attempt=1)
    decided_on_it, on_another = run("c", order=8, expected_version="v2"), run("d", order=9, expected_version="v7")
    asked = asked_of(PARKED, approved, begun, decided_on_it, on_another, run("free", order=10))
    assert asked.on_approve.ends == ("a", "b", "c")


def test_the_digest_is_that_of_the_newest_payload_that_somebody_still_wants() -> None:
    def member(id: str, order: int, digest: str = "", **fields: object) -> Member:
        values = {"digest": "x", "accepted_ms": 0, "payload_digest": digest} | fields
        return Member(id=id, run="p", order=order, **values)  # type: ignore[arg-type]

    merged = run("p", "Parked", 5, coalesce_key="k", review=ASKED)
    newest = member("m2", 7, "d2", payload=Raw(b"2"))
    view = fold(stored(merged, member("m1", 6), newest), P)
    assert leading_digest(view, view.runs["p"]) == "d2"
    asked = asked_of(merged, member("m1", 6), newest)
    assert (asked.payload, asked.requests) == (2, ("p", "m1", "m2"))
    gone = member("m2", 7, "d2", payload=Raw(b"2"), left="cancelled")
    assert asked_of(merged, member("m1", 6), gone).digest == "d"


def test_status_tells_from_the_state_what_the_ticket_tells_from_events() -> None:
    def told(review: Review, state: str) -> tuple[object, ...]:
        status = request_status(fold(stored(run("p", state, review=review)), P), KEY, "p")
        assert status is not None
        return (status.state, status.review, status.decided_by, status.conflict_id)

    void = Review(order=6, since_ms=0, since=TIME, reason="approval_voided")
    approved = Review(order=4, since_ms=0, since=TIME, reason="on_conflict", by="boss", decided_order=5)
    assert told(ASKED, "Parked") == ("parked", "needs_decision", None, f"{P}-4")
    assert told(void, "Parked") == ("parked", "approval_voided", None, f"{P}-6")
    assert told(approved, "Waiting") == ("waiting", "approved", "boss", None)


# -- conflicts by kind ------------------------------------------------------------------------------------------------


def artifact(number: int, kind: str = "stale_version", resource: str = "deploy://api/7") -> ConflictArtifact:
    return ConflictArtifact(
        id=f"0-{number}", kind=kind, resource=resource, action="restart",  # type: ignore[arg-type]
        parties=(Party(request="r", action="stop"),), detected=f"2026-11-22T10:00:0{number}.000Z",
        clock_ms=0, next_step="drop_it", fingerprint=kind, event_seq=number, runbook=f"https://wiki/{kind}",
    )  # fmt: skip


@pytest.mark.requirement("S1.9")
def test_groups_say_how_many_how_many_open_and_from_when_to_when_most_frequent_first() -> None:
    resolved = ConflictResolved(id="0-9", conflict="0-1", resource="", by="ann", note="")
    records = [artifact(4, "lock_held"), artifact(1), artifact(3), resolved, resolved, artifact(2, "deadlock")]
    stale, held, deadlock = grouped(records)
    assert (stale.kind, stale.resources, stale.actions) == ("stale_version", "deploy://api/*", ("restart", "stop"))
    assert (stale.count, stale.open, stale.newest) == (2, 1, "0-3")
    assert (stale.first[-5:], stale.last[-5:]) == (".000Z", ".000Z") and stale.first < stale.last
    assert stale.runbook == "https://wiki/stale_version"
    assert [held.kind, deadlock.kind] == ["lock_held", "deadlock"], "of equals what came last"
