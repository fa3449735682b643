"""A right that is taken away while a router runs: it says so and goes on trying, and nothing is lost meanwhile."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import anyio
import anyio.lowlevel
import pytest
from e2e.processes import running
from security import rights
from security.asking import GROUP, READ, TOPIC, TRANSACTIONAL_ID, WRITE, asking
from security.conftest import PARTITIONS, set_up
from security.secured import Secured

from keylane import Client

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

PREFIX = "taken."
USER = "stranger"
DEADLINE_S = 40
TAKEN = {
    "transactional id": (WRITE, TRANSACTIONAL_ID, f"{PREFIX}lane."),
    "topic": (WRITE, TOPIC, f"{PREFIX}events"),
    "group": (READ, GROUP, f"{PREFIX}routers"),
}


def as_router(command: list[str]) -> list[str]:
    """A router's rights for another user under another prefix, on everything that begins with the names."""
    renamed = [word.replace("User:router", f"User:{USER}").replace(rights.PREFIX, PREFIX) for word in command]
    pattern = "--resource-pattern-type"
    return renamed if pattern in renamed else [*renamed, pattern, "prefixed"]


def ready(port: int) -> str:
    """What `/readyz` says."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        return error.read().decode()


async def until(port: int, says: Callable[[str], bool]) -> None:
    said = ""
    try:
        with anyio.fail_after(DEADLINE_S):
            while not says(said := ready(port)):
                await anyio.lowlevel.checkpoint()
    except TimeoutError:
        raise AssertionError(said) from None


async def test_a_router_says_what_it_may_not_and_goes_on_when_it_may(
    secured_broker: Secured, tmp_path: Path, unused_port: int
) -> None:
    rights.change(secured_broker, *(as_router(each) for each in rights.commands() if "User:router" in each))
    all_powerful = f"{secured_broker.open_url}?prefix={PREFIX}"
    await set_up(all_powerful)
    options = ["--partitions", str(PARTITIONS), "--metrics", f"127.0.0.1:{unused_port}", "--output", "json"]
    url = secured_broker.url(USER, prefix=PREFIX, session_timeout_ms="3000")
    with running("router", *options, url=url, cwd=tmp_path, says='"url"') as router:
        async with Client(all_powerful) as client, asking(secured_broker.open_url) as chief:
            for number, (kind, (operation, type, name)) in enumerate(TAKEN.items()):
                await chief.set_right(USER, operation, type, name, given=False)
                ids = [f"{number}-{n}" for n in range(8)]
                tickets = [await client.submit(f"deploy://{id}", "restart", request_id=id) for id in ids]
                await until(unused_port, lambda said, kind=kind, name=name: f"on {kind} {name}" in said)  # type: ignore[misc]
                await chief.set_right(USER, operation, type, name, given=True)
                await until(unused_port, lambda said: json.loads(said)["ready"])
                for ticket in tickets:
                    await ticket.accepted(DEADLINE_S)
        assert router.poll() is None
