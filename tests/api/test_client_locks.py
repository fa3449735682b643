"""Locks of a client, with a real router in this process: had, waited for, several at once, and by credential."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus
from e2e.lock_states import DEADLINE_S, Looker, looking

from keylane import Client, Credential, LeaseLost, LockHeld, Refused, Session
from keylane.journal.connect import connect
from keylane.journal.port import Place
from keylane.router import config
from keylane.router.core.policy import LockPolicy
from keylane.schemas import topics
from keylane.schemas.codec import decode_request
from keylane.schemas.requests import LockRequest
from keylane.testing import local
from keylane.views import read_all

pytestmark = pytest.mark.anyio

KEY = "github://acme/app/issues/42"
OTHER = "deploy://api-prod"


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


async def test_a_client_with_a_session_holds_all_its_locks_in_it(routed: str, locks: Looker) -> None:
    session = Session.new("deploys")
    async with Client(routed, session=session) as client, client.lock(KEY), client.lock(OTHER):
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
    async with local("partitions = 4") as url, Client(url, actor="ann") as ann, looking(url) as locks:
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


async def test_a_request_carries_the_callers_trace(routed: str, ann: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setattr("keylane.commands.current_traceparent", lambda: trace)
    async with ann.lock(KEY):
        pass
    journal = await connect(routed)
    stored = [record for each in range(4) for record in await read_all(journal, Place(topics.REQUESTS, each))]
    await journal.close()
    asked = [decode_request(record.value) for record in stored]
    assert isinstance(asked[0], LockRequest) and len(asked) == 2
    assert all(dict(record.headers)["traceparent"] == trace.encode() for record in stored)
