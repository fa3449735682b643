"""How long recovery takes: a router, a worker or the broker goes, with keylane's default settings, several rounds each.

`python -m bench.recovery [--backend sqlite|kafka] [--fault NAME …] [--rounds N]`: real processes, two routers and two
workers, on a journal of its own. From the fault on a new request is published to every lane concerned each 50 ms; a
round's figure is the longest that one of them waited. Router and broker faults: for its answer. Worker faults: a
worker that is killed holds a resource on each of its lanes, and the figure is how long until the last of them is
granted anew; one that is told to stop finishes what it holds, and the figure is how long a new request waited for its
grant. Prints a table on standard error and one JSON object on standard output.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import anyio
import anyio.to_thread

from bench import broker
from bench.say import say
from keylane.journal import Journal, Place, Record, Unavailable, connect
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, encode
from keylane.schemas.events import Granted, Queued
from keylane.schemas.requests import WorkRequest

PARTITIONS = 8
PROBE_S = 0.05
ROUND_S = 120.0
SETTLED_S = 1.0
WORKER = """
import anyio, keylane
from pathlib import Path

worker = keylane.Worker(slots=64)

@worker.handler("probe")
async def probe(item: keylane.Item) -> None:
    pass

@worker.handler("hold")
async def hold(item: keylane.Item) -> None:
    while item.attempt == 1 and not Path("released").exists():
        await anyio.sleep(0.05)
"""


class Running:
    """A process of the fleet. Its log says which partitions it was given."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def lanes(self) -> frozenset[int]:
        """What a router was given last."""
        found = re.findall(r"generation \d+: partitions \[([\d, ]*)\]", self._log.read_text())
        return frozenset(map(int, found[-1].split(","))) if found and found[-1] else frozenset()


class Seen:
    """When each request was answered, and each run granted, and to whom: read from `events` as it is written."""

    def __init__(self) -> None:
        self.answered_s: dict[str, float] = {}
        self.granted: dict[str, list[tuple[float, str]]] = defaultdict(list)

    async def follow(self, journal: Journal) -> None:
        """Until cancelled."""
        places = [Place(topics.EVENTS, number) for number in range(PARTITIONS)]
        reader = await journal.reader(dict(await journal.end_positions(places)))
        while True:
            try:
                found = await reader.poll(1_000, 1.0)
            except Unavailable:
                positions = reader.positions()
                await reader.close()
                reader = await journal.reader(dict(positions))
                continue
            now_s = time.monotonic()
            for stored in found:
                event = decode_event(stored.value)
                if isinstance(event, Queued):
                    self.answered_s.setdefault(event.request, now_s)
                elif isinstance(event, Granted):
                    self.granted[event.run].append((now_s, event.holder))


class Fleet:
    """Two routers and two workers, and whoever asks them."""

    def __init__(self, url: str, folder: Path, stack: ExitStack, journal: Journal, seen: Seen) -> None:
        self.seen = seen
        self.routers: list[Running] = []
        self.workers: list[Running] = []
        self._url = url
        self.folder = folder
        self._stack = stack
        self._journal = journal
        self._numbers = itertools.count()
        (folder / "crew.py").write_text(WORKER)

    def start_router(self) -> Running:
        return self._start("router", "--partitions", str(PARTITIONS))

    def start_worker(self) -> Running:
        return self._start("worker", "run", "crew:worker")

    def _start(self, *words: str) -> Running:
        log = self.folder / f"{words[0]}-{next(self._numbers)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "keylane.cli", *words],
                cwd=self.folder,
                env=os.environ | {"KEYLANE_URL": self._url},
                stdout=subprocess.DEVNULL,
                stderr=out,
            )
        self._stack.callback(_stop, process)
        return Running(process, log)

    async def publish(self, lane: int, action: str) -> str:
        """A request for a resource of its own in this lane; returns its id, which is its run's as well."""
        id = f"{action}-{next(self._numbers)}"
        key = next(key for n in itertools.count() if _lane_of(key := f"deploy://{id}/{n}") == lane)
        value = encode(WorkRequest(id=id, resource=key, action=action))
        while True:
            try:
                await self._journal.append([Record(topics.REQUESTS, lane, key.encode(), value)])
                return id
            except Unavailable:
                await anyio.sleep(PROBE_S)

    async def settle(self) -> None:
        """Both routers have lanes and each lane's requests are granted at once, to both workers."""
        with anyio.fail_after(ROUND_S):
            while True:
                await anyio.sleep(SETTLED_S)
                if not all(router.lanes() for router in self.routers):
                    continue
                ids = [await self.publish(lane, "probe") for lane in range(PARTITIONS)]
                await anyio.sleep(SETTLED_S)
                holders = {self.seen.granted[id][-1][1] for id in ids if self.seen.granted[id]}
                if all(self.seen.granted[id] for id in ids) and len(holders) == 2:
                    return

    async def longest_wait_s(
        self, lanes: Sequence[int], done: Callable[[str], float | None], recovered: Callable[[], bool]
    ) -> float:
        """Publish to the lanes, over and over, until `recovered`, and wait for each to be `done`; the longest wait."""
        waits: list[float] = []

        async def probe(lane: int) -> None:
            began_s = time.monotonic()
            id = await self.publish(lane, "probe")
            while (done_s := done(id)) is None:  # noqa: ASYNC110
                await anyio.sleep(PROBE_S / 10)
            waits.append(done_s - began_s)

        with anyio.fail_after(ROUND_S):
            async with anyio.create_task_group() as probes:
                is_last = False
                while not is_last:
                    is_last = recovered()
                    for lane in lanes:
                        probes.start_soon(probe, lane)
                    await anyio.sleep(PROBE_S)
        return max(waits)


def _lane_of(key: str) -> int:
    return partition_of(key.encode(), PARTITIONS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


async def router_fault(fleet: Fleet, number: signal.Signals) -> float:
    """Until every lane of the victim answers again."""
    victim, survivor = fleet.routers
    lanes = sorted(victim.lanes())
    victim.process.send_signal(number)
    wait_s = await fleet.longest_wait_s(lanes, fleet.seen.answered_s.get, lambda: survivor.lanes() >= frozenset(lanes))
    if number == signal.SIGSTOP:
        victim.process.send_signal(signal.SIGCONT)
    else:
        await anyio.to_thread.run_sync(victim.process.wait)
        fleet.routers[0] = fleet.start_router()
    return wait_s


async def worker_killed(fleet: Fleet) -> float:
    """Until every resource that the victim held is granted to another."""
    held = [await fleet.publish(lane, "hold") for lane in range(PARTITIONS)]
    victim = fleet.workers[0]
    name = f"{socket.gethostname()}-{victim.process.pid}"
    granted = fleet.seen.granted
    with anyio.fail_after(ROUND_S):
        while not all(granted[run] for run in held):  # noqa: ASYNC110
            await anyio.sleep(PROBE_S)
        held = [run for run in held if granted[run][0][1] == name]
        victim.process.kill()
        killed_s = time.monotonic()
        while not all(len(granted[run]) > 1 for run in held):  # noqa: ASYNC110
            await anyio.sleep(PROBE_S)
    victim.process.wait()
    (fleet.folder / "released").touch()
    fleet.workers[0] = fleet.start_worker()
    await fleet.settle()
    (fleet.folder / "released").unlink()
    return max(granted[run][1][0] for run in held) - killed_s


async def worker_stopped(fleet: Fleet) -> float:
    """The longest that a new request on any lane waited for its grant, until the victim had gone."""
    victim = fleet.workers[0]
    granted = fleet.seen.granted
    victim.process.terminate()
    wait_s = await fleet.longest_wait_s(
        range(PARTITIONS),
        lambda run: granted[run][0][0] if granted[run] else None,
        lambda: victim.process.poll() is not None,
    )
    fleet.workers[0] = fleet.start_worker()
    return wait_s


class Kafka:
    """A broker of this measurement's own."""

    def __init__(self, folder: Path) -> None:
        self.port = broker.free_port()
        self._folder = str(folder)

    def tool(self, command: str) -> None:
        broker.tool(command, self.port, self._folder)

    async def restarted(self, fleet: Fleet) -> float:
        """Until every lane answers again, from when the broker was told to end; its own start is in it."""
        back: list[bool] = []

        async def restart() -> None:
            for command in ("down", "up"):
                await anyio.to_thread.run_sync(self.tool, command)
            back.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(restart)
            await anyio.sleep(PROBE_S)
            wait_s = await fleet.longest_wait_s(range(PARTITIONS), fleet.seen.answered_s.get, lambda: bool(back))
        return wait_s


Fault = Callable[[Fleet], Awaitable[float]]


def faults_of(kafka: Kafka | None) -> Mapping[str, Fault]:
    """By the names that the table has."""
    faults: dict[str, Fault] = {
        "router kill -9": lambda fleet: router_fault(fleet, signal.SIGKILL),
        "router SIGSTOP": lambda fleet: router_fault(fleet, signal.SIGSTOP),
        "router SIGTERM": lambda fleet: router_fault(fleet, signal.SIGTERM),
        "worker kill -9": worker_killed,
        "worker SIGTERM": worker_stopped,
    }
    if kafka is not None:
        faults["broker restart"] = kafka.restarted
    return faults


async def measure(
    url: str, folder: Path, kafka: Kafka | None, chosen: Sequence[str], rounds: int
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        journal, seen = await connect(url), Seen()
        fleet = Fleet(url, folder, stack, journal, seen)
        fleet.routers.append(fleet.start_router())
        while await journal.partitions(topics.EVENTS) is None or not fleet.routers[0].lanes():  # noqa: ASYNC110
            await anyio.sleep(PROBE_S)
        fleet.routers.append(fleet.start_router())
        fleet.workers += [fleet.start_worker() for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(seen.follow, journal)
            for name, fault in faults_of(kafka).items():
                if chosen and name not in chosen:
                    continue
                found[name] = []
                for number in range(rounds):
                    await fleet.settle()
                    found[name].append(round(await fault(fleet), 3))
                    say(f"{url.split(':')[0]}, {name}, round {number + 1}: {found[name][-1]:.2f} s")
            tasks.cancel_scope.cancel()
        await journal.close()
    return found


@contextmanager
def backend(name: str, folder: Path) -> Iterator[tuple[str, Kafka | None]]:
    """Its URL with default settings, and the broker where there is one."""
    if name == "sqlite":
        yield f"sqlite://{folder}/journal.db", None
        return
    kafka = Kafka(folder / "broker")
    kafka.tool("up")
    try:
        yield f"kafka://127.0.0.1:{kafka.port}", kafka
    finally:
        kafka.tool("down")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=["sqlite", "kafka"], action="append")
    parser.add_argument("--fault", action="append", default=[], help="as the table has it; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for name in options.backend or ["sqlite", "kafka"]:
        with tempfile.TemporaryDirectory() as folder, backend(name, Path(folder)) as (url, kafka):
            results[name] = anyio.run(measure, url, Path(folder), kafka, options.fault, options.rounds)
    table = ["| backend | fault | median s | max s | rounds |", "| --- | --- | --- | --- | --- |"]
    for name, found in results.items():
        for fault, waits in found.items():
            table.append(f"| {name} | {fault} | {statistics.median(waits):.2f} | {max(waits):.2f} | {len(waits)} |")
    sys.stderr.write("\n".join(table) + "\n")
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("keylane", "aiokafka", "apsw")}
    sys.stdout.write(json.dumps({"seconds": results, "machine": machine, "versions": versions}) + "\n")


if __name__ == "__main__":
    main()
