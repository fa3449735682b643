"""Rows S3.2 and S3.4: how long a lock lasts, and who alone may renew it or give it back.

Each test runs on SQLite and on Kafka, by the fixture `fleet`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import pytest
from msgspec.structs import replace
from requirements.commands import WITHIN_S, Shell, shell
from requirements.fleet import Fleet

from keylane import Client, LeaseLost, LockHeld, Session
from keylane import Refused as RefusedError
from keylane.embedded import load, router_running
from keylane.schemas import topics
from keylane.schemas.events import DeadLettered, Ended, Fenced, Granted, Lost, Renewed

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement

DEFAULT_MS = 1_800_000
SHORT_MS = 3_000
SET_MS = 2_000
NO_KEYS = ("api-prod", "issues/4", "arn:aws", "deploy//api", "deploy:", "://api", "", "  ", "deploy://api prod")


# -- S3.2 -----------------------------------------------------------------------------------------------------


@row("S3.2")
async def test_a_lock_lasts_1800_s_where_nobody_says_otherwise(fleet: Fleet) -> None:
    """By every door; and it is what the requester is told."""
    keys = [fleet.key() for _ in range(3)]
    ann = shell(fleet, "ann")
    credential = await fleet.alice.acquire(keys[0])
    had = await ann.run("rlock", keys[1])
    async with fleet.alice.lock(keys[2]) as lease:
        granted = [await fleet.record.nth(Granted, key) for key in keys]
        assert lease.expires_in_s <= DEFAULT_MS / 1_000
    assert [event.lease_ms for event in granted] == [DEFAULT_MS] * 3
    assert credential.ttl_ms == DEFAULT_MS
    told_s = seconds(had.answer["expires"]) - seconds(granted[1].time)
    assert DEFAULT_MS / 1_000 <= told_s < DEFAULT_MS / 1_000 + WITHIN_S, "less what the command took to say so"
    await fleet.alice.release(credential)
    assert (await ann.run("runlock", keys[1])).code == 0


@row("S3.2")
async def test_resource_lock_timeout_sets_it(fleet: Fleet) -> None:
    """A router of its own, on the same backend, that is configured so; and a lock on it runs out in that time."""
    async with router_of(fleet, f"partitions = 1\nresource_lock_timeout = {SET_MS // 1_000}\n") as url:
        key = fleet.key()
        async with Client(url, actor="alice") as client, client.events(key) as events:
            credential = await client.acquire(key)
            assert credential.ttl_ms == SET_MS
            with pytest.raises(LockHeld):
                await client.acquire(key)
            with anyio.fail_after(WITHIN_S):
                said = [event async for event in until_lost(events)]
            granted = next(event for event in said if isinstance(event, Granted))
            assert granted.lease_ms == SET_MS
            lost = said[-1]
            assert isinstance(lost, Lost) and lost.reason == "lease_expired"
            assert lost.clock_ms - granted.clock_ms >= SET_MS, "never earlier"
            with pytest.raises(LeaseLost):
                await client.renew(credential)


@row("S3.2")
async def test_a_heartbeat_resets_it_and_what_has_expired_cannot_be_renewed(fleet: Fleet) -> None:
    """By the real programs: renewed in time it outlives its first lease; then left alone it goes, for good."""
    key, ann = fleet.key(), shell(fleet, "ann")
    had = await ann.run("rlock", key, "--ttl", f"{SHORT_MS}ms")
    assert had.code == 0
    granted = await fleet.record.nth(Granted, key)
    renewals = 0
    while not renewals or fleet.record.of(Renewed, key)[-1].clock_ms - granted.clock_ms <= granted.lease_ms:
        assert (await ann.run("rlock-heartbeat", key)).code == 0
        renewals += 1
        assert (await fleet.record.nth(Renewed, key, renewals)).lease_ms == SHORT_MS, "as long as at first, from then"
    last = fleet.record.of(Renewed, key)[-1]
    lost = await fleet.record.nth(Lost, key)
    assert (lost.token, lost.reason, lost.holder) == (had.answer["token"], "lease_expired", "ann")
    assert lost.clock_ms - last.clock_ms >= SHORT_MS
    late = await ann.run("rlock-heartbeat", key)
    assert (late.code, late.error["code"]) == (4, "FENCED")
    fenced = await fleet.record.nth(Fenced, key)
    assert (fenced.report, fenced.token, fenced.live_token, fenced.status) == ("Renewal", lost.token, None, "Done")
    # Not after another has had it either, whose it stays.
    other = await fleet.bob.acquire(key)
    assert other.token > lost.token
    assert (await ann.run("runlock", key)).code == 4
    assert (await fleet.record.nth(Fenced, key, 2)).report == "Release"
    await fleet.bob.release(other)


@asynccontextmanager
async def router_of(fleet: Fleet, config: str) -> AsyncIterator[str]:
    """A router of another configuration on a journal of its own, on the same backend; yields its URL."""
    name = fleet.key().rpartition("/")[2]
    if fleet.backend == "kafka":
        url = fleet.url.replace("prefix=", f"prefix={name}-")
    else:
        url = f"sqlite:///{fleet.folder}/{name}.db"
    file = fleet.folder / f"{name}.toml"
    file.write_text(config)
    async with router_running(load(file, {}, {"url": url})):
        yield url


async def until_lost(events: AsyncIterator[object]) -> AsyncIterator[object]:
    """Those up to the first lease that is lost, which is the last."""
    async for event in events:
        yield event
        if isinstance(event, Lost):
            return


def seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


# -- S3.4 -----------------------------------------------------------------------------------------------------


@row("S3.4")
async def test_without_its_secret_a_lock_is_neither_renewed_nor_given_back(fleet: Fleet) -> None:
    """Whoever knows all the rest of it, which anybody can read: run, token, session, hold id."""
    key = fleet.key()
    credential = await fleet.alice.acquire(key, session=Session.new("deploy-7"), ttl_s=60)
    forged = replace(credential, secret=Session.new().secret)
    with pytest.raises(LeaseLost):
        await fleet.bob.renew(forged)
    with pytest.raises(LeaseLost):
        await fleet.bob.release(forged)
    # As a plain record too, which no client of ours has looked at.
    told = {"run": credential.run, "token": credential.token, "secret": forged.secret}
    for kind in ("Renewal", "Release"):
        await fleet.publish(topics.REQUESTS, key, type=kind, **told)
    await fleet.publish(topics.REQUESTS, key, type="Cancellation", request=credential.run, secret=forged.secret)
    fenced = [await fleet.record.nth(Fenced, key, n) for n in (1, 2, 3, 4)]
    assert [event.report for event in fenced] == ["Renewal", "Release"] * 2
    assert {(event.live_token, event.status) for event in fenced} == {(credential.token, "Held")}
    (held,) = await fleet.alice.locks(key)
    assert (held.run, held.token) == (credential.run, credential.token)
    assert not fleet.record.of(Renewed, key), "not a moment longer"
    with pytest.raises(LockHeld):
        await fleet.bob.acquire(key, session=Session.new("deploy-7"))
    # Who has it can: asked for it back by the cancellation, it gives it back.
    await fleet.alice.renew(credential)
    await fleet.alice.release(credential)
    assert (await fleet.record.nth(Ended, key)).status == "cancelled"


@row("S3.4")
async def test_only_the_shell_that_acquired_it_can_renew_it_or_give_it_back(fleet: Fleet) -> None:
    """Another user knows the resource and the session's id, and has neither secret nor credential. With a credential
    of which the secret is wrong the lane itself refuses."""
    key, ann, ben = fleet.key(), shell(fleet, "ann"), shell(fleet, "ben")
    had = await ann.run("rlock", key, "--session-id", "deploy-7")
    assert had.code == 0
    for program in ("rlock-heartbeat", "runlock"):
        for words in ((), ("--session-id", "deploy-7"), ("--session-id", had.answer["session"])):
            done = await ben.run(program, key, *words)
            assert (done.code, done.error["code"]) == (3, "NOT_FOUND"), done
    assert (await ben.run("keylane", "session", "end", "deploy-7")).code == 3
    forge(ann, ben)
    for program in ("rlock-heartbeat", "runlock"):
        done = await ben.run(program, key, "--session-id", "deploy-7")
        assert (done.code, done.error["code"]) == (4, "FENCED")
    assert [info.token for info in await fleet.alice.locks(key)] == [had.answer["token"]]
    assert (await ann.run("runlock", key, "--session-id", "deploy-7")).code == 0
    await fleet.record.nth(Ended, key)
    assert len(fleet.record.of(Fenced, key)) == 2


def forge(owner: Shell, thief: Shell) -> None:
    """All that the owner keeps, under another secret."""
    secret = Session.new().secret
    for file in owner.state.rglob("*.json"):
        kept = json.loads(file.read_text())
        copy = thief.state / file.relative_to(owner.state)
        copy.parent.mkdir(0o700, parents=True, exist_ok=True)
        copy.parent.chmod(0o700)
        copy.touch(0o600)
        copy.write_text(json.dumps(kept | {"secret": secret}))


@row("S3.4")
async def test_a_key_that_is_no_uri_and_no_arn_is_refused(fleet: Fleet) -> None:
    """By the client and the command before anything is sent; by the lane, whoever has sent it."""
    ann = shell(fleet, "ann")
    for key in NO_KEYS:
        with pytest.raises(RefusedError) as refused:
            await fleet.alice.acquire(key)
        assert refused.value.code == "BAD_KEY"
        with pytest.raises(RefusedError):
            async with fleet.alice.lock(fleet.key(), key):
                pass
    for program in ("rlock", "rlock-heartbeat", "runlock"):
        done = await ann.run(program, "api-prod")
        assert (done.code, done.error["code"]) == (2, "BAD_KEY")
    id = await fleet.publish(
        topics.REQUESTS, "api-prod", type="LockRequest", session="deploy-7", secret=Session.new().secret
    )

    def refusal() -> str | None:
        return next((event.code for _, event in fleet.record.events if getattr(event, "request", None) == id), None)

    assert await fleet.record.until("the lane has refused it", refusal) == "BAD_KEY"
    assert not [event for event in fleet.record.all("api-prod") if isinstance(event, Granted)]
    assert not [event for event in fleet.record.all("api-prod") if isinstance(event, DeadLettered)]
