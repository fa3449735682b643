"""How fast one router process routes: requests a second, and request-to-item latency at low load.

`python bench/route.py URL`: starts `keylane router` as a process of its own on a journal that nobody has used,
stands in for a worker with enough slots for everything, and publishes 300-byte requests over 50,000 resources.
Prints one JSON object. Figures are of this machine; compare them only within one run (see `make bench`).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import anyio
from msgspec import Raw

from keylane.journal import Journal, Place, Reader, Record, connect
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics
from keylane.schemas.codec import decode_item, encode
from keylane.schemas.items import SessionOpened, WorkItem
from keylane.schemas.requests import WorkRequest
from keylane.schemas.results import WorkerHeartbeat, WorkerJoined

PARTITIONS = 8
RESOURCES = 50_000
RECORD_BYTES = 300
LOAD_REQUESTS = 40_000
LOAD_BATCH = 1_000
CALM_REQUESTS = 500
CALM_GAP_S = 0.02
WARM_REQUESTS = 20
DEADLINE_S = 120.0
POOL = "default"


def request(number: int) -> Record:
    """One 300-byte request, as an agent would publish it."""
    key = f"deploy://service-{random.Random(number).randrange(RESOURCES)}"
    plain = WorkRequest(id=f"r{number}", resource=key, action="restart", actor="bench", payload=Raw(b'""'))
    filler = b'"' + b"x" * (RECORD_BYTES - len(encode(plain))) + b'"'
    value = encode(WorkRequest(id=f"r{number}", resource=key, action="restart", actor="bench", payload=Raw(filler)))
    return Record(topics.REQUESTS, partition_of(key.encode(), PARTITIONS), key.encode(), value)


async def open_sessions(journal: Journal, items: Reader) -> None:
    """One worker session a partition, with room for all."""
    join = [
        WorkerJoined(
            session=f"bench-{number}", pool=POOL, name="bench", actions=("restart",), slots=10**6, generation=1
        )
        for number in range(PARTITIONS)
    ]
    await journal.append([Record(topics.RESULTS, number, b"", encode(each)) for number, each in enumerate(join)])
    opened = 0
    while opened < PARTITIONS:
        opened += sum(isinstance(decode_item(each.value), SessionOpened) for each in await items.poll(1_000, 1.0))


async def beat(journal: Journal) -> None:
    """Keeps the sessions alive, until cancelled."""
    number = 0
    while True:
        number += 1
        beats = [
            WorkerHeartbeat(session=f"bench-{each}", pool=POOL, number=number, slots=10**6, read=0)
            for each in range(PARTITIONS)
        ]
        await journal.append([Record(topics.RESULTS, each, b"", encode(one)) for each, one in enumerate(beats)])
        await anyio.sleep(2)


async def calm(journal: Journal, items: Reader) -> list[float]:
    """Milliseconds from publishing a request to reading its item, one request at a time."""
    waits_ms = []
    for number in range(WARM_REQUESTS + CALM_REQUESTS):
        # A resource of its own each, else the second request for one waits for the first, which never ends.
        key = f"deploy://calm-{number}"
        value = encode(
            WorkRequest(id=f"calm-{number}", resource=key, action="restart", payload=Raw(b'"%s"' % (b"x" * 200)))
        )
        record = Record(topics.REQUESTS, partition_of(key.encode(), PARTITIONS), key.encode(), value)
        sent_s = time.perf_counter()
        await journal.append([record])
        while not any(isinstance(decode_item(each.value), WorkItem) for each in await items.poll(10, 5.0)):
            pass
        waits_ms.append((time.perf_counter() - sent_s) * 1_000)
        await anyio.sleep(CALM_GAP_S)
    return waits_ms[WARM_REQUESTS:]


async def load(journal: Journal, events: Reader) -> float:
    """Requests a second, from the first publish to the last `Queued` or `Coalesced` event read."""
    records = [request(number) for number in range(LOAD_REQUESTS)]
    answered = 0
    started_s = time.perf_counter()

    async def publish() -> None:
        for start in range(0, LOAD_REQUESTS, LOAD_BATCH):
            await journal.append(records[start : start + LOAD_BATCH])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        with anyio.fail_after(DEADLINE_S):
            while answered < LOAD_REQUESTS:
                found = await events.poll(10_000, 1.0)
                answered += sum(_answers(each.headers) for each in found)
    return LOAD_REQUESTS / (time.perf_counter() - started_s)


def _answers(headers: Sequence[tuple[str, bytes]]) -> bool:
    return dict(headers)["ce_type"] in (b"keylane.Queued", b"keylane.Coalesced")


async def measure(url: str) -> dict[str, object]:
    journal = await connect(url)
    items = await journal.reader({Place(topics.items(POOL), number): None for number in range(PARTITIONS)})
    async with anyio.create_task_group() as tasks:
        await open_sessions(journal, items)
        tasks.start_soon(beat, journal)
        waits_ms = await calm(journal, items)
        await items.close()
        ends = await journal.end_positions([Place(topics.EVENTS, number) for number in range(PARTITIONS)])
        events = await journal.reader(dict(ends))
        rate = await load(journal, events)
        await events.close()
        tasks.cancel_scope.cancel()
    await journal.close()
    cuts = statistics.quantiles(waits_ms, n=100)
    return {
        "url": url.split(":")[0],
        "requests_per_second": round(rate),
        "request_to_item_ms": {"median": round(cuts[49], 2), "p99": round(cuts[98], 2), "samples": len(waits_ms)},
    }


def main() -> None:
    url = sys.argv[1]
    router = subprocess.Popen(
        [sys.executable, "-m", "keylane.cli", "router", "--partitions", str(PARTITIONS), "--output", "json"],
        env=os.environ | {"KEYLANE_URL": url},
        stdout=subprocess.PIPE,
    )
    try:
        assert router.stdout is not None
        router.stdout.readline()
        sys.stdout.write(json.dumps(anyio.run(measure, url)) + "\n")
    finally:
        router.terminate()
        router.wait(20)


if __name__ == "__main__":
    main()
