"""The processes that are killed: routers, workers and publishers, forked from a server that has imported everything.

A start costs some milliseconds instead of half a second, so that thousands can be killed in minutes. Each is a whole
process with its own connections: nothing is opened before the fork. Each dies with the server, whatever happens.
"""

import ctypes
import io
import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import anyio
from chaos.sinks import Sink

import keylane
import keylane.embedded
import keylane.journal.kafka
import keylane.journal.sqlite_journal
import keylane.router.service
import keylane.workers
from keylane import cli

PR_SET_PDEATHSIG = 1
SLOTS = 16
RESOURCES = 24
CAREFUL, CARELESS = ACTIONS = ("restart", "scale")
PAYLOADS = 3

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["chaos.children"])


class Child:
    """A process that was started here, by its pid alone. `name` is new for every life."""

    numbers = itertools.count(1)

    def __init__(self, role: str, folder: Path, main: Callable[..., None], *arguments: object) -> None:
        self.role = role
        self.name = f"{role}-{next(self.numbers)}"
        self.log = folder / f"{self.name}.log"
        self.log.touch()
        self._process = context.Process(target=_begin, args=(self.log, main, self.name, *arguments), name=self.name)
        self._process.start()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def signal(self, number: signal.Signals) -> None:
        """What has ended meanwhile is left alone."""
        if self._process.pid is not None and self.is_alive:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        self.signal(signal.SIGKILL)
        self._process.join()

    def ended(self, timeout_s: float) -> bool:
        """Whether it ends by itself in time."""
        self._process.join(timeout_s)
        return not self.is_alive


def _begin(log: Path, main: Callable[..., None], name: str, *arguments: object) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with log.open("ab", buffering=0) as out:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(out.fileno(), stream.fileno())
    main(name, *arguments)


def route(name: str, url: str, config: Path) -> None:
    """A router, by the command line's own code."""
    flags = ["router", "--url", url, "--config", str(config), "--output", "json"]
    sys.exit(cli.run(flags, sys.stdout, sys.stderr, io.BytesIO()))


def work(name: str, url: str, sinks: Path, careless_s: float) -> None:
    """A worker with a careful handler, and one that never looks whether its lease still holds: it takes up to
    `careless_s`."""
    checking, unchecking = Sink(sinks / "checking", checks=True), Sink(sinks / "unchecking", checks=False)
    worker = keylane.Worker(url, name=name, slots=SLOTS, drain_s=5)
    chance = random.Random(name)

    def act(item: keylane.Item) -> None:
        for sink in (checking, unchecking):
            sink.act(item.resource, item.token, name, item.run)

    @worker.handler(CAREFUL)
    async def careful(item: keylane.Item) -> int:
        await anyio.sleep(chance.uniform(0.005, 0.03))
        await item.progress({"half": True})
        await anyio.sleep(chance.uniform(0.005, 0.03))
        act(item)
        return item.attempt

    @worker.handler(CARELESS)
    def careless(item: keylane.Item) -> int:
        time.sleep(chance.uniform(careless_s / 3, careless_s))
        act(item)
        return item.attempt

    worker.run()


def publish(name: str, url: str, acknowledged: Path, seed: int, gap_s: float) -> None:
    """Publish requests under rising numbers for ever; note each that is acknowledged. Goes on where the last one was
    killed, so that one whose acknowledgement was not noted is published again under its id."""
    number = len(acknowledged.read_bytes().split()) if acknowledged.exists() else 0
    with acknowledged.open("ab", buffering=0) as noted:
        anyio.run(_publish, url, noted, number, seed, gap_s)


async def _publish(url: str, noted: BinaryIO, number: int, seed: int, gap_s: float) -> None:
    async with keylane.Client(url) as client:
        while True:
            chance = random.Random(f"{seed}/{number}")
            resource = f"deploy://api-{chance.randrange(RESOURCES)}"
            action, payload = chance.choice(ACTIONS), chance.randrange(PAYLOADS)
            try:
                await client.submit(resource, action, payload, request_id=f"r-{number}")
            except keylane.Unavailable:
                continue
            noted.write(b"r-%d\n" % number)
            number += 1
            await anyio.sleep(gap_s)
