"""Locks that a client has: kept, lost, and given back on every way out. With a real router in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus
from e2e.lock_states import DEADLINE_S, Looker

from keylane import Client, Credential, LeaseLost, Session, Unavailable
from keylane.journal.memory import MemoryJournal
from keylane.journal.port import Record
from keylane.schemas import events

pytestmark = pytest.mark.anyio

KEY = "github://acme/app/issues/42"
OTHER = "deploy://api-prod"


async def hold(client: Client, *, wait_s: float = 0, task_status: TaskStatus[None]) -> None:
    """Hold KEY until cancelled."""
    async with client.lock(KEY, wait_s=wait_s):
        task_status.started()
        await anyio.sleep_forever()


# -- every way out ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("S2.2")
async def test_an_error_in_the_block_comes_out_and_the_lock_is_given_back(ann: Client, locks: Looker) -> None:
    with pytest.raises(ZeroDivisionError):
        async with ann.lock(KEY, OTHER):
            _ = 1 // 0
    await locks.until()


@pytest.mark.requirement("S2.2")
async def test_a_cancelled_block_gives_the_lock_back(ann: Client, locks: Looker) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(hold, ann)
        assert await locks.states() == [("ann", "held")]
        tasks.cancel_scope.cancel()
    await locks.until()


@pytest.mark.requirement("S2.2")
async def test_who_gives_up_waiting_waits_no_more(ann: Client, ben: Client, locks: Looker) -> None:
    async with ann.lock(KEY):
        with anyio.move_on_after(0.3) as waiting:
            async with ben.lock(OTHER, KEY, wait_s=DEADLINE_S):
                pass
        assert waiting.cancelled_caught
        await locks.until(("ann", "held"))


async def test_a_task_that_is_cancelled_again_while_it_gives_back_leaves_nothing(
    ann: Client, ben: Client, locks: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asyncio does it, through any shield: a second Ctrl-C, or a timeout around a group that is cancelled."""
    append = MemoryJournal.append

    async def slow(self: MemoryJournal, records: Sequence[Record]) -> list[int]:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        return await append(self, records)

    monkeypatch.setattr(MemoryJournal, "append", slow)

    async def have() -> None:
        async with ben.lock(OTHER, KEY, wait_s=DEADLINE_S):
            await anyio.sleep_forever()

    async def cancelled_again(task: asyncio.Task[None]) -> None:
        for _ in range(4):
            task.cancel()
            await anyio.lowlevel.checkpoint()
        await asyncio.gather(task, return_exceptions=True)

    task = asyncio.create_task(have())
    await locks.until(("ben", "held"), ("ben", "held"))
    await cancelled_again(task)
    await locks.until()
    async with ann.lock(KEY):
        task = asyncio.create_task(have())
        await locks.until(("ann", "held"), ("ben", "held"), ("ben", "waiting"))
        await cancelled_again(task)
        await locks.until(("ann", "held"))


async def test_who_waits_when_its_client_is_closed_waits_no_more(routed: str, ann: Client, locks: Looker) -> None:
    failed: list[Unavailable] = []

    async def wait(client: Client) -> None:
        with pytest.raises(Unavailable) as closed:
            await client.acquire(KEY, wait_s=DEADLINE_S)
        failed.append(closed.value)

    async with ann.lock(KEY), anyio.create_task_group() as tasks:
        async with Client(routed, actor="ben") as ben:
            tasks.start_soon(wait, ben)
            await locks.until(("ann", "held"), ("ben", "waiting"))
        await locks.until(("ann", "held"))
    assert len(failed) == 1


async def test_given_up_just_when_its_turn_comes_nothing_is_left_held(ann: Client, ben: Client, locks: Looker) -> None:
    """The cancellation crosses the grant, or the claim, or comes before or after both: by chance, many times."""
    for round in range(40):
        had: list[Credential] = []

        async def waits(had: list[Credential]) -> None:
            had.append(await ben.acquire(KEY, wait_s=DEADLINE_S))

        async with anyio.create_task_group() as tasks:
            async with ann.lock(KEY):
                tasks.start_soon(waits, had)
                await locks.until(("ann", "held"), ("ben", "waiting"))
            await anyio.sleep(round / 10_000)  # where it is given up is drawn so, nothing is waited for
            tasks.cancel_scope.cancel()
        for credential in had:
            await ben.release(credential)
        await locks.until()


async def test_a_lease_can_be_given_back_before_the_block_ends(ann: Client, ben: Client, locks: Looker) -> None:
    async with ann.lock(KEY) as lease:
        await lease.release()
        async with ben.lock(KEY):
            with pytest.raises(LeaseLost):
                lease.check()
            await lease.release()  # a second time: nothing is left to do
            assert await locks.states() == [("ben", "held")]


async def test_a_lease_that_nobody_leaves_goes_with_its_client(routed: str, locks: Looker) -> None:
    async with Client(routed, actor="ann") as client:
        await client.lock(KEY).__aenter__()
        assert await locks.states() == [("ann", "held")]
    await locks.until()


# -- keeping it ---------------------------------------------------------------------------------------------------


async def test_it_is_renewed_in_the_background_for_longer_than_its_lease(ann: Client, locks: Looker) -> None:
    async with ann.lock(KEY, ttl_s=1) as lease:
        await locks.until_seen(6, lambda event: isinstance(event, events.Renewed))  # each is worth a second at most
        lease.check()
        assert await locks.states() == [("ann", "held")]
    assert not any(isinstance(event, events.Lost) for event in locks.seen)


async def test_one_that_says_it_is_blocked_is_not_renewed_until_it_goes_on(
    ann: Client, ben: Client, locks: Looker
) -> None:
    async with ann.lock(KEY, ttl_s=2) as lease:
        await lease.renew(blocked="waits for a quota")
        assert [(each.state, each.blocked) for each in await ben.locks()] == [("blocked", "waits for a quota")]
        await lease.renew()
        assert await locks.states() == [("ann", "held")]
        await lease.renew(blocked="waits for a quota")
        assert "not renewed in time" in await lease.until_lost()
        with pytest.raises(LeaseLost, match="not renewed in time"):
            await lease.renew()
        with pytest.raises(LeaseLost):
            await lease.release()


async def test_a_held_lock_is_renewed_while_the_next_one_is_waited_for(ann: Client, ben: Client, locks: Looker) -> None:
    async with anyio.create_task_group() as tasks:
        async with ben.lock("deploy://b"):
            tasks.start_soon(_two, ann)
            await locks.until(("ann", "held"), ("ann", "waiting"), ("ben", "held"))
            await locks.until_seen(6, lambda event: isinstance(event, events.Renewed))
            assert sorted(await locks.states()) == [("ann", "held"), ("ann", "waiting"), ("ben", "held")]
        await locks.until()


async def _two(client: Client) -> None:
    async with client.lock("deploy://a", "deploy://b", wait_s=DEADLINE_S, ttl_s=1) as lease:
        lease.check()


# -- losing it ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("S3.3")
async def test_when_its_session_ends_the_holder_hears_of_it_and_leaving_says_so(
    routed: str, ben: Client, locks: Looker
) -> None:
    session = Session.new("s1")
    async with Client(routed, actor="ann", session=session) as ann:
        with pytest.raises(LeaseLost, match="session_ended"):
            async with ann.lock(KEY) as lease:
                (run,) = [each.run for each in await ben.locks()]
                assert await ben.end_session(Session.new("s1")) == (), "the name alone ends nothing"
                lease.check()
                assert await ben.end_session(session) == (run,)
                with anyio.fail_after(DEADLINE_S):
                    assert "session_ended" in await lease.until_lost()
                assert lease.expires_in_s == 0
                with pytest.raises(LeaseLost):
                    lease.check()


async def test_an_error_that_is_on_its_way_goes_before_the_loss(routed: str, ben: Client) -> None:
    session = Session.new("s1")
    async with Client(routed, session=session) as ann:
        with pytest.raises(ZeroDivisionError):
            async with ann.lock(KEY) as lease:
                await ben.end_session(session)
                await lease.until_lost()
                _ = 1 // 0


async def test_a_loss_ends_the_wait_for_the_next_lock(routed: str, ben: Client, locks: Looker) -> None:
    session = Session.new("s1")
    async with Client(routed, session=session, actor="ann") as ann, anyio.create_task_group() as tasks:

        async def end_the_first() -> None:
            await locks.until(("ann", "held"), ("ann", "waiting"), ("ben", "held"))
            (first,) = [each for each in await ben.locks("deploy://a")]
            credential = Credential(
                resource=first.resource, run=first.run, token=first.token or 0, session=session.id,
                secret=session.secret, hold=first.hold, holder="", acquired="", ttl_ms=0,
            )  # fmt: skip
            await ben.release(credential)

        async with ben.lock("deploy://b"):
            tasks.start_soon(end_the_first)
            with pytest.raises(LeaseLost, match="deploy://a: another of its session gave it back"):
                async with ann.lock("deploy://a", "deploy://b", wait_s=DEADLINE_S):
                    pass
            await locks.until(("ben", "held"))


async def test_who_is_asked_to_give_it_back_hears_by_whom_and_holds_it_all_the_same(
    ann: Client, ben: Client, locks: Looker
) -> None:
    async with ann.lock(KEY) as lease:
        (info,) = await ben.locks()
        assert await ben.cancel(KEY, info.run) == "stop_asked"
        with anyio.fail_after(DEADLINE_S):
            assert "ben" in await lease.until_lost()
        assert (lease.stop_asked, lease.lost) == ("ben", None)
        lease.check()
        assert await locks.states() == [("ann", "stopping")]
    assert await locks.states() == []
