"""Sessions that wait for each other, as clients meet it: with a real router in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from e2e.lock_states import DEADLINE_S, Looker

from keylane import Client, LockHeld, Refused, Session

pytestmark = pytest.mark.anyio

A, B = "deploy://a", "deploy://b"


@pytest.fixture
async def one(routed: str) -> AsyncIterator[Client]:
    async with Client(routed, actor="one", session=Session.new("s1")) as client:
        yield client


@pytest.fixture
async def two(routed: str) -> AsyncIterator[Client]:
    async with Client(routed, actor="two", session=Session.new("s2")) as client:
        yield client


@pytest.mark.requirement("S3.3")
async def test_who_closes_the_cycle_is_told_its_path_and_the_other_has_its_turn(
    one: Client, two: Client, locks: Looker
) -> None:
    had: list[str] = []

    async def wait() -> None:
        async with one.lock(B, wait_s=DEADLINE_S):
            had.append(B)

    async with anyio.create_task_group() as tasks:
        async with one.lock(A):
            async with two.lock(B):
                tasks.start_soon(wait)
                await locks.until(("one", "held"), ("one", "waiting"), ("two", "held"))
                with pytest.raises(Refused) as refused:
                    async with two.lock(A, wait_s=DEADLINE_S):
                        pass
                error = refused.value
                assert (error.code, tuple(error.cycle)) == ("DEADLOCK", ("s2", A, "s1", B))
                assert error.holder == "one" and error.conflict_id is not None
                assert sorted(await locks.states()) == [("one", "held"), ("one", "waiting"), ("two", "held")]
            await locks.until(("one", "held"))
    assert had == [B]
    await locks.until()


async def test_a_named_session_that_would_not_wait_is_told_who_holds_it(
    one: Client, two: Client, locks: Looker
) -> None:
    async with one.lock(A):
        with pytest.raises(LockHeld) as refused:
            await two.acquire(A)
        assert refused.value.holder == "one"
        assert await locks.states() == [("one", "held")]


async def test_locks_of_no_named_session_are_in_no_cycle(ann: Client, ben: Client, locks: Looker) -> None:
    """Each is a session of its own, which holds nothing else: there is nothing to look for."""
    async with ann.lock(A), ben.lock(B):
        for client, key in ((ann, B), (ben, A)):
            with pytest.raises(LockHeld):
                async with client.lock(key, wait_s=0.3):
                    pass
    await locks.until()
