"""The port over the log model, for one process; and the reader that both characters share.

A character (`kafka_model`, `sqlite_model`) is asked for what they do differently: writes, claims and lane sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from simulation.group_model import Coordinator, ModelMembership
from simulation.log_model import Log
from simulation.process import Process
from simulation.tasks import sleep_us
from simulation.wire import Site, news

from keylane.journal.port import LaneSession, Place, Record, Stored, TopicSpec
from keylane.schemas import topics

T = TypeVar("T")

UNREACHED_S = 1.0
"""After this long a reader asks again, however patient it is where there is nothing to read."""


class Character(Protocol):
    """A kind of journal."""

    log: Log
    site: Site
    on_astray: Callable[[int], None]
    """Called where a request ended another transaction of that partition than it meant to."""

    async def ask(self, process: Process, apply: Callable[[], T]) -> T:
        """Anything that is neither a write nor a claim."""
        ...

    async def append(self, process: Process, records: Sequence[Record], stall_us: int = 0) -> list[int]: ...

    async def claim(self, process: Process, partition: int, inputs: Sequence[str], state: str) -> WatchedSession: ...


class WatchedSession(LaneSession, Protocol):
    """A lane session that tells when it finds that it may own its lane no more."""

    on_lost: Callable[[], None]


class Watch(Protocol):
    """Who is told what a process does to the journal: the truth."""

    def acknowledged(self, places: Sequence[tuple[Place, int]]) -> None: ...

    def claims(self, process: Process, partition: int, since_s: float | None, is_confirmed: bool) -> None: ...


class ModelReader:
    """A cursor over places, of committed records; see `port.Reader`."""

    def __init__(self, site: Site, log: Log, process: Process, positions: dict[Place, int]) -> None:
        self._site = site
        self._process = process
        self._positions = positions
        self._partitions = {place: log.at(place) for place in positions}
        self._turn = 0

    def _has_news(self) -> bool:
        return any(
            at < partition.stable or at < partition.start
            for at, partition in zip(self._positions.values(), self._partitions.values(), strict=True)
        )

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        if await news(list(self._partitions.values()), self._has_news, timeout_s) is None:
            return []
        await sleep_us(self._site.way_us())
        if not self._site.is_reached_by(self._process):
            await sleep_us(self._process.true_us(min(timeout_s, UNREACHED_S)))
            return []
        found: list[Stored] = []
        read_to: dict[Place, int] = {}
        order = list(self._positions)
        self._turn = (self._turn + 1) % len(order)
        for place in order[self._turn :] + order[: self._turn]:
            records, read_to[place] = self._partitions[place].read(
                self._positions[place], max_records - len(found), committed=True
            )
            found += records
        self._positions.update(read_to)
        return found

    def positions(self) -> dict[Place, int]:
        return dict(self._positions)

    async def close(self) -> None:
        self._positions.clear()


class ModelJournal:
    """See `port.Journal`: that of one process."""

    def __init__(
        self,
        character: Character,
        groups: Callable[[str], Coordinator],
        process: Process,
        watch: Watch,
    ) -> None:
        self._character = character
        self._watch = watch
        self._memberships: list[ModelMembership] = []
        self._lost_s: dict[int, float] = {}
        self._groups = groups
        self._process = process

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        raise AssertionError("the simulation begins with all topics")

    async def partitions(self, topic: str) -> int | None:
        spec = self._character.log.specs.get(topic)
        return None if spec is None else spec.partitions

    async def append(self, records: Sequence[Record]) -> list[int]:
        stall_us = 0
        if any(record.topic == topics.RESULTS and b'"token"' in (record.value or b"") for record in records):
            stall_us = self._character.site.stall(self._process)
        offsets = await self._character.append(self._process, records, stall_us)
        self._watch.acknowledged(
            [(Place(record.topic, record.partition), at) for record, at in zip(records, offsets, strict=True)]
        )
        return offsets

    async def end_positions(self, places: Sequence[Place]) -> dict[Place, int]:
        log = self._character.log
        return await self._character.ask(self._process, lambda: {place: log.at(place).stable for place in places})

    async def reader(self, positions: Mapping[Place, int | None]) -> ModelReader:
        log = self._character.log
        starts = {place: log.at(place).start if at is None else at for place, at in positions.items()}
        return ModelReader(self._character.site, log, self._process, starts)

    async def join(self, group: str, topic: str) -> ModelMembership:
        spec = self._character.log.specs[topic]
        membership = ModelMembership(self._character.ask, self._groups(group), self._process, spec.partitions)
        await membership.enter()
        membership.on_assigned = self._lost_s.clear  # what it is given now is its own, whatever it had lost before
        self._memberships.append(membership)
        return membership

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> LaneSession:
        since_s = self._lost_s.pop(partition, None)
        is_confirmed = since_s is not None and any(each.confirmed_since(since_s) for each in self._memberships)
        self._watch.claims(self._process, partition, since_s, is_confirmed)
        session = await self._character.claim(self._process, partition, inputs, state)
        session.on_lost = lambda: self._lost_s.update({partition: self._process.monotonic_s()})
        return session

    async def close(self) -> None:
        pass
