"""A holder that is stopped between its last look at the lease and its write, and wakes up too late: every guard stops
it, and the same run does its damage to the same targets without one.

Real routers and workers on the SQLite journal. `first` is stopped by SIGSTOP; keylane notices its silence and gives the
resource to `second`, which completes; then `first` goes on and writes, as its program tells it to. One such run has all
kinds of targets, guarded and not. The Kubernetes API is the small server of `api_server`, for its conflicts alone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from e2e.processes import running
from guards.targets import BEFORE, KINDS, RESOURCE, table, target

import keylane
from guards import api_server, servers
from keylane.guards import files
from keylane.guards.kubernetes import highest
from keylane.guards.sql import SqlGuard
from keylane.guards.stores import MemoryTokens
from keylane.guards.wsgi import WsgiGuard

CONFIG = """
partitions = 1
session_lapse = "2s"
[defaults]
lease = "2s"
backoff = "20ms"
"""
DEADLINE_S = 90.0
HOLDER = Path(__file__).with_name("holder.py")


class Story(NamedTuple):
    """What became of it: tokens, what `first` heard when it wrote late, what the targets have then, by name, and the
    highest token that each guard has seen."""

    first: int
    second: int
    result: dict[str, Any]
    late: dict[str, str]
    left: dict[str, str]
    seen: dict[str, int | None]


class Pipe:
    """Lines of JSON from the holder, read with a deadline."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        os.mkfifo(path)
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # so that it has a writer always, and does not end
        stack.callback(os.close, self._file)
        self._rest = b""

    def next(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        deadline_s = time.monotonic() + DEADLINE_S
        while b"\n" not in self._rest:
            assert process.poll() is None, "the holder ended"
            assert time.monotonic() < deadline_s, f"the holder said nothing more than {self._rest!r}"
            if select.select([self._file], [], [], 0.5)[0]:
                self._rest += os.read(self._file, 65_536)
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))


def places(folder: Path, conninfo: str, stack: ExitStack) -> tuple[dict[str, str], dict[str, Any]]:
    """Every target by `kind guarded` and `kind plain`, and what tells the highest token of each guard."""
    at: dict[str, str] = {}
    for connection, name in ((sqlite3.connect(folder / "t.db"), "sqlite"), (psycopg.connect(conninfo), "postgres")):
        with closing(connection):  # type: ignore[type-var]
            SqlGuard("qmark").create_table(connection)
            for guarded in (True, False):
                connection.execute(f"CREATE TABLE {table(guarded)} (body TEXT)")
                connection.execute(f"INSERT INTO {table(guarded)} VALUES ('{BEFORE}')")
                at[f"{name} {table(guarded)}"] = conninfo if name == "postgres" else str(folder / "t.db")
            connection.commit()
    tokens = MemoryTokens()
    documents = {True: servers.Document(BEFORE), False: servers.Document(BEFORE)}
    cluster = stack.enter_context(api_server.serving())
    for guarded, document in documents.items():
        (folder / f"{table(guarded)}.txt").write_text(BEFORE)
        at[f"files {table(guarded)}"] = str(folder / f"{table(guarded)}.txt")
        app = WsgiGuard(document, tokens, resource=lambda _: RESOURCE) if guarded else document
        at[f"http {table(guarded)}"] = stack.enter_context(servers.serving(app))
        at[f"kubernetes {table(guarded)}"] = cluster.create(*api_server.deployment(table(guarded), BEFORE))

    def by_table(opened: Any, driver: Any) -> int | None:
        with closing(opened):
            return SqlGuard(driver).highest(opened, RESOURCE)

    seen = {
        "sqlite": lambda: by_table(sqlite3.connect(folder / "t.db"), sqlite3),
        "postgres": lambda: by_table(psycopg.connect(conninfo), psycopg),
        "files": lambda: files.highest(folder / "guarded.txt"),
        "http": lambda: tokens.highest(RESOURCE),
        "kubernetes": lambda: highest(cluster.get(api_server.deployment("guarded", BEFORE)[0])),
    }
    return at, seen


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    url = f"sqlite:///{folder}/journal.db?session_timeout_ms=2000"
    (folder / "keylane.toml").write_text(CONFIG)
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HOLDER.parents[1]))
        at, seen = places(folder, postgres, stack)
        (folder / "places.json").write_text(json.dumps(at))
        told, go = Pipe(folder / "told", stack), folder / "go"
        os.mkfifo(go)

        def start(*words: str, program: tuple[str, ...] = ("-m", "keylane.cli")) -> subprocess.Popen[bytes]:
            says = '"pid"' if words[0] == "router" else ""
            return stack.enter_context(running(*words, url=url, cwd=folder, says=says, program=program))

        start("router", "--output", "json")
        first = start("first", program=(str(HOLDER),))
        with keylane.SyncClient(url) as client:
            ticket = client.submit(RESOURCE, "deploy", request_id="r-1")
            checked = told.next(first)
            assert checked["checked"] == "first"
            first.send_signal(signal.SIGSTOP)
            start("second", program=(str(HOLDER),))
            outcome = ticket.outcome(DEADLINE_S)
        between = {name: target(name.split()[0], place, False).read() for name, place in at.items() if "plain" in name}
        assert set(between.values()) == {f"{BEFORE} and second"}, "all that `second` did is there"
        first.send_signal(signal.SIGCONT)
        go.write_text("go on")
        late = told.next(first)["late"]
        left = {name: target(name.split()[0], place, name.endswith("guarded")).read() for name, place in at.items()}
        yield Story(
            checked["token"],
            outcome.result["token"],
            outcome.result,
            late,
            left,
            {name: ask() for name, ask in seen.items()},
        )


def test_the_second_holder_completed_under_a_higher_token(story: Story) -> None:
    assert (story.result["by"], story.result["attempt"]) == ("second", 2)
    assert story.second > story.first
    assert set(story.result["said"].values()) == {"written"}
    assert len(story.result["said"]) == 2 * len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_guard_the_late_write_destroys_what_the_second_holder_did(story: Story, kind: str) -> None:
    assert story.late[f"{kind} plain"] == "written"
    assert story.left[f"{kind} plain"] == f"{BEFORE} and first"


@pytest.mark.parametrize("kind", KINDS)
def test_the_guard_stops_the_late_write_and_says_why(story: Story, kind: str) -> None:
    assert story.left[f"{kind} guarded"] == f"{BEFORE} and second"
    said = story.late[f"{kind} guarded"]
    assert said.startswith(f"FENCED: token {story.first} is too old for ")
    assert said.endswith(f": {story.second} has been seen there")
    assert story.seen[kind] == story.second
