"""The client over a memory journal with a small lane: what it publishes, hears and refuses itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import pytest
from client_lane import (
    KEY,
    PARTITIONS,
    TIME,
    P,
    complete,
    ended,
    event_record,
    lane,
    queued,
)

from keylane import Client, LockHeld, Outcome, Refused, RunFailed, Unavailable, publishing, receipts
from keylane.journal import errors as journal_errors
from keylane.journal.memory import MemoryJournal, MemoryReader
from keylane.journal.port import Place, Record
from keylane.schemas import topics
from keylane.schemas.base import ErrorDetail
from keylane.schemas.codec import traceparent_of
from keylane.schemas.event_parts import Event
from keylane.schemas.events import DeadLettered, Withdrawn
from keylane.schemas.events import Refused as RefusedEvent
from keylane.schemas.requests import Cancellation, Request, WorkRequest

pytestmark = pytest.mark.anyio

REQUEST_PLACES = [Place(topics.REQUESTS, each) for each in range(PARTITIONS)]


async def test_run_returns_the_outcome(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, complete) as read, Client(url, actor="agent-1") as client:
        outcome = await client.run(KEY, "restart", {"reason": "oom"}, request_id="r-1")
    assert outcome == Outcome(request_id="r-1", run="r-1", status="completed", result={"reason": "oom"}, version="v2")
    (request,) = read
    assert isinstance(request, WorkRequest)
    assert (request.resource, request.action, request.actor) == (KEY, "restart", "agent-1")


async def test_every_option_travels(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, complete) as read, Client(url) as client:
        await client.run(
            KEY, "restart", idempotency_key="i", expected_version="v1", coalesce_key="c",
            reject_if_busy=True, requires=["drain"], deadline_s=1.5,
        )  # fmt: skip
    (request,) = read
    assert isinstance(request, WorkRequest)
    assert (request.idempotency_key, request.expected_version, request.coalesce_key) == ("i", "v1", "c")
    assert (request.reject_if_busy, request.requires, request.deadline_ms) == (True, ("drain",), 1500)


@pytest.mark.parametrize("deadline_s", [float("nan"), float("inf")])
async def test_a_deadline_that_is_no_time_is_refused(url: str, journal: MemoryJournal, deadline_s: float) -> None:
    async with Client(url) as client:
        with pytest.raises(Refused, match="deadline") as refused:
            await client.submit(KEY, "restart", deadline_s=deadline_s)
    assert refused.value.code == "BAD_RECORD"


async def test_an_empty_request_id_is_published_as_such_and_gets_no_other(url: str, journal: MemoryJournal) -> None:
    """The lane refuses it. A new id instead would undo what the caller repeats requests under ids for."""
    async with lane(journal, complete) as read, Client(url) as client:
        assert (await client.run(KEY, "restart", request_id="")).request_id == ""
    (request,) = read
    assert isinstance(request, WorkRequest)
    assert request.id == ""


async def test_records_go_to_the_lane_of_the_canonical_key(url: str, journal: MemoryJournal) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    async with Client(url, actor="me@here") as client:
        await client.submit("DEPLOY://api/", "restart", request_id="r-1", traceparent=trace)
    reader = await journal.reader({Place(topics.REQUESTS, P): 0})
    (stored,) = await reader.poll(10, 0)
    headers = dict(stored.headers)
    assert stored.key == KEY.encode()
    assert headers["ce_id"] == b"r-1" and headers["ce_source"] == b"/keylane/clients/me@here"
    assert traceparent_of(stored.headers) == trace


async def test_a_dataclass_is_a_payload(url: str, journal: MemoryJournal) -> None:
    @dataclass
    class Restart:
        reason: str

    async with lane(journal, complete), Client(url) as client:
        assert (await client.run(KEY, "restart", Restart("oom"))).result == {"reason": "oom"}


@pytest.mark.parametrize(
    ("resource", "payload", "code"),
    [("not a uri", None, "BAD_KEY"), (KEY, "x" * 262_144, "TOO_LARGE"), (KEY, {1, object()}, "BAD_RECORD")],
)
async def test_what_needs_no_router_is_refused_at_once(
    url: str, journal: MemoryJournal, resource: str, payload: object, code: str
) -> None:
    async with Client(url) as client:
        with pytest.raises(Refused) as refused:
            await client.submit(resource, "restart", payload)
    assert refused.value.code == code
    assert all(end == 0 for end in (await journal.end_positions(REQUEST_PLACES)).values())


async def test_a_held_lock_is_raised_with_its_envelope(url: str, journal: MemoryJournal) -> None:
    def hold(request: Request) -> Sequence[Event]:
        assert isinstance(request, WorkRequest)
        return [
            RefusedEvent(
                seq=1, clock_ms=0, time=TIME, request=request.id, resource=KEY, code="LOCK_HELD",
                message="held by worker-3", retry_after_ms=700, holder="worker-3",
            )
        ]  # fmt: skip

    async with lane(journal, hold), Client(url) as client:
        with pytest.raises(LockHeld) as held:
            await client.run(KEY, "restart")
        ticket = await client.submit(KEY, "restart")
        with pytest.raises(LockHeld):
            await ticket.accepted()
        assert (await ticket.outcome()).status == "refused"
    assert held.value.retry_after_ms == 700
    assert held.value.to_envelope() == {
        "error": {
            "code": "LOCK_HELD",
            "message": "held by worker-3",
            "retry_after_ms": 700,
            "holder": "worker-3",
            "conflict_id": f"{P}-1",
            "suggestion": "Wait and send a new request, or do other work first.",
        }
    }


async def test_a_run_that_fails_is_raised_with_its_outcome(url: str, journal: MemoryJournal) -> None:
    def fail(request: Request) -> Sequence[Event]:
        assert isinstance(request, WorkRequest)
        detail = ErrorDetail(code="DISK", message="full")
        return [queued(request.id), ended(request.id, request.id, status="failed", error=detail)]

    async with lane(journal, fail), Client(url) as client:
        with pytest.raises(RunFailed) as failed:
            await client.run(KEY, "restart")
    assert failed.value.outcome.status == "failed"
    assert failed.value.to_envelope() == {"error": {"code": "DISK", "message": "full"}}


async def test_many_requests_at_once_each_get_their_own_outcome(url: str, journal: MemoryJournal) -> None:
    requests = [WorkRequest(id=f"r-{n}", resource=f"deploy://s-{n % 7}", action="a") for n in range(200)]
    async with lane(journal, complete), Client(url) as client:
        tickets = await client.submit_all(requests)
        outcomes = [await ticket.outcome(5) for ticket in tickets]
    assert [outcome.request_id for outcome in outcomes] == [request.id for request in requests]


async def test_later_requests_to_a_lane_need_no_lookup_of_its_end(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[Sequence[Place]] = []
    look_up = MemoryJournal.end_positions

    async def counted(self: MemoryJournal, places: Sequence[Place]) -> dict[Place, int]:
        lookups.append(places)
        return await look_up(self, places)

    async with lane(journal, complete), Client(url) as client:
        monkeypatch.setattr(MemoryJournal, "end_positions", counted)
        for _ in range(5):
            await client.run(KEY, "restart", timeout_s=5)
    assert lookups == [[Place(topics.EVENTS, P)]]


async def test_no_router_answers(url: str, journal: MemoryJournal) -> None:
    async with Client(url) as client:
        ticket = await client.submit(KEY, "restart")
        with pytest.raises(Unavailable, match="no router answered"):
            await ticket.accepted(0.05)
        with pytest.raises(Unavailable, match="no router answered"):
            await ticket.outcome(0.05)


async def test_what_has_not_ended_in_time_may_end_yet(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, lambda request: [queued("r-1", position=1)]), Client(url) as client:
        ticket = await client.submit(KEY, "restart", request_id="r-1")
        status = await ticket.accepted()
        assert (status.state, status.position) == ("waiting", 1)
        with pytest.raises(TimeoutError, match="r-1"):
            await ticket.outcome(0.05)
        await journal.append([event_record(P, ended("r-1", "r-1"))])
        assert (await ticket.outcome(5)).status == "completed"


async def test_events_of_before_the_publish_are_not_its_answer(url: str, journal: MemoryJournal) -> None:
    await journal.append([event_record(P, ended("r-1", "r-1", status="failed"))])
    async with Client(url) as client:
        ticket = await client.submit(KEY, "restart", request_id="r-1")
        with pytest.raises(Unavailable):
            await ticket.accepted(0.05)


async def test_a_journal_without_a_router_says_so(url: str) -> None:
    with pytest.raises(Unavailable, match="no router has set up this journal"):
        async with Client(url):
            pass


async def test_an_unacknowledged_publish_is_repeated_under_its_id(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = MemoryJournal.append
    failures = iter([True, False])  # the first is written and not acknowledged

    async def uncertain(self: MemoryJournal, records: Sequence[Record]) -> list[int]:
        offsets = await append(self, records)
        if records[0].topic == topics.REQUESTS and next(failures):
            raise journal_errors.Unavailable("no acknowledgement")
        return offsets

    def answer(request: Request) -> Sequence[Event]:
        assert isinstance(request, WorkRequest)
        return complete(request) if len(read) == 1 else [ended("r-1", "r-1", repeat=True)]

    monkeypatch.setattr(MemoryJournal, "append", uncertain)
    async with lane(journal, answer) as read, Client(url) as client:
        outcome = await client.run(KEY, "restart", "first", request_id="r-1", timeout_s=5)
    assert len(read) == 2 and read[0] == read[1]
    assert (outcome.result, outcome.repeated) == ("first", False)


async def test_a_journal_that_stays_down_is_unavailable(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(self: MemoryJournal, records: Sequence[Record]) -> list[int]:
        raise journal_errors.Unavailable("no broker")

    async with Client(url) as client:
        monkeypatch.setattr(MemoryJournal, "append", down)
        monkeypatch.setattr(publishing, "PUBLISH_S", 0.1)
        with pytest.raises(Unavailable, match="no broker"):
            await client.submit(KEY, "restart")


async def test_trouble_with_reading_is_waited_out(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_reader = MemoryJournal.reader
    failures = iter([True, False])

    async def failing(self: MemoryJournal, positions: dict[Place, int | None]) -> object:
        if Place(topics.EVENTS, P) in positions and next(failures):
            raise journal_errors.Unavailable("no broker")
        return await make_reader(self, positions)

    async with lane(journal, complete), Client(url) as client:
        monkeypatch.setattr(MemoryJournal, "reader", failing)
        assert (await client.run(KEY, "restart", timeout_s=5)).status == "completed"


async def test_an_idle_client_lets_its_lanes_go_and_follows_them_again(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = anyio.Event()
    close = MemoryReader.close

    async def noticed(self: MemoryReader) -> None:
        await close(self)
        closed.set()

    monkeypatch.setattr(receipts, "POLL_TIMEOUT_S", 0.01)
    monkeypatch.setattr(receipts, "IDLE_S", 0.02)
    async with lane(journal, complete), Client(url) as client:
        await client.run(KEY, "restart", timeout_s=5)
        monkeypatch.setattr(MemoryReader, "close", noticed)
        with anyio.fail_after(5):
            await closed.wait()
        assert (await client.run(KEY, "restart", timeout_s=5)).status == "completed"


async def test_a_mistyped_option_is_an_error(url: str, journal: MemoryJournal) -> None:
    async with Client(url) as client:
        with pytest.raises(TypeError, match="reject_if_bussy"):
            await client.run(KEY, "restart", reject_if_bussy=True)  # type: ignore[call-arg]


async def test_removed_events_end_the_waiting(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, lambda request: [queued("r-1")]), Client(url) as client:
        ticket = await client.submit(KEY, "restart", request_id="r-1")
        await ticket.accepted()
        partition = journal.log.at(topics.EVENTS, P)
        partition.add(event_record(P, queued("r-2")), 0)  # without waking the reader
        partition.forget(partition.end)
        journal.log.wake()
        with pytest.raises(Unavailable, match="removed before they were read"):
            await ticket.outcome(5)


async def test_closing_ends_the_waiting(url: str, journal: MemoryJournal) -> None:
    client = Client(url)
    async with client:
        ticket = await client.submit(KEY, "restart")
    with pytest.raises(Unavailable, match="closed"):
        await ticket.outcome()


async def test_the_callers_own_error_comes_out_as_it_is(url: str, journal: MemoryJournal) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Client(url):
            raise KeyError("mine")


async def test_an_id_reused_for_other_work_is_refused(url: str, journal: MemoryJournal) -> None:
    def letter(request: Request) -> Sequence[Event]:
        return [
            DeadLettered(seq=1, clock_ms=0, time=TIME, topic="requests", offset=0, code="ID_REUSED", reason="other")
        ]

    async with lane(journal, letter), Client(url) as client:
        with pytest.raises(Refused) as refused:
            await client.run(KEY, "restart", timeout_s=5)
    assert refused.value.code == "ID_REUSED"


async def test_cancel_tells_what_became_of_it(url: str, journal: MemoryJournal) -> None:
    def answer(request: Request) -> Sequence[Event]:
        assert isinstance(request, Cancellation)
        if request.request == "r-1":
            return [
                Withdrawn(
                    seq=1, clock_ms=0, time=TIME, request="r-1", run="r-0", resource=KEY, action="a",
                    status="cancelled",
                )
            ]  # fmt: skip
        return [
            RefusedEvent(
                seq=1, clock_ms=0, time=TIME, request=request.id, resource=KEY, code="TOO_LATE",
                message="ended", command="Cancellation",
            )
        ]  # fmt: skip

    async with lane(journal, answer), Client(url) as client:
        assert await client.cancel(KEY, "r-1") == "withdrawn"
        with pytest.raises(Refused) as refused:
            await client.cancel(KEY, "r-2")
    assert refused.value.code == "TOO_LATE"
