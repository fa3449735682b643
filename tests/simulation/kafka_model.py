"""Kafka's honesty: high watermark and last stable offset, producer epochs, unknown outcomes, late requests.

Its session keeps the rules of `journal/_kafka_lane.py` (docs/decisions/kafka-adapter.md, R1 to R5), over a
coordinator that behaves as a broker's does (kafka-facts): a claim aborts the open transaction of whoever was before,
a transaction that takes too long is aborted and its producer fenced, an unanswered request may still arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from simulation.log_model import ABORTED, COMMITTED, OPEN, Log, Transaction, polled
from simulation.process import SECOND_US, Process
from simulation.tasks import sleep_us
from simulation.wire import Site, news

from keylane.journal.errors import JournalError, LaneLost, TooLarge, Unavailable
from keylane.journal.port import Place, Record, Stored
from keylane.journal.rules import refuse_large

T = TypeVar("T")

TRANSACTION_TIMEOUT_S = 3.0


class Fenced(JournalError):
    """The producer's epoch is over."""


class BatchFailed(JournalError):
    """One of a transaction's batches was not written."""


class Producer:
    """What the coordinator knows of a transactional id: its epoch, and the transaction that is open."""

    def __init__(self, log: Log, site: Site) -> None:
        self.epoch = 0
        self._log = log
        self._site = site
        self._open: Transaction | None = None
        self.on_astray: Callable[[], None] = lambda: None

    def begin_epoch(self) -> int:
        """InitProducerId: fences every earlier epoch and aborts what it left open."""
        self.epoch += 1
        if self._open is not None:
            self._decide(ABORTED)
        return self.epoch

    def produce(self, epoch: int, records: Sequence[Record], by: str) -> None:
        """Add the batches of a transaction. One of them may fail alone."""
        self._check(epoch)
        if self._open is None:
            self._open = Transaction(by)
            self._site.world.after(int(TRANSACTION_TIMEOUT_S * SECOND_US), self._time_out, self._open)
        failing: str | None = None
        if self._site.net.torn and self._site.dice.random() < self._site.net.torn:
            failing = self._site.dice.choice(sorted({record.topic for record in records}))
        self._log.add([record for record in records if record.topic != failing], by, self._open)
        if failing is not None:
            raise BatchFailed(failing)

    def end(self, epoch: int, state: str, meant: Transaction | None) -> None:
        """EndTxn. Of an epoch that is over it does nothing; else it ends what is open, whatever was meant."""
        self._check(epoch)
        if self._open is not None:
            if self._open is not meant:
                self.on_astray()
            self._decide(state)

    @property
    def under_way(self) -> Transaction | None:
        """The transaction that is open."""
        return self._open

    def _check(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise Fenced("the producer was fenced")

    def _time_out(self, transaction: Transaction) -> None:
        if self._open is transaction and transaction.state is OPEN:
            self.epoch += 1
            self._decide(ABORTED)

    def _decide(self, state: str) -> None:
        assert self._open is not None
        decided, self._open = self._open, None
        self._log.decide(decided, state)


class KafkaModel:
    """See `journal_model.Character`."""

    def __init__(self, log: Log, site: Site) -> None:
        self.log = log
        self.site = site
        self.producers: dict[int, Producer] = {}
        self.on_astray: Callable[[int], None] = lambda partition: None

    def producer(self, partition: int) -> Producer:
        found = self.producers.get(partition)
        if found is None:
            found = self.producers[partition] = Producer(self.log, self.site)
            found.on_astray = lambda: self.on_astray(partition)
        return found

    async def ask(self, process: Process, apply: Callable[[], T]) -> T:
        return await self.site.over_the_net(process, apply)

    async def commit(self, process: Process, apply: Callable[[], T]) -> T:
        """Send the end of a transaction: the process may be stopped with it half sent."""
        return await self.site.over_the_net(process, apply, stall_us=self.site.stall(process))

    async def append(self, process: Process, records: Sequence[Record], stall_us: int = 0) -> list[int]:
        refuse_large(records, self.log.specs)
        first = [record for record in records if record.partition == records[0].partition]
        # A batch a partition: some may be written where others are not, and the sender knows of none.
        half = (lambda: self.log.add(first, process.name)) if len(first) < len(records) else None
        return await self.site.over_the_net(process, lambda: self.log.add(records, process.name), half, stall_us)

    async def claim(self, process: Process, partition: int, inputs: Sequence[str], state: str) -> KafkaSession:
        producer = self.producer(partition)
        epoch = await self.ask(process, producer.begin_epoch)
        return KafkaSession(self, process, producer, epoch, Place(state, partition), inputs)


class KafkaSession:
    """See `port.LaneSession`."""

    def __init__(
        self, model: KafkaModel, process: Process, producer: Producer, epoch: int, state: Place, inputs: Sequence[str]
    ) -> None:
        self.partition = state.partition
        self._model = model
        self._process = process
        self._producer = producer
        self._epoch = epoch
        self._state = state
        self._positions = {topic: 0 for topic in inputs}
        self._places = {topic: model.log.at(Place(topic, state.partition)) for topic in inputs}
        self._lost: LaneLost | None = None
        self.on_lost: Callable[[], None] = lambda: None

    def _check(self) -> None:
        if self._lost is not None:
            raise LaneLost(f"the session is over: {self._lost}", fenced=self._lost.fenced)

    async def load(self) -> list[Stored]:
        self._check()
        state = self._model.log.at(self._state)
        return await self._model.ask(self._process, lambda: list(state.newest.values()))

    async def seek(self, positions: Mapping[str, int]) -> dict[str, int]:
        self._check()
        for topic, partition in self._places.items():
            self._positions[topic] = positions.get(topic, partition.start)
            partition.check(self._positions[topic])
        return dict(self._positions)

    def _has_news(self) -> bool:
        # Uncommitted: nothing of a lane's is written to its inputs, so a dead producer must not hide them.
        return any(
            at < self._places[topic].end or at < self._places[topic].start for topic, at in self._positions.items()
        )

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        self._check()
        site = self._model.site
        ends = await news(list(self._places.values()), self._has_news, timeout_s)
        if ends is None:
            return []
        await sleep_us(site.way_us())
        if not site.is_reached_by(self._process):
            await sleep_us(self._process.true_us(timeout_s))
            return []
        return polled(self._places, self._positions, max_records, committed=False, befores=ends)

    def positions(self) -> dict[str, int]:
        return dict(self._positions)

    async def high_watermarks(self) -> dict[str, int]:
        self._check()
        places = self._places
        return await self._model.ask(self._process, lambda: {topic: place.end for topic, place in places.items()})

    async def append(self, records: Sequence[Record]) -> None:
        self._check()
        await self._model.append(self._process, records)

    async def commit(self, records: Sequence[Record]) -> None:
        self._check()
        assert all(record.partition == self.partition for record in records), "a lane writes its own number"
        try:
            refuse_large(records, self._model.log.specs)
        except TooLarge as error:
            self._lost = LaneLost(f"an earlier commit failed: {error}", fenced=False)
            raise
        # Also where this task never comes back from it: the commit may land all the same.
        self._lost = LaneLost("a commit under way", fenced=False)
        try:
            await self.transact(records)
        except Fenced as error:
            self.on_lost()
            self._lost = LaneLost("claimed by another, or a transaction timed out", fenced=True)
            raise self._lost from error
        except (Unavailable, BatchFailed) as error:
            self.on_lost()
            self._lost = LaneLost(f"the outcome of a commit is unknown: {error}", fenced=False)
            raise self._lost from error
        self._lost = None

    async def transact(self, records: Sequence[Record]) -> None:
        """Every batch is awaited before the end (R2), and nothing that was not answered is asked again (R1)."""
        model, producer, epoch = self._model, self._producer, self._epoch
        try:
            await model.ask(self._process, lambda: producer.produce(epoch, records, self._process.name))
        except BatchFailed:
            meant = producer.under_way
            await model.ask(self._process, lambda: producer.end(epoch, ABORTED, meant))
            raise
        meant = producer.under_way
        await model.commit(self._process, lambda: producer.end(epoch, COMMITTED, meant))

    async def close(self) -> None:
        if self._lost is None:
            self._lost = LaneLost("the session is closed", fenced=False)
