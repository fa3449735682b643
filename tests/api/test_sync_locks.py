"""Locks of the blocking client, with a real router in a thread: the same as `Client`'s, and interrupts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from anyio.from_thread import start_blocking_portal

from keylane import LeaseLost, LockHeld, Position, Session, SyncClient, SyncLease
from keylane.embedded import load, router_running

KEY = "github://acme/app/issues/42"
WAIT_S = 20


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    url = f"sqlite://{tmp_path}/journal.db"
    file = tmp_path / "keylane.toml"
    file.write_text("partitions = 2")
    service = load(file, {}, {"url": url})
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(router_running(service)):
        yield url


@pytest.fixture
def ann(url: str) -> Iterator[SyncClient]:
    with SyncClient(url, actor="ann") as client:
        yield client


@pytest.fixture
def ben(url: str) -> Iterator[SyncClient]:
    with SyncClient(url, actor="ben") as client:
        yield client


def states(client: SyncClient) -> list[tuple[str, str]]:
    return [(each.actor, each.state) for each in client.locks()]


def wait_for(client: SyncClient, *wanted: tuple[str, str]) -> None:
    """Wait until the locks stand so: looked at again after each event."""
    with closing(client.events(after=Position())) as stream:
        while states(client) != list(wanted):
            next(stream)


def test_a_lock_is_held_for_as_long_as_the_block_runs(ann: SyncClient, ben: SyncClient) -> None:
    with ann.lock(KEY, "deploy://api", ttl_s=60) as lease:
        assert isinstance(lease, SyncLease)
        lease.check()
        assert set(lease.resources) == {KEY, "deploy://api"} and 50 < lease.expires_in_s < 60
        with pytest.raises(LockHeld) as refused, ben.lock(KEY):
            pass
        assert refused.value.holder == "ann"
        lease.renew(blocked="waits for a quota")
        assert {each.state for each in ben.locks()} == {"blocked"}
        assert (lease.lost, lease.stop_asked) == (None, None)
    assert states(ben) == []
    with pytest.raises(LeaseLost):
        lease.check()


def test_errors_in_the_block_come_out_as_they_are(ann: SyncClient, ben: SyncClient) -> None:
    with pytest.raises(ZeroDivisionError), ann.lock(KEY):
        _ = 1 // 0
    wait_for(ben)


def test_a_loss_is_told_by_leaving_the_block(url: str, ben: SyncClient) -> None:
    session = Session.new("s1")
    with (
        SyncClient(url, session=session) as ann,
        pytest.raises(LeaseLost, match="session_ended"),
        ann.lock(KEY) as lease,
    ):
        (run,) = [each.run for each in ben.locks()]
        assert ben.end_session(session) == (run,)
        assert "session_ended" in lease.until_lost()


def test_by_credential(ann: SyncClient, ben: SyncClient) -> None:
    held = ann.acquire(KEY, hold="h", ttl_s=60)
    assert (held.resource, held.hold, held.holder, held.ttl_ms) == (KEY, "h", "ann", 60_000)
    assert ben.renew(held).lease_ms == 60_000
    ben.release(held)
    with pytest.raises(LeaseLost):
        ann.renew(held)


def test_threads_of_one_client_take_turns(ann: SyncClient) -> None:
    inside: list[int] = []

    def enter(number: int) -> int:
        with ann.lock(KEY, wait_s=WAIT_S):
            inside.append(number)
            assert inside == [number], "one at a time"
            inside.remove(number)
        return number

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(enter, range(18))) == list(range(18))
    assert states(ann) == []


@contextmanager
def interrupted_when(client: SyncClient, *wanted: tuple[str, str]) -> Iterator[None]:
    """Press Ctrl-C when the locks stand so."""

    def press() -> None:
        wait_for(client, *wanted)
        os.kill(os.getpid(), signal.SIGINT)

    thread = Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()


@pytest.mark.requirement("S2.2")
@pytest.mark.parametrize("by_credential", [False, True])
def test_an_interrupt_while_it_waits_leaves_nothing(
    ann: SyncClient, ben: SyncClient, url: str, by_credential: bool
) -> None:
    with ann.lock(KEY), SyncClient(url) as looker:
        with interrupted_when(looker, ("ann", "held"), ("ben", "waiting")):
            if by_credential:
                ben.acquire(KEY, wait_s=WAIT_S)
            else:
                with ben.lock(KEY, wait_s=WAIT_S):
                    pass
        wait_for(looker, ("ann", "held"))


@pytest.mark.requirement("S2.2")
def test_an_interrupt_in_the_block_leaves_nothing(ann: SyncClient, url: str) -> None:
    with SyncClient(url) as looker:
        with interrupted_when(looker, ("ann", "held")), ann.lock(KEY) as lease:
            lease.until_lost()
        wait_for(looker)
        with ann.lock(KEY):
            pass
