"""All sessions of one worker process, and the handlers that work for them: carries out what the sessions say.

It decides nothing about leases or numbers (`session`), and reads nothing from the journal (`reading`, `group`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup

from keylane.journal import Assignment, Journal
from keylane.schemas.items import ItemRecord, WorkItem
from keylane.schemas.results import Completed, Failed, Progress
from keylane.workers.handler import Handler, failed, work
from keylane.workers.holding import SessionHolding
from keylane.workers.metrics import WorkerMetrics
from keylane.workers.outbox import Letter, Outbox
from keylane.workers.session import Cancel, Output, Over, Publish, Session, Start, Warn

log = logging.getLogger("keylane.workers")

TICK_S_MAX = 1.0
"""The event loop's timers rest while the machine is suspended, so the clock is looked at this often."""
TICK_S_MIN = 0.01
REJOIN_MS_MIN = 100
REJOIN_MS_MAX = 30_000


def new_id() -> str:
    """A session id that no other has."""
    return uuid4().hex


class Settings(NamedTuple):
    """What a worker process is."""

    pool: str
    name: str
    slots: int
    handlers: Mapping[str, Handler]
    now_ms: Callable[[], int]
    """A clock that counts suspend."""
    metrics: WorkerMetrics
    wall_s: Callable[[], float] = time.time
    """For the times in records, which are for people."""
    new_id: Callable[[], str] = new_id

    def actions(self) -> tuple[str, ...]:
        """What it handles, sorted."""
        return tuple(sorted(self.handlers))


@dataclass
class Post:
    """A partition that this process is given: its session, and when to join anew if that has ended."""

    session: Session
    joined_ms: int
    rejoin_gap_ms: int = REJOIN_MS_MIN
    rejoin_ms: int | None = None


class Crew:
    """The sessions by id, with their partitions; those that drain after a partition was lost are here too."""

    def __init__(self, journal: Journal, settings: Settings, tasks: TaskGroup) -> None:
        source = f"keylane/worker/{settings.name}"
        self.outbox = Outbox(journal, source, settings.now_ms, self.carry_out, settings.wall_s)
        self.places_changed = anyio.Event()
        self._settings = settings
        self._now_ms = settings.now_ms
        self._tasks = tasks
        self._sessions: dict[str, tuple[Session, int]] = {}
        self._posts: dict[int, Post] = {}
        self._generation = 0
        self._holdings: dict[tuple[str, int], SessionHolding] = {}
        self._changed = anyio.Event()
        self._over = anyio.Event()
        metrics = settings.metrics
        metrics.watch("slots_used", "Items that are being handled.", lambda: len(self._holdings))
        metrics.watch("partitions", "Partitions that the group gave it.", lambda: len(self._posts))
        metrics.watch("sessions", "Sessions that are open.", self._open_sessions)
        metrics.watch("heartbeat_age_seconds", "Since a heartbeat was acknowledged.", self.outbox.heartbeat_age_s)

    def why_unready(self) -> list[str]:
        """What keeps it from taking items on every partition that it was given. Also asked from other threads."""
        if not self._generation:
            return ["not in its group yet"]
        closed = sorted(number for number, post in self._posts.copy().items() if not post.session.is_open)
        return [f"its session on partition {number} is not open" for number in closed]

    def _open_sessions(self) -> int:
        return sum(session.is_open for session, _ in list(self._sessions.values()))

    def places(self) -> frozenset[int]:
        """The partitions whose items are to be read."""
        return frozenset(self._posts) | frozenset(partition for _, partition in self._sessions.values())

    def threads_left(self) -> int:
        """How many handlers in threads have not returned."""
        return sum(not holding.is_async for holding in self._holdings.values())

    def assign(self, assignment: Assignment) -> None:
        """Part from what was lost, join what was gained. A session that goes on keeps its generation.

        Where a generation was missed every session is made anew: another process may have joined the partition
        meanwhile, and the lane goes on with the highest generation.
        """
        kept = assignment.partitions if assignment.generation <= self._generation + 1 else frozenset[int]()
        self._generation = assignment.generation
        for partition in self._posts.keys() - kept:
            session = self._posts.pop(partition).session
            self.carry_out(session, partition, session.drain(self._now_ms()))
        share = max(1, self._settings.slots // max(1, len(assignment.partitions)))
        for post in self._posts.values():
            post.session.slots = share
        for partition in sorted(assignment.partitions - self._posts.keys()):
            session = self._join(partition, share)
            self._posts[partition] = Post(session, self._now_ms())
        self.places_changed.set()

    def received(self, partition: int, record: ItemRecord, traceparent: str | None) -> None:
        """A record of the pool's topic."""
        known = self._sessions.get(record.session)
        if known is not None and known[1] == partition:
            self.carry_out(*known, known[0].received(record, traceparent, self._now_ms()))

    def lose_all(self, reason: str) -> None:
        """Item records may have been missed: every session lets go and joins anew."""
        for session, partition in list(self._sessions.values()):
            self.carry_out(session, partition, session.lose(reason, self._now_ms()))

    async def drain(self) -> None:
        """Take nothing more and wait until all that is held is finished. The caller bounds it."""
        self.assign(Assignment(self._generation, frozenset()))
        while self._sessions:
            self._over = anyio.Event()
            await self._over.wait()

    def leave(self) -> None:
        """End every session now; handlers that still run are cancelled."""
        for session, partition in list(self._sessions.values()):
            log.warning("handlers did not finish in time", extra={"partition": partition, "session": session.id})
            self.carry_out(session, partition, session.leave(self._now_ms()))

    async def tick(self) -> None:
        """Let the sessions do what is due, until cancelled."""
        while True:
            self._changed = anyio.Event()
            for session, partition in list(self._sessions.values()):
                self.carry_out(session, partition, session.tick(self._now_ms()))
            for partition, post in self._posts.items():
                if post.rejoin_ms is not None and self._now_ms() >= post.rejoin_ms:
                    post.rejoin_ms, post.joined_ms = None, self._now_ms()
                    post.session = self._join(partition, post.session.slots)
            due = [due_ms for session, _ in self._sessions.values() if (due_ms := session.next_due_ms()) is not None]
            due += [post.rejoin_ms for post in self._posts.values() if post.rejoin_ms is not None]
            wait_s = (min(due) - self._now_ms()) / 1000 if due else TICK_S_MAX
            with anyio.move_on_after(min(max(wait_s, TICK_S_MIN), TICK_S_MAX)):
                await self._changed.wait()

    def carry_out(self, session: Session, partition: int, outputs: Sequence[Output]) -> list[Letter]:
        """Do what the session says; returns the letters that it led to."""
        letters: list[Letter] = []
        for output in outputs:
            match output:
                case Publish():
                    letters.append(self.outbox.put(session, partition, output))
                case Start():
                    self._start(session, partition, output)
                case Cancel():
                    log.warning("stops work: %s", output.reason, extra={"partition": partition, "token": output.token})
                    holding = self._holdings.get((session.id, output.token))
                    if holding is not None:
                        holding.cancel(output.reason)
                case Warn():
                    log.warning("%s", output.message, extra={"partition": partition, "token": output.token})
                case Over():
                    self._end(session, partition, output)
        if outputs:
            self._changed.set()
        return letters

    def _join(self, partition: int, slots: int) -> Session:
        settings = self._settings
        session = Session(
            settings.new_id(),
            pool=settings.pool,
            name=settings.name,
            actions=settings.actions(),
            generation=self._generation,
            slots=slots,
        )
        self._sessions[session.id] = (session, partition)
        self.carry_out(session, partition, [session.join(self._now_ms())])
        return session

    def _end(self, session: Session, partition: int, over: Over) -> None:
        del self._sessions[session.id]
        self._over.set()
        post = self._posts.get(partition)
        if post is None or post.session is not session or not over.rejoin:
            return
        log.warning("joining anew: %s", over.reason, extra={"partition": partition, "session": session.id})
        lasted_ms = self._now_ms() - post.joined_ms
        gap_ms = REJOIN_MS_MIN if lasted_ms >= REJOIN_MS_MAX else post.rejoin_gap_ms
        post.rejoin_ms = self._now_ms() + gap_ms
        post.rejoin_gap_ms = min(gap_ms * 2, REJOIN_MS_MAX)

    def _start(self, session: Session, partition: int, start: Start) -> None:
        item = start.item
        handler = self._settings.handlers.get(item.action)
        if handler is None:
            message = f"worker {self._settings.name} has no handler for {item.action!r}"
            self._report(session, partition, failed(item, self._settings.pool, "NO_HANDLER", message))
            return
        holding = SessionHolding(
            session,
            item,
            pool=self._settings.pool,
            is_async=handler.is_async,
            now_ms=self._now_ms,
            report=partial(self._report, session, partition),
        )
        self._holdings[session.id, item.token] = holding
        self._tasks.start_soon(self._work, session, partition, handler, start, holding)

    async def _work(
        self, session: Session, partition: int, handler: Handler, start: Start, holding: SessionHolding
    ) -> None:
        item: WorkItem = start.item
        pool = self._settings.pool
        began_s = time.monotonic()
        report: Completed | Failed | None = None
        with holding.scope:
            report = await work(handler, item, holding, pool=pool, traceparent=start.traceparent)
        del self._holdings[session.id, item.token]
        self._settings.metrics.handled(item.action, report, began_s)
        if report is None:
            # Counts only where the lane asked to stop: of an item that was lost nothing is published.
            report = failed(item, pool, "STOPPED", "stopped as asked", final=True)
        self._report(session, partition, report)

    def _report(self, session: Session, partition: int, report: Progress | Completed | Failed) -> Letter | None:
        letters = self.carry_out(session, partition, session.report(report, self._now_ms()))
        return next((letter for letter in letters if letter.publish.record is report), None)
