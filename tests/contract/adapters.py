"""What the contract suite needs to know of an adapter, and the adapters without a broker.

Differences of ability are declared here and nowhere guessed: the tests do not know which adapter they test.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import apsw
import pytest
from contract.children import Child

from keylane.journal.memory import MemoryJournal, MemoryMembership, MemorySession, open_memory
from keylane.journal.port import Journal, LaneSession, Membership, Place, TopicSpec
from keylane.journal.sqlite_journal import SqliteJournal, SqliteSession
from keylane.journal.sqlite_log import find_topic

numbers = itertools.count()


class Doomed(Protocol):
    """A member of a group, in a process of its own where the adapter has several, that can be crashed."""

    async def holds(self) -> frozenset[int]:
        """Wait for its next assignment."""
        ...

    async def crash(self) -> None:
        """End it without a word to the group."""
        ...


class Adapter(Protocol):
    """One fresh log and the ways to do to it what a test cannot do through the port."""

    url: str
    """What any number of journals may connect to; of other processes too, where there are several."""

    prefix: str
    """What the names of topics and groups begin with, so that tests can share a broker."""

    async def doomed(self, group: str, topic: str) -> Doomed: ...

    async def forget(self, journal: Journal, place: Place, before: int) -> None:
        """Let retention take the records before an offset."""
        ...

    async def settled(self, journal: Journal, place: Place) -> None:
        """Wait until what was committed can be read: a broker answers before it has written its last marker."""
        ...

    def unknown_commit(self, session: LaneSession, *, written: bool) -> AbstractContextManager[None]:
        """Inside, the answer to the session's commit is lost; `written` says on which way."""
        ...

    async def settings(self, journal: Journal, topic: str) -> TopicSpec:
        """How the store itself describes a topic."""
        ...


class MemoryMember:
    """A doomed member in this process; the log gives it up at once."""

    def __init__(self, membership: Membership) -> None:
        assert isinstance(membership, MemoryMembership)
        self._membership = membership

    async def holds(self) -> frozenset[int]:
        assignment = await self._membership.changed(5)
        assert assignment is not None
        return assignment.partitions

    async def crash(self) -> None:
        self._membership.lapse()


class MemoryAdapter:
    prefix = ""

    def __init__(self) -> None:
        name = f"contract-{next(numbers)}"
        self.url = f"memory://{name}"
        self._held = open_memory(name)

    async def doomed(self, group: str, topic: str) -> Doomed:
        return MemoryMember(await self._held.join(group, topic))

    async def forget(self, journal: Journal, place: Place, before: int) -> None:
        self._held.log.forget(place, before)

    async def settled(self, journal: Journal, place: Place) -> None:
        return None

    @contextmanager
    def unknown_commit(self, session: LaneSession, *, written: bool) -> Iterator[None]:
        assert isinstance(session, MemorySession)
        self._held.log.break_next_commit(written=written)
        yield

    async def settings(self, journal: Journal, topic: str) -> TopicSpec:
        assert isinstance(journal, MemoryJournal)
        return journal.log.specs[topic]


class ChildMember:
    """A doomed member in a process of its own, ended by SIGKILL."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def holds(self) -> frozenset[int]:
        return frozenset(map(int, (await self._child.says()).split()))

    async def crash(self) -> None:
        await self._child.end()


class SqliteAdapter:
    prefix = ""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.path = folder / "journal" / "log.db"
        self.url = f"sqlite://{self.path}?session_timeout_ms=800"

    async def doomed(self, group: str, topic: str) -> Doomed:
        return ChildMember(await Child.start(self._stack, "member", self.url, group, topic))

    async def forget(self, journal: Journal, place: Place, before: int) -> None:
        """As the trimming itself does it: `test_sqlite_file.py` shows that this is what time does too."""
        assert isinstance(journal, SqliteJournal)
        found = journal.locate(*place)
        first = found.id << 40
        with apsw.Connection(str(self.path)) as store:
            store.set_busy_timeout(5000)
            store.execute("DELETE FROM records WHERE id >= ? AND id < ?", (first, first + before))
            store.execute("UPDATE places SET start = ? WHERE id = ?", (before, found.id))

    async def settled(self, journal: Journal, place: Place) -> None:
        return None

    @contextmanager
    def unknown_commit(self, session: LaneSession, *, written: bool) -> Iterator[None]:
        assert isinstance(session, SqliteSession)
        database = session.journal.writes
        commit = database.commit

        def broken() -> None:
            if written:
                commit()
            raise apsw.IOError("the disk's answer was lost")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "commit", broken)
            yield

    async def settings(self, journal: Journal, topic: str) -> TopicSpec:
        assert isinstance(journal, SqliteJournal)
        found = find_topic(journal.reads, topic)
        assert found is not None
        return found
