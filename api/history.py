"""What was decided, as it lies in `events`: the history of one resource or of all, and then what comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec

from keylane.journal.port import Journal, Place, Reader, Stored
from keylane.layout import Layout
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event
from keylane.schemas.events import AnyEvent
from keylane.schemas.times import rfc3339

BATCH = 1_000
POLL_S = 1.0


class EventShown(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place. `event` is the record as it lies there; None where this keylane cannot read it, and
    `unreadable` says why."""

    partition: int
    offset: int
    event: AnyEvent | None = None
    unreadable: str | None = None


async def ends_of(journal: Journal, partitions: Sequence[int]) -> dict[Place, int]:
    """Where what is there ends now, and what comes begins."""
    return await journal.end_positions([Place(topics.EVENTS, number) for number in partitions])


async def past(
    journal: Journal, layout: Layout, ends: Mapping[Place, int], key: str | None
) -> AsyncGenerator[EventShown, None]:
    """All about `key` that is kept before `ends`, over partitions by wall time; within one in the order of the log."""
    cursors = [_Cursor(await journal.reader({place: None}), place, end) for place, end in ends.items()]
    try:
        live = [cursor for cursor in cursors if await cursor.fill()]
        while live:
            first = min(live, key=_Cursor.time)
            shown = first.pop()
            if layout.concerns(shown.event, key):
                yield shown
            if not await first.fill():
                live.remove(first)
    finally:
        for cursor in cursors:
            await cursor.reader.close()


async def coming(
    journal: Journal, layout: Layout, ends: Mapping[Place, int], key: str | None
) -> AsyncGenerator[EventShown, None]:
    """What comes about `key` after `ends`, without end."""
    reader = await journal.reader(dict(ends))
    try:
        while True:
            for stored in await reader.poll(BATCH, POLL_S):
                shown = _shown(stored)
                if layout.concerns(shown.event, key):
                    yield shown
    finally:
        await reader.close()


class _Cursor:
    """One partition up to an end."""

    def __init__(self, reader: Reader, place: Place, end: int) -> None:
        self.reader = reader
        self._place = place
        self._end = end
        self._read: list[tuple[str, EventShown]] = []  # newest first

    async def fill(self) -> bool:
        """Whether there is another."""
        while not self._read and self.reader.positions()[self._place] < self._end:
            found = await self.reader.poll(BATCH, POLL_S)
            self._read = [_timed(stored) for stored in found if stored.offset < self._end][::-1]
        return bool(self._read)

    def time(self) -> str:
        return self._read[-1][0]

    def pop(self) -> EventShown:
        return self._read.pop()[1]


def _timed(stored: Stored) -> tuple[str, EventShown]:
    """With the wall time of the decision: that of the record is when it was written, which is later by its turn."""
    shown = _shown(stored)
    time = rfc3339(stored.timestamp_ms / 1_000) if shown.event is None else shown.event.time
    return time, shown


def _shown(stored: Stored) -> EventShown:
    event = decode_event(stored.value)
    if isinstance(event, Undecodable):
        return EventShown(partition=stored.partition, offset=stored.offset, unreadable=event.reason)
    return EventShown(partition=stored.partition, offset=stored.offset, event=event)
