"""The guard of SQL: a table of the highest token of each resource, checked in the transaction of the change itself.

Through any DB-API 2 connection (PEP 249). No driver is imported, and nothing is begun, committed or rolled back here:
token and change are one transaction, or the check is worth nothing.

A check passes by an UPDATE that found the row, or by the INSERT of a resource's first token, and by nothing that was
merely read: the row is locked from then on until the transaction ends, so of two at once the later sees what the
earlier committed. A SELECT proves nothing under a snapshot; here it only tells why an UPDATE found no row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, get_args

from keylane.guards.tokens import Busy, StaleToken, Unusable, check_resource, check_token

ParamStyle = Literal["qmark", "numeric", "named", "format", "pyformat"]
TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
FIELD = re.compile(r"\{(\w+)\}")
ROUNDS = 3
"""One for who finds a row; one for its INSERT to lose against another's; one for what was inserted then."""

# `passes` is counted because some drivers (MySQL's) count as found only rows that an UPDATE changed: one by the same
# token would seem to have found none. It also tells people how often a resource was written to.
CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} ("
    "resource VARCHAR(512) NOT NULL PRIMARY KEY, token BIGINT NOT NULL, passes BIGINT NOT NULL)"
)
ADVANCE = "UPDATE {table} SET token = {token}, passes = passes + 1 WHERE resource = {resource} AND token <= {token}"
HIGHEST = "SELECT token FROM {table} WHERE resource = {resource}"
FIRST = "INSERT INTO {table} (resource, token, passes) VALUES ({resource}, {token}, 1)"
UNLESS_THERE = " ON CONFLICT (resource) DO NOTHING"


Values = Mapping[str, str | int]


class Driver(Protocol):
    """A module of PEP 249, such as `sqlite3` and `psycopg`."""

    @property
    def paramstyle(self) -> str: ...


class Cursor(Protocol):
    """As much of PEP 249's cursor as is used here."""

    @property
    def execute(self) -> Callable[..., object]: ...

    @property
    def fetchone(self) -> Callable[[], Sequence[int] | Mapping[str, int] | None]: ...

    @property
    def rowcount(self) -> int: ...

    @property
    def close(self) -> Callable[[], object]: ...


class Connection(Protocol):
    """As much of PEP 249's connection as is used here and in `stores`."""

    @property
    def cursor(self) -> Callable[[], Cursor]: ...

    @property
    def commit(self) -> Callable[[], object]: ...

    @property
    def rollback(self) -> Callable[[], object]: ...

    @property
    def close(self) -> Callable[[], object]: ...


class SqlGuard:
    """Refuses lower tokens than the table has seen, in the caller's transaction.

    `driver` is the module that the connections are from, or the name of its parameter style, for wrapped ones.
    Without `on_conflict`, for databases that do not know `INSERT … ON CONFLICT`, two who are the first for a resource
    at the same time can end with the driver's IntegrityError for one of them, who rolls back and tries again.
    Names are compared as the database compares text: give the column a binary collation where that is not by character.
    """

    def __init__(self, driver: Driver | ParamStyle, *, table: str = "keylane_tokens", on_conflict: bool = True) -> None:
        style = driver if isinstance(driver, str) else driver.paramstyle
        if style not in get_args(ParamStyle):
            raise ValueError(f"no parameter style of PEP 249: {style!r}")
        if not TABLE.fullmatch(table):
            raise ValueError(f"no plain name of a table: {table!r}")
        self.ddl = CREATE.replace("{table}", table)
        """The statement that makes the table, for those who lay out their schema elsewhere."""
        self._advance, self._highest, self._first = (
            _Statement(text.replace("{table}", table), style)
            for text in (ADVANCE, HIGHEST, FIRST + UNLESS_THERE * on_conflict)
        )

    def create_table(self, connection: Connection) -> None:
        """Make the table unless it is there. The caller commits."""
        cursor = connection.cursor()
        try:
            cursor.execute(self.ddl)
        finally:
            cursor.close()

    def check(self, connection: Connection, resource: str, token: int) -> None:
        """Let `token` pass for `resource` and remember it; to be called first in the transaction of the change.

        Of two transactions at once one waits here for the other's end, or the database refuses it as it does
        writers that clash (`serialization failure`, `database is locked`): roll back and do it again. With autocommit,
        begin a transaction yourself. Whoever decides by what it reads checks before it reads, too: from then on lower
        tokens are refused.

        Raises StaleToken, Unusable, and Busy where the transaction began before another's check and cannot see it:
        roll back, after each of them.
        """
        check_token(token)
        check_resource(resource)
        values: Values = {"resource": resource, "token": token}
        cursor = connection.cursor()
        try:
            for _ in range(ROUNDS):
                if _found(self._advance, cursor, values):
                    return
                highest = _read(self._highest, cursor, values)
                if highest is not None and highest > token:
                    raise StaleToken(resource, token, highest)
                if highest is None and _found(self._first, cursor, values):
                    return
        finally:
            cursor.close()
        raise Busy(f"another transaction has checked a token of {resource!r} that this one cannot see")

    def highest(self, connection: Connection, resource: str) -> int | None:
        """The highest token that was let pass, as the connection's transaction sees it; None where none was."""
        check_resource(resource)
        cursor = connection.cursor()
        try:
            return _read(self._highest, cursor, {"resource": resource})
        finally:
            cursor.close()


class _Statement:
    """A statement with its parameters written in one of the five styles."""

    def __init__(self, template: str, style: str) -> None:
        self._order = FIELD.findall(template)
        self._named = style in ("named", "pyformat")
        numbers = iter(range(1, len(self._order) + 1))
        styles: dict[str, Callable[[str], str]] = {
            "qmark": lambda _: "?",
            "numeric": lambda _: f":{next(numbers)}",
            "named": lambda name: f":{name}",
            "format": lambda _: "%s",
            "pyformat": lambda name: f"%({name})s",
        }
        self.text = FIELD.sub(lambda field: styles[style](field[1]), template)

    def run(self, cursor: Cursor, values: Values) -> None:
        if self._named:
            cursor.execute(self.text, {name: values[name] for name in self._order})
        else:
            cursor.execute(self.text, tuple(values[name] for name in self._order))


def _found(statement: _Statement, cursor: Cursor, values: Values) -> bool:
    statement.run(cursor, values)
    if cursor.rowcount not in (0, 1):
        raise Unusable("BAD_TARGET", f"this driver does not count rows: it says {cursor.rowcount} after one write")
    return cursor.rowcount == 1


def _read(statement: _Statement, cursor: Cursor, values: Values) -> int | None:
    statement.run(cursor, values)
    row = cursor.fetchone()
    if row is None:
        return None
    return row["token"] if isinstance(row, Mapping) else row[0]
