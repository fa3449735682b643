"""The worker processes of the demo: `python -m keylane.demo_worker NAME`, with `KEYLANE_URL` set.

Its handlers do nothing but take their time. One of them, `rotate`, is careless on purpose: when its process
has been stopped and wakes up, it reports its result behind the back of its own worker, which would have thrown
that result away. So the demo can show what the router does with it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import UTC, datetime
from uuid import uuid4

import anyio
import msgspec

from keylane.journal.connect import connect, resolve_url
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Record
from keylane.schemas import codec, topics
from keylane.schemas.results import Completed
from keylane.workers import Done, Item, Worker

WORK_S = 1.5
MIGRATION_STEPS = 6
STEP_S = 0.4
DRAIN_S = 1.0
TICK_S = 0.05
STOPPED_S = 2.0
"""A gap this long between two ticks means that the process was stopped."""


class Change(msgspec.Struct):
    """What to deploy or to roll back to."""

    version: str


async def restart(item: Item[dict[str, str]]) -> dict[str, str]:
    """Takes a moment, so that an equal request finds it waiting or running."""
    await anyio.sleep(WORK_S)
    return {"restarted": item.resource}


async def change(item: Item[Change]) -> dict[str, str]:
    """Takes a moment, so that other work has to wait."""
    await anyio.sleep(WORK_S)
    return {"now": item.payload.version}


async def make(item: Item[Change]) -> Done:
    """Makes a version, and looks whether it is there."""
    await anyio.sleep(WORK_S)
    made = item.payload.version
    return item.done({"now": made}, version=made, observed_version=made)


async def drain(item: Item[None]) -> dict[str, str]:
    """Takes or gives back a pod's load."""
    await anyio.sleep(DRAIN_S)
    return {"pod": item.resource}


async def migrate(item: Item[None]) -> dict[str, int]:
    """Six steps, each saved; goes on where the attempt before was, and says where that is."""
    found: int = 0 if item.checkpoint is None else item.checkpoint.data["done"]
    for step in range(found + 1, MIGRATION_STEPS + 1):
        await anyio.sleep(STEP_S)
        await item.progress({"done": step})
    return {"steps": MIGRATION_STEPS, "began_after": found}


class Rotation:
    """A handler that reports late all the same."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def rotate(self, item: Item[None]) -> dict[str, str]:
        """The first holder waits to be stopped and woken; one that finds its checkpoint just does the work."""
        if item.checkpoint is None:
            # Before the progress that the demo stops this worker at, and a thread of its own: it must be there when
            # the process wakes up, and go on to its report when the worker cancels this handler.
            threading.Thread(target=self._report_after_a_stop, args=(item,), daemon=True).start()
        await item.progress({"begun_by": self.name})
        if item.checkpoint is None:
            await anyio.sleep_forever()
        return {"rotated_by": self.name}

    def _report_after_a_stop(self, item: Item[None]) -> None:
        before_s = time.monotonic()
        while (now_s := time.monotonic()) - before_s < STOPPED_S:
            before_s = now_s
            time.sleep(TICK_S)
        anyio.run(self._report, item)

    async def _report(self, item: Item[None]) -> None:
        """What a worker does for its handlers, but without looking at the lease."""
        report = Completed(
            session=self.name,
            pool="default",
            resource=item.resource,
            run=item.run,
            token=item.token,
            result=msgspec.Raw(msgspec.json.encode({"rotated_by": self.name})),
        )
        key = item.resource.encode()
        now = datetime.now(UTC).isoformat()
        headers = codec.headers(report, id=uuid4().hex, source="/keylane/demo", time=now, traceparent=None)
        journal = await connect(resolve_url(None, os.environ))
        try:
            partitions = await journal.partitions(topics.RESULTS)
            assert partitions is not None, "a router gave out this item, so the topic is there"
            partition = partition_of(key, partitions)
            await journal.append([Record(topics.RESULTS, partition, key, codec.encode(report), headers)])
        finally:
            await journal.close()


def main(name: str) -> None:
    """Run one worker until it is told to stop."""
    worker = Worker(name=name)
    worker.handler("demo.restart")(restart)
    worker.handler("demo.deploy")(change)
    worker.handler("demo.rollback")(change)
    worker.handler("demo.hotfix")(make)
    worker.handler("demo.revert")(make)
    worker.handler("demo.drain")(drain)
    worker.handler("demo.undrain")(drain)
    worker.handler("demo.migrate")(migrate)
    worker.handler("demo.rotate")(Rotation(name).rotate)
    worker.run()


if __name__ == "__main__":
    main(sys.argv[1])
