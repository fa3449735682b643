"""Workers with the real router: the outcome that a requester gets, and how a worker process obeys signals."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
import msgspec
import pytest
from anyio.abc import Process

from keylane.client import Client, Ticket
from keylane.embedded import load, router_running
from keylane.events import EventStream
from keylane.outcome import Position
from keylane.schemas.event_parts import Event
from keylane.schemas.events import Ended, Fenced, Granted, Lost, Progressed
from keylane.testing import local
from keylane.workers import Fail, Item, Retry, Worker

pytestmark = pytest.mark.anyio
PROGRAM = Path(__file__).with_name("worker_program.py")


class Restart(msgspec.Struct):
    reason: str


@asynccontextmanager
async def at_work(worker: Worker) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve)
        yield
        tasks.cancel_scope.cancel()


async def test_results_versions_and_failures_reach_the_requester() -> None:
    async with local() as url:
        worker = Worker(url)

        @worker.handler("restart")
        async def restart(item: Item[Restart]) -> object:
            await item.progress({"drained": True})
            return item.done({"was": item.payload.reason}, version="v2")

        @worker.handler("refuse")
        def refuse(item: Item[None]) -> None:
            raise Fail("never")

        async with at_work(worker), Client(url) as client:
            done = await client.run("deploy://api", "restart", {"reason": "oom"}, timeout_s=20)
            ticket = await client.submit("deploy://api", "refuse")
            refused = await ticket.outcome(20)
            ticket = await client.submit("deploy://api", "restart", {"reason": 5})
            unfit = await ticket.outcome(20)
    assert (done.status, done.result, done.version) == ("completed", {"was": "oom"}, "v2")
    assert [(o.status, o.error and o.error.code) for o in (refused, unfit)] == [
        ("failed", "FAILED"),
        ("failed", "BAD_PAYLOAD"),
    ]


async def test_next_attempt_gets_the_checkpoint_and_a_higher_token() -> None:
    seen: list[tuple[int, int, object]] = []
    async with local() as url:
        worker = Worker(url)

        @worker.handler("migrate")
        async def migrate(item: Item[None]) -> int:
            seen.append((item.attempt, item.token, item.checkpoint and item.checkpoint.data))
            await item.progress({"step": item.attempt})
            if item.attempt < 3:
                raise Retry(0.01)
            return item.attempt

        async with at_work(worker), Client(url) as client:
            done = await client.run("deploy://api", "migrate", timeout_s=20)
    assert done.result == 3
    assert [(attempt, saved) for attempt, _, saved in seen] == [(1, None), (2, {"step": 1}), (3, {"step": 2})]
    assert seen[0][1] < seen[1][1] < seen[2][1]


async def test_sessions_outlive_many_lapses_without_work() -> None:
    """A short lapse, and a run that takes longer than several: the heartbeats carry it."""
    async with local('partitions = 1\nsession_lapse = "500ms"\n') as url:
        worker = Worker(url)

        @worker.handler("slow")
        async def slow(item: Item[None]) -> int:
            await anyio.sleep(2)
            return item.attempt

        async with at_work(worker), Client(url) as client:
            assert (await client.run("deploy://api", "slow", timeout_s=20)).result == 1


async def until(events: EventStream, kind: type[Event]) -> list[Event]:
    """The events up to the first of that kind."""
    seen: list[Event] = []
    with anyio.fail_after(30):
        async for event in events:
            seen.append(event)
            if isinstance(event, kind):
                break
    return seen


@asynccontextmanager
async def program_holding(
    tmp_path: Path, action: str, payload: float
) -> AsyncIterator[tuple[Process, Ticket, EventStream]]:
    """A worker process in the middle of a run that a client asked for, with the real router on a SQLite file."""
    url = f"sqlite://{tmp_path}/journal.db"
    config = tmp_path / "keylane.toml"
    config.write_text('session_lapse = "1s"\n')
    service = load(config, {}, {"url": url, "partitions": 1})
    async with router_running(service), Client(url) as client:
        environ = {**os.environ, "KEYLANE_URL": url}
        async with await anyio.open_process([sys.executable, str(PROGRAM)], env=environ, stdout=PIPE) as program:
            try:
                ticket = await client.submit("deploy://api", action, payload)
                events = client.events("deploy://api", Position())
                await until(events, Progressed)
                yield program, ticket, events
            finally:
                if program.returncode is None:
                    program.kill()


async def test_first_signal_lets_the_handler_finish(tmp_path: Path) -> None:
    async with program_holding(tmp_path, "slow", 1.0) as (program, ticket, _):
        program.send_signal(signal.SIGTERM)
        with anyio.fail_after(20):
            assert await program.wait() == 0
            outcome = await ticket.outcome()
        assert program.stdout is not None
        assert await program.stdout.receive() == b"ended by itself\n"
    assert (outcome.status, outcome.result, outcome.error) == ("completed", "finished", None)


@pytest.mark.parametrize("action", ["slow", "stuck"])
async def test_second_signal_stops_at_once(tmp_path: Path, action: str) -> None:
    async with program_holding(tmp_path, action, 60.0) as (program, _, _):
        start_s = time.monotonic()
        program.send_signal(signal.SIGTERM)
        with anyio.fail_after(20):
            while program.returncode is None:  # a second one that comes too early is the first one still
                program.send_signal(signal.SIGTERM)
                with anyio.move_on_after(0.5):
                    await program.wait()
        assert program.returncode == 128 + signal.SIGTERM
        assert time.monotonic() - start_s < 15


async def test_stopped_process_gives_up_what_it_held_when_it_wakes(tmp_path: Path) -> None:
    """Its result comes from a second attempt, and it has said nothing about the first."""
    async with program_holding(tmp_path, "slow", 0.5) as (program, ticket, events):
        program.send_signal(signal.SIGSTOP)
        await until(events, Lost)
        program.send_signal(signal.SIGCONT)
        seen = await until(events, Ended)
        outcome = await ticket.outcome(20)
    assert (outcome.status, outcome.result) == ("completed", "finished")
    assert [event.attempt for event in seen if isinstance(event, Granted)] == [2]
    assert [event for event in seen if isinstance(event, Fenced)] == []
