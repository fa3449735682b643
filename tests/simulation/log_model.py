"""The log under both characters: partitions of records, some of them of a transaction that is not decided yet.

What a reader may see is decided here, and nothing else: who may write, and when, is the characters'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from keylane.journal.errors import PositionLost, Unavailable
from keylane.journal.port import Place, Record, Stored, TopicSpec
from keylane.journal.rules import poll_limit

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"


class Transaction:
    """Records that become visible together or never."""

    __slots__ = ("by", "places", "state")

    def __init__(self, by: str) -> None:
        self.by = by
        self.state = OPEN
        self.places: dict[Place, list[int]] = {}


class Slot(NamedTuple):
    """An offset: a record, or (`stored` None) a marker that no reader is given."""

    stored: Stored | None
    transaction: Transaction | None


class Partition:
    """Offsets from `start` to the end, which is the high watermark."""

    def __init__(self, spec: TopicSpec) -> None:
        self.spec = spec
        self.slots: list[Slot] = []
        self.start = 0
        self.open: dict[Transaction, int] = {}
        """Undecided transactions by their first offset here."""
        self.newest: dict[bytes | None, Stored] = {}
        """Of a compacted topic: the newest committed record of each key, in log order."""
        self.waiting: list[Callable[[], None]] = []

    @property
    def end(self) -> int:
        return len(self.slots)

    @property
    def stable(self) -> int:
        """The last stable offset: where the first undecided transaction begins."""
        return min(self.open.values()) if self.open else len(self.slots)

    def visible(self, committed: bool) -> int:
        """How far a reader of that kind may read."""
        return self.stable if committed else len(self.slots)

    def read(
        self, position: int, max_records: int, committed: bool, before: int | None = None
    ) -> tuple[list[Stored], int]:
        """Up to `max_records` from `position` on and `before` an offset, and the position after them.

        Raises `PositionLost`.
        """
        self.check(position)
        end = self.visible(committed)
        if before is not None:
            end = min(end, before)
        found: list[Stored] = []
        while position < end and len(found) < max_records:
            stored, transaction = self.slots[position]
            position += 1
            if stored is not None and (not committed or transaction is None or transaction.state is COMMITTED):
                found.append(stored)
        return found, position

    def check(self, position: int) -> None:
        """Raise `PositionLost` when `position` lies outside the log."""
        if not self.start <= position <= len(self.slots):
            raise PositionLost(
                f"position {position} of {self.spec.name} lies outside its log, {self.start} to {len(self.slots)}"
            )

    def keep(self, stored: Stored) -> None:
        """It is committed: the newest of its key."""
        self.newest.pop(stored.key, None)
        if stored.value is not None:
            self.newest[stored.key] = stored

    def truncate(self, before: int) -> None:
        """Retention takes what lies before."""
        self.start = max(self.start, min(before, len(self.slots)))

    def compact(self) -> None:
        """Of each key only the newest record stays, a tombstone too; and what is not decided."""
        newest = {slot.stored.key: offset for offset, slot in enumerate(self.slots) if slot.stored is not None}
        for offset, (stored, transaction) in enumerate(self.slots):
            is_over = transaction is None or transaction.state is not OPEN
            if stored is not None and is_over and newest[stored.key] != offset:
                self.slots[offset] = Slot(None, transaction)


def polled(
    places: Mapping[str, Partition],
    positions: dict[str, int],
    max_records: int,
    *,
    committed: bool,
    befores: Sequence[int | None] | None = None,
) -> list[Stored]:
    """One poll of a lane's inputs, in their order; moves `positions` when all have been read."""
    found: list[Stored] = []
    counts: list[int] = []
    read_to: dict[str, int] = {}
    for (topic, position), before in zip(positions.items(), befores or [None] * len(positions), strict=True):
        limit = poll_limit(max_records, counts, len(positions))
        records, read_to[topic] = places[topic].read(position, limit, committed, before)
        counts.append(len(records))
        found += records
    positions.update(read_to)
    return found


class Log:
    """Every partition of every topic. `heard` is told of each record when it is there for good."""

    def __init__(self, specs: Sequence[TopicSpec], wall_us: Callable[[], int]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.partitions = {
            Place(spec.name, partition): Partition(spec) for spec in specs for partition in range(spec.partitions)
        }
        self.heard: Callable[[Sequence[Stored], str], None] = lambda stored, by: None
        self._wall_us = wall_us

    def at(self, place: Place) -> Partition:
        found = self.partitions.get(place)
        if found is None:
            raise Unavailable(f"there is no partition {place}")
        return found

    def add(self, records: Sequence[Record], by: str, transaction: Transaction | None = None) -> list[int]:
        """Write the records; of a transaction, for nobody to see yet who reads committed ones. `by`: a process."""
        stored = [self._add(record, transaction) for record in records]
        if transaction is None:
            self._settle(stored, by)
        self._wake({Place(record.topic, record.partition) for record in records})
        return [each.offset for each in stored]

    def _add(self, record: Record, transaction: Transaction | None) -> Stored:
        place = Place(record.topic, record.partition)
        partition = self.at(place)
        offset = len(partition.slots)
        stored = Stored(*place, offset, record.key, record.value, record.headers, self._wall_us() // 1_000)
        partition.slots.append(Slot(stored, transaction))
        if transaction is not None:
            transaction.places.setdefault(place, []).append(offset)
            partition.open.setdefault(transaction, offset)
        return stored

    def decide(self, transaction: Transaction, state: str) -> None:
        """Commit or abort: a marker in each partition that it wrote to."""
        assert transaction.state is OPEN
        transaction.state = state
        settled = []
        for place, offsets in transaction.places.items():
            partition = self.partitions[place]
            del partition.open[transaction]
            if state is COMMITTED:
                settled += [stored for offset in offsets if (stored := partition.slots[offset].stored) is not None]
            partition.slots.append(Slot(None, transaction))
        self._settle(settled, transaction.by)
        self._wake(set(transaction.places))

    def _settle(self, settled: Sequence[Stored], by: str) -> None:
        self.heard(settled, by)
        for stored in settled:
            partition = self.partitions[Place(stored.topic, stored.partition)]
            if partition.spec.compacted:
                partition.keep(stored)

    def _wake(self, places: set[Place]) -> None:
        for place in sorted(places):
            partition = self.partitions[place]
            if partition.waiting:
                waiting, partition.waiting = partition.waiting, []
                for wake in waiting:
                    wake()

    def committed(self, place: Place) -> list[Stored]:
        """All that anybody was ever to see of a partition."""
        return [
            stored
            for stored, transaction in self.partitions[place].slots
            if stored is not None and (transaction is None or transaction.state is COMMITTED)
        ]
