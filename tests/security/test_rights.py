"""SECURITY.md against a broker with its authorizer on: what the table has is allowed, and all else is refused."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from security.asking import DENIED, Asking, asking
from security.rights import Resource, table
from security.secured import USERS, Secured

from keylane.journal import AccessDenied, Journal, Record, connect
from keylane.router.turn import INPUTS
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.metadata import METADATA_KEY
from keylane.views import read_metadata

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

ALL = sorted({resource for _, resource in table()})
ELSEWHERE = [Resource("topic", "payroll"), Resource("group", "payroll"), Resource("transactional id", "payroll")]
PAST_THE_RIGHT = {0, 3, 14, 15, 16, 25, 36, 37}
"""What a broker answers to `Asking`'s requests when the right is there: done, no such partition, the coordinator is
not ready or elsewhere, no such member, the topic is there, no such number of partitions."""


async def allowed(asked: Asking, resources: Sequence[Resource]) -> dict[Resource, set[str]]:
    """What the broker lets this user do, operation by operation."""
    found: dict[Resource, set[str]] = {resource: set() for resource in resources}
    for resource in resources:
        for operation, ask in asked.operations[resource.kind].items():
            code = await ask(resource.name)
            assert code in DENIED | PAST_THE_RIGHT, f"{operation} on {resource} was answered by {code}"
            if code not in DENIED:
                found[resource].add(operation)
    return found


@pytest.mark.parametrize("user", USERS)
async def test_each_user_may_do_what_the_table_has_and_nothing_else(rightful: Secured, user: str) -> None:
    rights = table()
    async with asking(rightful.url(user)) as asked:
        found = await allowed(asked, [*ALL, *ELSEWHERE])
        assert await asked.give(user) in DENIED, "nobody hands rights out"
    assert found == {resource: rights.get((user, resource), set()) for resource in [*ALL, *ELSEWHERE]}


async def test_what_is_asked_for_can_be_allowed(rightful: Secured) -> None:
    """Else the refusals above would say nothing: at the open listener everybody may do everything."""
    async with asking(rightful.open_url) as asked:
        found = await allowed(asked, ALL)
        assert found == {resource: asked.operations[resource.kind].keys() for resource in ALL}


@asynccontextmanager
async def journal_of(secured: Secured, user: str) -> AsyncIterator[Journal]:
    journal = await connect(secured.url(user))
    try:
        yield journal
    finally:
        await journal.close()


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        ("agent", topics.RESULTS),
        ("agent", topics.EVENTS),
        ("agent", topics.items("default")),
        ("agent", topics.METADATA),
        ("worker", topics.REQUESTS),
        ("worker", topics.EVENTS),
        ("worker", topics.items("default")),
        ("worker", topics.STATE),
        ("dashboard", topics.REQUESTS),
    ],
)
async def test_forgeries_are_refused_and_say_what_is_not_allowed(rightful: Secured, user: str, topic: str) -> None:
    async with journal_of(rightful, user) as journal:
        with pytest.raises(AccessDenied, match=rf"no right to that.*keylane\.{topic}\b.*SECURITY\.md"):
            await journal.append([Record(topic, 0, b"k", b"forged")])


@pytest.mark.parametrize("user", ["agent", "worker", "dashboard"])
async def test_nobody_but_routers_and_the_operator_takes_a_lane_over(rightful: Secured, user: str) -> None:
    async with journal_of(rightful, user) as journal:
        with pytest.raises(AccessDenied, match=r"on transactional id keylane\.lane\.0"):
            await journal.claim(0, INPUTS, topics.STATE)


async def test_the_operator_can_claim_a_lane_and_write_the_metadata_by_it(rightful: Secured) -> None:
    """As `config apply` does. What else lanes write it may not, says the table."""
    async with journal_of(rightful, "operator") as journal:
        pinned = await read_metadata(journal)
        session = await journal.claim(0, INPUTS, topics.STATE)
        try:
            await session.load()
            await session.commit([Record(topics.METADATA, 0, METADATA_KEY, encode(pinned))])
        finally:
            await session.close()


@pytest.mark.parametrize("user", ["agent", "worker", "dashboard", "operator"])
async def test_nobody_but_a_router_joins_the_routers(rightful: Secured, user: str) -> None:
    async with journal_of(rightful, user) as journal:
        member = await journal.join("routers", topics.REQUESTS)
        with pytest.raises(AccessDenied, match=r"on group keylane\.routers"):
            for _ in range(100):
                await member.changed(0.1)


async def test_a_worker_reads_its_own_pool_only(rightful: Secured) -> None:
    async with journal_of(rightful, "worker") as journal:
        assert await journal.partitions(topics.items("default"))
        with pytest.raises(AccessDenied, match=r"on topic keylane\.items\.other"):
            await journal.partitions(topics.items("other"))
