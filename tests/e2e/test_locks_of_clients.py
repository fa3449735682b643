"""Locks of clients on both backends, with real processes: routers and holders that die, stop, and come back."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from e2e.lock_states import looking
from e2e.processes import running, wait_for_text

from keylane import Client, LeaseLost, LockHeld, Session, Unavailable
from keylane.journal.partitioner import partition_of
from keylane.schemas import events

pytestmark = pytest.mark.anyio

PARTITIONS = 4
DEADLINE_S = 90.0
WAIT_S = 60.0
KEY = "github://acme/app/issues/42"
CONFIG = f"""
partitions = {PARTITIONS}
[[scopes]]
match = "k8s://{{c}}/pods/{{ns}}/{{app}}/{{pod}}"
owner = "k8s://{{c}}/deployments/{{ns}}/{{app}}"
"""
OWNER = "k8s://prod/deployments/shop/cart"
HOLDER = """
import sys

import anyio
import anyio.to_thread
import keylane


async def main(key: str, ttl_s: float) -> None:
    async with keylane.Client(actor="holder") as client:
        try:
            async with client.lock(key, ttl_s=ttl_s) as lease:
                print("held", flush=True)
                while True:
                    lease.check()
                    await anyio.sleep(0.01)
        except keylane.LeaseLost as error:
            print("lost:", error, flush=True)
            await anyio.sleep_forever()


anyio.run(main, sys.argv[1], float(sys.argv[2]))
"""


def place(key: str) -> int:
    return partition_of(key.encode(), PARTITIONS)


POD_A, POD_B = [key for key in (f"k8s://prod/pods/shop/cart/{n}" for n in range(100)) if place(key) != place(OWNER)][:2]
"""Two pods that would lie elsewhere than their deployment by their own keys."""


@pytest.fixture
def where(journal_url: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "keylane.toml").write_text(CONFIG)
    (tmp_path / "holder.py").write_text(HOLDER)
    return {"url": journal_url, "cwd": tmp_path}


@contextmanager
def router(where: dict[str, Any]) -> Iterator[Any]:
    with running("router", "--output", "json", says='"url"', **where) as process:
        yield process


def log_of_holder(folder: Path) -> Path:
    (log,) = folder.glob("github*.log")
    return log


async def renewed_by_a_new_router(lease: Any) -> None:
    """Ask for a renewal until a router answers one."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                await lease.renew()
                return
            except Unavailable:
                lease.check()


async def test_a_lock_and_a_wait_for_it_outlive_their_router(where: dict[str, Any], journal_url: str) -> None:
    tokens: list[int] = []

    async def wait(client: Client) -> None:
        async with client.lock(KEY, wait_s=WAIT_S) as lease:
            tokens.append(lease.resources[KEY])

    with anyio.fail_after(DEADLINE_S):
        with router(where) as first:
            async with (
                Client(journal_url, actor="ann") as ann,
                Client(journal_url, actor="ben") as ben,
                looking(journal_url) as locks,
                anyio.create_task_group() as tasks,
            ):
                async with ann.lock(KEY, ttl_s=WAIT_S) as lease:
                    tasks.start_soon(wait, ben)
                    await locks.until(("ann", "held"), ("ben", "waiting"))
                    first.kill()
                    first.wait()
                    with router(where):
                        await renewed_by_a_new_router(lease)
                        assert await locks.states() == [("ann", "held"), ("ben", "waiting")]
                        await lease.release()
                        await locks.until()
                        (token,) = tokens
                        assert token > lease.resources[KEY]
                        await locks.until_seen(2, lambda event: isinstance(event, events.Granted))
                        grants = [each for each in locks.seen if isinstance(each, events.Granted)]
                        assert [each.token for each in grants] == [lease.resources[KEY], token]


async def test_what_is_asked_for_and_given_up_without_a_router_is_not_held_when_one_comes(
    where: dict[str, Any], journal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keylane.locking.ANSWER_S", 0.5)
    with anyio.fail_after(DEADLINE_S):
        with router(where):
            pass
        async with Client(journal_url, actor="ann") as ann:
            with pytest.raises(Unavailable):
                await ann.acquire(KEY, ttl_s=600)
        with router(where):
            async with looking(journal_url) as locks:
                await locks.until_seen(1, lambda event: isinstance(event, events.Ended))
                await locks.until()
                assert any(isinstance(each, events.Granted) for each in locks.seen), "it was had, and given back"


async def test_two_pods_of_one_deployment_are_one_lock(where: dict[str, Any], journal_url: str) -> None:
    with router(where), anyio.fail_after(DEADLINE_S):
        async with Client(journal_url, actor="ann") as ann, Client(journal_url, actor="ben") as ben:
            async with ann.lock(POD_A):
                for key in (POD_A, POD_B, OWNER):
                    with pytest.raises(LockHeld) as refused:
                        await ben.acquire(key)
                    assert refused.value.holder == "ann"
            async with ben.lock(POD_B, POD_A) as lease:
                assert len(set(lease.resources.values())) == 1


@pytest.mark.requirement("S2.1")
async def test_of_eight_that_ask_at_once_one_has_it_and_seven_are_told_by_whom(
    where: dict[str, Any], journal_url: str
) -> None:
    outcomes: list[object] = []

    async def ask(client: Client, all_asked: anyio.Event) -> None:
        try:
            async with client.lock(KEY):
                outcomes.append("held")
                await all_asked.wait()
        except LockHeld as error:
            outcomes.append(error.holder)
        if len(outcomes) == 8:
            all_asked.set()

    with router(where), anyio.fail_after(DEADLINE_S):
        async with Client(journal_url, actor="ann") as ann, Client(journal_url, actor="ben") as ben:
            for _ in range(20):
                outcomes.clear()
                all_asked = anyio.Event()
                async with anyio.create_task_group() as tasks:
                    for number in range(8):
                        tasks.start_soon(ask, ann if number % 2 else ben, all_asked)
                assert outcomes.count("held") == 1 and len(outcomes) == 8
                assert set(outcomes) - {"held"} <= {"ann", "ben"}
                assert await ann.locks() == []


async def test_two_that_want_the_same_in_any_order_both_come_to_have_it(
    where: dict[str, Any], journal_url: str
) -> None:
    keys = [f"deploy://s-{number}" for number in range(30)]
    inside: list[str] = []

    async def have(client: Client, wanted: list[str]) -> None:
        for _ in range(5):
            async with client.lock(*wanted, wait_s=WAIT_S) as lease:
                inside.append(client.actor)
                assert inside == [client.actor]
                assert set(lease.resources) == set(keys)
                lease.check()
                inside.clear()

    with router(where), anyio.fail_after(DEADLINE_S):
        async with Client(journal_url, actor="ann") as ann, Client(journal_url, actor="ben") as ben:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(have, ann, keys)
                tasks.start_soon(have, ben, keys[::-1])
            assert await ann.locks() == []


@pytest.mark.requirement("S3.2")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_who_stops_loses_it_to_the_next_and_knows_so_when_it_goes_on(
    where: dict[str, Any], journal_url: str, tmp_path: Path, how: int
) -> None:
    with router(where), anyio.fail_after(DEADLINE_S):
        async with Client(journal_url, actor="ben") as ben, looking(journal_url) as locks:
            with running(KEY, "2", says="held", program=("holder.py",), **where) as holder:
                await locks.until(("holder", "held"))
                before = (await locks.one()).token
                holder.send_signal(how)
                async with ben.lock(KEY, wait_s=WAIT_S) as lease:
                    assert before is not None and lease.resources[KEY] > before
                    if how == signal.SIGSTOP:
                        os.kill(holder.pid, signal.SIGCONT)
                        await anyio.to_thread.run_sync(wait_for_text, log_of_holder(tmp_path), "lost:", holder)
                    lease.check()
            await locks.until_seen(1, lambda event: isinstance(event, events.Lost))
            assert [each.reason for each in locks.seen if isinstance(each, events.Lost)] == ["lease_expired"]


@pytest.mark.requirement("S3.3")
async def test_all_of_a_session_goes_when_it_ends_in_every_lane(where: dict[str, Any], journal_url: str) -> None:
    session = Session.new("deploys")
    keys = [f"deploy://s-{number}" for number in range(12)]
    assert len({place(key) for key in keys}) == PARTITIONS
    with router(where), anyio.fail_after(DEADLINE_S):
        async with Client(journal_url, actor="ann") as ann, Client(journal_url, actor="ben", session=session) as ben:
            async with ann.lock("deploy://s-0"):
                held = [await ben.acquire(key) for key in keys[1:]]
                async with anyio.create_task_group() as tasks:

                    async def wait() -> None:
                        with pytest.raises(Exception, match="ended cancelled"):
                            await ben.acquire(keys[0], wait_s=WAIT_S)

                    tasks.start_soon(wait)
                    async with looking(journal_url) as locks:
                        await locks.until(("ann", "held"), ("ben", "waiting"), *[("ben", "held")] * 11)
                    ended = await ann.end_session(session)
                assert {each.run for each in held} < set(ended) and len(ended) == 12
                assert [each.actor for each in await ann.locks()] == ["ann"]
                for credential in held:
                    with pytest.raises(LeaseLost):
                        await ben.renew(credential)
