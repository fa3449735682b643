"""Locks of a client, with a real router in this process: had, waited for, kept, and given back on every way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus
from e2e.lock_states import DEADLINE_S, Looker, looking

from keylane import Client, Credential, LeaseLost, LockHeld, Refused, Session, Unavailable
from keylane.journal.connect import connect
from keylane.journal.memory import MemoryJournal
from keylane.journal.port import Place, Record
from keylane.router import config
from keylane.router.core.policy import LockPolicy
from keylane.schemas import events, topics
from keylane.schemas.codec import decode_request
from keylane.schemas.requests import LockRequest
from keylane.testing import local
from keylane.views import read_all

pytestmark = pytest.mark.anyio

KEY = "github://acme/app/issues/42"
OTHER = "deploy://api-prod"
CONFIG = """
partitions = 4
[[scopes]]
match = "k8s://{c}/pods/{ns}/{app}/{pod}"
owner = "k8s://{c}/deployments/{ns}/{app}"
"""


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with local(CONFIG) as url:
        yield url


@pytest.fixture
async def ann(url: str) -> AsyncIterator[Client]:
    async with Client(url, actor="ann") as client:
        yield client


@pytest.fixture
async def ben(url: str) -> AsyncIterator[Client]:
    async with Client(url, actor="ben") as client:
        yield client


@pytest.fixture
async def locks(url: str) -> AsyncIterator[Looker]:
    async with looking(url) as looker:
        yield looker


async def hold(client: Client, *, wait_s: float = 0, task_status: TaskStatus[None]) -> None:
    """Hold KEY until cancelled."""
    async with client.lock(KEY, wait_s=wait_s):
        task_status.started()
        await anyio.sleep_forever()


# -- to have one --------------------------------------------------------------------------------------------------


async def test_a_lock_is_held_for_as_long_as_the_block_runs(ann: Client, locks: Looker) -> None:
    async with ann.lock(KEY) as lease:
        lease.check()
        (info,) = await ann.locks()
        assert lease.resources == {KEY: info.token}
        assert (info.state, info.actor, info.holder) == ("held", "ann", "ann")
        assert 1_700 < lease.expires_in_s < 1_800 and lease.lost is None
    assert await locks.states() == []
    with pytest.raises(LeaseLost, match="given back"):
        lease.check()
    assert lease.expires_in_s == 0


@pytest.mark.requirement("S2.1")
async def test_the_second_is_refused_and_told_by_whom_and_until_when(ann: Client, ben: Client) -> None:
    async with ann.lock(KEY, ttl_s=600):
        with pytest.raises(LockHeld) as refused:
            async with ben.lock(KEY):
                pass
    error = refused.value
    assert (error.code, error.holder, error.position) == ("LOCK_HELD", "ann", 1)
    assert error.retry_after_ms is not None and error.held_since is not None and error.lease_expires_at is not None
    assert error.held_since < error.lease_expires_at
    assert "force" not in error.suggestion


async def test_a_wait_ends_when_the_holder_is_done(ann: Client, ben: Client, locks: Looker) -> None:
    async with anyio.create_task_group() as tasks:
        async with ann.lock(KEY) as first:
            await tasks.start(partial(_waits, ben))
            await locks.until(("ann", "held"), ("ben", "waiting"))
        await locks.until(("ben", "held"))
        (info,) = await ann.locks()
        assert info.token is not None and info.token > first.resources[KEY]
        tasks.cancel_scope.cancel()
    assert await locks.states() == []


async def _waits(client: Client, *, task_status: TaskStatus[None]) -> None:
    task_status.started()
    async with client.lock(KEY, wait_s=DEADLINE_S):
        await anyio.sleep_forever()


async def test_a_wait_that_is_over_is_refused_as_if_it_had_not_waited(ann: Client, ben: Client, locks: Looker) -> None:
    async with ann.lock(KEY):
        with pytest.raises(LockHeld) as refused:
            async with ben.lock(KEY, wait_s=0.2):
                pass
        assert await locks.states() == [("ann", "held")]
    error = refused.value
    assert (error.holder, error.position) == ("ann", 1)
    assert None not in (error.retry_after_ms, error.held_since, error.lease_expires_at)


async def test_two_tasks_of_one_client_take_turns(ann: Client, locks: Looker) -> None:
    inside: list[int] = []
    entered: list[int] = []

    async def enter(number: int) -> None:
        async with ann.lock(KEY, wait_s=DEADLINE_S):
            inside.append(number)
            assert inside == [number], "one at a time"
            entered.append(number)
            await anyio.sleep(0.01)
            inside.remove(number)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(enter, number)
    assert sorted(entered) == list(range(8))
    assert await locks.states() == []


async def test_a_client_with_a_session_holds_all_its_locks_in_it(url: str, locks: Looker) -> None:
    session = Session.new("deploys")
    async with Client(url, session=session) as client, client.lock(KEY), client.lock(OTHER):
        assert {each.resource for each in await client.locks(session_id="deploys")} == {KEY, OTHER}
        assert await client.locks(session_id="another") == []


async def test_its_own_lock_is_had_again_under_the_same_token(ann: Client, ben: Client, locks: Looker) -> None:
    session = Session.new("s1")
    first = await ann.acquire(KEY, session=session)
    again = await ben.acquire(KEY, session=session)
    assert (again.token, again.run) == (first.token, first.run)
    with pytest.raises(LockHeld):
        await ann.acquire(KEY, session=session, hold="another")
    with pytest.raises(LockHeld):
        await ann.acquire(KEY, session=Session.new("s1"))  # the same name, and not its secret
    await ben.release(first)
    assert await locks.states() == []


@pytest.mark.requirement("S3.4")
async def test_what_is_no_key_is_refused_before_anything_is_asked(ann: Client) -> None:
    for key in ("issue 42", "/etc/passwd", "", "x" * 600):
        for asking in (ann.lock(key).__aenter__(), ann.acquire(key), ann.locks(key)):
            with pytest.raises(Refused) as refused:
                await asking
            assert refused.value.code == "BAD_KEY"


async def test_times_that_cannot_be_are_refused(ann: Client, locks: Looker) -> None:
    nan, endless = float("nan"), float("inf")
    for wanted in ({"ttl_s": 0.5}, {"ttl_s": 1e9}, {"ttl_s": nan}, {"wait_s": -1.0}, {"wait_s": endless}):
        with pytest.raises(Refused) as refused:
            await ann.acquire(KEY, **wanted)  # type: ignore[arg-type]
        assert refused.value.code == "BAD_RECORD"
    assert await locks.states() == []


async def test_a_lock_of_nothing_is_a_mistake(ann: Client) -> None:
    with pytest.raises(ValueError, match="resource"):
        async with ann.lock():
            pass


# -- several ------------------------------------------------------------------------------------------------------


async def test_several_are_had_one_after_the_other_in_the_order_of_their_keys(
    ann: Client, ben: Client, locks: Looker
) -> None:
    keys = ["deploy://c", "deploy://a", "deploy://b"]

    async def hold_all(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        async with ann.lock(*keys, wait_s=DEADLINE_S) as lease:
            found = {each.resource: each for each in await ann.locks()}
            assert lease.resources == {key: found[key].token for key in keys}
            assert len({each.session for each in found.values()}) == 1

    async with anyio.create_task_group() as tasks:
        async with ben.lock("deploy://b"):
            async with ben.lock("deploy://a"):
                await tasks.start(hold_all)
                await locks.until(("ann", "waiting"), ("ben", "held"), ("ben", "held"))
                assert await ann.locks("deploy://c") == []
            await locks.until(("ann", "held"), ("ann", "waiting"), ("ben", "held"))
            assert await ann.locks("deploy://c") == []
    await locks.until()


async def test_where_one_cannot_be_had_none_is_kept(ann: Client, ben: Client, locks: Looker) -> None:
    async with ann.lock("deploy://b"):
        with pytest.raises(LockHeld) as refused:
            async with ben.lock("deploy://a", "deploy://b", "deploy://c"):
                pass
        assert refused.value.holder == "ann"
        await locks.until(("ann", "held"))
        async with ben.lock("deploy://a", "deploy://c"):
            pass


async def test_keys_with_one_owning_key_are_one_lock(ann: Client, ben: Client, locks: Looker) -> None:
    pods = ("k8s://prod/pods/shop/cart/7f9", "k8s://prod/pods/shop/cart/8a1")
    async with ann.lock(*pods) as lease:
        assert set(lease.resources) == set(pods) and len(set(lease.resources.values())) == 1
        (info,) = await ann.locks()
        assert info.owner == "k8s://prod/deployments/shop/cart"
        assert len(await ann.locks(pods[1])) == 1, "any of its keys shows it"
        for key in (*pods, info.owner):
            with pytest.raises(LockHeld):
                await ben.acquire(key)


async def test_a_key_is_had_under_any_way_to_write_it(ann: Client) -> None:
    async with ann.lock("DEPLOY://API-prod", "deploy://api-prod") as lease:
        assert list(lease.resources) == ["deploy://api-prod"]


async def test_many_are_held_at_once_and_given_back(ann: Client, ben: Client, locks: Looker) -> None:
    keys = [f"deploy://s-{number}" for number in range(200)]
    async with ann.lock(*keys) as lease:
        assert len(await ann.locks()) == len(set(lease.resources.values())) == 200
        with pytest.raises(LockHeld):
            await ben.acquire("deploy://s-77")
    assert await locks.states() == []


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


async def test_who_waits_when_its_client_is_closed_waits_no_more(url: str, ann: Client, locks: Looker) -> None:
    failed: list[Unavailable] = []

    async def wait(client: Client) -> None:
        with pytest.raises(Unavailable) as closed:
            await client.acquire(KEY, wait_s=DEADLINE_S)
        failed.append(closed.value)

    async with ann.lock(KEY), anyio.create_task_group() as tasks:
        async with Client(url, actor="ben") as ben:
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


async def test_a_lease_that_nobody_leaves_goes_with_its_client(url: str, locks: Looker) -> None:
    async with Client(url, actor="ann") as client:
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
    url: str, ben: Client, locks: Looker
) -> None:
    session = Session.new("s1")
    async with Client(url, actor="ann", session=session) as ann:
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


async def test_an_error_that_is_on_its_way_goes_before_the_loss(url: str, ben: Client) -> None:
    session = Session.new("s1")
    async with Client(url, session=session) as ann:
        with pytest.raises(ZeroDivisionError):
            async with ann.lock(KEY) as lease:
                await ben.end_session(session)
                await lease.until_lost()
                _ = 1 // 0


async def test_a_loss_ends_the_wait_for_the_next_lock(url: str, ben: Client, locks: Looker) -> None:
    session = Session.new("s1")
    async with Client(url, session=session, actor="ann") as ann, anyio.create_task_group() as tasks:

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


# -- by credential ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("S3.4")
async def test_only_its_secret_renews_or_releases_it(ann: Client, ben: Client, locks: Looker) -> None:
    held = await ann.acquire(KEY, ttl_s=100)
    renewed = await ben.renew(held)
    assert (renewed.lease_ms, renewed.blocked) == (100_000, None)
    for forged in ({"secret": Session.new().secret}, {"token": held.token - 1}, {"run": "another"}):
        credential = Credential(**({name: getattr(held, name) for name in held.__struct_fields__} | forged))
        with pytest.raises(LeaseLost):
            await ben.renew(credential)
        with pytest.raises(LeaseLost):
            await ben.release(credential)
    assert await locks.states() == [("ann", "held")]
    await ben.release(held)
    await ben.release(held)  # again: nothing is wrong with that
    with pytest.raises(LeaseLost):
        await ann.renew(held)


async def test_what_a_credential_or_a_session_shows_is_not_its_secret(ann: Client) -> None:
    session = Session.new("s1")
    held = await ann.acquire(KEY, session=session)
    assert held.secret == session.secret
    for shown in (repr(held), repr(session), str(held)):
        assert session.secret not in shown and "s1" in shown


async def test_who_dies_before_the_claim_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "LockPolicy", partial(LockPolicy, claim_ms=300))
    async with local(CONFIG) as url, Client(url, actor="ann") as ann, looking(url) as locks:
        async with ann.lock(KEY):
            journal = await connect(url)
            dead = LockRequest(id="d-1", resource=KEY, session="s", secret="x" * 43, actor="dead", wait_ms=20_000)
            record = ann._locking._record(dead)
            await journal.append([record])
            await journal.close()
            await locks.until(("ann", "held"), ("dead", "waiting"))
        async with ann.lock(KEY, wait_s=DEADLINE_S):
            status = await ann.status(KEY, "d-1")
        assert status.outcome is not None and status.outcome.error is not None
        assert "unclaimed" in status.outcome.error.message


async def test_a_request_carries_the_callers_trace(url: str, ann: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setattr("keylane.commands.current_traceparent", lambda: trace)
    async with ann.lock(KEY):
        pass
    journal = await connect(url)
    stored = [record for each in range(4) for record in await read_all(journal, Place(topics.REQUESTS, each))]
    await journal.close()
    asked = [decode_request(record.value) for record in stored]
    assert isinstance(asked[0], LockRequest) and len(asked) == 2
    assert all(dict(record.headers)["traceparent"] == trace.encode() for record in stored)
