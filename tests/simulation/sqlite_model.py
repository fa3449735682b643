"""SQLite's honesty: one file, atomic commits, a claim that is checked in each, and a disk that may fail in one.

No request travels: what a process does to the file it does itself, so nothing arrives late; a process that is stopped
has written or has not. The outcome of a commit is unknown only where the disk failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from simulation.log_model import Log, polled
from simulation.process import Process
from simulation.tasks import sleep_us
from simulation.wire import Site, news

from keylane.journal.errors import JournalError, LaneLost, Unavailable
from keylane.journal.port import Place, Record, Stored
from keylane.journal.rules import refuse_large

T = TypeVar("T")


class OutcomeUnknown(JournalError):
    """The disk failed while it was written to."""


class SqliteModel:
    """See `journal_model.Character`."""

    def __init__(self, log: Log, site: Site) -> None:
        self.log = log
        self.site = site
        self.claims: dict[int, int] = {}
        self.on_astray: Callable[[int], None] = lambda partition: None

    async def ask(self, process: Process, apply: Callable[[], T]) -> T:
        return await self.site.in_the_process(process, apply)

    async def write(self, process: Process, records: Sequence[Record], check: Callable[[], None]) -> list[int]:
        """One commit. Raises what `check` does, `TooLarge`, `OutcomeUnknown` and `Unavailable`."""
        refuse_large(records, self.log.specs)
        dice, torn = self.site.dice, self.site.net.torn
        fails = bool(torn) and dice.random() < torn
        written = not fails or dice.random() < 0.5

        def apply() -> list[int]:
            check()
            offsets = self.log.add(records, process.name) if written else []
            if fails:
                raise OutcomeUnknown("disk I/O error")
            return offsets

        return await self.site.in_the_process(process, apply)

    async def append(self, process: Process, records: Sequence[Record], stall_us: int = 0) -> list[int]:
        try:
            return await self.write(process, records, lambda: None)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error

    def take(self, partition: int) -> int:
        """Claim it: whoever had it is fenced from here on."""
        self.claims[partition] = self.claims.get(partition, 0) + 1
        return self.claims[partition]

    async def claim(self, process: Process, partition: int, inputs: Sequence[str], state: str) -> SqliteSession:
        number = await self.ask(process, lambda: self.take(partition))
        return SqliteSession(self, process, number, Place(state, partition), inputs)


class SqliteSession:
    """See `port.LaneSession`."""

    def __init__(self, model: SqliteModel, process: Process, number: int, state: Place, inputs: Sequence[str]) -> None:
        self.partition = state.partition
        self._model = model
        self._process = process
        self._number = number
        self._state = state
        self._places = {topic: model.log.at(Place(topic, state.partition)) for topic in inputs}
        self._positions = {topic: place.start for topic, place in self._places.items()}
        self._usable = True
        self.on_lost: Callable[[], None] = lambda: None

    def _check_claim(self) -> None:
        if self._model.claims[self.partition] != self._number:
            self.on_lost()
            raise LaneLost(f"partition {self.partition} was claimed by another", fenced=True)

    def _check(self) -> None:
        if not self._usable:
            raise LaneLost(f"partition {self.partition}: this session ended; claim it again", fenced=False)
        self._check_claim()

    async def load(self) -> list[Stored]:
        self._check()
        found = list(self._model.log.at(self._state).newest.values())
        await sleep_us(self._model.site.way_us())
        self._check()
        return found

    async def seek(self, positions: Mapping[str, int]) -> dict[str, int]:
        for topic, place in self._places.items():
            self._positions[topic] = positions.get(topic, place.start)
            place.check(self._positions[topic])
        return dict(self._positions)

    def _has_news(self) -> bool:
        if self._model.claims[self.partition] != self._number:
            return True
        return any(
            at < self._places[topic].end or at < self._places[topic].start for topic, at in self._positions.items()
        )

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        if await news(list(self._places.values()), self._has_news, timeout_s) is None:
            return []
        await sleep_us(self._model.site.way_us())
        self._check()
        return polled(self._places, self._positions, max_records, committed=True)

    def positions(self) -> dict[str, int]:
        return dict(self._positions)

    async def high_watermarks(self) -> dict[str, int]:
        return {topic: place.end for topic, place in self._places.items()}

    async def append(self, records: Sequence[Record]) -> None:
        await self._model.append(self._process, records)

    async def commit(self, records: Sequence[Record]) -> None:
        assert all(record.partition == self.partition for record in records), "a lane writes its own number"
        if not self._usable:
            raise LaneLost(f"partition {self.partition}: this session ended; claim it again", fenced=False)
        self._usable = False  # until it is known that all was written
        self._model.site.stall(self._process)
        try:
            await self._model.write(self._process, records, self._check_claim)
        except OutcomeUnknown as unknown:
            self.on_lost()
            raise LaneLost(f"partition {self.partition}: {unknown}", fenced=False) from unknown
        self._usable = True

    async def close(self) -> None:
        self._usable = False
