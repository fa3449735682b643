"""How fast a side writes: where its output partitions end, asked now and then, which costs the journal next to nothing.

Offsets on Kafka also count the marks of transactions, so answers are counted from the records themselves, read
afterwards, off the clock. Only what is committed counts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anyio

from keylane.journal.port import Journal, Place

LOOK_S = 0.05
READ_RECORDS = 20_000


class Sight(NamedTuple):
    """Where each place ended at `at_s` (monotonic)."""

    at_s: float
    ends: Mapping[Place, int]


class Found(NamedTuple):
    """Records between two sights."""

    by_type: Counter[str]
    commits: int
    """On SQLite alone, by the time that all rows of a commit share."""


async def look(journal: Journal, places: Sequence[Place]) -> Sight:
    before_s = time.monotonic()
    ends = await journal.end_positions(places)
    return Sight((before_s + time.monotonic()) / 2, ends)


async def until_written(journal: Journal, places: Sequence[Place], timeout_s: float) -> Sight:
    """The first sight at which one of the places has grown."""
    first = sight = await look(journal, places)
    with anyio.fail_after(timeout_s):
        while sight.ends == first.ends:
            await anyio.sleep(LOOK_S)
            sight = await look(journal, places)
    return sight


async def read(journal: Journal, since: Sight, until: Sight, topic: str) -> Found:
    """The topic's records between two sights, counted by their CloudEvents type."""
    types: Counter[str] = Counter()
    times: set[int] = set()
    for place, end in until.ends.items():
        if place.topic != topic or since.ends[place] == end:
            continue
        reader = await journal.reader({place: since.ends[place]})
        try:
            while reader.positions()[place] < end:
                for stored in await reader.poll(READ_RECORDS, 1.0):
                    if stored.offset < end:
                        types[dict(stored.headers)["ce_type"].decode()] += 1
                        times.add(stored.timestamp_ms)
        finally:
            await reader.close()
    return Found(types, len(times))
