"""Reads the pool's topic wherever a session lives: apart from the group, which serves membership only.

After a rebalance the group no longer gives this process the partitions that it lost, but the old sessions there
must still hear that they are to stop (why the reader is one of its own).
"""

from __future__ import annotations

import logging

import anyio

from keylane.journal import Journal, Place, PositionLost, Reader, Stored, Unavailable
from keylane.schemas import codec
from keylane.workers.crew import Crew

log = logging.getLogger("keylane.workers")

POLL_S = 0.25
"""How long one poll waits: a partition that was gained is read too after this time at the latest."""
POLL_RECORDS = 500
CLOSE_S = 2.0
AGAIN_S_MIN = 0.2
AGAIN_S_MAX = 5.0


class Reading:
    """The reader of one process, and where it stands in each partition."""

    def __init__(self, journal: Journal, topic: str, crew: Crew) -> None:
        self._journal = journal
        self._topic = topic
        self._crew = crew
        self._positions: dict[int, int] = {}

    async def note(self, partitions: frozenset[int]) -> None:
        """Note where to begin, before any join there is published, so that no answer is missed.

        Raises Unavailable. Nothing may be awaited between this and the joins: a place that nobody needs is forgotten.
        """
        while missing := partitions - self._positions.keys():
            ends = await self._ends(missing)
            self._positions.update(ends)  # only now: `read` may have put another dictionary there meanwhile

    async def read(self) -> None:
        """Hand every record to the crew, until cancelled."""
        again_s = AGAIN_S_MIN
        while True:
            places = self._crew.places()
            self._positions = {place: at for place, at in self._positions.items() if place in places}
            if not self._positions:
                self._crew.places_changed = anyio.Event()
                await self._crew.places_changed.wait()
                continue
            try:
                await self._read_places()
                again_s = AGAIN_S_MIN
            except Unavailable as error:
                log.warning("items cannot be read, trying again in %.1f s: %s", again_s, error)
                await anyio.sleep(again_s)
                again_s = min(again_s * 2, AGAIN_S_MAX)

    async def _read_places(self) -> None:
        """Read until the places change."""
        places = frozenset(self._positions)
        try:
            reader = await self._journal.reader({Place(self._topic, p): at for p, at in self._positions.items()})
            try:
                while self._crew.places() == places:
                    self._take(await reader.poll(POLL_RECORDS, POLL_S), reader)
            finally:
                with anyio.move_on_after(CLOSE_S, shield=True):
                    await reader.close()
        except PositionLost as error:
            ends = await self._ends(places)
            self._positions.update(ends)
            self._crew.lose_all(f"item records were removed before they were read: {error}")

    def _take(self, records: list[Stored], reader: Reader) -> None:
        for stored in records:
            record = codec.decode_item(stored.value)
            if isinstance(record, codec.Undecodable):
                # Of a newer lane, perhaps. If it was for one of these sessions, the gap in its numbers says so.
                log.warning("%s/%d@%d: %s", stored.topic, stored.partition, stored.offset, record.reason)
            else:
                self._crew.received(stored.partition, record, codec.traceparent_of(stored.headers))
        self._positions.update((place.partition, at) for place, at in reader.positions().items())

    async def _ends(self, partitions: frozenset[int]) -> dict[int, int]:
        ends = await self._journal.end_positions([Place(self._topic, partition) for partition in sorted(partitions)])
        return {place.partition: end for place, end in ends.items()}
