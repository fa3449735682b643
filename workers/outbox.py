"""The one writer of a worker process: everything that its sessions publish goes through here, in order.

What is waiting goes into one append, so all heartbeats of the process are one. Delivery is at least once: while
the journal is unavailable it tries again, asking the session before each try whether the record still counts.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import anyio

from keylane.journal import Journal, Record, TooLarge, Unavailable
from keylane.schemas import codec, topics
from keylane.schemas.results import WorkerHeartbeat
from keylane.schemas.times import rfc3339
from keylane.workers.session import Output, Publish, Session

log = logging.getLogger("keylane.workers")

BATCH_RECORDS_MAX = 500
AGAIN_S_MIN = 0.1
AGAIN_S_MAX = 2.0


class Letter:
    """A record on its way. `settled` is set when the journal has it (`error` None) or it was dropped."""

    def __init__(self, session: Session, partition: int, publish: Publish) -> None:
        self.session = session
        self.partition = partition
        self.publish = publish
        self.settled = anyio.Event()
        self.error: TooLarge | None = None


class Outbox:
    """Queue and writer. `answer(session, partition, outputs)` is handed what a session says to an acknowledgement."""

    def __init__(
        self,
        journal: Journal,
        source: str,
        now_ms: Callable[[], int],
        answer: Callable[[Session, int, list[Output]], object],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._source = source
        self._now_ms = now_ms
        self._answer = answer
        self._wall_s = wall_s
        self._queue: deque[Letter] = deque()
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._heartbeat_s = time.monotonic()

    def heartbeat_age_s(self) -> float:
        """How long no heartbeat has been acknowledged. May be asked from another thread."""
        return time.monotonic() - self._heartbeat_s

    def put(self, session: Session, partition: int, publish: Publish) -> Letter:
        """Queue a record for `partition` of `results`."""
        letter = Letter(session, partition, publish)
        self._queue.append(letter)
        self._filled.set()
        return letter

    async def flush(self) -> None:
        """Wait until nothing is queued or on its way. The caller bounds it."""
        while self._queue:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    async def deliver(self) -> None:
        """Write what is queued, until cancelled."""
        again_s = AGAIN_S_MIN
        while True:
            if not self._queue:
                self._emptied.set()
                self._filled = anyio.Event()
                await self._filled.wait()
            batch = self._next_batch()
            if not batch:
                continue
            try:
                await self._append(batch)
            except Unavailable as error:
                log.warning("the journal is unavailable, trying again in %.1f s: %s", again_s, error)
                await anyio.sleep(again_s)
                again_s = min(again_s * 2, AGAIN_S_MAX)
            else:
                again_s = AGAIN_S_MIN

    def _next_batch(self) -> list[Letter]:
        """The first letters that still count. They stay queued until the journal has them."""
        now_ms = self._now_ms()
        batch: list[Letter] = []
        for letter in [self._queue[i] for i in range(min(len(self._queue), BATCH_RECORDS_MAX))]:
            if letter.session.sending(letter.publish, now_ms):
                batch.append(letter)
            else:
                self._settle(letter)
        return batch

    async def _append(self, batch: list[Letter]) -> None:
        try:
            await self._journal.append([self._record(letter) for letter in batch])
        except TooLarge as error:
            if len(batch) == 1:
                log.error("%s was not taken: %s", type(batch[0].publish.record).__name__, error)
                batch[0].error = error
                batch[0].session.refused(batch[0].publish)
                self._settle(batch[0])
                return
            for letter in batch:  # nothing was written: find the one by itself
                await self._append([letter])
            return
        if any(isinstance(letter.publish.record, WorkerHeartbeat) for letter in batch):
            self._heartbeat_s = time.monotonic()
        for letter in batch:
            now_ms = self._now_ms()
            self._answer(letter.session, letter.partition, letter.session.acknowledged(letter.publish, now_ms))
            self._settle(letter)

    def _settle(self, letter: Letter) -> None:
        self._queue.remove(letter)
        letter.settled.set()

    def _record(self, letter: Letter) -> Record:
        publish = letter.publish
        headers = codec.headers(
            publish.record,
            id=f"{letter.session.id}-{publish.serial}",
            source=self._source,
            time=rfc3339(self._wall_s()),
            traceparent=publish.traceparent,
        )
        return Record(topics.RESULTS, letter.partition, publish.key.encode(), codec.encode(publish.record), headers)
