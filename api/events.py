"""A stream of what routers decided, for callers who want to watch or audit. Reads committed events only."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import anyio

from keylane.errors import translated
from keylane.journal.port import Journal, Place, Reader, Stored
from keylane.layout import Layout
from keylane.outcome import Position
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event
from keylane.schemas.events import AnyEvent

POLL_RECORDS = 1000
POLL_TIMEOUT_S = 1.0


class EventStream:
    """Iterate over it; in order within a partition, and without end. Belongs to one task.

    `async with` notes where it starts on entry and closes it; without, it starts at the first step and wants
    `aclose`. Raises `Unavailable`, also when its position lies before the oldest event that is kept.
    """

    def __init__(self, journal: Journal, layout: Layout, resource: str | None, after: Position | None) -> None:
        self._journal = journal
        self._layout = layout
        self._places = [Place(topics.EVENTS, partition) for partition in layout.chosen(resource)]
        self._resource = resource
        self._offsets = None if after is None else dict(after.offsets)
        self._reader: Reader | None = None
        self._read: deque[Stored] = deque()

    @property
    def position(self) -> Position:
        """After the last event that was handed out; pass it as `after` to go on from there."""
        return Position(dict(self._offsets or {}))

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyEvent:
        reader = await self._open()
        assert self._offsets is not None
        while True:
            while self._read:
                stored = self._read.popleft()
                self._offsets[stored.partition] = stored.offset + 1
                event = decode_event(stored.value)
                if not isinstance(event, Undecodable) and self._layout.concerns(event, self._resource):
                    return event
            with translated():
                self._read += await reader.poll(POLL_RECORDS, POLL_TIMEOUT_S)

    async def aclose(self) -> None:
        """Let the journal's reader go."""
        if self._reader is not None:
            with anyio.CancelScope(shield=True):
                await self._reader.close()
            self._reader = None

    async def _open(self) -> Reader:
        if self._reader is None:
            with translated():
                if self._offsets is None:
                    ends = await self._journal.end_positions(self._places)
                    self._offsets = {place.partition: end for place, end in ends.items()}
                self._reader = await self._journal.reader(
                    {place: self._offsets.get(place.partition) for place in self._places}
                )
        return self._reader
