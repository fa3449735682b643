"""Where a server keeps the highest token of each resource: in memory, or in a database.

A server's check and its effect are no one transaction, so a store keeps others out of a resource while one is at work:
else a request that has passed and was then slow would still act after one with a higher token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from keylane.guards.sql import Connection, SqlGuard
from keylane.guards.tokens import Busy, StaleToken, check_resource, check_token

WAIT_S = 30.0
RESOURCES_MAX = 1_000_000


class Tokens(Protocol):
    """The highest token of each resource."""

    def holding(self, resource: str, token: int) -> AbstractContextManager[None]:
        """Entered when `token` has passed and is remembered; until it is left nobody else passes for `resource`.

        What has passed is remembered for good before the body begins, however the body ends. Raises StaleToken,
        Unusable, and Busy where the one at work does not end in time.
        """
        ...


class MemoryTokens:
    """For a server of one process. Another process, or the same one started anew, knows nothing of what passed here.

    A resource is never forgotten: beyond `resources_max` new ones are refused as Busy.
    """

    def __init__(self, *, wait_s: float = WAIT_S, resources_max: int = RESOURCES_MAX) -> None:
        self._wait_s = wait_s
        self._resources_max = resources_max
        self._changed = threading.Condition()
        self._highest: dict[str, int] = {}
        self._at_work: set[str] = set()

    def highest(self, resource: str) -> int | None:
        """The highest token that was let pass."""
        return self._highest.get(resource)

    @contextmanager
    def holding(self, resource: str, token: int) -> Iterator[None]:
        """As `Tokens.holding`; waits at most `wait_s`."""
        check_token(token)
        check_resource(resource)
        with self._changed:
            if not self._changed.wait_for(lambda: resource not in self._at_work, self._wait_s):
                raise Busy(f"another request on {resource!r} has been at work for {self._wait_s:g} s")
            self._admit(resource, token)
            self._at_work.add(resource)
        try:
            yield
        finally:
            with self._changed:
                self._at_work.remove(resource)
                self._changed.notify_all()

    def _admit(self, resource: str, token: int) -> None:
        highest = self._highest.get(resource, 0)
        if token < highest:
            raise StaleToken(resource, token, highest)
        if not highest and len(self._highest) >= self._resources_max:
            raise Busy(f"tokens of {self._resources_max} resources are remembered here, which is all that may be")
        self._highest[resource] = token


class SqlTokens:
    """For servers of any number of processes: the table of `guard`, through connections from `connect`.

    Each use opens a connection, whose transactions must not be committed by themselves (`autocommit`), and closes it.
    It keeps the resource's row locked meanwhile; a database that knows no locks of rows, as SQLite, is then locked for
    all that write to it. How long others wait, and the error that ends it, are the database's (`timeout` of sqlite3,
    `lock_timeout` of PostgreSQL).
    """

    def __init__(self, guard: SqlGuard, connect: Callable[[], Connection]) -> None:
        self._guard = guard
        self._connect = connect

    @contextmanager
    def holding(self, resource: str, token: int) -> Iterator[None]:
        """As `Tokens.holding`; the driver's errors come as they are, before the body begins."""
        connection = self._connect()
        try:
            # Remembered first, in a transaction of its own: the effect stays though this process dies before the end.
            self._guard.check(connection, resource, token)
            connection.commit()
            # A higher one may have come in between.
            self._guard.check(connection, resource, token)
            yield
        finally:
            try:
                connection.rollback()
            finally:
                connection.close()
