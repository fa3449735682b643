"""Changes that were made outside, published beside requests: each has one answer, and the order is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from client_lane import KEY, TIME, complete, lane

from keylane import Client, Refused, Unavailable
from keylane.changes import ChangeTicket
from keylane.journal.memory import MemoryJournal
from keylane.schemas import topics
from keylane.schemas.event_parts import Event
from keylane.schemas.events import DeadLettered
from keylane.schemas.events import Refused as RefusedEvent
from keylane.schemas.requests import Request, ResourceChange, WorkRequest
from keylane.waiting import Ticket

pytestmark = pytest.mark.anyio


def change(id: str, resource: str = KEY) -> ResourceChange:
    return ResourceChange(id=id, resource=resource, version="v1", by="eve", what="edited")


def answer(request: Request) -> Sequence[Event]:
    """As a router: `bad` is refused, `broken` set aside, `silent` not answered, and all else applied."""
    said: dict[str, Any] = {"seq": 1, "clock_ms": 0, "time": TIME}
    match request.id:
        case "bad":
            refused = {"request": "bad", "resource": KEY, "command": "ResourceChange", "message": "no"}
            return [RefusedEvent(**said, **refused, code="BAD_RECORD")]
        case "broken":
            return [DeadLettered(**said, topic=topics.REQUESTS, offset=0, code="INTERNAL", reason="it broke")]
        case "silent":
            return []
    return complete(request)


@pytest.mark.requirement("S1.7")
async def test_changes_and_requests_are_published_in_their_order_and_each_gets_its_answer(
    url: str, journal: MemoryJournal
) -> None:
    work = WorkRequest(id="r-1", resource="DEPLOY://api", action="restart")
    async with lane(journal, answer) as read, Client(url) as client:
        first, ticket, second = await client.publish_all([change("c-1", "DEPLOY://api"), work, change("c-2")])
        assert isinstance(first, ChangeTicket) and isinstance(ticket, Ticket) and isinstance(second, ChangeTicket)
        assert await first.recorded() == await second.recorded() == "applied"
        assert (await ticket.outcome(5)).status == "completed"
    assert [(each.id, getattr(each, "resource", "")) for each in read] == [("c-1", KEY), ("r-1", KEY), ("c-2", KEY)]


@pytest.mark.parametrize(("id", "code"), [("bad", "BAD_RECORD"), ("broken", "INTERNAL")])
async def test_a_change_that_is_refused_or_set_aside_says_so(
    url: str, journal: MemoryJournal, id: str, code: str
) -> None:
    async with lane(journal, answer), Client(url) as client:
        (told,) = await client.publish_all([change(id)])
        assert isinstance(told, ChangeTicket)
        with anyio.fail_after(5), pytest.raises(Refused) as refused:
            await told.recorded()
    assert refused.value.code == code


async def test_a_change_that_no_router_answers_is_unavailable(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, answer), Client(url) as client:
        (told,) = await client.publish_all([change("silent")])
        assert isinstance(told, ChangeTicket)
        with pytest.raises(Unavailable, match="no router answered the change silent"):
            await told.recorded(0.05)


async def test_one_bad_key_lets_nothing_through(url: str, journal: MemoryJournal) -> None:
    async with lane(journal, answer) as read, Client(url) as client:
        with pytest.raises(Refused):
            await client.publish_all([change("c-1"), change("c-2", "no key")])
        (told,) = await client.publish_all([change("c-3")])
        assert isinstance(told, ChangeTicket)
        await told.recorded()
    assert [each.id for each in read] == ["c-3"]
