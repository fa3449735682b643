"""Routers and workers killed, paused and restarted under load, on SQLite and on a real Kafka: nothing lost, nothing
doubled, and each time the fault is shown to have bitten."""

import random
import signal
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from faults.fleet import Fleet, Load, assert_nothing_lost_or_doubled, stopped_for

from keylane.schemas.events import AttemptFailed, Granted, Lost

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SEED = 4
PAUSE_S = 5.0
"""Above the group's session, the worker's session and the lease."""
DOWN_S = 60.0
BITE_S = 120.0


async def test_kills_and_pauses_at_random_moments(journal_url: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with ExitStack() as stack:
        fleet = Fleet(journal_url, tmp_path, stack)
        routers = [await fleet.router() for _ in range(2)]
        workers = [await fleet.worker() for _ in range(2)]
        load = Load(journal_url, SEED)
        before = await fleet.claims()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            for which, fault in (("w", "kill"), ("r", "stop"), ("w", "stop"), ("r", "kill"), ("w", "kill")):
                await anyio.sleep(chance.uniform(0.5, 1.5))
                processes, start = (routers, fleet.router) if which == "r" else (workers, fleet.worker)
                victim = processes[chance.randrange(len(processes))]
                if fault == "stop":
                    await stopped_for(victim, PAUSE_S)
                else:
                    victim.send_signal(signal.SIGKILL)
                    victim.wait()
                    processes[processes.index(victim)] = await start()
            # A worker that is killed may hold nothing, or nothing that it has read yet: on until one did.
            with anyio.fail_after(BITE_S):
                while max(event.attempt for event in await fleet.said() if isinstance(event, Granted)) < 2:
                    workers[0].send_signal(signal.SIGKILL)
                    workers[0].wait()
                    workers[0] = await fleet.worker()
                    await anyio.sleep(chance.uniform(2, 4))
            load.stop()
        events = await assert_nothing_lost_or_doubled(fleet, load)
        assert await fleet.claims() > before, "lanes were taken over"
        assert any(isinstance(event, Lost) for event in events), "and workers' leases"
        assert "done" in fleet.effects()
        assert all(process.poll() is None for process in (*routers, *workers)), "who was paused goes on"


async def test_a_graceful_rolling_restart_spends_no_attempt(journal_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        fleet = Fleet(journal_url, tmp_path, stack)
        routers = [await fleet.router() for _ in range(2)]
        workers = [await fleet.worker() for _ in range(2)]
        load = Load(journal_url, SEED)
        before = await fleet.claims()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            await anyio.sleep(1)
            for processes, start in ((routers, fleet.router), (workers, fleet.worker)):
                for number, old in enumerate(processes):
                    old.send_signal(signal.SIGTERM)
                    assert await anyio.to_thread.run_sync(old.wait, 30) == 0
                    processes[number] = await start()
                    await anyio.sleep(1)
            load.stop()
        events = await assert_nothing_lost_or_doubled(fleet, load)
        assert await fleet.claims() > before, "lanes were handed over"
        # What was granted to a worker as it left came back unread, which spends no attempt.
        lost = [
            event for event in events if isinstance(event, AttemptFailed) or (isinstance(event, Lost) and event.spent)
        ]
        assert not lost, lost
        assert {event.attempt for event in events if isinstance(event, Granted)} == {1}
        assert set(fleet.effects()) == {"done"}


async def test_all_routers_are_down_and_two_start_at_once(journal_url: str, tmp_path: Path) -> None:
    """Time without a router lengthens leases: whoever holds goes on holding, and what came meanwhile is done."""
    with ExitStack() as stack:
        fleet = Fleet(journal_url, tmp_path, stack)
        routers = [await fleet.router() for _ in range(2)]
        [await fleet.worker() for _ in range(2)]
        load = Load(journal_url, SEED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            await anyio.sleep(2)
            for router in routers:
                router.send_signal(signal.SIGKILL)
                router.wait()
            await anyio.sleep(DOWN_S)
            async with anyio.create_task_group() as starting:
                starting.start_soon(fleet.router)
                starting.start_soon(fleet.router)
            await anyio.sleep(1)
            load.stop()
        events = await assert_nothing_lost_or_doubled(fleet, load)
        reasons = [event.reason for event in events if isinstance(event, Lost) and event.spent]
        assert not reasons, f"no attempt is spent for want of a router: {reasons}"
