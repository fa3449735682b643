"""The port: what keylane needs of an ordered, partitioned, durable log of bytes (design section 5).

Here live the protocols and the plain values that cross them. No adapter, no I/O and nothing of keylane's
vocabulary: a journal knows topics, partitions and bytes, not runs or leases.

Every adapter passes the same contract suite (`tests/contract`). Errors are those of `errors.py` and no
others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from .upkeep import Finding, Need, TopicState

Headers = tuple[tuple[str, bytes], ...]


class Place(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """A record to be written. `value` None is a tombstone (compacted topics only)."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Stored(NamedTuple):
    """A record as it lies in the log. `timestamp_ms` is wall time, for people; nothing may compare it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class TopicSpec(NamedTuple):
    """A topic as it should be. `retention_ms` None keeps records for ever; `compacted` keeps the
    newest of every key.

    `replicas` is how many copies there are, and `min_in_sync` how many of them must have a record before it is
    acknowledged; None as the store is set up. Stores without copies ignore both."""

    name: str
    partitions: int
    compacted: bool = False
    retention_ms: int | None = None
    max_record_bytes: int = 1024 * 1024
    replicas: int | None = None
    min_in_sync: int | None = None


class Assignment(NamedTuple):
    """What a group gave to this member. `generation` grows with every rebalance of the group."""

    generation: int
    partitions: frozenset[int]


class Reader(Protocol):
    """A cursor over chosen partitions. Belongs to one task."""

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        """Records after the cursor, in order within a partition; [] when none came within `timeout_s`.

        Raises `PositionLost` when a cursor lies before the log's start (retention took what was not read).
        """
        ...

    def positions(self) -> dict[Place, int]:
        """The next offset to be read, for each partition."""
        ...

    async def close(self) -> None: ...


class Membership(Protocol):
    """One member of a group whose members share the partitions of one topic."""

    async def changed(self, timeout_s: float) -> Assignment | None:
        """The newest assignment that was not returned yet; None when nothing changed within `timeout_s`.

        A partition that was lost must be let go before the next call. An assignment with an empty set is
        returned as soon as the member can no longer be sure of its own (rebalance, session lapsed).
        """
        ...

    def confirmed_since(self, since_s: float) -> bool:
        """Whether a group heartbeat that was *sent* after `since_s` (time.monotonic) has succeeded.

        After being fenced, a lane may be claimed again only when this holds: a zombie that claims at once
        fences the rightful owner, and they take turns (kafka-facts).
        """
        ...

    async def leave(self) -> None:
        """Leave at once, so that the partitions go to others without waiting for the session to lapse."""
        ...


class LaneSession(Protocol):
    """The exclusive right to one partition number, and the only way to write atomically to it.

    A later `claim` of the same partition fences this one: from then on `commit` raises `LaneLost` and
    writes nothing, also when this process was stopped in between and wakes up.
    """

    partition: int

    async def load(self) -> list[Stored]:
        """The newest record of every key of the state topic's partition, without tombstones, in log order."""
        ...

    async def seek(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Where `poll` starts in each input topic; a topic that is not named starts at the log's start.

        Returns where each really starts.

        Raises `PositionLost` when a position lies before the log's start or after its end.
        """
        ...

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        """New input records, the input topics in the order in which they were named at `claim`.

        Raises `LaneLost`, `PositionLost`, `Unavailable`.
        """
        ...

    def positions(self) -> dict[str, int]:
        """The next offset to be polled, for each input topic: beyond what is no record (Kafka's markers), too."""
        ...

    async def high_watermarks(self) -> dict[str, int]:
        """The end of each input topic's partition, asked for now (not the last stable offset, not cached)."""
        ...

    async def append(self, records: Sequence[Record]) -> None:
        """Plain writes, acknowledged when this returns; outside any transaction, to any partition."""
        ...

    async def commit(self, records: Sequence[Record]) -> None:
        """Write all the records or none, all of them to this partition number.

        Raises `LaneLost` (fenced, or the outcome is unknown: load again to learn it), `TooLarge` (nothing
        was written, and the session is of no further use) or `Unavailable` (likewise).
        """
        ...

    async def close(self) -> None: ...


class Journal(Protocol):
    """One journal, by its URL (`connect.connect`). Safe to share between tasks of one event loop."""

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create those that are missing, with retention and cleanup as specified. Where none is missing, no right
        to create any is needed.

        Raises `TopicMismatch` where a topic exists in a way in which no lane can use it (`upkeep.Weight` refused).
        """
        ...

    async def partitions(self, topic: str) -> int | None:
        """How many partitions a topic has; None when there is no such topic."""
        ...

    async def topic_names(self) -> list[str]:
        """Every topic that is there, keylane's or not, sorted."""
        ...

    async def compare(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        """How each topic is, against how it should be; in the order of `specs`. Changes nothing."""
        ...

    async def alter(self, spec: TopicSpec, settings: Collection[str]) -> None:
        """Give a topic these settings (`Difference.setting`, changeable) as they are specified, and no others.

        Journals that are open elsewhere may go by the old ones until they are opened anew.
        """
        ...

    async def members(self, group: str) -> int | None:
        """How many members a group has now; None where that may not be asked."""
        ...

    async def checks(self, advance: Callable[[int], None]) -> list[Finding]:
        """How the store itself is doing. Changes nothing; `advance` is told how many hundredths more are done."""
        ...

    async def rights(self, needs: Sequence[Need]) -> list[Finding]:
        """Whether whoever opened this journal may do what a role needs. Changes nothing."""
        ...

    async def append(self, records: Sequence[Record]) -> list[int]:
        """Plain writes; returns the offsets. Acknowledged by all in-sync replicas when this returns.

        Raises `TooLarge` (nothing was written), `Unavailable` (what was written is unknown).
        """
        ...

    async def end_positions(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offset after the last committed record of each partition."""
        ...

    async def reader(self, positions: Mapping[Place, int | None]) -> Reader:
        """A cursor that sees committed records only; a position None means the log's start."""
        ...

    async def join(self, group: str, topic: str) -> Membership:
        """Become a member of `group`, whose members share the partitions of `topic`."""
        ...

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> LaneSession:
        """Own partition number `partition`: fences every earlier claimant before it returns.

        `inputs` in the order in which they are to be polled; `state` is the compacted topic.
        """
        ...

    async def close(self) -> None: ...
