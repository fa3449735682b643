"""`topics plan|apply` and `doctor` on both backends, with real processes: before, with, and after a router."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from e2e.processes import running

from keylane.journal import Record, TopicSpec, connect
from keylane.schemas import topics

pytestmark = pytest.mark.anyio

PARTITIONS = ["--partitions", "2"]


class Asked:
    """A command that ended: its answers and its exit code."""

    def __init__(self, *words: str, url: str, cwd: Path) -> None:
        command = [sys.executable, "-m", "keylane.cli", *words, "--output", "json"]
        environ = os.environ | {"KEYLANE_URL": url}
        done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, timeout=60, check=False)
        self.code, self.err = done.returncode, done.stderr.decode()
        self.answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]

    def levels(self, check: str) -> set[str]:
        return {answer["level"] for answer in self.answers[:-1] if answer["check"] == check}


async def append(url: str) -> None:
    """A request that no router is there to answer."""
    journal = await connect(url)
    try:
        await journal.append([Record(topics.REQUESTS, 0, b"deploy://api", b"{}")])
    finally:
        await journal.close()


def at_once(count: int, *words: str, url: str, cwd: Path) -> list[int]:
    """The exit codes of several processes that do the same at the same time."""
    command = [sys.executable, "-m", "keylane.cli", *words]
    environ = os.environ | {"KEYLANE_URL": url}
    several = [subprocess.Popen(command, cwd=cwd, env=environ, stdout=subprocess.DEVNULL) for _ in range(count)]
    return [each.wait(60) for each in several]


async def test_topics_are_planned_applied_once_and_looked_at(journal_url: str, tmp_path: Path) -> None:
    where: dict[str, Any] = {"url": journal_url, "cwd": tmp_path}
    planned = Asked("topics", "plan", "--check", *PARTITIONS, **where)
    assert planned.code == 1 and {answer["what"] for answer in planned.answers[:-1]} == {"create", "pin"}
    assert Asked("topics", "plan", *PARTITIONS, **where).code == 0

    assert at_once(3, "topics", "apply", *PARTITIONS, **where) == [0, 0, 0]
    assert Asked("topics", "apply", *PARTITIONS, **where).answers == [{"taken": 0}]
    assert Asked("topics", "plan", "--check", *PARTITIONS, **where).code == 0
    before = Asked("doctor", *PARTITIONS, **where)
    assert before.code == 0 and before.answers[-1]["faults"] == 0
    assert before.levels("routers") == {"warn"} and before.levels("metadata") == {"ok"}

    with running("router", *PARTITIONS, "--output", "json", says='"url"', **where):
        Asked("submit", "deploy://api", "restart", "--id", "r-1", **where)
        for role in ("router", "worker", "agent", "operator"):
            # Without a configuration where it runs, an agent goes by what is pinned.
            flags = PARTITIONS if role in ("router", "operator") else []
            found = Asked("doctor", "--as", role, *flags, **where)
            assert (found.code, found.answers[-1]["warnings"]) == (0, 0), found.answers
            assert found.levels("rights") == found.levels("lanes") == found.levels("clock") == {"ok"}

    await append(journal_url)
    after = Asked("doctor", *PARTITIONS, **where)
    assert after.levels("routers") == {"fault"} and after.code == 69


async def test_what_is_in_the_way_changes_nothing_and_faults_say_what_to_do(journal_url: str, tmp_path: Path) -> None:
    where: dict[str, Any] = {"url": journal_url, "cwd": tmp_path}
    assert Asked("topics", "apply", *PARTITIONS, **where).code == 0
    blocked = Asked("topics", "plan", "--check", "--partitions", "3", **where)
    assert blocked.code == 78 and blocked.answers[-1]["pending"] == 0
    refused = Asked("topics", "apply", "--partitions", "3", **where)
    assert refused.code == 78 and "pinned to 2 partitions" in refused.err and refused.answers == []
    found = Asked("doctor", "--partitions", "3", **where)
    assert found.code == 78 and found.levels("metadata") == {"fault"} and found.levels("topics") == {"ok"}

    journal = await connect(journal_url)
    try:
        await journal.create_topics([TopicSpec(topics.items("gone"), 2)])
    finally:
        await journal.close()
    extra = Asked("topics", "plan", "--check", *PARTITIONS, **where)
    assert extra.code == 0 and [answer["what"] for answer in extra.answers[:-1]] == ["extra"]
    assert Asked("topics", "apply", "--reset-settings", *PARTITIONS, **where).answers == [{"taken": 0}]


async def test_what_an_operator_has_set_stays_until_it_is_to_be_reset(journal_url: str, tmp_path: Path) -> None:
    where: dict[str, Any] = {"url": journal_url, "cwd": tmp_path}
    journal = await connect(journal_url)
    try:
        with anyio.fail_after(60):
            await journal.create_topics([TopicSpec(topics.EVENTS, 2, retention_ms=3_600_000, max_record_bytes=4_096)])
    finally:
        await journal.close()
    taken = Asked("topics", "apply", *PARTITIONS, **where).answers
    assert [step["topic"] for step in taken[:-1] if step["what"] == "change"] == [topics.EVENTS]
    (kept, summary) = Asked("topics", "plan", "--check", *PARTITIONS, **where).answers
    assert (kept["what"], kept["found"], summary["kept"]) == ("kept", "3600000", 1)
    assert Asked("doctor", *PARTITIONS, **where).levels(f"topic {topics.EVENTS}") == {"ok"}
    assert len(Asked("topics", "apply", "--reset-settings", *PARTITIONS, **where).answers) == 2
    assert len(Asked("topics", "plan", *PARTITIONS, **where).answers) == 1
