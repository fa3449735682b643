"""A whole service on one backend, as the tests of a row use it: a router, workers of two pools, two agents.

One for the session; tests keep apart by their resources. What is done with a resource is what its test says.
"""

from __future__ import annotations

import itertools
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from requirements.record import Record

from keylane import Client, Item, Worker
from keylane.embedded import load, router_running
from keylane.journal import Journal, connect
from keylane.journal import Record as JournalRecord
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics

PARTITIONS = 4
LEASE_MS = 3_000
"""Of `migrate`. Long enough for a handler that reports often to be in time on a busy machine."""
QUIET_MS = 2_000
MIN_INTERVAL_MS = 1_500
RUNBOOK = "https://wiki.example/stale"
CONFIG = f"""
partitions = {PARTITIONS}
session_lapse = "5s"
pools = ["deployers", "frail"]
[defaults]
coalesce = "5s"
backoff = "1s"
[actions.configure]
[actions.restart]
[actions.urgent]
on_conflict = "reject"
[actions.replace]
on_conflict = {{ default = "queue", replace = "supersede" }}
[actions.rename]
on_conflict = {{ default = "queue", configure = "review", urgent = "reject" }}
[actions.hotfix]
version = "required"
[actions.rollback]
version = "required"
[actions.drain]
limit = {{ count = 1, until = ["undrain"] }}
[actions.terminate]
requires = ["drain"]
[actions.migrate]
lease = "{LEASE_MS}ms"
[actions.certify]
attempts = 2
then = "review"
[actions.inspect]
harmless = true
[actions.index]
quiet = "{QUIET_MS}ms"
max_delay = "20s"
max_count = 3
[actions.scan]
min_interval = "{MIN_INTERVAL_MS}ms"
[actions.deploy]
pool = "deployers"
[actions.rotate]
pool = "frail"
[runbooks]
stale_version = "{RUNBOOK}"
"""
DEFAULT = (
    "certify", "configure", "drain", "hotfix", "index", "inspect", "migrate", "rename", "replace",
    "restart", "rollback", "scan", "terminate", "undrain", "urgent",
)  # fmt: skip
WORKERS = {"worker-1": "default", "worker-2": "default", "deployer-1": "deployers"}
"""By name, with their pools."""
OUTCOME_S = 30.0

Does = Callable[[Item[Any]], Awaitable[object]]


class Gate:
    """A handler that says that it has begun, and goes on when it is let. `items` are what it was given."""

    def __init__(self, result: object = None, *, version: str | None = None, observed: str | None = None) -> None:
        self.items: list[Item[Any]] = []
        self._result = (result, version, observed)
        self._begun = anyio.Event()
        self._open = anyio.Event()

    async def __call__(self, item: Item[Any]) -> object:
        self.items.append(item)
        self._begun.set()
        await self._open.wait()
        result, version, observed = self._result
        return item.done(result, version=version, observed_version=observed)

    async def begun(self) -> Item[Any]:
        with anyio.fail_after(OUTCOME_S):
            await self._begun.wait()
        return self.items[0]

    def let(self) -> None:
        self._open.set()


class Fleet:
    """What a test uses. `record` has what the lanes decided."""

    def __init__(self, backend: str, url: str, folder: Path, port: int, journal: Journal) -> None:
        self.backend = backend
        self.url = url
        self.folder = folder
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        self.journal = journal
        self.record = Record()
        self.alice: Client
        self.bob: Client
        self._does: dict[str, Does] = {}
        self._numbers = itertools.count(1)

    def key(self, kind: str = "deploy", name: str = "api") -> str:
        """A resource that no other test names."""
        return f"{kind}://{name}-{next(self._numbers)}"

    def gate(self, resource: str, result: object = None, **versions: str | None) -> Gate:
        """From now on every action on the resource waits for `let`."""
        gate = Gate(result, **versions)
        self._does[resource] = gate
        return gate

    def does(self, resource: str, what: Does) -> None:
        """From now on every action on the resource is this."""
        self._does[resource] = what

    async def work(self, item: Item[Any]) -> object:
        does = self._does.get(item.resource)
        return {"did": item.action} if does is None else await does(item)

    async def publish(self, topic: str, resource: str, **record: object) -> str:
        """A plain JSON record, as a producer in any language writes it; returns its id."""
        id = uuid4().hex
        value = msgspec.json.encode({"id": id, "resource": resource, **record})
        partition = partition_of(resource.encode(), PARTITIONS)
        await self.journal.append([JournalRecord(topic, partition, resource.encode(), value, [])])
        return id

    async def ask(self, resource: str, action: str, **more: object) -> str:
        return await self.publish(topics.REQUESTS, resource, type="WorkRequest", action=action, **more)

    async def counted(self, least: float, sample: str, **labels: str) -> None:
        """Wait until `/metrics` counts at least so much: a turn is on record a moment before it is counted."""
        with anyio.fail_after(OUTCOME_S):
            while await self.scraped(sample, **labels) < least:
                pass

    async def scraped(self, sample: str, **labels: str) -> float:
        """What the router's `/metrics` says now; 0 where it says nothing."""
        samples = await self.samples()
        return sum(each.value for each in samples if each.name == sample and labels.items() <= each.labels.items())

    async def samples(self) -> list[Sample]:
        """All that the router's `/metrics` says now."""

        def ask() -> str:
            with urllib.request.urlopen(self.metrics_url, timeout=5) as answer:
                return str(answer.read().decode())

        text = await anyio.to_thread.run_sync(ask)
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@asynccontextmanager
async def running_fleet(backend: str, url: str, folder: Path, port: int) -> AsyncIterator[Fleet]:
    """Everything started, and every lane served by one worker of each pool."""
    (folder / "keylane.toml").write_text(CONFIG)
    service = load(folder / "keylane.toml", {}, {"url": url, "metrics": f"127.0.0.1:{port}"})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(router_running(service))
        journal = await connect(url)
        stack.push_async_callback(journal.close)
        fleet = Fleet(backend, url, folder, port, journal)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        await tasks.start(fleet.record.follow, journal, PARTITIONS)
        for name, pool in WORKERS.items():
            worker = Worker(url, name=name, pool=pool, slots=32, drain_s=1)
            for action in ("deploy",) if pool == "deployers" else DEFAULT:
                worker.handler(action)(fleet.work)
            tasks.start_soon(worker.serve)
        fleet.alice = await stack.enter_async_context(Client(url, actor="alice"))
        fleet.bob = await stack.enter_async_context(Client(url, actor="bob"))
        await fleet.record.until("each lane has one session of each pool", lambda: _settled(fleet.record) or None)
        yield fleet


def _settled(record: Record) -> bool:
    lanes = sorted((pool, partition) for partition, _, pool in record.sessions.values())
    everyone = {name for _, name, _ in record.sessions.values()} == set(WORKERS)
    return everyone and lanes == sorted((p, n) for p in ("default", "deployers") for n in range(PARTITIONS))
