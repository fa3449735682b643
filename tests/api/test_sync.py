"""The blocking client: the same answers as `Client`, from several threads at once, without an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from itertools import islice
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from client_lane import complete, lane, set_up

from keylane import Position, Refused, SyncChangeTicket, SyncClient, SyncTicket, Unavailable
from keylane.schemas.events import Ended, Granted, Queued
from keylane.schemas.requests import ResourceChange, WorkRequest


@asynccontextmanager
async def served(url: str) -> AsyncIterator[None]:
    journal = await set_up(url)
    async with lane(journal, complete):
        yield
    await journal.close()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A journal with a lane, in an event loop of its own; a file, since that may be shared between loops."""
    url = f"sqlite://{tmp_path}/journal.db"
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(served(url)):
        yield url


def test_it_answers_as_the_asynchronous_client_does(url: str) -> None:
    with SyncClient(url, actor="me") as client:
        assert client.run("deploy://api", "restart", {"n": 1}, timeout_s=10).result == {"n": 1}
        ticket = client.submit("deploy://api", "restart", request_id="r-2")
        assert (ticket.request_id, ticket.accepted().run) == ("r-2", "r-2")
        assert ticket.outcome(10).status == "completed"
        assert client.who("deploy://api").held is None
        with pytest.raises(Refused):
            client.status("deploy://api", "r-2")  # this lane keeps no state
        with closing(client.events("deploy://api", Position())) as events:
            kinds = [type(event) for event in islice(events, 3)]
        assert kinds == [Queued, Granted, Ended]


def test_changes_can_be_published_beside_requests(url: str) -> None:
    with SyncClient(url) as client:
        work = WorkRequest(id="r-3", resource="deploy://api", action="restart")
        change = ResourceChange(id="c-1", resource="deploy://api", version="v2", by="eve", what="edited")
        told, asked = client.publish_all([change, work])
        assert isinstance(told, SyncChangeTicket) and isinstance(asked, SyncTicket)
        assert (told.recorded(10), asked.outcome(10).status) == ("applied", "completed")


def test_several_threads_share_one(url: str) -> None:
    with SyncClient(url) as client, ThreadPoolExecutor(4) as pool:

        def ask(number: int) -> object:
            return client.run(f"deploy://s-{number % 5}", "restart", number, timeout_s=30).result

        assert list(pool.map(ask, range(40))) == list(range(40))


def test_a_failed_entry_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Unavailable), SyncClient(f"sqlite://{tmp_path}/empty.db"):
        pass
