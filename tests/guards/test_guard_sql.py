"""The guard of SQL on SQLite, by threads and processes, and every parameter style as a driver would read it.

`test_guard_postgres` has what depends on locks of rows and on isolation.
"""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from guards.test_guard_tokens import NO_NAMES, NO_TOKENS, ODD_NAMES

from keylane.guards import Busy, StaleToken, Unusable
from keylane.guards.sql import SqlGuard

KEY = "deploy://api-prod"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "target.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        SqlGuard(sqlite3).create_table(connection)
        connection.execute("CREATE TABLE image (name TEXT, token INTEGER)")
        connection.execute("INSERT INTO image VALUES ('v0', 0)")
    return path


@pytest.fixture
def connection(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file)) as opened:
        yield opened


def deploy(connection: sqlite3.Connection, name: str, token: int) -> None:
    """A change under the guard, in one transaction."""
    with connection:
        SqlGuard(sqlite3).check(connection, KEY, token)
        connection.execute("UPDATE image SET name = ?, token = ?", (name, token))


def image(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT name FROM image").fetchone()[0])


def test_a_lower_token_is_refused_and_an_equal_one_passes(connection: sqlite3.Connection) -> None:
    deploy(connection, "v1", 5)
    deploy(connection, "v2", 5)
    deploy(connection, "v3", 9)
    with pytest.raises(StaleToken) as refused:
        deploy(connection, "late", 8)
    assert (refused.value.resource, refused.value.token, refused.value.highest) == (KEY, 8, 9)
    assert image(connection) == "v3"
    assert SqlGuard(sqlite3).highest(connection, KEY) == 9


def test_without_the_guard_the_same_is_overwritten(connection: sqlite3.Connection) -> None:
    deploy(connection, "v3", 9)
    with connection:
        connection.execute("UPDATE image SET name = 'late', token = 8")
    assert image(connection) == "late"


def test_tokens_outlive_connections_and_are_each_resource_s_own(file: Path) -> None:
    guard = SqlGuard(sqlite3)
    for name, token in (("a", 9), ("b", 3)):
        with closing(sqlite3.connect(file)) as connection, connection:
            guard.check(connection, name, token)
    with closing(sqlite3.connect(file)) as connection:
        guard.create_table(connection)
        assert (guard.highest(connection, "a"), guard.highest(connection, "b")) == (9, 3)
        assert guard.highest(connection, "c") is None
        guard.check(connection, "b", 4)
        with pytest.raises(StaleToken):
            guard.check(connection, "a", 4)


def test_token_and_change_are_undone_together(connection: sqlite3.Connection) -> None:
    deploy(connection, "v1", 5)
    with pytest.raises(ZeroDivisionError), connection:
        SqlGuard(sqlite3).check(connection, KEY, 9)
        connection.execute("UPDATE image SET name = 'half'")
        raise ZeroDivisionError
    assert (image(connection), SqlGuard(sqlite3).highest(connection, KEY)) == ("v1", 5)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name)[:20])
def test_resources_with_odd_names(connection: sqlite3.Connection, name: str) -> None:
    guard = SqlGuard(sqlite3)
    guard.check(connection, name, 7)
    assert guard.highest(connection, name) == 7
    with pytest.raises(StaleToken):
        guard.check(connection, name, 6)
    others = [other for other in ODD_NAMES if other != name]
    assert all(guard.highest(connection, other) is None for other in others)


@pytest.mark.parametrize("token", NO_TOKENS, ids=repr)
def test_what_is_no_token_changes_nothing(connection: sqlite3.Connection, token: object) -> None:
    with pytest.raises(Unusable):
        SqlGuard(sqlite3).check(connection, KEY, token)  # type: ignore[arg-type]
    assert not connection.in_transaction


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: repr(name)[:20])
def test_what_is_no_name_changes_nothing(connection: sqlite3.Connection, name: object) -> None:
    with pytest.raises(Unusable):
        SqlGuard(sqlite3).check(connection, name, 1)  # type: ignore[arg-type]
    assert not connection.in_transaction


@pytest.mark.parametrize("style", ["", "dollar", "QMARK"])
def test_a_parameter_style_that_is_none(style: str) -> None:
    with pytest.raises(ValueError, match="parameter style"):
        SqlGuard(style)  # type: ignore[arg-type]


@pytest.mark.parametrize("table", ["", "a b", "a;b", "a.b.c", "1a", 'a"b'])
def test_a_table_that_would_be_more_than_a_name(table: str) -> None:
    with pytest.raises(ValueError, match="table"):
        SqlGuard(sqlite3, table=table)


def test_a_table_of_another_name(connection: sqlite3.Connection) -> None:
    guard = SqlGuard(sqlite3, table="main.fences")
    guard.create_table(connection)
    guard.check(connection, KEY, 4)
    assert connection.execute("SELECT resource, token, passes FROM fences").fetchall() == [(KEY, 4, 1)]


# Parameter styles.


PLACES = {
    "qmark": r"\?",
    "numeric": r":(\d+)",
    "named": r":([a-z]+)",
    "format": r"%s",
    "pyformat": r"%\(([a-z]+)\)s",
}


class Rewriting:
    """A cursor of a driver with another style: reads it strictly, as such a driver would, and asks SQLite."""

    def __init__(self, style: str, cursor: sqlite3.Cursor) -> None:
        self._style = style
        self._cursor = cursor
        self.fetchone = cursor.fetchone
        self.close = cursor.close

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def execute(self, text: str, values: object = ()) -> None:
        used = [match[1] if match.re.groups else None for match in re.finditer(PLACES[self._style], text)]
        if self._style in ("named", "pyformat"):
            assert isinstance(values, dict) or not used
            ordered = [values[name] for name in used]  # type: ignore[index]
        else:
            assert isinstance(values, tuple)
            assert len(values) == len(used)
            numbers = [int(number) - 1 for number in used if number is not None]
            ordered = [values[number] for number in numbers] if numbers else list(values)
        text = re.sub(PLACES[self._style], "?", text)
        assert text.count("?") == len(ordered)
        assert not re.search(r"[%:]", text), "nothing of another style"
        self._cursor.execute(text, ordered)


class FakeDriver:
    """A module of PEP 249 and its connection in one."""

    def __init__(self, paramstyle: str, connection: sqlite3.Connection) -> None:
        self.paramstyle = paramstyle
        self.commit, self.rollback, self.close = connection.commit, connection.rollback, connection.close
        self.cursor = lambda: Rewriting(paramstyle, connection.cursor())


@pytest.mark.parametrize("on_conflict", [True, False])
@pytest.mark.parametrize("style", sorted(PLACES))
def test_every_parameter_style(connection: sqlite3.Connection, style: str, on_conflict: bool) -> None:
    driver = FakeDriver(style, connection)
    guard = SqlGuard(driver, on_conflict=on_conflict)
    guard.create_table(driver)
    for token in (3, 3, 5):
        guard.check(driver, KEY, token)
    with pytest.raises(StaleToken):
        guard.check(driver, KEY, 4)
    assert guard.highest(driver, KEY) == 5
    assert SqlGuard(sqlite3).highest(connection, KEY) == 5


class Dictionaries(sqlite3.Connection):
    """Whose rows are dictionaries, as some drivers' are."""

    def cursor(self, *_: object) -> sqlite3.Cursor:  # type: ignore[override]
        cursor = super().cursor()
        cursor.row_factory = lambda cursor, row: {
            part[0]: value for part, value in zip(cursor.description, row, strict=True)
        }
        return cursor


def test_rows_that_are_dictionaries(file: Path) -> None:
    with closing(sqlite3.connect(file, factory=Dictionaries)) as connection:
        guard = SqlGuard(sqlite3)
        guard.check(connection, KEY, 5)
        assert guard.highest(connection, KEY) == 5
        with pytest.raises(StaleToken):
            guard.check(connection, KEY, 4)


class Answering:
    """A connection that answers as it is told: UPDATE, SELECT, INSERT."""

    def __init__(self, update: int, select: int | None, insert: int) -> None:
        self._counts = {"UPDATE": update, "SELECT": -1, "INSERT": insert}
        self._select = select
        self.said: list[str] = []
        self.rowcount = -1
        self.cursor = lambda: self
        self.close = lambda: None
        self.fetchone = lambda: None if self._select is None else (self._select,)

    def execute(self, text: str, _: object = ()) -> None:
        self.said.append(text.split()[0])
        self.rowcount = self._counts[self.said[-1]]


def test_what_was_only_read_never_lets_a_token_pass() -> None:
    """A snapshot may still show the token below, or none, when the row is another's already (MySQL's default)."""
    for stale in (5, 4, None):
        connection = Answering(update=0, select=stale, insert=0)
        with pytest.raises(Busy):
            SqlGuard("format").check(connection, KEY, 5)  # type: ignore[arg-type]
        assert connection.said.count("UPDATE") == 3, "it looked again, and gave up"
        assert ("INSERT" in connection.said) == (stale is None)


def test_a_driver_that_counts_no_rows_is_not_trusted() -> None:
    with pytest.raises(Unusable, match="count rows") as refused:
        SqlGuard("format").check(Answering(update=-1, select=None, insert=1), KEY, 5)  # type: ignore[arg-type]
    assert refused.value.code == "BAD_TARGET"


# At once.

PROCESS = """
import sqlite3, sys
from keylane.guards import StaleToken
from keylane.guards.sql import SqlGuard
guard, first, step = SqlGuard(sqlite3), int(sys.argv[2]), int(sys.argv[3])
connection = sqlite3.connect(sys.argv[1], timeout=60)
print("ready", flush=True)
sys.stdin.readline()
passed = refused = 0
for token in range(first, 1_000, step):
    try:
        with connection:
            guard.check(connection, "one", token)
            (before,) = connection.execute("SELECT token FROM image").fetchone()
            connection.execute("UPDATE image SET token = ?", (token,))
        assert before <= token, f"{token} passed after {before} had written"
        passed += 1
    except StaleToken as stale:
        assert stale.highest > token
        refused += 1
print(passed, refused)
"""


def test_processes_at_once_write_in_the_order_of_tokens(file: Path) -> None:
    """Two count upwards through tokens that interleave: whoever is behind is refused, and no lower one writes last."""
    command = [sys.executable, "-c", PROCESS, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(first), "2"], **pipes) for first in (1, 2)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outcomes = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outcomes
    counts = [tuple(map(int, out.split())) for out, _ in outcomes]
    assert sum(passed + refused for passed, refused in counts) == 999
    assert sum(refused for _, refused in counts) > 0, "they met"
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT token FROM image").fetchone() == (999,)
        assert SqlGuard(sqlite3).highest(connection, "one") == 999
