"""A holder of a lock that is cut off from the broker: it stops by its own clock before the next one begins."""

import itertools
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from e2e.lock_states import looking
from e2e.processes import running
from kafka.proxy import proxied
from kafka.running import Broker

from keylane import Client, LeaseLost
from keylane.schemas.events import Renewed
from keylane.workers.clock import boottime_ms

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

KEY = "deploy://api-prod"
TTL_S = 3
DEADLINE_S = 90
numbers = itertools.count()


async def test_who_is_cut_off_has_stopped_when_the_next_one_begins(
    kafka_broker: Broker, tmp_path: Path, worker_id: str
) -> None:
    prefix = f"cut-off-{worker_id}-{next(numbers)}."
    direct = f"kafka://127.0.0.1:{kafka_broker.port}?prefix={prefix}"
    through = f"kafka://127.0.0.1:{kafka_broker.proxy_port}?prefix={prefix}"
    (tmp_path / "keylane.toml").write_text("partitions = 2")
    stopped_ms: list[int] = []
    with anyio.fail_after(DEADLINE_S), running("router", "--output", "json", url=direct, cwd=tmp_path, says='"url"'):
        async with Client(direct, actor="ben") as ben, AsyncExitStack() as cable:
            await cable.enter_async_context(proxied(kafka_broker))
            async with Client(through, actor="ann") as ann, anyio.create_task_group() as tasks:

                async def hold() -> None:
                    with pytest.raises(LeaseLost, match="not renewed in time"):
                        async with ann.lock(KEY, ttl_s=TTL_S) as lease:
                            await lease.until_lost()
                            stopped_ms.append(boottime_ms())

                tasks.start_soon(hold)
                async with looking(direct) as locks:
                    await locks.until_seen(1, lambda event: isinstance(event, Renewed))
                assert [each.actor for each in await ben.locks()] == ["ann"]
                await cable.aclose()
                async with ben.lock(KEY, wait_s=DEADLINE_S) as lease:
                    began_ms = boottime_ms()
                    (ended_ms,) = stopped_ms
                    assert ended_ms < began_ms, "it had stopped, on its own, and nobody could tell it to"
                    lease.check()
