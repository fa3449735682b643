"""The SQLite journal: one file, several processes of one machine. The tasks' side of it.

Reads run in the event loop: they are answered from the page cache and bounded by records and bytes. Commits
run in a worker thread, one at a time: the hop costs 0.06 ms of 0.26 and more on a busy machine, and buys that a
slow disk or another process's write lock stops nobody else, and that what arrives meanwhile shares the next
commit (group commit).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

import anyio
import anyio.lowlevel
import anyio.to_thread

from . import sqlite_checks, sqlite_groups, sqlite_log
from .errors import BadUrl, JournalError, LaneLost, Unavailable
from .port import Place, Record, Stored, TopicSpec
from .rules import poll_limit, refuse_large
from .sqlite import Database, OutcomeUnknown, existing_file, prepare_file
from .sqlite_groups import Heartbeats
from .sqlite_log import Claim, Job, Located
from .sqlite_membership import SqliteMembership
from .sqlite_watch import Watch
from .upkeep import Finding, Need, TopicState

T = TypeVar("T")

SESSION_TIMEOUT_MS = 6_000
"""How long a member may be silent before its partitions go to others."""
BEATS_PER_TIMEOUT = 4
JOBS_PER_COMMIT = 1_000


async def open_sqlite(target: str, *, create: bool = True) -> SqliteJournal:
    """Open the journal `PATH[?session_timeout_ms=NUMBER]`, made if it is missing; the time is for those who
    join here.

    Raises `BadUrl` (a network file system, another program's file, another schema), `Unavailable`, and `NoJournal`
    where it is missing and not to be made.
    """
    path, _, query = target.partition("?")
    if not path:
        raise BadUrl("sqlite:// names no file: use sqlite:///absolute/path or sqlite://relative/path")
    session_timeout_ms = SESSION_TIMEOUT_MS
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "session_timeout_ms" or not value.isdecimal():
            raise BadUrl(f"sqlite:// takes session_timeout_ms=NUMBER, not {name}={value}")
        session_timeout_ms = int(value)
    file = await anyio.to_thread.run_sync(prepare_file if create else existing_file, path)
    return SqliteJournal(file, session_timeout_ms)


class _Waiter:
    """A job on its way into a commit, and the task that waits for it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = False
        self.turn = anyio.Event()


class SqliteJournal:
    """See `port.Journal`; made by `open_sqlite`."""

    def __init__(self, path: Path, session_timeout_ms: int) -> None:
        self.path = path
        self.writes = Database(path)
        self.writes.create(sqlite_log.SCHEMA)
        self.reads = Database(path)
        self.boot = sqlite_groups.boot_name()
        self.session_timeout_ms = session_timeout_ms
        self.heartbeats = Heartbeats(self.boot)
        self.watch = Watch(path, self.heartbeats, session_timeout_ms / 1000 / BEATS_PER_TIMEOUT)
        self._located: dict[tuple[str, int], Located] = {}
        self._pending: dict[_Waiter, None] = {}
        self._committing = False
        # Of its own, so that handlers which fill anyio's threads cannot hold up commits; and it is the lock
        # of `writes`.
        self._one_thread = anyio.CapacityLimiter(1)

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        def create(db: Database) -> None:
            for spec in specs:
                sqlite_log.create_topic(db, spec)

        await self.transact(create)

    async def partitions(self, topic: str) -> int | None:
        spec = sqlite_log.find_topic(self.reads, topic)
        return None if spec is None else spec.partitions

    async def topic_names(self) -> list[str]:
        return sqlite_log.topic_names(self.reads)

    async def compare(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        return [sqlite_log.compare(self.reads, spec) for spec in specs]

    async def alter(self, spec: TopicSpec, settings: Collection[str]) -> None:
        await self.transact(lambda db: sqlite_log.alter(db, spec, settings))
        self._located.clear()  # they hold the settings

    async def members(self, group: str) -> int | None:
        return sqlite_groups.alive(self.reads, group, self.boot)

    async def checks(self, advance: Callable[[int], None]) -> list[Finding]:
        return await anyio.to_thread.run_sync(sqlite_checks.checks, self.path, advance)

    async def rights(self, needs: Sequence[Need]) -> list[Finding]:
        return [sqlite_checks.rights(self.path)]

    async def append(self, records: Sequence[Record]) -> list[int]:
        return await self.write(records, None)

    async def end_positions(self, places: Sequence[Place]) -> dict[Place, int]:
        with self.reads.snapshot():
            return {place: sqlite_log.bounds(self.reads, self.locate(*place))[1] for place in places}

    async def reader(self, positions: Mapping[Place, int | None]) -> SqliteReader:
        with self.reads.snapshot():
            starts = {}
            for place, position in positions.items():
                located = self.locate(*place)
                starts[located] = sqlite_log.bounds(self.reads, located)[0] if position is None else position
        return SqliteReader(self, starts)

    async def join(self, group: str, topic: str) -> SqliteMembership:
        partitions = await self.partitions(topic)
        if partitions is None:
            raise Unavailable(f"there is no topic {topic} to share: create the topics first")
        membership = SqliteMembership(self, group, partitions)
        await membership.enter()
        return membership

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> SqliteSession:
        lane = self.locate(state, partition)
        places = [self.locate(topic, partition) for topic in inputs]
        claim = await self.transact(lambda db: sqlite_log.claim(db, state, partition))
        return SqliteSession(self, claim, lane, places)

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.watch.close, limiter=self._one_thread)
            await anyio.to_thread.run_sync(self.writes.close, limiter=self._one_thread)
            self.reads.close()

    def locate(self, topic: str, partition: int) -> Located:
        """The tables' own number of a partition; it never changes, so it is looked up once."""
        found = self._located.get((topic, partition))
        if found is None:
            found = self._located[topic, partition] = sqlite_log.locate(self.reads, topic, partition)
        return found

    async def transact(self, work: Callable[[Database], T]) -> T:
        """Run `work` in a transaction of its own, in the writing thread."""

        def run() -> T:
            with self.writes.write():
                return work(self.writes)

        with anyio.CancelScope(shield=True):
            result = await anyio.to_thread.run_sync(run, limiter=self._one_thread)
        return result

    async def write(self, records: Sequence[Record], claim: Claim | None) -> list[int]:
        """Write the records in a commit shared with whoever writes now; returns their offsets.

        Raises `TooLarge`, `LaneLost` (the claim is fenced), `OutcomeUnknown` and `Unavailable`.
        """
        places = [self.locate(record.topic, record.partition) for record in records]
        refuse_large(records, {place.spec.name: place.spec for place in places})
        waiter = _Waiter(Job(places, records, claim))
        self._pending[waiter] = None
        try:
            while not waiter.done:
                if self._committing:
                    waiter.turn = anyio.Event()
                    await waiter.turn.wait()
                else:
                    await self._commit_pending()
        finally:
            # Cancelled before its commit began: it is not written. If it was its turn to begin the next
            # commit, the turn goes on to another.
            self._pending.pop(waiter, None)
            self._pass_turn()
        if waiter.job.error is not None:
            raise waiter.job.error
        assert waiter.job.offsets is not None
        return waiter.job.offsets

    async def _commit_pending(self) -> None:
        waiters = list(self._pending)[:JOBS_PER_COMMIT]
        jobs = [waiter.job for waiter in waiters]
        for waiter in waiters:
            del self._pending[waiter]
        self._committing = True
        try:
            with anyio.CancelScope(shield=True):
                ends = await anyio.to_thread.run_sync(
                    sqlite_log.write_jobs, self.writes, jobs, limiter=self._one_thread
                )
            self.watch.moved(ends)
        except JournalError as error:
            for job in jobs:
                # Each task raises one of its own: a traceback shared between tasks would grow with each.
                job.error = job.error or type(error)(*error.args)
        finally:
            self._committing = False
            for waiter in waiters:
                waiter.done = True
                waiter.turn.set()
            self._pass_turn()

    def _pass_turn(self) -> None:
        if self._pending and not self._committing:
            next(iter(self._pending)).turn.set()

    async def poll(self, places: Sequence[Located], read: Callable[[], list[Stored]], timeout_s: float) -> list[Stored]:
        """What `read` finds in the places, waiting for it until `timeout_s` has passed."""
        # A reader that always finds something must let other tasks run.
        await anyio.lowlevel.checkpoint()
        if timeout_s <= 0:
            return read()
        keys = [place.id for place in places]
        found: list[Stored] = []
        with anyio.move_on_after(timeout_s):
            while not found:
                with self.watch.interest(keys) as moved:
                    found = read()
                    if not found:
                        await moved.wait()
        return found


class SqliteReader:
    """A cursor over places; see `port.Reader`. Partitions take turns at being first."""

    def __init__(self, journal: SqliteJournal, positions: dict[Located, int]) -> None:
        self._journal = journal
        self._positions = positions
        self._turn = 0

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        return await self._journal.poll(list(self._positions), lambda: self._read(max_records), timeout_s)

    def _read(self, max_records: int) -> list[Stored]:
        db = self._journal.reads
        order = sqlite_log.with_news(db, self._positions)
        if not order:
            return []
        found: list[Stored] = []
        read_to: dict[Located, int] = {}
        self._turn = (self._turn + 1) % len(order)
        with db.snapshot():
            for place in order[self._turn :] + order[: self._turn]:
                records, read_to[place] = sqlite_log.read(db, place, self._positions[place], max_records - len(found))
                found += records
        self._positions.update(read_to)  # not before: a lost position must not lose what was read beside it
        return found

    def positions(self) -> dict[Place, int]:
        return {Place(place.spec.name, place.partition): at for place, at in self._positions.items()}

    async def close(self) -> None:
        self._positions.clear()


class SqliteSession:
    """The right to one partition number; see `port.LaneSession`."""

    def __init__(self, journal: SqliteJournal, claim: Claim, lane: Located, inputs: Sequence[Located]) -> None:
        self.partition = claim.partition
        self.journal = journal
        self._claim = claim
        self._lane = lane
        self._inputs = {place: sqlite_log.bounds(journal.reads, place)[0] for place in inputs}
        self._usable = True

    def _check(self) -> None:
        if not self._usable:
            raise LaneLost(f"partition {self.partition}: this session ended; claim it again", fenced=False)
        sqlite_log.check_claim(self.journal.reads, self._claim)

    async def load(self) -> list[Stored]:
        self._check()
        found: list[Stored] = []
        # In pages, so that other tasks run in between. They need not be of one moment: only this session may
        # write here, and if it is fenced meanwhile, what it loaded is of no use anyhow.
        while page := sqlite_log.load_page(self.journal.reads, self._lane, found[-1].offset + 1 if found else 0):
            found += page
            await anyio.lowlevel.checkpoint()
        self._check()
        return found

    async def seek(self, positions: Mapping[str, int]) -> dict[str, int]:
        db = self.journal.reads
        for place in self._inputs:
            position = positions.get(place.spec.name, sqlite_log.bounds(db, place)[0])
            sqlite_log.check_position(db, place, position)
            self._inputs[place] = position
        return {place.spec.name: position for place, position in self._inputs.items()}

    async def poll(self, max_records: int, timeout_s: float) -> list[Stored]:
        return await self.journal.poll(list(self._inputs), lambda: self._read(max_records), timeout_s)

    def _read(self, max_records: int) -> list[Stored]:
        self._check()
        db = self.journal.reads
        if not sqlite_log.with_news(db, self._inputs):
            return []
        found: list[Stored] = []
        counts: list[int] = []
        read_to: dict[Located, int] = {}
        with db.snapshot():  # so that nothing expires between the look at the log's start and the reading
            for place, position in self._inputs.items():
                limit = poll_limit(max_records, counts, len(self._inputs))
                records, read_to[place] = sqlite_log.read(db, place, position, limit)
                counts.append(len(records))
                found += records
        self._inputs.update(read_to)
        return found

    def positions(self) -> dict[str, int]:
        return {place.spec.name: position for place, position in self._inputs.items()}

    async def high_watermarks(self) -> dict[str, int]:
        db = self.journal.reads
        return {place.spec.name: sqlite_log.bounds(db, place)[1] for place in self._inputs}

    async def append(self, records: Sequence[Record]) -> None:
        await self.journal.write(records, None)

    async def commit(self, records: Sequence[Record]) -> None:
        assert all(record.partition == self.partition for record in records), "a lane writes its own number"
        if not self._usable:
            raise LaneLost(f"partition {self.partition}: this session ended; claim it again", fenced=False)
        self._usable = False  # until it is known that all was written
        try:
            await self.journal.write(records, self._claim)
        except OutcomeUnknown as unknown:
            raise LaneLost(f"partition {self.partition}: {unknown}", fenced=False) from unknown
        self._usable = True

    async def close(self) -> None:
        self._usable = False
