"""The guard of SQL on a real PostgreSQL: who waits for whom at each isolation level, and that the lower is never last.

Each interleaving is laid out, with one connection that waits in a thread until PostgreSQL itself says that it waits.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
from guards.test_guard_tokens import ODD_NAMES
from psycopg import IsolationLevel
from psycopg.rows import dict_row

from keylane.guards import StaleToken
from keylane.guards.sql import SqlGuard
from keylane.guards.stores import SqlTokens

KEY = "deploy://api-prod"
GUARD = SqlGuard(psycopg)
LEVELS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
DEADLINE_S = 30.0
ROUNDS = 60


@pytest.fixture
def target(empty_postgres: str) -> str:
    with psycopg.connect(empty_postgres) as connection:
        GUARD.create_table(connection)
        connection.execute("CREATE TABLE image (name TEXT, token BIGINT)")
        connection.execute("INSERT INTO image VALUES ('v0', 0)")
    return empty_postgres


def opened(target: str, level: IsolationLevel) -> psycopg.Connection:
    connection = psycopg.connect(target)
    connection.isolation_level = level
    return connection


def write(connection: psycopg.Connection, name: str, token: int) -> None:
    GUARD.check(connection, KEY, token)
    connection.execute("UPDATE image SET name = %s, token = %s", (name, token))


def image(target: str) -> tuple[str, int | None]:
    with psycopg.connect(target) as connection:
        row = connection.execute("SELECT name FROM image").fetchone()
        assert row is not None
        return row[0], GUARD.highest(connection, KEY)


def until_it_waits(target: str, pid: int) -> None:
    """For a lock that another transaction has."""
    deadline_s = time.monotonic() + DEADLINE_S
    asked = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    with psycopg.connect(target, autocommit=True) as connection:
        while connection.execute(asked, (pid,)).fetchone() is None:
            assert time.monotonic() < deadline_s, "it waits for nobody"
            time.sleep(0.01)  # between questions to the server, which does not tell of it


def first_and_second(
    target: str, level: IsolationLevel, first: int, second: int, end: Callable[[psycopg.Connection], object]
) -> Future[None]:
    """`first` passes, `second` begins and waits for it, `first` ends; what became of `second`, which then commits."""
    with opened(target, level) as one, opened(target, level) as two, ThreadPoolExecutor(1) as threads:

        def late() -> None:
            write(two, f"by {second}", second)
            two.commit()

        write(one, f"by {first}", first)
        outcome = threads.submit(late)
        until_it_waits(target, two.info.backend_pid)
        end(one)
        outcome.exception(DEADLINE_S)
        two.rollback()
    return outcome


SEEN_BEFORE = pytest.mark.parametrize("seen", [None, 1], ids=["first insert", "row there"])


@SEEN_BEFORE
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_the_lower_waits_for_the_higher_and_is_refused(target: str, level: IsolationLevel, seen: int | None) -> None:
    prepare(target, seen)
    outcome = first_and_second(target, level, 9, 5, psycopg.Connection.commit)
    expected = StaleToken if level == IsolationLevel.READ_COMMITTED else psycopg.errors.SerializationFailure
    assert isinstance(outcome.exception(), expected), "at the others PostgreSQL itself refuses writers that clash"
    assert image(target) == ("by 9", 9)
    with opened(target, level) as again, pytest.raises(StaleToken) as refused:
        write(again, "by 5", 5)
    assert refused.value.highest == 9


@SEEN_BEFORE
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_the_higher_waits_for_the_lower_and_is_last(target: str, level: IsolationLevel, seen: int | None) -> None:
    prepare(target, seen)
    outcome = first_and_second(target, level, 5, 9, psycopg.Connection.commit)
    if level != IsolationLevel.READ_COMMITTED:
        assert isinstance(outcome.exception(), psycopg.errors.SerializationFailure)
        with opened(target, level) as again:
            write(again, "by 9", 9)
    else:
        assert outcome.exception() is None
    assert image(target) == ("by 9", 9)


@SEEN_BEFORE
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_higher_one_that_is_undone_stands_in_nobodys_way(
    target: str, level: IsolationLevel, seen: int | None
) -> None:
    prepare(target, seen)
    outcome = first_and_second(target, level, 9, 5, psycopg.Connection.rollback)
    assert outcome.exception() is None
    assert image(target) == ("by 5", 5)


def prepare(target: str, seen: int | None) -> None:
    if seen is not None:
        with psycopg.connect(target) as connection:
            write(connection, "before", seen)


def test_without_the_guard_the_lower_is_last(target: str) -> None:
    with psycopg.connect(target) as high, psycopg.connect(target) as low:
        high.execute("UPDATE image SET name = 'by 9', token = 9")
        high.commit()
        low.execute("UPDATE image SET name = 'by 5', token = 5")
    assert image(target) == ("by 5", None)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_snapshot_from_before_lets_nothing_pass(target: str, level: IsolationLevel) -> None:
    """A transaction that had read before the higher token came; under a snapshot it cannot see it."""
    prepare(target, 1)
    with opened(target, level) as low, opened(target, level) as high:
        low.execute("SELECT * FROM image")
        write(high, "by 9", 9)
        high.commit()
        with pytest.raises((StaleToken, psycopg.errors.SerializationFailure)):
            write(low, "by 5", 5)
        low.rollback()
    assert image(target) == ("by 9", 9)


@pytest.mark.parametrize("on_conflict", [True, False])
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_any_number_at_once(target: str, level: IsolationLevel, on_conflict: bool) -> None:
    """Four threads, each round on a new resource, with tokens dealt anew: the highest is last, and what was written
    before it was lower."""
    guard = SqlGuard(psycopg, on_conflict=on_conflict)
    with psycopg.connect(target) as connection:
        connection.execute("CREATE TABLE written (n BIGSERIAL, resource TEXT, token BIGINT)")
    together = threading.Barrier(4)
    clashes = (psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation)

    def writer(number: int) -> int:
        refused = 0
        with opened(target, level) as connection:
            for round in range(ROUNDS):
                token = 1 + (number + round) % 4
                together.wait(DEADLINE_S)
                while True:
                    try:
                        guard.check(connection, f"r-{round}", token)
                        connection.execute(
                            "INSERT INTO written (resource, token) VALUES (%s, %s)", (f"r-{round}", token)
                        )
                        connection.commit()
                    except clashes:
                        connection.rollback()
                        continue
                    except StaleToken:
                        connection.rollback()
                        refused += 1
                    break
        return refused

    with ThreadPoolExecutor(4) as threads:
        refused = sum(threads.map(writer, range(4)))
    assert refused > 0, "they met"
    with psycopg.connect(target) as connection:
        rows = connection.execute("SELECT resource, token FROM written ORDER BY n").fetchall()
    assert len(rows) + refused == 4 * ROUNDS
    for round in range(ROUNDS):
        tokens = [token for resource, token in rows if resource == f"r-{round}"]
        assert tokens == sorted(tokens), "rows are numbered while the resource's row is locked"
        assert tokens[-1] == 4


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name)[:20])
def test_resources_with_odd_names_and_rows_as_dictionaries(target: str, name: str) -> None:
    with psycopg.connect(target, row_factory=dict_row) as connection:
        GUARD.check(connection, name, 7)
        assert GUARD.highest(connection, name) == 7
        with pytest.raises(StaleToken):
            GUARD.check(connection, name, 6)
        row = connection.execute("SELECT * FROM keylane_tokens").fetchone()
    assert row == {"resource": name, "token": 7, "passes": 1}


def test_a_store_locks_its_own_resource_alone(target: str) -> None:
    tokens = SqlTokens(GUARD, lambda: psycopg.connect(target, options="-c lock_timeout=200"))
    with tokens.holding("a", 5):
        with tokens.holding("b", 3):
            pass
        with pytest.raises(psycopg.errors.LockNotAvailable), tokens.holding("a", 9):
            raise AssertionError("nobody else passes while one is at work")
    with tokens.holding("a", 9):
        pass
    with pytest.raises(StaleToken), tokens.holding("a", 8):
        pass
