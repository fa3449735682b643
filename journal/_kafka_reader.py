"""Reading assigned partitions of Kafka: one cursor that serves readers and lane sessions alike.

Here lives how records are fetched, put in order and shared out fairly; not who may write (`_kafka_lane.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from . import _kafka_vendor as vendor
from ._kafka_connection import Cluster
from ._kafka_names import Names
from .errors import PositionLost, Unavailable
from .port import Place, Stored
from .rules import poll_limit

# A consumer can go silent for ever after a broker moved (aiokafka #847, #712, #625).
SILENCE_S = 10.0
ONE_BY_ONE_MAX = 1_000
REFETCH_MS = 1_000
# aiokafka fetches ahead, but no more until that is taken: what is there at once is what came first while nobody polled.
# For so long the next fetch is waited for, which has the rest; else each would wait for one more turn of its lane.
FRESH_S = 0.003
AT_ONCE_S = 0.0005

Ends = Callable[[Sequence[Place]], Awaitable[dict[Place, int]]]


class KafkaReader:
    """A cursor over partitions, in the order in which they were named. See the port's `Reader`.

    `ends` asks the broker where each partition ends for this reader, on a connection of its own: on the
    consumer's, the question would wait behind a fetch that waits for data.
    """

    def __init__(self, consumer: vendor.Consumer, names: Names, positions: Mapping[Place, int], ends: Ends) -> None:
        self._consumer = consumer
        self._full = dict(zip(positions, vendor.places(names.places(positions)), strict=True))
        self._positions = dict(positions)
        self._ends = ends
        self._ready: dict[Place, deque[Stored]] = {place: deque() for place in positions}
        self._heard_s = time.monotonic()
        self._behind: dict[Place, int] = {}
        self._assigned = False
        self.closed = False

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        await self._fetch(max_records, timeout_s)
        taken = self._take(max_records)
        if taken:
            self._heard_s = time.monotonic()
            self._behind = {}
        elif time.monotonic() - self._heard_s > SILENCE_S:
            await self._check_silence()
        return taken

    def positions(self) -> dict[Place, int]:
        return {
            Place(*place): self._ready[place][0].offset if self._ready[place] else position
            for place, position in self._positions.items()
        }

    async def close(self) -> None:
        self.closed = True
        await vendor.stop(self._consumer)

    async def _fetch(self, max_records: int, timeout_s: float) -> None:
        """Refill what runs low, so that one partition's backlog never hides another's news.

        The first poll assigns the partitions, and not the opening: aiokafka fetches from then on, and what
        it had fetched before retention took it would look like what is still there.
        """
        if not self._assigned:
            self._consumer.assign(list(self._full.values()))
            for place, position in self._positions.items():
                self._consumer.seek(self._full[place], position)
            self._assigned = True
        hungry = [place for place, ready in self._ready.items() if len(ready) < max_records]
        if not hungry:
            return
        wait_s = 0.0 if any(self._ready.values()) else timeout_s
        with vendor.asking("reading", wait_s + vendor.ANSWER_TIMEOUT_S):
            began_s = time.monotonic()
            await self._fill(hungry, wait_s)
            if wait_s and any(self._ready.values()) and time.monotonic() - began_s < AT_ONCE_S:
                hungry = [place for place in hungry if len(self._ready[place]) < max_records]
                await self._fill(hungry, min(FRESH_S, wait_s))

    async def _fill(self, hungry: Sequence[Place], wait_s: float) -> None:
        """Take over what is fetched, or will be by then."""
        if not hungry:  # aiokafka takes none for all
            return
        try:
            full = [self._full[place] for place in hungry]
            fetched = await self._consumer.getmany(*full, timeout_ms=int(wait_s * 1000))
        except UnicodeDecodeError:
            fetched = await self._one_by_one(hungry)
        for place in hungry:
            self._positions[place] = await self._consumer.position(self._full[place])
        for place in hungry:
            self._ready[place].extend(vendor.stored(place, each) for each in fetched.get(self._full[place], ()))

    async def _one_by_one(self, places: Sequence[Place]) -> dict[Place, list[vendor.Fetched]]:
        """Up to a record with a header whose name is no UTF-8, at which aiokafka raises for ever: any producer can
        write one. It is handed on bare, by its place alone, for those above to set aside."""
        for place in places:  # what was taken of others before it raised is taken again
            self._consumer.seek(self._full[place], self._positions[place])
        found: dict[Place, list[vendor.Fetched]] = {}
        for place in places:
            full = self._full[place]
            records = found.setdefault(full, [])
            while len(records) < ONE_BY_ONE_MAX:
                try:
                    fetched = await self._consumer.getmany(full, timeout_ms=REFETCH_MS, max_records=1)
                except UnicodeDecodeError:
                    offset = await self._consumer.position(full)
                    records.append(vendor.Unreadable(offset))
                    self._consumer.seek(full, offset + 1)
                    break
                if not fetched.get(full):
                    break
                records.extend(fetched[full])
        return found

    def _take(self, max_records: int) -> list[Stored]:
        """In the places' order, with a share kept back for each later place (`rules.poll_limit`)."""
        taken: list[Stored] = []
        found: list[int] = []
        for ready in self._ready.values():
            limit = min(poll_limit(max_records, found, len(self._ready)), max_records - len(taken))
            found.append(min(limit, len(ready)))
            taken.extend(ready.popleft() for _ in range(found[-1]))
        return taken

    async def _check_silence(self) -> None:
        """Twice in a row behind the end without a record in between: the client is stuck, start anew.

        Also how a broker that is gone is noticed: a consumer without one just returns nothing.
        """
        self._heard_s = time.monotonic()
        ends = await self._ends(list(self._positions))
        behind = {place: at for place, at in self._positions.items() if at < ends[place]}
        stuck = [place for place, at in behind.items() if self._behind.get(place) == at]
        self._behind = behind
        if stuck:
            raise Unavailable(f"reading {stuck}: no record in {2 * SILENCE_S:.0f} s although there are some")


async def open_reader(
    cluster: Cluster,
    names: Names,
    positions: Mapping[Place, int | None],
    ends: Ends,
    *,
    committed: bool,
    check_end: bool,
) -> KafkaReader:
    """A reader at `positions` (None: the log's start), in their order.

    Raises `PositionLost` for one before the log's start and, with `check_end`, for one after its end. Kafka
    itself would say so at the first fetch; asked here, the caller of `seek` hears it.
    """
    consumer = vendor.consumer(cluster, committed=committed)
    try:
        with vendor.asking("opening a reader"):
            await vendor.start(cluster, consumer, {names.full(place.topic) for place in positions})
            places = vendor.places(names.places(positions))
            starts = await consumer.beginning_offsets(places)
            limits = await vendor.end_offsets(consumer, places) if check_end else {}
        begin: dict[Place, int] = {}
        for full, (place, position) in zip(places, positions.items(), strict=True):
            begin[place] = starts[full] if position is None else position
            name = f"{place.topic}/{place.partition}: position {position}"
            if begin[place] < starts[full]:
                raise PositionLost(f"{name} is before the log's start {starts[full]}")
            if begin[place] > limits.get(full, begin[place]):
                raise PositionLost(f"{name} is after the log's end {limits[full]}")
    except BaseException:
        await vendor.stop(consumer)
        raise
    return KafkaReader(consumer, names, begin, ends)
