"""What 64 lanes cost that have nothing to do: CPU of their router, alone, and with a worker that beats in each."""

from __future__ import annotations

from contextlib import ExitStack

import anyio
import anyio.to_thread
from msgspec import Struct

from bench import load, processes
from bench.writing import writer

START_S = 60.0
SETTLE_S = 5.0


class Idle(Struct, frozen=True):
    """Parts of one core, and bytes resident."""

    lanes: int
    alone_cores: float
    beating_cores: float
    resident_bytes: int


async def measure(url: str, lanes: int, seconds: float) -> Idle:
    """On a journal that nobody has used."""
    environ = {"KEYLANE_URL": url}
    arguments = ("router", "--partitions", str(lanes), "--output", "json", "--log-level", "warning")
    with ExitStack() as stack:
        router = stack.enter_context(processes.python("keylane.cli", *arguments, environ=environ))
        await anyio.to_thread.run_sync(processes.said, router)
        alone = await _cores(router.pid, seconds)
        async with writer(url) as write:
            await write(load.joins(lanes))
        worker = stack.enter_context(processes.python("bench.standin", url, str(lanes)))
        await anyio.to_thread.run_sync(processes.said, worker)
        beating = await _cores(router.pid, seconds)
        return Idle(lanes, alone, beating, processes.resident_bytes(router.pid))


async def _cores(pid: int, seconds: float) -> float:
    await anyio.sleep(SETTLE_S)
    before_s = processes.cpu_s(pid)
    await anyio.sleep(seconds)
    return (processes.cpu_s(pid) - before_s) / seconds
