"""Bugs for turns, lane tasks, the journal, workers and clients, each as what it changes (`planted.BUGS`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulation.kafka_model import BatchFailed, KafkaSession, Producer
from simulation.log_model import COMMITTED
from simulation.process import current
from simulation.sqlite_model import SqliteSession

from keylane import lock_machine
from keylane.journal.errors import Unavailable
from keylane.journal.port import Record
from keylane.lock_machine import LockMachine
from keylane.router import lane_task
from keylane.router.clock import LaneClock
from keylane.router.lane_task import LaneTask
from keylane.router.turn import LaneTurns
from keylane.schemas import topics
from keylane.schemas.results import Progress
from keylane.ticket import TicketMachine
from keylane.workers import lease, session
from keylane.workers.session import Session

Patches = list[tuple[Any, Any, Any]]


def timers_do_not_wait() -> Patches:
    return [(LaneTurns, "_has_reached", lambda self, target: True)]


def positions_first() -> Patches:
    commit = LaneTurns._commit

    async def in_two(self: LaneTurns, records: list[Record], turn_s: float) -> None:
        mine = [record for record in records if record.topic == topics.STATE and record.key == b"lane"]
        if self.lane.outputs:
            await self._session.commit(mine)
        await commit(self, records, turn_s)

    return [(LaneTurns, "_commit", in_two)]


def clock_runs_unowned() -> Patches:
    real = LaneClock

    def ahead(saved_ms: int, *clocks: Any) -> Any:
        """As if the time since the last commit had been added, by a wall clock, say."""
        return real(saved_ms + 5_000 if saved_ms else 0, *clocks)

    return [(lane_task, "LaneClock", ahead)]


def claims_at_once() -> Patches:
    async def at_once(self: LaneTask) -> None:
        return

    return [(LaneTask, "_confirm", at_once)]


def forwards_lost() -> Patches:
    commit = LaneTurns._commit

    async def without(self: LaneTurns, records: list[Record], turn_s: float) -> None:
        self.lane.forwards.clear()
        await commit(self, records, turn_s)

    return [(LaneTurns, "_commit", without)]


def sends_not_awaited() -> Patches:
    async def transact(self: KafkaSession, records: Sequence[Record]) -> None:
        """R2 broken: a batch that failed is not noticed."""
        model, producer, epoch = self._model, self._producer, self._epoch
        try:
            await model.ask(self._process, lambda: producer.produce(epoch, records, self._process.name))
        except BatchFailed:
            pass
        await model.ask(self._process, lambda: producer.end(epoch, COMMITTED, producer.under_way))

    return [(KafkaSession, "transact", transact)]


def end_asked_again() -> Patches:
    async def transact(self: KafkaSession, records: Sequence[Record]) -> None:
        """R1 broken: an end without an answer is asked again, and the first may arrive in the next transaction."""
        model, producer, epoch = self._model, self._producer, self._epoch
        await model.ask(self._process, lambda: producer.produce(epoch, records, self._process.name))
        meant = producer.under_way
        for _ in range(3):
            try:
                await model.commit(self._process, lambda: producer.end(epoch, COMMITTED, meant))
                return
            except Unavailable:
                continue
        raise Unavailable("no answer")

    return [(KafkaSession, "transact", transact)]


def last_stable_offset() -> Patches:
    async def stable(self: KafkaSession) -> dict[str, int]:
        return {topic: place.stable for topic, place in self._places.items()}

    async def poll(self: KafkaSession, max_records: int, timeout_s: float) -> Any:
        records = await right(self, max_records, timeout_s)
        seen = [record for record in records if record.offset < self._places[record.topic].stable]
        for topic, place in self._places.items():
            self._positions[topic] = min(self._positions[topic], place.stable)
        return seen

    right = KafkaSession.poll
    return [(KafkaSession, "high_watermarks", stable), (KafkaSession, "poll", poll)]


def stale_positions() -> Patches:
    def stale(seek: Any) -> Any:
        async def sought(self: Any, positions: Any) -> dict[str, int]:
            return await seek(self, {topic: max(0, at - 1) for topic, at in positions.items()})  # type: ignore[no-any-return]

        return sought

    return [(kind, "seek", stale(kind.seek)) for kind in (KafkaSession, SqliteSession)]


def claims_do_not_fence() -> Patches:
    return [(Producer, "_check", lambda self, epoch: None), (SqliteSession, "_check_claim", lambda self: None)]


def no_margin() -> Patches:
    def generous(lease_ms: int) -> int:
        return lease_ms + 1_500

    return [(lease, "usable_ms", generous), (session, "usable_ms", generous)]


def no_margin_for_locks() -> Patches:
    return [(lock_machine, "usable_ms", lambda lease_ms: lease_ms + 1_500)]


def lock_renewed_from_answer() -> Patches:
    renewed = LockMachine._renewed

    def late(self: LockMachine, event: Any) -> None:
        self._unanswered[event.renewal] = current().process.boot_ms() + 1_000
        renewed(self, event)

    return [(LockMachine, "_renewed", late)]


def renewed_from_answer() -> Patches:
    acknowledged = Session.acknowledged

    def late(self: Session, publish: Any, now_ms: int) -> Any:
        outputs = acknowledged(self, publish, now_ms)
        if isinstance(publish.record, Progress) and (held := self.held.get(publish.record.token)) is not None:
            held.renewed_ms = now_ms + 1_000
        if type(publish.record).__name__ == "WorkerHeartbeat":
            self._alive_ms = now_ms + 1_000
        return outputs

    return [(Session, "acknowledged", late)]


def ticket_takes_any_end() -> Patches:
    feed = TicketMachine.feed

    def fed(self: TicketMachine, event: Any) -> None:
        if type(event).__name__ == "Withdrawn" and self.status is not None and event.run == self.status.run:
            self._end(event.run, event.status, False)
            return
        feed(self, event)

    return [(TicketMachine, "feed", fed)]


def ends_with_its_last_record() -> Patches:
    """As it was before the simulation found it: what is read beyond the last record does not count."""
    return [(KafkaSession, "positions", lambda self: {})]
