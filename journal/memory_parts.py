"""What a memory log is made of: the records of a partition, the members of a group. No waiting and no clock."""

from __future__ import annotations

from bisect import bisect_left

from .errors import PositionLost
from .port import Record, Stored, TopicSpec
from .rules import TOMBSTONE_KEPT_MS


class MemoryPartition:
    """The records of one partition between `start` and `end`, oldest first."""

    def __init__(self, spec: TopicSpec) -> None:
        self.spec = spec
        self.records: list[Stored] = []
        self.newest: dict[bytes | None, int] = {}
        self.start = 0
        self.end = 0
        self._compact_at = 64

    def add(self, record: Record, now_ms: int) -> int:
        """Write one record and return its offset. Compacts or expires as much as is due, amortised."""
        offset = self.end
        self.end += 1
        self.records.append(
            Stored(record.topic, record.partition, offset, record.key, record.value, record.headers, now_ms)
        )
        if self.spec.compacted:
            self.newest[record.key] = offset
            if len(self.records) >= self._compact_at:
                self.compact(now_ms - TOMBSTONE_KEPT_MS)
                self._compact_at = 2 * len(self.records) + 64
        elif self.spec.retention_ms is not None:
            oldest_ms = now_ms - self.spec.retention_ms
            if self.records[0].timestamp_ms < oldest_ms:
                kept = next(i for i, stored in enumerate(self.records) if stored.timestamp_ms >= oldest_ms)
                self.forget(self.records[kept].offset)
        return offset

    def compact(self, tombstones_before_ms: int) -> None:
        """Keep the newest record of every key, and no tombstone that is older than that."""
        self.records = [
            stored
            for stored in self.records
            if self.newest[stored.key] == stored.offset
            and (stored.value is not None or stored.timestamp_ms >= tombstones_before_ms)
        ]
        self.newest = {stored.key: stored.offset for stored in self.records}

    def forget(self, before: int) -> None:
        """Drop the records before that offset, as retention does."""
        del self.records[: bisect_left(self.records, before, key=_offset)]
        self.start = max(self.start, before)

    def read(self, position: int, max_records: int) -> list[Stored]:
        """Up to `max_records` from `position` on. Raises `PositionLost` when it lies outside the log."""
        self.check(position)
        first = bisect_left(self.records, position, key=_offset)
        return self.records[first : first + max_records]

    def check(self, position: int) -> None:
        """Raise `PositionLost` when `position` lies before the log's start or after its end."""
        if not self.start <= position <= self.end:
            raise PositionLost(
                f"position {position} of {self.spec.name} lies outside its log, {self.start} to {self.end}"
            )


def _offset(stored: Stored) -> int:
    return stored.offset


class MemoryGroup:
    """Who is a member of a group, and the generation that each has agreed to (`groups.py`)."""

    def __init__(self) -> None:
        self.generation = 0
        self.agreed: dict[int, int] = {}
        self.last_number = 0

    def join(self) -> int:
        """Add a member, which starts a generation; returns its number."""
        self.last_number += 1
        self.generation += 1
        self.agreed[self.last_number] = self.generation
        return self.last_number

    def drop(self, number: int) -> None:
        """Take a member out, which starts a generation. A member that is gone already changes nothing."""
        if self.agreed.pop(number, None) is not None:
            self.generation += 1
