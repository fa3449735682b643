"""`who`, `status` and `events` over a memory journal: the folds of what a lane has committed."""

from __future__ import annotations

import anyio
import pytest
from client_lane import KEY, PARTITIONS, TIME, P, ended, event_record, granted, queued, state_record

from keylane import Client, Position, Refused, commands
from keylane.journal.memory import MemoryJournal
from keylane.schemas.state import LaneRecord, Member, RefusedRequest, Review, Run, UnservedAction

pytestmark = pytest.mark.anyio


def a_run(run: str, order: int, state: str, **fields: object) -> Run:
    values = {
        "resource": KEY, "owner": KEY, "action": "restart", "digest": "", "accepted_ms": 0, "accepted": TIME,
    }  # fmt: skip
    return Run(id=run, order=order, state=state, **(values | fields))  # type: ignore[arg-type]


def a_member(request: str, run: str, order: int, **fields: object) -> Member:
    return Member(id=request, run=run, order=order, digest="", accepted_ms=0, **fields)  # type: ignore[arg-type]


STATE = [
    LaneRecord(positions={}, clock_ms=100_000),
    a_run(
        "r-1", 1, "Held", token=9, holder="worker-3", since=TIME, lease_until_ms=141_000, attempt=1,
    ),
    a_member("r-1", "r-1", 1),
    a_member("r-2", "r-1", 2),
    a_run("r-5", 5, "Waiting", action="scale", ready_ms=200_000, granted_order=2),
    a_member("r-5", "r-5", 5),
    a_run(
        "r-3", 3, "Parked", action="rollback",
        review=Review(order=3, since_ms=0, since=TIME, reason="on_conflict"),
    ),
    a_member("r-3", "r-3", 3),
    a_run("r-6", 6, "Waiting", action="polish"),
    a_member("r-6", "r-6", 6),
    a_member("r-7", "r-6", 7, left="cancelled"),
    UnservedAction(action="polish", since_ms=0),
    a_run("r-0", 0, "Done", status="completed", version="v1", ended_ms=40_000, ended_order=8),
    a_member("r-0", "r-0", 0),
    RefusedRequest(id="r-8", order=9, digest="", resource=KEY, code="LOCK_HELD"),
    a_run("q-1", 10, "Held", resource="deploy://other", owner="deploy://other", token=4, lease_until_ms=1),
]  # fmt: skip


async def test_who_tells_holder_queue_and_last_end(
    url: str, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.log.clock_ms = lambda: 1_000_000_000_000
    monkeypatch.setattr(commands, "wall_ms", lambda: 1_000_000_003_000)
    await journal.append([state_record(P, record) for record in STATE])
    async with Client(url) as client:
        ownership = await client.who(KEY)
    held = ownership.held
    assert held is not None and ownership.last is not None
    assert (held.holder, held.token, held.state, held.lease_left_ms) == ("worker-3", 9, "applying", 41_000)
    assert (held.requests, held.since) == (("r-1", "r-2"), TIME)
    assert [(each.run, each.position, each.state, each.requests) for each in ownership.waiting] == [
        ("r-3", 0, "waiting_on_review", ("r-3",)),
        ("r-5", 1, "waiting", ("r-5",)),
        ("r-6", 2, "waiting", ("r-6",)),
    ]
    assert (ownership.last.run, ownership.last.ended) == ("r-0", "2001-09-09T01:45:40.000Z")


async def test_who_of_an_unknown_resource_is_nobody(url: str, journal: MemoryJournal) -> None:
    async with Client(url) as client:
        ownership = await client.who(KEY)
    assert (ownership.held, ownership.waiting, ownership.last) == (None, (), None)


async def test_status_of_every_kind_of_request(url: str, journal: MemoryJournal) -> None:
    await journal.append([state_record(P, record) for record in STATE])
    async with Client(url) as client:
        merged = await client.status(KEY, "r-2")
        assert (merged.state, merged.coalesced, merged.token) == ("held", True, 9)
        waiting = await client.status(KEY, "r-5")
        assert (waiting.state, waiting.position, waiting.holder) == ("waiting", 1, "worker-3")
        assert (await client.status(KEY, "r-6")).unserved
        assert (await client.status(KEY, "r-3")).state == "parked"
        for request, ending in [("r-0", "completed"), ("r-7", "cancelled"), ("r-8", "refused")]:
            outcome = (await client.status(KEY, request)).outcome
            assert outcome is not None and outcome.status == ending
        with pytest.raises(Refused) as unknown:
            await client.status("deploy://other", "r-1")
    assert unknown.value.code == "NOT_FOUND"


async def test_events_can_be_gone_on_with_from_a_position(url: str, journal: MemoryJournal) -> None:
    other = (P + 1) % PARTITIONS
    events = [queued("r-1"), granted("r-1", "r-1"), ended("r-1", "r-1")]
    elsewhere = queued("q-1", resource="deploy://q", owner="deploy://q")
    await journal.append([event_record(other, elsewhere)])
    await journal.append([event_record(P, event) for event in events])
    async with Client(url) as client:
        async with client.events(KEY, Position()) as stream:
            assert [await anext(stream), await anext(stream)] == events[:2]
            position = Position.parse(str(stream.position))
        async with client.events(after=position) as stream:
            # Of the lane that the position does not name, everything.
            assert [await anext(stream), await anext(stream)] in ([events[2], elsewhere], [elsewhere, events[2]])
        async with client.events() as stream:
            await journal.append([event_record(P, queued("r-9"))])
            with anyio.fail_after(5):
                assert await anext(stream) == queued("r-9")


def test_a_text_that_is_no_position_is_refused() -> None:
    with pytest.raises(ValueError, match="no position"):
        Position.parse("1:x")
    assert Position.parse("") == Position()
