"""A real broker, of these tests alone, is ended, killed and paused under load: nothing is lost or doubled, and every
lane goes on by itself."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from faults.conftest import SESSION_TIMEOUT_MS
from faults.fleet import PARTITIONS, Fleet, Load, assert_nothing_lost_or_doubled
from kafka.running import Broker, own_broker, tool

from keylane.journal import connect
from keylane.lanes import lag

pytestmark = [pytest.mark.anyio, pytest.mark.kafka, pytest.mark.timeout(300)]

SEED = 8
PAUSE_S = 10.0
"""Above every timeout: of sessions (2 s), transactions (3 s), commits (6 s), and of what waits for an answer (10 s)."""
RESUME_S = 60.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with own_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


def restart(broker: Broker) -> None:
    tool("down", broker)
    tool("up", broker)


def kill_and_start(broker: Broker) -> None:
    pid = broker.pid
    os.kill(pid, signal.SIGKILL)
    tool("down", broker)  # which now only waits for its end
    tool("up", broker)


def pause(broker: Broker) -> None:
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        time.sleep(PAUSE_S)
    finally:
        os.kill(broker.pid, signal.SIGCONT)


FAULTS: dict[str, Callable[[Broker], None]] = {"ended": restart, "killed": kill_and_start, "paused": pause}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_broker_goes_and_comes_back_under_load(fault: str, broker: Broker, tmp_path: Path) -> None:
    url = f"{broker.url}?prefix={fault}.&session_timeout_ms={SESSION_TIMEOUT_MS}"

    async def claims() -> list[int]:
        journal = await connect(url)
        try:
            return [(await lag(journal, number)).claim for number in range(PARTITIONS)]
        finally:
            await journal.close()

    with ExitStack() as stack:
        fleet = Fleet(url, tmp_path, stack)
        processes = [await fleet.router() for _ in range(2)] + [await fleet.worker() for _ in range(2)]
        load = Load(url, SEED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            await anyio.sleep(2)
            before = await claims()
            await anyio.to_thread.run_sync(FAULTS[fault], broker)
            published = len(load.acknowledged)
            with anyio.fail_after(RESUME_S):
                while min(after - at for after, at in zip(await claims(), before, strict=True)) < 1:  # noqa: ASYNC110
                    await anyio.sleep(0.5)
            await anyio.sleep(2)
            load.stop()
        assert len(load.acknowledged) > published, "the load went on"
        await assert_nothing_lost_or_doubled(fleet, load)
        assert all(process.poll() is None for process in processes), "nobody was started anew"
