"""The task of a router process that reads `waits` from its beginning, and tells each lane what becomes of its edges.

What the records mean is `core/waiting`'s. Here is reading, and mending what a router that died or was fenced has left
in the topic: edges of lower claims, which nobody would remove; a lane's word that it was loaded, written over by such
a router. Trouble with the journal is waited out, and lanes do without: an acquire is answered after a second anyhow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from keylane.journal.errors import JournalError
from keylane.journal.port import Journal, Place, Record, Stored
from keylane.router.core.records import WaitChecked
from keylane.router.core.waiting import WaitGraph
from keylane.router.lane_waits import LaneWaits
from keylane.schemas import topics
from keylane.schemas.codec import decode_wait, encode
from keylane.schemas.waits import LaneLoaded, lane_key

log = logging.getLogger("keylane.router")

PLACE = Place(topics.WAITS, 0)
BATCH = 1_000
POLL_S = 1.0
STOOD_STILL_S = 300.0
"""After a pause so long, it reads anew: tombstones are kept for a quarter of an hour, and one that was not seen would
leave its edge here for ever."""
PAUSE_S_MIN = 0.1
PAUSE_S_MAX = 5.0


class WaitsTask:
    """`run` is its one task. Lanes come and go by `following`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._graph = WaitGraph()
        self._lanes: dict[int, LaneWaits] = {}
        self._loaded: dict[int, int] = {}
        """By partition: the claim under which its lane was loaded, as the newest record says."""
        self._pause_s = PAUSE_S_MIN

    def edges(self) -> int:
        """How many waits of sessions for sessions there are, over all lanes, as far as it has read."""
        return len(self._graph)

    @contextmanager
    def following(self, waits: LaneWaits) -> Iterator[None]:
        """A life of a lane hears of its own edges meanwhile."""
        self._lanes[waits.partition] = waits
        try:
            yield
        finally:
            if self._lanes.get(waits.partition) is waits:  # a lane that would not end may have a successor here
                del self._lanes[waits.partition]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._read_anew()
            except JournalError as error:
                log.warning("waits cannot be read at the moment, so that deadlocks are not seen: %s", error)
            except Exception:
                # Lanes of this process must not go down with it.
                log.exception("waits: fault")
            await anyio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)

    async def _read_anew(self) -> None:
        """From the beginning; returns after it stood still for too long to go on from where it was."""
        end = (await self._journal.end_positions([PLACE]))[PLACE]
        reader = await self._journal.reader({PLACE: None})
        self._graph = WaitGraph()
        self._loaded.clear()
        began_s = ended_s = anyio.current_time()
        try:
            while ended_s - began_s <= STOOD_STILL_S:
                began_s = ended_s
                found = await reader.poll(BATCH, POLL_S)
                for stored in found:
                    self._take(stored)
                if reader.positions()[PLACE] >= end:  # before, what it would mend may be mended further on
                    self._pause_s = PAUSE_S_MIN
                    await self._mend(is_idle=not found)
                ended_s = anyio.current_time()
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()

    def _take(self, stored: Stored) -> None:
        record = None if stored.value is None else decode_wait(stored.value)
        for edge, position, cycle in self._graph.apply(stored.offset, stored.key or b"", record):
            lane = self._lanes.get(edge.partition)
            if lane is not None and lane.claim == edge.claim:
                lane.heard(WaitChecked(edge.request, edge.holder, position, cycle))
        if isinstance(record, LaneLoaded):
            self._loaded[record.partition] = record.claim

    async def _mend(self, *, is_idle: bool) -> None:
        mended: list[Record] = []
        for partition, lane in self._lanes.items():
            mended += [Record(*PLACE, key, None) for key in self._graph.left_over(partition, lane.claim)]
            # Idle: what the lane has said was read.
            if is_idle and lane.is_loaded and self._loaded.get(partition, lane.claim) < lane.claim:
                loaded = LaneLoaded(partition=partition, claim=lane.claim)
                mended.append(Record(*PLACE, lane_key(partition), encode(loaded)))
        if mended:
            await self._journal.append(mended)
