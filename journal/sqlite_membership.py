"""One member of a group in the SQLite journal: the tasks' side of `groups.py` over `sqlite_groups.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import anyio

from . import sqlite_groups
from .errors import Unavailable
from .groups import GroupView, Member, Move
from .port import Assignment
from .sqlite import Database
from .sqlite_groups import Heartbeats
from .sqlite_watch import Watch, group_key

T = TypeVar("T")


class Home(Protocol):
    """What a member needs of the journal that it belongs to."""

    reads: Database
    watch: Watch
    heartbeats: Heartbeats
    boot: str
    session_timeout_ms: int

    async def transact(self, work: Callable[[Database], T]) -> T:
        """Run `work` in a transaction of its own."""
        ...


class SqliteMembership:
    """See `port.Membership`. It keeps itself alive (`sqlite_watch.py`), called upon or not."""

    def __init__(self, journal: Home, group: str, partitions: int) -> None:
        self._journal = journal
        self._group = group
        self._partitions = partitions
        self._left = False

    async def enter(self) -> None:
        """Join, or join anew after the session lapsed."""
        journal = self._journal
        number = await journal.transact(
            lambda db: sqlite_groups.join(db, self._group, journal.boot, journal.session_timeout_ms)
        )
        self._member = Member(number)
        self._key = group_key(sqlite_groups.group_number(journal.reads, self._group))
        journal.heartbeats.add(number, self._group)

    async def changed(self, timeout_s: float) -> Assignment | None:
        deadline_s = anyio.current_time() + timeout_s
        while not self._left:
            with self._journal.watch.interest([self._key]) as moved:
                view = self._view()
                move = self._member.next_move(view)
                if isinstance(move, Assignment):
                    return move
                if move is Move.WAIT:
                    if anyio.current_time() >= deadline_s:
                        return None
                    with anyio.move_on_at(deadline_s):
                        await moved.wait()
                    continue
            if move is Move.JOIN:
                self._journal.heartbeats.remove(self._member.number)
                await self.enter()
            else:
                await self._agree(view.generation)
        raise Unavailable("this member has left its group")

    def _view(self) -> GroupView:
        db = self._journal.reads
        with db.snapshot():
            return sqlite_groups.view(db, self._group, self._partitions)

    async def _agree(self, generation: int) -> None:
        number = self._member.number
        await self._journal.transact(lambda db: sqlite_groups.agree(db, self._group, number, generation))

    def confirmed_since(self, since_s: float) -> bool:
        return self._journal.heartbeats.confirmed_since(self._member.number, since_s)

    async def leave(self) -> None:
        self._left = True
        number = self._member.number
        self._journal.heartbeats.remove(number)
        await self._journal.transact(lambda db: sqlite_groups.leave(db, self._group, number))
