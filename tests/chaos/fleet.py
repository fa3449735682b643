"""A fleet under load that faults are done to: routers, workers and a publisher of which each can be replaced.

What a fault is and whether it bit is `faults.py`'s. At the end the fleet comes to rest and is judged.
"""

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
from chaos import judge
from chaos.children import Child, publish, route, work
from chaos.history import History
from chaos.sinks import Sink
from kafka.proxy import Proxy

from keylane.journal import Journal, connect

PARTITIONS = 4
REST_S = 120.0
START_S = 30.0
GIVEN = re.compile(r"generation \d+: partitions \[([\d, ]*)\]")
FENCED = re.compile(r"lane \d+ lost: .*claimed")


class Shape(NamedTuple):
    """What a fleet is made of, and how patient it is. `router_url` None: routers use the journal's own URL."""

    url: str
    session_lapse_ms: int
    routers: int = 2
    workers: int = 2
    gap_s: float = 0.005
    """Between two requests."""
    careless_s: float = 0.2
    """What a careless handler takes at most: long enough that it can be caught in the middle."""
    router_url: str | None = None
    prefix: str = ""
    """Of a Kafka journal."""


class Fleet:
    """`proxy` is what stands between its routers and their broker, if anything does."""

    def __init__(self, shape: Shape, folder: Path, seed: int, proxy: Proxy | None) -> None:
        self.shape = shape
        self.proxy = proxy
        self.seed = seed
        self.history = History(PARTITIONS)
        self.routers: list[Child] = []
        self.workers: list[Child] = []
        self.publishers: list[Child] = []
        self.checking = Sink(folder / "checking", checks=True)
        self.unchecking = Sink(folder / "unchecking", checks=False)
        self._folder = folder
        self._acknowledged = folder / "acknowledged"
        self._config = folder / "keylane.toml"
        self._config.write_text(
            f'partitions = {PARTITIONS}\nsession_lapse = "{shape.session_lapse_ms}ms"\n'
            '[defaults]\nlease = "5s"\nattempts = 1000\nbackoff = "10ms"\nbackoff_max = "50ms"\ncoalesce = "50ms"\n'
        )

    def start(self, role: str) -> Child:
        """One more process of this role."""
        url, folder = self.shape.url, self._folder
        match role:
            case "router":
                child = Child(role, folder, route, self.shape.router_url or url, self._config)
                self.routers.append(child)
            case "worker":
                child = Child(role, folder, work, url, folder, self.shape.careless_s)
                self.workers.append(child)
            case _:
                child = Child(role, folder, publish, url, self._acknowledged, self.seed, self.shape.gap_s)
                self.publishers.append(child)
        return child

    def processes(self, role: str) -> list[Child]:
        return {"router": self.routers, "worker": self.workers, "publisher": self.publishers}[role]

    def replace(self, old: Child) -> Child:
        """Start another in the place of one that has ended."""
        self.processes(old.role).remove(old)
        return self.start(old.role)

    def acknowledged(self) -> set[str]:
        """The requests whose publish was acknowledged and noted."""
        return set(self._acknowledged.read_text().split()) if self._acknowledged.exists() else set()

    def lanes(self, router: Child) -> frozenset[int]:
        """What a router says that it was given last."""
        found = GIVEN.findall(router.log.read_text(errors="replace"))
        return frozenset(map(int, found[-1].split(","))) if found and found[-1] else frozenset()

    @staticmethod
    def fencings(router: Child) -> int:
        """How often a router was told that another has claimed its lane."""
        return len(FENCED.findall(router.log.read_text(errors="replace")))

    def transactional_id(self, lane: int) -> bytes:
        """By which a lane's requests are known on their way to the broker."""
        return f"{self.shape.prefix}lane.{lane}".encode()

    def logged(self, text: str) -> int:
        """How often any process of the fleet has said this."""
        return sum(log.read_text(errors="replace").count(text) for log in self._folder.glob("*.log"))

    async def rest(self) -> list[str]:
        """No further request, a whole fleet, and every outcome; returns what breaks a promise."""
        for publisher in list(self.publishers):
            publisher.kill()
            self.publishers.remove(publisher)
        acknowledged = self.acknowledged()
        if not await self.history.until(lambda: acknowledged <= self.history.ended, REST_S):
            open_ = sorted(acknowledged - self.history.ended)
            return [f"{len(open_)} acknowledged requests had not ended after {REST_S:g} s, {open_[0]} among them"]
        # The last of them may have been published and not noted: it ends too, before anything is judged.
        await self.history.until(lambda: not self.history.live, REST_S)
        await self._stop("worker", "router")
        found = await judge.violations(self.shape.url, PARTITIONS, acknowledged, self.checking.taken())
        if late := self.checking.count("late"):
            found.append(f"the sink that checks tokens took {late} effects out of order")
        return found

    async def _stop(self, *roles: str) -> None:
        for role in roles:
            for child in self.processes(role):
                child.signal(signal.SIGTERM)
            for child in list(self.processes(role)):
                if not await anyio.to_thread.run_sync(child.ended, START_S):
                    child.kill()
                self.processes(role).remove(child)

    def kill_all(self) -> None:
        for child in (*self.publishers, *self.workers, *self.routers):
            child.kill()


@asynccontextmanager
async def running(shape: Shape, folder: Path, seed: int, proxy: Proxy | None = None) -> AsyncIterator[Fleet]:
    """A fleet that works: its lanes are taken, and requests have come to their end."""
    fleet = Fleet(shape, folder, seed, proxy)
    try:
        first = fleet.start("router")
        with anyio.fail_after(START_S):
            journal = await _connected(shape.url, first, fleet)
        async with anyio.create_task_group() as tasks:
            try:
                for _ in range(shape.routers - 1):
                    fleet.start("router")
                for _ in range(shape.workers):
                    fleet.start("worker")
                fleet.start("publisher")
                tasks.start_soon(fleet.history.follow, journal)
                if not await fleet.history.until(lambda: len(fleet.history.ended) > 20, START_S):
                    raise RuntimeError(f"nothing was done in {START_S:g} s; logs are in {folder}")
                yield fleet
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await journal.close()
    finally:
        fleet.kill_all()


async def _connected(url: str, router: Child, fleet: Fleet) -> Journal:
    """As soon as the first router has set it up."""
    while len(fleet.lanes(router)) < PARTITIONS:
        if not router.is_alive:
            raise RuntimeError(f"the router ended: {router.log.read_text()}")
        await anyio.sleep(0.02)
    return await connect(url)
