"""Scope rules on both backends, with real processes: clients follow them, and `config apply` changes them."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from e2e.processes import ended, keylane, running

from keylane import Client, Item, Position, Refused, Ticket, Unavailable, Worker
from keylane.events import EventStream
from keylane.journal import Record, connect
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.event_parts import Event
from keylane.schemas.events import Granted, SentOn
from keylane.schemas.requests import WorkRequest

pytestmark = pytest.mark.anyio

PARTITIONS = 4
DEADLINE_S = 60.0
RULES = """
[[scopes]]
match = "k8s://{c}/pods/{ns}/{app}/{pod}"
owner = "k8s://{c}/deployments/{ns}/{app}"
"""
CONFIG = f"""
partitions = {PARTITIONS}
retention = "1s"
[defaults]
coalesce = "0s"
[actions.drain]
limit = {{ count = 1, until = ["undrain"] }}
"""
OWNER = "k8s://prod/deployments/shop/cart"


def place(key: str) -> int:
    return partition_of(key.encode(), PARTITIONS)


POD_A, POD_B = [
    key for key in (f"k8s://prod/pods/shop/cart/{n}" for n in range(100)) if place(key) not in (place(OWNER), 0)
][:2]
"""Two pods that would lie elsewhere than their deployment by their own keys."""


class Handling:
    """A worker whose handlers wait to be let go; `holding` has what is held at the moment."""

    def __init__(self) -> None:
        self.holding: list[str] = []
        self.most = 0
        self.begun = anyio.Event()
        self.go = anyio.Event()

    async def handle(self, item: Item[object]) -> None:
        self.holding.append(item.resource)
        self.most = max(self.most, len(self.holding))
        self.begun.set()
        await self.go.wait()
        self.holding.remove(item.resource)


@asynccontextmanager
async def handling(url: str) -> AsyncIterator[Handling]:
    found = Handling()
    worker = Worker(url, name="worker-1", slots=8)
    for action in ("drain", "restart", "undrain"):
        worker.handler(action)(found.handle)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve)
        try:
            yield found
        finally:
            tasks.cancel_scope.cancel()


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return name


def asked(*words: str, url: str, cwd: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in keylane(*words, "--output", "json", url=url, cwd=cwd).splitlines()]


async def until(stream: EventStream, wanted: Callable[[Event], bool]) -> Event:
    async for event in stream:
        if wanted(event):
            return event
    raise AssertionError("a stream has no end")


@pytest.mark.requirement("S4.4")
@pytest.mark.requirement("S1.2")
async def test_pods_of_one_deployment_are_one_resource_to_every_client(journal_url: str, tmp_path: Path) -> None:
    where: dict[str, Any] = {"url": journal_url, "cwd": tmp_path}
    config = write(tmp_path, "rules.toml", CONFIG + RULES)
    with anyio.fail_after(DEADLINE_S), running("router", "--config", config, "--output", "json", says='"url"', **where):
        async with Client(journal_url, actor="agent-1") as client, handling(journal_url) as handling_now:
            first = await client.submit(POD_A, "drain", request_id="drain-a")
            await handling_now.begun.wait()
            second = await client.submit(POD_B, "restart", request_id="restart-b")
            assert (await second.accepted()).holder == "worker-1", "it waits for the other pod"
            await seen_from_everywhere(client, where)
            assert await client.cancel(POD_B, "restart-b") == "withdrawn"
            third = await client.submit(POD_B, "restart", request_id="restart-c")
            await third.accepted()
            handling_now.go.set()
            assert [(await each.outcome()).status for each in (first, third)] == ["completed"] * 2
            assert handling_now.most == 1, "two pods of one deployment were held at once"
            await second_drain_is_refused(client, where)
            assert (await client.run(POD_A, "undrain")).status == "completed"
            assert (await client.run(POD_B, "drain")).status == "completed"
            await plain_record_is_sent_on(client)
            async with client.events(OWNER, after=Position()) as stream:
                await until(stream, lambda event: isinstance(event, Granted) and event.resource == POD_B)


async def seen_from_everywhere(client: Client, where: dict[str, Any]) -> None:
    """The pod that is held, asked by any of the keys."""
    for key in (POD_A, POD_B, OWNER):
        owned = await client.who(key)
        assert owned.held is not None and owned.held.resource == POD_A
        assert [each.resource for each in owned.waiting] == [POD_B]
        (shown,) = asked("who", key, **where)
        assert shown["held"]["run"] == "drain-a"
    status = await client.status(POD_B, "restart-b")
    assert (status.state, status.position, status.holder) == ("waiting", 0, "worker-1")
    assert [each["resource"] for each in asked("leases", OWNER, **where)] == [POD_A]
    assert asked("request", POD_A, "drain-a", **where)[0]["state"] == "held"


async def second_drain_is_refused(client: Client, where: dict[str, Any]) -> None:
    """The first has finished long ago: what counts is that it was not undone."""
    ticket = await client.submit(POD_B, "drain", request_id="drain-b")
    with pytest.raises(Refused) as refused:
        await ticket.accepted()
    assert refused.value.code == "LIMIT_REACHED"
    for key in (POD_B, OWNER):
        (conflict,) = asked("conflicts", key, **where)
        assert (conflict["kind"], conflict["resource"]) == ("limit_reached", POD_B)
        found = [each["event"] for each in asked("events", key, **where)]
        assert ("Refused", "drain-b") in {(event["type"], event.get("request")) for event in found}
    assert asked("conflicts", POD_A, **where) == []


async def plain_record_is_sent_on(client: Client) -> None:
    """Any producer hashes the key that it knows, which is the requested one."""
    journal = await connect(client.url)
    try:
        request = encode(WorkRequest(id="plain", resource=POD_A, action="restart"))
        async with client.events() as stream:
            await journal.append([Record(topics.REQUESTS, place(POD_A), POD_A.encode(), request)])
            sent = await until(stream, lambda event: isinstance(event, SentOn))
            assert isinstance(sent, SentOn) and (sent.request, sent.to_partition) == ("plain", place(OWNER))
            await until(stream, lambda event: "plain" in getattr(event, "requests", ()) and hasattr(event, "status"))
        assert (await client.status(POD_A, "plain")).state == "done"
    finally:
        await journal.close()


CUT_OFF = """
import os, sys
from keylane.router import rescope
rescope.survey = lambda *_: os._exit(9)
from keylane.cli import main
sys.exit(main())
"""


async def test_rules_are_applied_to_a_journal_in_use_once_nothing_is_under_way(
    journal_url: str, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"url": journal_url, "cwd": tmp_path}
    old, new = write(tmp_path, "old.toml", CONFIG), write(tmp_path, "new.toml", CONFIG + RULES)
    apply = ("config", "apply", "--config", new, "--output", "json")
    with anyio.fail_after(DEADLINE_S):
        with running("router", "--config", old, "--output", "json", says='"url"', **where):
            planned = ended("topics", "plan", "--config", new, "--check", **where)
            assert planned.returncode == 78 and b"config apply" in planned.stdout
            async with Client(journal_url) as client:
                await refused_while_live(client, apply, where)
                cut_off(apply, where)
                await everybody_waits(client, new, where)
                assert asked("config", "apply", "--config", new, **where) == [
                    {"before": 0, "rules": 1, "changed": True}
                ]
                assert asked("config", "apply", "--config", new, **where)[0]["changed"] is False
                # Published by the rules of before, while the router of before can decide nothing any more.
                late = await client.submit(POD_A, "restart", request_id="late")
        with running("router", "--config", new, "--output", "json", says='"url"', **where):
            await after_the_change(journal_url, late)


async def refused_while_live(client: Client, apply: tuple[str, ...], where: dict[str, Any]) -> None:
    """Nobody works here, so what was asked for waits until it is withdrawn."""
    await (await client.submit(POD_A, "restart", request_id="r1")).accepted()
    done = ended(*apply, **where)
    told = json.loads(done.stderr)["error"]
    assert (done.returncode, told["code"]) == (5, "LIVE_WORK"), done.stderr
    assert f"{POD_A} (r1 is waiting)" in told["message"]
    await (await client.submit("deploy://other", "restart", request_id="r2")).accepted()  # routers go on
    assert await client.cancel(POD_A, "r1") == "withdrawn"
    with pytest.raises(Refused, match="NOT_FOUND"):  # past its retention
        while True:
            await client.status(POD_A, "r1")


def cut_off(apply: tuple[str, ...], where: dict[str, Any]) -> None:
    """Killed by itself after it has taken its first lane."""
    environ = os.environ | {"KEYLANE_URL": where["url"]}
    command = [sys.executable, "-c", CUT_OFF, *apply]
    done = subprocess.run(command, cwd=where["cwd"], env=environ, capture_output=True, timeout=60, check=False)
    assert done.returncode == 9, done.stderr


async def everybody_waits(client: Client, new: str, where: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="being changed"):
        await client.who(POD_A)
    assert ended("who", POD_A, **where).returncode == 69
    refused = ended("router", "--config", new, **where)
    assert refused.returncode == 78 and b"run it again" in refused.stderr
    looked = ended("doctor", "--config", new, **where)
    assert looked.returncode == 78 and b"config apply" in looked.stdout


async def after_the_change(url: str, late: Ticket) -> None:
    async with Client(url) as client:
        async with client.events(after=Position()) as stream:
            await until(stream, lambda event: isinstance(event, SentOn) and event.request == "late")
        b = await client.submit(POD_B, "restart", request_id="b")
        await b.accepted()
        assert [each.run for each in (await client.who(POD_A)).waiting] == ["late", "b"]
        assert (await client.status(POD_A, "late")).state == "waiting"
