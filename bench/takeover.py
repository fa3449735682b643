"""How long a lane of 100,000 runs is without an owner who works: its router is killed with -9, another one takes over.

Counted from when the group gives the lane to the new router (its log says so) until a request that was published
meanwhile is answered: claim, load, first turn. That the group gives it at all takes a session of the dead one to lapse
before, which is a setting (`session_timeout_ms`), not work.
"""

from __future__ import annotations

import subprocess
import time

import anyio
import anyio.to_thread
from msgspec import Struct

from bench import load, processes
from bench.watch import look, until_written
from bench.writing import writer
from keylane.journal import connect
from keylane.journal.port import Journal, Place
from keylane.router.config import load_config
from keylane.router.setup import prepare
from keylane.schemas import topics

CHUNK = 20_000
ROUTED_S = 180.0
QUIET_S = 1.5
EVENTS = Place(topics.EVENTS, 0)
GIVEN = "partitions [0]"
LOADED = "lane 0 loaded: "


class Takeover(Struct, frozen=True):
    """Seconds. `total_s`: from the group's word to the first answer; `loaded_s` of it until the lane was loaded."""

    runs: int
    noticed_s: float
    loaded_s: float
    total_s: float


async def measure(url: str, runs: int) -> Takeover:
    """On a journal with one partition that nobody has used."""
    journal = await connect(url)
    command = [*processes.PYTHON, "keylane.cli", "router", "--partitions", "1", "--output", "json"]
    environ = {"KEYLANE_URL": url}
    try:
        await prepare(journal, load_config(None, {}, {"partitions": 1}))
        await _publish(url, "r", runs)
        with processes.process([*command, "--log-level", "warning"], environ) as first:
            await _until_quiet(journal)
            first.kill()
            killed_s = time.monotonic()
            first.wait()
        await _publish(url, "late", 1)
        before = await look(journal, [EVENTS])
        with processes.process(command, environ, stderr=subprocess.PIPE) as second:
            log = second.stderr
            assert log is not None
            given_s = loaded_s = 0.0
            found = 0
            while not loaded_s:
                line = await anyio.to_thread.run_sync(log.readline)
                if not line:
                    raise processes.Failed("the second router ended before it had loaded the lane")
                if GIVEN in line:
                    given_s = time.monotonic()
                elif LOADED in line:
                    loaded_s = time.monotonic()
                    found = int(line.split(LOADED)[1].split()[0])
            sight = await look(journal, [EVENTS])
            if sight.ends == before.ends:
                sight = await until_written(journal, [EVENTS], ROUTED_S)
        if found < runs:
            raise processes.Failed(f"the lane was loaded with {found} runs, not {runs}")
        return Takeover(found, given_s - killed_s, loaded_s - given_s, sight.at_s - given_s)
    finally:
        await journal.close()


async def _publish(url: str, prefix: str, count: int) -> None:
    records = list(load.requests(count, prefix=prefix, partitions=1))
    async with writer(url) as write:
        for start in range(0, count, CHUNK):
            await write(records[start : start + CHUNK])


async def _until_quiet(journal: Journal) -> None:
    """All that lies in the input has been answered: nothing is written any more."""
    sight = await until_written(journal, [EVENTS], ROUTED_S)
    with anyio.fail_after(ROUTED_S):
        while True:
            await anyio.sleep(QUIET_S)
            later = await look(journal, [EVENTS])
            if later.ends == sight.ends:
                return
            sight = later
