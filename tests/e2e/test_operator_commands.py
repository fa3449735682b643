"""What an operator asks on both backends: who holds what, what lags, what was decided, what was set aside."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import anyio
import anyio.lowlevel
import pytest
from e2e.processes import keylane, running

from keylane.history import EventShown
from keylane.journal import Record, connect
from keylane.journal.partitioner import partition_of
from keylane.render import text_of
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event
from keylane.schemas.events import AnyEvent

pytestmark = pytest.mark.anyio

PARTITIONS = 2
BUSY, QUIET, REUSED = "deploy://busy", "deploy://quiet", "deploy://reused"
DEADLINE_S = 30


def place(resource: str) -> int:
    return partition_of(resource.encode(), PARTITIONS)


async def append(url: str, resource: str, value: bytes) -> int:
    journal = await connect(url)
    try:
        (offset,) = await journal.append([Record(topics.REQUESTS, place(resource), resource.encode(), value)])
    finally:
        await journal.close()
    return offset


class Asking:
    """The commands, asked for JSON."""

    def __init__(self, url: str, cwd: Path) -> None:
        self.url = url
        self.options: dict[str, Any] = {"url": url, "cwd": cwd}

    def __call__(self, *words: str, check: bool = True) -> list[dict[str, Any]]:
        out = keylane(*words, "--output", "json", check=check, **self.options)
        return [json.loads(line) for line in out.splitlines()]


async def test_the_questions_of_an_operator(journal_url: str, tmp_path: Path) -> None:
    ask = Asking(journal_url, tmp_path)
    work = ["--action", "restart", "--action", "hold", "--name", "w-1", "--kill-after", "0.2", "--"]
    script = "test $KEYLANE_ACTION != hold || sleep 600"
    with running("router", "--partitions", str(PARTITIONS), "--output", "json", says='"url"', **ask.options):
        with running("worker", "exec", *work, "sh", "-c", script, says="", **ask.options):
            ask("submit", QUIET, "restart", "--id", "q-1", "--wait")
            ask("submit", BUSY, "hold", "--id", "b-1")
            await until(lambda: ask("leases"))
            leases_and_events(ask)
            await dead_letters(ask)
    # Nobody routes any more: what comes now is what lags.
    assert {each["requests"] for each in ask("lag")} == {0}
    ask("submit", QUIET, "restart", "--id", "late", check=False)
    late = ask("lag")[place(QUIET)]
    assert late["requests"] == 1 and 0 <= late["oldest_s"] < DEADLINE_S
    assert late["committed"].endswith("Z") and late["claim"] == 1


def leases_and_events(ask: Asking) -> None:
    (lease,) = ask("leases")
    assert (lease["resource"], lease["action"], lease["run"], lease["holder"]) == (BUSY, "hold", "b-1", "w-1")
    assert 280_000 < lease["lease_left_ms"] <= 300_000 and lease["requests"] == lease["attempt"] == 1
    assert [each["run"] for each in ask("leases", BUSY, "--holder", "w-1")] == ["b-1"]
    assert ask("leases", QUIET) == ask("leases", "--holder", "another") == []

    said = ask("events", QUIET)
    assert [each["event"]["type"] for each in said] == ["Queued", "Granted", "Ended"]
    assert {each["partition"] for each in said} == {place(QUIET)}
    everything = ask("events")
    times = [each["event"]["time"][:-2] for each in everything]  # a partition's own order is not that of the clock
    assert sorted(times) == times and {BUSY, QUIET} <= {each["event"].get("resource") for each in everything}
    assert ask("events", QUIET, "--last", "1") == said[-1:] and ask("events", "--last", "0") == []


async def dead_letters(ask: Asking) -> None:
    """Set aside: an id that was used before, and a request that nobody can read."""
    ask("submit", REUSED, "restart", "--id", "r-1", "--wait")
    reused = f'{{"type":"WorkRequest","id":"r-1","resource":"{REUSED}","action":"restart","payload":2}}'
    offset = await append(ask.url, REUSED, reused.encode())
    bad = await append(ask.url, REUSED, b'{"type":"WorkRequest","password":"hush"')
    where, unreadable = f"requests/{place(REUSED)}/{offset}", f"requests/{place(REUSED)}/{bad}"
    await until(lambda: len(ask("deadletters", "list")) == 2)
    assert [each["code"] for each in ask("deadletters", "list")] == ["ID_REUSED", "BAD_RECORD"]
    assert [each["offset"] for each in ask("deadletters", "list", "--code", "BAD_RECORD")] == [bad]
    (shown,) = ask("deadletters", "show", where)
    assert shown["is_there"] and json.loads(shown["value"])["payload"] == 2
    assert "hush" not in json.dumps(ask("deadletters", "show", unreadable))
    assert keylane("deadletters", "show", "--raw", unreadable, **ask.options).endswith(b'"hush"')

    assert ask("deadletters", "replay", where, "--dry-run")[0]["dry_run"]
    assert "replay" not in json.dumps(ask("events", REUSED))
    id = ask("deadletters", "replay", where)[0]["request_id"]
    await until(lambda: ask("request", REUSED, id, check=False)[-1:] and is_done(ask, id))
    ask("deadletters", "replay", where)
    await until(lambda: [each for each in ask("events", REUSED) if each["event"].get("repeat")])
    granted = [each for each in ask("events", REUSED) if each["event"]["type"] == "Granted"]
    assert [each["event"]["run"] for each in granted] == ["r-1", id], "replayed twice, done once"
    *_, summary = ask("deadletters", "replay", "--all", "--salt", "again", check=False)
    assert summary == {"replayed": 1, "refused": 1}
    assert exit_code("deadletters", "replay", unreadable, **ask.options) == 2
    assert exit_code("deadletters", "show", "requests/0/999", **ask.options) == 3
    assert exit_code("deadletters", "show", "nowhere", **ask.options) == 2


def is_done(ask: Asking, id: str) -> bool:
    return bool(ask("request", REUSED, id)[-1]["state"] == "done")


async def until(is_so: Any) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not is_so():
            await anyio.lowlevel.checkpoint()


def exit_code(*words: str, url: str, cwd: Path) -> int:
    command = [sys.executable, "-m", "keylane.cli", *words]
    environ = os.environ | {"KEYLANE_URL": url}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, timeout=60, check=False).returncode


def test_every_event_has_a_line_and_what_cannot_be_read_has_one_too() -> None:
    golden = Path(__file__).parents[1] / "schemas" / "golden" / "events"
    seen = set()
    for file in golden.glob("*.json"):
        event: Any = decode_event(file.read_bytes())
        if isinstance(event, Undecodable):
            continue  # the folder has some of those too
        seen.add(type(event))
        (row,) = text_of(EventShown(partition=1, offset=2, event=event))
        assert type(event).__name__ in row[0] and "\n" not in row[0]
    assert seen == set(get_args(AnyEvent))
    (row,) = text_of(EventShown(partition=1, offset=2, unreadable="it is of \x1b[31m a later keylane"))
    assert "later keylane" in row[0] and "\x1b" not in row[0]
