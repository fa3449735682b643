"""Locks where the lane answers late, never, or otherwise than a router would soon: what the client does by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from client_lane import KEY, PARTITIONS, TIME, P, event_record, lane

from keylane import Client, LeaseLost, Refused, Unavailable, lease, locking
from keylane.journal import errors as journal_errors
from keylane.journal.memory import MemoryJournal
from keylane.journal.port import Place, Record
from keylane.schemas import events, topics
from keylane.schemas.codec import decode_request
from keylane.schemas.event_parts import Event
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, Request

pytestmark = pytest.mark.anyio

DEADLINE_S = 10
TTL_MS = 1_000
BASE: dict[str, Any] = {"seq": 1, "clock_ms": 0, "time": TIME, "resource": KEY, "action": "lock"}


def queued(request: LockRequest) -> events.Queued:
    return events.Queued(**BASE, request=request.id, run=request.id, owner=KEY)


def granted(request: LockRequest, claim_ms: int | None = None, ttl_ms: int = TTL_MS) -> events.Granted:
    return events.Granted(
        **BASE, run=request.id, owner=KEY, token=7, attempt=1, session=request.session, holder="me",
        lease_ms=ttl_ms, claim_ms=claim_ms, requests=(request.id,),
    )  # fmt: skip


def renewed(renewal: Renewal, ttl_ms: int = TTL_MS, *, claimed: bool = False) -> events.Renewed:
    return events.Renewed(**BASE, run=renewal.run, token=7, renewal=renewal.id, lease_ms=ttl_ms, claimed=claimed)


def ended(run: str, status: str = "completed") -> events.Ended:
    return events.Ended(**BASE, run=run, owner=KEY, status=status, requests=(run,), token=7)  # type: ignore[arg-type]


def holds_all(request: Request) -> Sequence[Event]:
    """Grants at once, renews, releases."""
    match request:
        case LockRequest():
            return (queued(request), granted(request))
        case Renewal():
            return (renewed(request),)
        case Release():
            return (ended(request.run),)
    return ()


def without(
    kind: type, answer: Callable[[Request], Sequence[Event]] = holds_all
) -> Callable[[Request], Sequence[Event]]:
    """As `answer`, and silent to commands of that kind."""
    return lambda request: () if isinstance(request, kind) else answer(request)


async def asked(journal: MemoryJournal, kind: type) -> list[Any]:
    """The commands of that kind that are on record."""
    places = {Place(topics.REQUESTS, each): 0 for each in range(PARTITIONS)}
    reader = await journal.reader(places)
    found = [decode_request(record.value) for record in await reader.poll(1_000, 0.1)]
    await reader.close()
    return [each for each in found if isinstance(each, kind)]


def impatient(monkeypatch: pytest.MonkeyPatch, answer_s: float = 0.2) -> None:
    monkeypatch.setattr(locking, "ANSWER_S", answer_s)
    monkeypatch.setattr(locking, "UNDO_S", 1.0)


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    async with Client(url, actor="me") as client:
        yield client


# -- no router ----------------------------------------------------------------------------------------------------


async def test_where_no_router_answers_the_request_is_withdrawn_all_the_same(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    async with client_of(url) as client:
        with pytest.raises(Unavailable, match="no router answered"):
            await client.acquire(KEY)
    (request,) = await asked(journal, LockRequest)
    (withdrawn,) = await asked(journal, Cancellation)
    assert (withdrawn.request, withdrawn.secret, withdrawn.resource) == (request.id, request.secret, KEY)


async def test_a_wait_that_no_router_ends_is_withdrawn_soon_after_its_time(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    async with lane(journal, lambda request: (queued(request),) if isinstance(request, LockRequest) else ()):
        async with client_of(url) as client:
            with anyio.fail_after(DEADLINE_S), pytest.raises(Unavailable, match=r"no router ended the wait"):
                await client.acquire(KEY, wait_s=0.3)
    assert [each.wait_ms for each in await asked(journal, LockRequest)] == [300]
    assert len(await asked(journal, Cancellation)) == 1


async def test_a_claim_that_no_router_answers_is_withdrawn(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)

    def answer(request: Request) -> Sequence[Event]:
        return (queued(request), granted(request, 30_000)) if isinstance(request, LockRequest) else ()

    async with lane(journal, answer), client_of(url) as client:
        with pytest.raises(Unavailable, match="claim"):
            await client.acquire(KEY, wait_s=1)
    assert len(await asked(journal, Renewal)) == len(await asked(journal, Cancellation)) == 1


async def test_what_cannot_be_withdrawn_does_not_hold_up_the_error(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    append = MemoryJournal.append

    async def no_more(self: MemoryJournal, records: Sequence[Record]) -> list[int]:
        if any(isinstance(decode_request(record.value), Cancellation) for record in records):
            raise journal_errors.Unavailable("away")
        return await append(self, records)

    monkeypatch.setattr(MemoryJournal, "append", no_more)
    async with client_of(url) as client:
        with anyio.fail_after(DEADLINE_S), pytest.raises(Unavailable, match="no router answered"):
            await client.acquire(KEY)


async def test_a_publish_whose_acknowledgement_was_lost_is_withdrawn_when_it_is_given_up(
    url: str, journal: MemoryJournal
) -> None:
    """The record may be there although its sender never heard so."""
    append = MemoryJournal.append
    tries = anyio.Event()

    async def unheard(self: MemoryJournal, records: Sequence[Record]) -> list[int]:
        offsets = await append(self, records)
        if isinstance(decode_request(records[0].value), LockRequest):
            tries.set()
            raise journal_errors.Unavailable("the answer was lost")
        return offsets

    async with client_of(url) as client, anyio.create_task_group() as tasks:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(MemoryJournal, "append", unheard)
            tasks.start_soon(client.acquire, KEY)
            await tries.wait()
            tasks.cancel_scope.cancel()
    (cancellation,) = await asked(journal, Cancellation)
    requests = await asked(journal, LockRequest)
    assert {each.id for each in requests} == {cancellation.request}


# -- late answers -------------------------------------------------------------------------------------------------


async def test_a_lease_that_no_answer_renews_is_over_before_the_lane_says_so(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, without(Renewal)) as read, client_of(url) as client:
        with pytest.raises(LeaseLost, match="not renewed in time"):
            async with client.lock(KEY) as held:
                assert 0 < held.expires_in_s <= 0.9, "less a tenth"
                with anyio.fail_after(DEADLINE_S):
                    assert "not renewed in time" in await held.until_lost()
                with pytest.raises(LeaseLost):
                    held.check()
    assert sum(isinstance(each, Renewal) for each in read) == 2, "at each third of it"
    assert sum(isinstance(each, Release) for each in read) == 1, "it is given back all the same"


async def test_an_answer_that_comes_after_the_lease_was_over_does_not_bring_it_back(
    url: str, journal: MemoryJournal
) -> None:
    async with lane(journal, without(Renewal)) as read, client_of(url) as client:
        with pytest.raises(LeaseLost):
            async with client.lock(KEY) as held:
                await held.until_lost()
                last = [each for each in read if isinstance(each, Renewal)][-1]
                await journal.append([event_record(P, renewed(last, ttl_ms=60_000))])
                machine = held._locks[0].watch.machine
                with anyio.fail_after(DEADLINE_S):
                    await held._locks[0].watch.until(lambda _: machine.is_answered(last.id), None)
                with pytest.raises(LeaseLost):
                    held.check()


async def test_a_clock_that_stood_still_for_the_process_is_seen_before_anything_else(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspended machine: time has passed, and nothing has run meanwhile."""
    now_ms = [1_000_000]
    monkeypatch.setattr(lease, "boottime_ms", lambda: now_ms[0])
    monkeypatch.setattr(locking, "boottime_ms", lambda: now_ms[0])
    async with lane(journal, holds_all), client_of(url) as client:
        with pytest.raises(LeaseLost):
            async with client.lock(KEY) as held:
                held.check()
                assert held.expires_in_s == 0.9
                now_ms[0] += 899
                held.check()
                now_ms[0] += 1
                with pytest.raises(LeaseLost):
                    held.check()


@pytest.mark.parametrize("renews", [True, False])
async def test_a_grant_that_is_read_when_its_lease_is_over_is_had_only_once_it_is_renewed(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch, renews: bool
) -> None:
    now_ms = [1_000_000]
    monkeypatch.setattr(locking, "boottime_ms", lambda: now_ms[0])

    def late(request: Request) -> Sequence[Event]:
        if isinstance(request, LockRequest) or not renews:
            now_ms[0] += 5_000
        return holds_all(request)

    async with lane(journal, late), client_of(url) as client:
        if renews:
            assert (await client.acquire(KEY)).token == 7
        else:
            with pytest.raises(Unavailable, match="was over when the answer came"):
                await client.acquire(KEY)
    assert len(await asked(journal, Renewal)) == 1
    assert len(await asked(journal, Cancellation)) == (not renews)


async def test_a_release_that_no_router_answers_does_not_undo_what_the_block_did(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    async with lane(journal, without(Release)), client_of(url) as client:
        with anyio.fail_after(DEADLINE_S):
            async with client.lock(KEY, ttl_s=60):
                pass
    assert len(await asked(journal, Release)) == 1


async def test_at_the_longest_hold_it_is_renewed_no_more(url: str, journal: MemoryJournal) -> None:
    def answer(request: Request) -> Sequence[Event]:
        return (renewed(request, 700),) if isinstance(request, Renewal) else holds_all(request)

    async with lane(journal, answer) as read, client_of(url) as client:
        with pytest.raises(LeaseLost):
            async with client.lock(KEY) as held:
                await held.until_lost()
    assert sum(isinstance(each, Renewal) for each in read) == 1, "no renewal reaches further"


# -- moved, and gone ----------------------------------------------------------------------------------------------


async def test_a_request_that_was_sent_on_is_withdrawn_and_says_why(url: str, journal: MemoryJournal) -> None:
    def answer(request: Request) -> Sequence[Event]:
        if not isinstance(request, LockRequest):
            return ()
        said = {name: BASE[name] for name in ("seq", "clock_ms", "time", "resource")}
        return (events.SentOn(**said, request=request.id, to_partition=1),)

    async with lane(journal, answer), client_of(url) as client:
        with pytest.raises(Unavailable, match="sent on to partition 1"):
            await client.acquire(KEY)
    assert len(await asked(journal, Cancellation)) == 1


async def test_its_turn_that_came_and_went_is_told(url: str, journal: MemoryJournal) -> None:
    def answer(request: Request) -> Sequence[Event]:
        match request:
            case LockRequest():
                return (queued(request), granted(request, 30_000))
            case Renewal():
                return (
                    events.Lost(
                        **BASE, run=request.run, token=7, attempt=1, reason="unclaimed", session="s", holder="me",
                        spent=True, final=True,
                    ),
                    ended(request.run, "failed"),
                )  # fmt: skip
        return ()

    async with lane(journal, answer), client_of(url) as client:
        with pytest.raises(Refused, match="unclaimed") as refused:
            await client.acquire(KEY, wait_s=1)
    assert refused.value.code == "EXPIRED"
    assert await asked(journal, Cancellation) == [], "it is over: there is nothing to withdraw"


async def test_a_client_that_is_closed_under_a_lease_takes_it_along(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, holds_all) as read:
        client = Client(url, actor="me")
        await client.__aenter__()
        held = await client.lock(KEY, ttl_s=60).__aenter__()
        await client.__aexit__(None, None, None)
        assert held.lost is not None
        with anyio.fail_after(DEADLINE_S):
            while not any(isinstance(each, Release) for each in read):
                await anyio.lowlevel.checkpoint()
