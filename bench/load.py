"""The work that all sides get: 300-byte requests over 50,000 resources, encoded before any clock runs.

Every request has a payload of its own, so none is merged into another: each is a run, which is the dearest case.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from msgspec import Raw

from keylane.journal.partitioner import partition_of
from keylane.journal.port import Record
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.requests import WorkRequest
from keylane.schemas.results import WorkerHeartbeat, WorkerJoined

PARTITIONS = 8
RESOURCES = 50_000
RECORD_BYTES = 300
ACTION = "restart"
POOL = "default"
SLOTS = 10**6
"""Room for all: what is measured is the router, not how many slots a fleet of workers has."""


def requests(count: int, *, prefix: str = "r", partitions: int = PARTITIONS) -> Iterator[Record]:
    """`count` requests, the same ones every time; ids are `prefix` and the number."""
    chance = random.Random(1)
    # The partition of a key is asked once: it is the client's work, and not what is measured.
    places: dict[int, tuple[bytes, int]] = {}
    for number in range(count):
        resource = chance.randrange(RESOURCES)
        if resource not in places:
            key = f"deploy://service-{resource}".encode()
            places[resource] = (key, partition_of(key, partitions))
        key, partition = places[resource]
        yield Record(topics.REQUESTS, partition, key, request(f"{prefix}{number}", key.decode(), number))


def request(id: str, resource: str, number: int) -> bytes:
    """One request as an agent would publish it, of `RECORD_BYTES`, with a payload that no other one has."""
    bare = encode(WorkRequest(id=id, resource=resource, action=ACTION, actor="bench", payload=Raw(b'""')))
    filler = f"{number:012x}".ljust(RECORD_BYTES - len(bare), "x")
    return bare.replace(b'""', f'"{filler}"'.encode())


def session(partition: int) -> str:
    return f"stand-in-{partition}"


def joins(partitions: int = PARTITIONS) -> list[Record]:
    """Opens one worker session in each partition, with its first heartbeat: grants follow at once."""
    records = []
    for partition in range(partitions):
        id = session(partition)
        join = WorkerJoined(session=id, pool=POOL, name="stand-in", actions=(ACTION,), slots=SLOTS, generation=1)
        records.append(Record(topics.RESULTS, partition, id.encode(), encode(join)))
    return [*records, *beats(1, [0] * partitions)]


def beats(number: int, read: Sequence[int]) -> list[Record]:
    """A heartbeat for each session; `read[partition]` is the number of the last item record read there."""
    return [
        Record(
            topics.RESULTS,
            partition,
            session(partition).encode(),
            encode(WorkerHeartbeat(session=session(partition), pool=POOL, number=number, slots=SLOTS, read=last)),
        )
        for partition, last in enumerate(read)
    ]
