"""Stores of servers: what has passed outlives the process where it is to, and nobody overtakes who is at work."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from guards.test_guard_tokens import NO_NAMES, NO_TOKENS, ODD_NAMES

from keylane.guards import Busy, StaleToken, Unusable
from keylane.guards.sql import SqlGuard
from keylane.guards.stores import MemoryTokens, SqlTokens, Tokens

DEADLINE_S = 60.0


def memory(_: Path) -> MemoryTokens:
    return MemoryTokens(wait_s=DEADLINE_S)


def in_sql(folder: Path, timeout_s: float = DEADLINE_S) -> SqlTokens:
    """Also a second one, on the same file: another process would open it so."""
    guard, file = SqlGuard(sqlite3), folder / "tokens.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        guard.create_table(connection)
    return SqlTokens(guard, lambda: sqlite3.connect(file, timeout=timeout_s))


BOTH = pytest.mark.parametrize("make", [memory, in_sql])
Make = Callable[[Path], Tokens]


def passes(tokens: Tokens, resource: str, token: int) -> bool:
    try:
        with tokens.holding(resource, token):
            return True
    except StaleToken:
        return False


@BOTH
def test_a_lower_token_is_refused_and_an_equal_one_passes(tmp_path: Path, make: Make) -> None:
    tokens = make(tmp_path)
    assert [passes(tokens, "a", token) for token in (5, 5, 9, 8, 9, 10)] == [True, True, True, False, True, True]
    assert passes(tokens, "b", 1)
    with pytest.raises(StaleToken) as refused, tokens.holding("a", 7):
        pass
    assert (refused.value.resource, refused.value.token, refused.value.highest) == ("a", 7, 10)


@BOTH
@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name)[:20])
def test_resources_with_odd_names(tmp_path: Path, make: Make, name: str) -> None:
    tokens = make(tmp_path)
    assert [passes(tokens, name, token) for token in (5, 4)] == [True, False]


@BOTH
def test_what_cannot_be_is_refused(tmp_path: Path, make: Make) -> None:
    tokens = make(tmp_path)
    for resource, token in [*(("a", token) for token in NO_TOKENS), *((name, 1) for name in NO_NAMES)]:
        with pytest.raises(Unusable), tokens.holding(resource, token):  # type: ignore[arg-type]
            raise AssertionError("it passed")
    assert passes(tokens, "a", 1)


@BOTH
def test_what_has_passed_is_remembered_though_its_work_failed(tmp_path: Path, make: Make) -> None:
    tokens = make(tmp_path)
    with pytest.raises(ZeroDivisionError), tokens.holding("a", 9):
        raise ZeroDivisionError
    assert [passes(tokens, "a", token) for token in (8, 9)] == [False, True]


@BOTH
def test_nobody_overtakes_who_is_at_work(tmp_path: Path, make: Make) -> None:
    """Each acts some time after it has passed; the highest acts last, and none after one with a higher token."""
    tokens = make(tmp_path)
    acted: list[int] = []
    together = threading.Barrier(4)

    def request(number: int) -> None:
        for round in range(25):
            together.wait(DEADLINE_S)
            token = round * 4 + (number + round) % 4 + 1
            try:
                with tokens.holding("a", token):
                    before = list(acted)
                    acted.append(token)
                    assert before == acted[: len(before)] and len(acted) == len(before) + 1, "alone"
            except StaleToken:
                continue

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(request, range(4)))
    assert acted == sorted(acted)
    assert acted[-1] == 100


@BOTH
def test_one_waits_for_the_other_and_then_passes(tmp_path: Path, make: Make) -> None:
    tokens = make(tmp_path)
    inside, leave, order = threading.Event(), threading.Event(), list[str]()

    def slow() -> None:
        with tokens.holding("a", 5):
            inside.set()
            leave.wait(DEADLINE_S)
            order.append("slow")

    def quick() -> None:
        with tokens.holding("a", 9):
            order.append("quick")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(slow)
        assert inside.wait(DEADLINE_S)
        second = threads.submit(quick)
        leave.set()
        first.result(DEADLINE_S)
        second.result(DEADLINE_S)
    assert order == ["slow", "quick"]


def test_who_waits_too_long_in_memory_is_told() -> None:
    tokens = MemoryTokens(wait_s=0.05)
    with tokens.holding("a", 5), pytest.raises(Busy), tokens.holding("a", 9):
        raise AssertionError("it passed")
    assert passes(tokens, "a", 6), "who did not pass was not remembered"


def test_who_waits_too_long_in_sqlite_hears_it_from_the_driver(tmp_path: Path) -> None:
    tokens = in_sql(tmp_path, timeout_s=0.05)
    locked = pytest.raises(sqlite3.OperationalError, match="locked")
    with tokens.holding("a", 5), locked, tokens.holding("a", 9):
        raise AssertionError("it passed")


def test_memory_forgets_with_its_process_and_a_table_does_not(tmp_path: Path) -> None:
    for make, remembered in ((memory, False), (in_sql, True)):
        assert passes(make(tmp_path), "a", 9)
        assert passes(make(tmp_path), "a", 8) is not remembered


def test_a_token_is_on_the_disk_before_its_work_begins(tmp_path: Path) -> None:
    """A server that dies in the middle has acted perhaps: the next one must know."""
    connections: list[sqlite3.Connection] = []
    guard, file = SqlGuard(sqlite3), tmp_path / "tokens.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        guard.create_table(connection)

    def connect() -> sqlite3.Connection:
        connections.append(sqlite3.connect(file))
        return connections[-1]

    held = SqlTokens(guard, connect).holding("a", 9)
    held.__enter__()
    connections[0].close()  # as its end by kill -9 would
    assert [passes(in_sql(tmp_path), "a", token) for token in (8, 9)] == [False, True]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        held.__exit__(None, None, None)


def test_memory_is_bounded_and_forgets_nothing() -> None:
    tokens = MemoryTokens(resources_max=2)
    assert passes(tokens, "a", 5) and passes(tokens, "b", 5)
    with pytest.raises(Busy, match="2 resources"), tokens.holding("c", 5):
        raise AssertionError("it passed")
    assert passes(tokens, "a", 6)
    assert not passes(tokens, "b", 4)
    assert tokens.highest("a") == 6
    assert tokens.highest("c") is None


def test_connections_are_closed(tmp_path: Path) -> None:
    opened: list[sqlite3.Connection] = []
    guard, file = SqlGuard(sqlite3), tmp_path / "tokens.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        guard.create_table(connection)
    tokens = SqlTokens(guard, lambda: opened.append(sqlite3.connect(file)) or opened[-1])  # type: ignore[func-returns-value]
    assert passes(tokens, "a", 9) and not passes(tokens, "a", 8)
    assert len(opened) == 2
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.cursor()
