"""The memory journal: a log that lives as long as somebody in this process holds it.

For tests, simulations and `keylane.testing`. An operation that has something to return does not suspend, so
that a simulation can drive coroutines with `send(None)` and no event loop; only a poll that finds nothing and
may wait (`timeout_s` > 0) does. One event loop at a time may wait on a log.

Compaction, retention, fencing and groups are real. What a simulation needs besides is public here: a clock,
`MemoryLog.forget`, `MemoryLog.break_next_commit` and `MemoryMembership.lapse`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from weakref import WeakValueDictionary

import anyio

from .errors import LaneLost, TopicMismatch, Unavailable
from .groups import GroupView, Member, Move
from .memory_parts import MemoryGroup, MemoryPartition
from .port import Assignment, Place, Record, Stored, TopicSpec
from .rules import ALTERABLE, compared, poll_limit, refuse_large
from .upkeep import Finding, Need, TopicState


def wall_ms() -> int:
    """Wall time for the records' timestamps, in milliseconds."""
    return time.time_ns() // 1_000_000


class MemoryLog:
    """What the journals of one name share. `clock_ms` gives the records' timestamps."""

    def __init__(self, clock_ms: Callable[[], int] = wall_ms) -> None:
        self.clock_ms = clock_ms
        self.specs: dict[str, TopicSpec] = {}
        self.places: dict[tuple[str, int], MemoryPartition] = {}
        self.epochs: dict[tuple[str, int], int] = {}
        self.groups: dict[str, MemoryGroup] = {}
        self._waiting: list[anyio.Event] = []
        self._break_commit: bool | None = None

    def at(self, topic: str, partition: int) -> MemoryPartition:
        """One partition. Raises `Unavailable` when there is none such."""
        found = self.places.get((topic, partition))
        if found is None:
            raise Unavailable(f"topic {topic} has no partition {partition}: create the topics first")
        return found

    def write(self, records: Sequence[Record]) -> list[int]:
        """Write all or, when one is refused, none; returns the offsets."""
        places = [self.at(record.topic, record.partition) for record in records]
        refuse_large(records, self.specs)
        now_ms = self.clock_ms()
        offsets = [place.add(record, now_ms) for place, record in zip(places, records, strict=True)]
        self.wake()
        return offsets

    def forget(self, place: Place, before: int) -> None:
        """Drop what lies before an offset, as retention would: what reads from there is `PositionLost`."""
        self.at(*place).forget(before)

    def break_next_commit(self, *, written: bool) -> None:
        """Let the outcome of the next commit be unknown to its caller, whether or not it is `written`."""
        self._break_commit = written

    def take_break(self) -> bool | None:
        """Whether the commit at hand is to break, and if so whether it is written."""
        broken, self._break_commit = self._break_commit, None
        return broken

    def wake(self) -> None:
        """Wake everybody who waits for a change."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()

    async def wait(self, deadline_s: float) -> bool:
        """Wait for a change; False when `deadline_s` (event loop time) passed without one."""
        event = anyio.Event()
        self._waiting.append(event)
        with anyio.move_on_at(deadline_s):
            await event.wait()
            return True
        if event in self._waiting:
            self._waiting.remove(event)
        return False


class MemoryReader:
    """A cursor over places; see `port.Reader`. Partitions take turns at being first."""

    def __init__(self, log: MemoryLog, positions: Mapping[Place, int]) -> None:
        self._log = log
        self._positions = dict(positions)
        self._turn = 0

    def _read(self, max_records: int) -> list[Stored]:
        found: list[Stored] = []
        read_to: dict[Place, int] = {}
        order = list(self._positions)
        self._turn = (self._turn + 1) % max(1, len(order))
        for place in order[self._turn :] + order[: self._turn]:
            records = self._log.at(*place).read(self._positions[place], max_records - len(found))
            if records:
                read_to[place] = records[-1].offset + 1
                found += records
        self._positions.update(read_to)  # not before: a lost position must not lose what was read beside it
        return found

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        return await _poll(self._log, lambda: self._read(max_records), timeout_s)

    def positions(self) -> dict[Place, int]:
        return dict(self._positions)

    async def close(self) -> None:
        self._positions.clear()


class MemorySession:
    """The right to one partition number; see `port.LaneSession`."""

    def __init__(self, log: MemoryLog, partition: int, inputs: Sequence[str], state: str) -> None:
        self.partition = partition
        self._log = log
        self._state = state
        self._epoch = log.epochs[state, partition]
        self._positions = {topic: log.at(topic, partition).start for topic in inputs}
        self._usable = True

    def _check(self) -> None:
        if self._log.epochs[self._state, self.partition] != self._epoch:
            raise LaneLost(f"partition {self.partition} was claimed by another", fenced=True)
        if not self._usable:
            raise LaneLost(f"partition {self.partition}: this session ended; claim it again", fenced=False)

    async def load(self) -> list[Stored]:
        self._check()
        place = self._log.at(self._state, self.partition)
        return [
            stored for stored in place.records if stored.value is not None and place.newest[stored.key] == stored.offset
        ]

    async def seek(self, positions: Mapping[str, int]) -> dict[str, int]:
        for topic in self._positions:
            place = self._log.at(topic, self.partition)
            position = positions.get(topic, place.start)
            place.check(position)
            self._positions[topic] = position
        return dict(self._positions)

    def _read(self, max_records: int) -> list[Stored]:
        self._check()
        found: list[Stored] = []
        counts: list[int] = []
        read_to: dict[str, int] = {}
        for topic, position in self._positions.items():
            limit = poll_limit(max_records, counts, len(self._positions))
            records = self._log.at(topic, self.partition).read(position, limit)
            counts.append(len(records))
            found += records
            if records:
                read_to[topic] = records[-1].offset + 1
        self._positions.update(read_to)
        return found

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        return await _poll(self._log, lambda: self._read(max_records), timeout_s)

    def positions(self) -> dict[str, int]:
        return dict(self._positions)

    async def high_watermarks(self) -> dict[str, int]:
        return {topic: self._log.at(topic, self.partition).end for topic in self._positions}

    async def append(self, records: Sequence[Record]) -> None:
        self._log.write(records)

    async def commit(self, records: Sequence[Record]) -> None:
        self._check()
        assert all(record.partition == self.partition for record in records), "a lane writes its own number"
        broken = self._log.take_break()
        self._usable = False  # until it is known that all was written
        if broken is not False:
            self._log.write(records)
        if broken is not None:
            raise LaneLost(f"partition {self.partition}: the outcome of a commit is unknown", fenced=False)
        self._usable = True

    async def close(self) -> None:
        self._usable = False
        self._log.wake()


class MemoryMembership:
    """One member of a group; see `port.Membership`."""

    def __init__(self, log: MemoryLog, group: MemoryGroup, partitions: int) -> None:
        self._log = log
        self._group = group
        self._partitions = partitions
        self._member = Member(group.join())
        self._left = False
        log.wake()

    async def changed(self, timeout_s: float) -> Assignment | None:
        deadline_s = anyio.current_time() + timeout_s if timeout_s > 0 else None
        while not self._left:
            view = GroupView(self._group.generation, self._group.agreed, self._partitions)
            move = self._member.next_move(view)
            if isinstance(move, Assignment):
                return move
            if move is Move.JOIN:
                self._member = Member(self._group.join())
                self._log.wake()
            elif move is Move.AGREE:
                self._group.agreed[self._member.number] = self._group.generation
                self._log.wake()
            elif deadline_s is None or not await self._log.wait(deadline_s):
                return None
        raise Unavailable("this member has left its group")

    def confirmed_since(self, since_s: float) -> bool:
        # A heartbeat here is a look at the group, and it is sent now.
        return self._member.number in self._group.agreed and time.monotonic() >= since_s

    def lapse(self) -> None:
        """Let the group give this member up, as when its process died or stood still for too long.

        If the member calls again, it is told to let go and then joins anew.
        """
        self._group.drop(self._member.number)
        self._log.wake()

    async def leave(self) -> None:
        self._left = True
        self.lapse()


class MemoryJournal:
    """A journal over a log in this process; see `port.Journal`."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            known = self.log.specs.setdefault(spec.name, spec)
            if (known.partitions, known.compacted) != (spec.partitions, spec.compacted):
                raise TopicMismatch(f"topic {spec.name} exists as {known}, not as {spec}")
            for partition in range(spec.partitions):
                self.log.places.setdefault((spec.name, partition), MemoryPartition(spec))

    async def partitions(self, topic: str) -> int | None:
        spec = self.log.specs.get(topic)
        return None if spec is None else spec.partitions

    async def topic_names(self) -> list[str]:
        return sorted(self.log.specs)

    async def compare(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        return [compared(spec, self.log.specs.get(spec.name)) for spec in specs]

    async def alter(self, spec: TopicSpec, settings: Collection[str]) -> None:
        changes = {setting: getattr(spec, setting) for setting in set(settings) & set(ALTERABLE)}
        self.log.specs[spec.name] = altered = self.log.specs[spec.name]._replace(**changes)
        for partition in range(altered.partitions):
            self.log.at(spec.name, partition).spec = altered

    async def members(self, group: str) -> int | None:
        return len(self.log.groups[group].agreed) if group in self.log.groups else 0

    async def checks(self, advance: Callable[[int], None]) -> list[Finding]:
        return [Finding("store", "ok", "memory of this process: it ends with whoever holds it last")]

    async def rights(self, needs: Sequence[Need]) -> list[Finding]:
        return [Finding("rights", "ok", "whoever is in this process may do everything")]

    async def append(self, records: Sequence[Record]) -> list[int]:
        return self.log.write(records)

    async def end_positions(self, places: Sequence[Place]) -> dict[Place, int]:
        return {place: self.log.at(*place).end for place in places}

    async def reader(self, positions: Mapping[Place, int | None]) -> MemoryReader:
        starts = {place: self.log.at(*place).start for place in positions}
        return MemoryReader(self.log, {place: starts[place] if at is None else at for place, at in positions.items()})

    async def join(self, group: str, topic: str) -> MemoryMembership:
        spec = self.log.specs.get(topic)
        if spec is None:
            raise Unavailable(f"there is no topic {topic} to share: create the topics first")
        return MemoryMembership(self.log, self.log.groups.setdefault(group, MemoryGroup()), spec.partitions)

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> MemorySession:
        self.log.at(state, partition)
        self.log.epochs[state, partition] = self.log.epochs.get((state, partition), 0) + 1
        self.log.wake()
        return MemorySession(self.log, partition, inputs, state)

    async def close(self) -> None:
        """Let the log go; it ends with the last journal that holds it."""
        self.log = MemoryLog()


_logs: WeakValueDictionary[str, MemoryLog] = WeakValueDictionary()


def open_memory(name: str) -> MemoryJournal:
    """The journal of that name; all of this process that hold it share one log."""
    log = _logs.get(name)
    if log is None:
        log = _logs[name] = MemoryLog()
    return MemoryJournal(log)


async def _poll(log: MemoryLog, read: Callable[[], list[Stored]], timeout_s: float) -> list[Stored]:
    """Read; when there is nothing, wait for a change until `timeout_s` has passed."""
    found = read()
    if found or timeout_s <= 0:
        return found
    deadline_s = anyio.current_time() + timeout_s
    while not found and await log.wait(deadline_s):
        found = read()
    return found
