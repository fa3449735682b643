"""A fleet for fault tests: real routers and workers as processes, ended and stopped by their own pids, under load.

The load repeats each request under its id until its publish is acknowledged; what was acknowledged is remembered, and
must have ended once. Workers write what they do to a sink that refuses lower tokens, as a careful target does.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from typing import Any

import anyio
from e2e.history import assert_promises, endings, read_events
from e2e.processes import PROGRAM, running

import keylane
from keylane.journal import connect
from keylane.lanes import lag
from keylane.schemas.events import AnyEvent, Ended, Lost

PARTITIONS = 4
RESOURCES = 24
ACTIONS = ("restart", "scale")
CONFIG = f"""
partitions = {PARTITIONS}
session_lapse = "2s"
[defaults]
lease = "4s"
attempts = 50
backoff = "20ms"
coalesce = "50ms"
"""
WORKER = '''
import fcntl, os
from pathlib import Path
import anyio, keylane

worker = keylane.Worker(slots=8, drain_s=10)
sink = Path(os.environ["SINK"])

def act(resource, token):
    """What a careful target does: an effect under a lower token than it has seen is refused."""
    with (sink / resource.replace("/", "_")).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        seen = [int(line.split()[0]) for line in file if line.endswith("done\\n")]
        file.write(f"{token} {'refused' if seen and token < max(seen) else 'done'}\\n")

async def work(item: keylane.Item) -> int:
    await anyio.sleep(0.05)
    await item.progress({"half": True})
    await anyio.sleep(0.05)
    act(item.resource, item.token)
    return item.attempt

for action in ("restart", "scale"):
    worker.handler(action)(work)
'''


class Fleet:
    """Starts what it is asked for; everything it started is gone when the stack is closed."""

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        self.url = url
        self.folder = folder
        self._stack = stack
        self.sink = folder / "sink"
        self.sink.mkdir()
        (folder / "keylane.toml").write_text(CONFIG)
        (folder / "fleet_worker.py").write_text(WORKER)
        os.environ["SINK"] = str(self.sink)
        stack.callback(os.environ.pop, "SINK")

    async def router(self, *flags: str, program: Sequence[str] = PROGRAM) -> Popen[bytes]:
        """One that has taken up what the group gave it."""
        return await self._start("router", "--output", "json", *flags, says='"pid"', program=program)

    async def worker(self) -> Popen[bytes]:
        """One that has begun; its sessions open when its lanes answer."""
        return await self._start("worker", "run", "fleet_worker:worker", says="")

    async def _start(self, *words: str, says: str, program: Sequence[str] = PROGRAM) -> Popen[bytes]:
        context = running(*words, url=self.url, cwd=self.folder, says=says, program=program)
        return await anyio.to_thread.run_sync(self._stack.enter_context, context)

    async def claims(self) -> int:
        """How often lanes were taken over, in all."""
        journal = await connect(self.url)
        try:
            return sum([(await lag(journal, number)).claim for number in range(PARTITIONS)])
        finally:
            await journal.close()

    async def said(self) -> list[AnyEvent]:
        """All that was decided up to now."""
        journal = await connect(self.url)
        try:
            return [event for _, event in await read_events(journal, PARTITIONS)]
        finally:
            await journal.close()

    async def judged(self, acknowledged: list[str]) -> list[tuple[int, AnyEvent]]:
        """All that was decided, once it has been judged."""
        journal = await connect(self.url)
        try:
            await assert_promises(journal, PARTITIONS, acknowledged)
            return await read_events(journal, PARTITIONS)
        finally:
            await journal.close()

    def effects(self) -> list[str]:
        """What became of each effect, over all resources."""
        return [line.split()[1] for file in self.sink.iterdir() for line in file.read_text().splitlines()]


class Load:
    """Requests at a steady pace, over few resources, so that they meet and merge."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._random = random.Random(seed)
        self.acknowledged: list[str] = []
        self.tickets: list[Any] = []
        self._stopping = False

    def stop(self) -> None:
        """No further request."""
        self._stopping = True

    async def run(self) -> None:
        """Until stopped; then wait for every outcome."""
        async with keylane.Client(self._url) as client:
            number = 0
            while not self._stopping:
                number += 1
                await self._submit(client, f"r-{number}")
                await anyio.sleep(0.01)
            for ticket in self.tickets:
                await ticket.outcome(120)

    async def _submit(self, client: keylane.Client, id: str) -> None:
        resource = f"deploy://api-{self._random.randrange(RESOURCES)}"
        action, payload = self._random.choice(ACTIONS), self._random.randrange(3)
        while True:
            try:
                self.tickets.append(await client.submit(resource, action, payload, request_id=id))
            except keylane.Unavailable:
                continue  # whether it was published is not known: its id makes a repetition safe
            self.acknowledged.append(id)
            return


async def stopped_for(process: Popen[bytes], seconds: float) -> None:
    """Beyond every timeout: others take over what it has, and it wakes up not knowing."""
    process.send_signal(signal.SIGSTOP)
    await anyio.sleep(seconds)
    process.send_signal(signal.SIGCONT)


async def assert_nothing_lost_or_doubled(fleet: Fleet, load: Load) -> list[AnyEvent]:
    """Judge the history. Returns its events."""
    events = await fleet.judged(load.acknowledged)
    ended = endings(events)
    assert set(load.acknowledged) <= set(ended), "what was acknowledged has ended"
    lost = {event.run for _, event in events if isinstance(event, Lost)}
    for id in load.acknowledged:
        ending = ended[id][0]
        assert isinstance(ending, Ended)
        # Only forward: a run that lost its holder does not go on once other work has completed on its resource.
        superseded = ending.status == "superseded" and ending.run in lost
        assert ending.status == "completed" or superseded, ending
    return [event for _, event in events]
