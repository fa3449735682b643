"""A journal's whole history as lines that `keylane.verify` judges and files keep. Reads only; decides nothing.

The order of asking matters while a router is at work: where `state` ends first, then the other outputs, the inputs
last. So whatever the state that was read counts, the rest that is read has. But what is in `requests` already comes
before everything: no secret of it may be in what follows. `waits` comes last: a deadlock was told by what it has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

import anyio

from keylane.journal.port import Journal, Place, Stored
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, decode_state
from keylane.schemas.events import WorkerClosed, WorkerOpened
from keylane.schemas.state import WorkerSession
from keylane.verify import Entry, Line, Span

BATCH = 10_000
POLL_S = 1.0
LAPS_MAX = 20
SESSION_KEY = b"session/"


async def history_of(journal: Journal, partitions: int, found: Callable[[int], None]) -> AsyncGenerator[Line, None]:
    """Every record that the journal still has, topic by topic. `found` is told how many more there may be."""
    pools = {"default"}
    asked = await journal.end_positions([Place(topics.REQUESTS, number) for number in range(partitions)])
    async for line in _parts(journal, dict.fromkeys(asked), asked, found):
        yield line
    for number in range(partitions):
        async for line in _state(journal, Place(topics.STATE, number), found):
            pools |= _pools(line)
            yield line
    outputs = (topics.EVENTS, topics.CONFLICTS, topics.DEADLETTERS)
    async for line in _topics(journal, outputs, partitions, found):
        pools |= _pools(line)
        yield line
    items = [topics.items(pool) for pool in sorted(pools)]
    there = [topic for topic in items if await journal.partitions(topic) is not None]
    async for line in _topics(journal, there, partitions, found):
        yield line
    async for line in _topics(journal, (topics.REQUESTS, topics.RESULTS), partitions, found, asked):
        yield line
    async for line in _topics(journal, (topics.WAITS, topics.METADATA), 1, found):
        yield line


def _pools(line: Line) -> set[str]:
    """The pool of a session, which a session that is open has in `state`, and one that was in its events."""
    if not isinstance(line, Entry) or line.value is None:
        return set()
    record: object = None
    if line.topic == topics.STATE and (line.key or b"").startswith(SESSION_KEY):
        record = decode_state(line.value)
    elif line.topic == topics.EVENTS and (b'"WorkerOpened"' in line.value or b'"WorkerClosed"' in line.value):
        record = decode_event(line.value)
    return {record.pool} if isinstance(record, WorkerSession | WorkerOpened | WorkerClosed) else set()


async def _state(journal: Journal, place: Place, found: Callable[[int], None]) -> AsyncGenerator[Line, None]:
    """What is left of a compacted partition, read until it has an end that has not moved meanwhile.

    A journal may drop a record when its key gets a newer one: between asking for the end and reading up to it, that
    takes away records that were there. Where it never rests, the span says so.
    """
    reader = await journal.reader({place: None})
    known = -1
    try:
        for _ in range(LAPS_MAX):
            end = (await journal.end_positions([place]))[place]
            if end == known:
                break
            found(end - max(known, 0))
            known = end
            while reader.positions()[place] < end:
                for stored in await reader.poll(BATCH, POLL_S):
                    known = max(known, stored.offset + 1)
                    yield _entry(stored)
        else:
            yield Span(topic=place.topic, partition=place.partition, end=known, moving=True)
            return
    finally:
        with anyio.CancelScope(shield=True):
            await reader.close()
    yield Span(topic=place.topic, partition=place.partition, end=known)


async def _topics(
    journal: Journal,
    names: Iterable[str],
    partitions: int,
    found: Callable[[int], None],
    known: Mapping[Place, int] | None = None,
) -> AsyncGenerator[Line, None]:
    """Topics up to where they end now, but for what is `known` of them before these positions."""
    places = [Place(name, number) for name in names for number in range(partitions)]
    ends = await journal.end_positions(places)
    before = known or {}
    begins = {place: before.get(place) or None for place in places}
    async for line in _parts(journal, begins, ends, found):
        yield line


async def _parts(
    journal: Journal, begins: Mapping[Place, int | None], ends: Mapping[Place, int], found: Callable[[int], None]
) -> AsyncGenerator[Line, None]:
    """First how far each partition is read, then what is in them from where they begin (None: all that is there)."""
    found(sum(end - (begins[place] or 0) for place, end in ends.items()))
    for place, end in ends.items():
        yield Span(topic=place.topic, partition=place.partition, end=end)
    filled = {place: begins[place] for place, end in ends.items() if end > (begins[place] or 0)}
    if not filled:
        return
    reader = await journal.reader(filled)
    try:
        while any(position < ends[place] for place, position in reader.positions().items()):
            for stored in await reader.poll(BATCH, POLL_S):
                if stored.offset < ends[stored.topic, stored.partition]:  # type: ignore[index]  # a Place is that pair
                    yield _entry(stored)
    finally:
        with anyio.CancelScope(shield=True):
            await reader.close()


def _entry(stored: Stored) -> Entry:
    return Entry(stored.topic, stored.partition, stored.offset, stored.key, stored.value, stored.timestamp_ms)
