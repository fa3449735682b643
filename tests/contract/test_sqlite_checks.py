"""What the SQLite journal says of its file: whose it is, where it lies, and whether it is whole."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from keylane.journal import NoJournal, Record, TopicSpec, connect
from keylane.journal import sqlite_checks as looks
from keylane.journal.sqlite_journal import SqliteJournal
from keylane.journal.upkeep import Finding

pytestmark = pytest.mark.anyio


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """A journal with enough in it to take a look, still open."""
    path = tmp_path / "made" / "log.db"
    journal = await connect(f"sqlite://{path}")
    assert isinstance(journal, SqliteJournal)
    await journal.create_topics([TopicSpec("requests", 1)])
    await journal.append([Record("requests", 0, b"k", b"x" * 50_000) for _ in range(100)])
    yield path
    await journal.close()


def content(path: Path) -> bytes:
    return path.read_bytes()


def found(path: Path, mode: int = 0o600) -> dict[str, Finding]:
    path.chmod(mode)
    return {finding.name: finding for finding in looks.checks(path, lambda _: None)}


async def test_a_sound_file_is_read_to_its_end_and_left_as_it_is(path: Path) -> None:
    done: list[int] = []
    before = content(path)
    findings = looks.checks(path, done.append)
    assert {finding.level for finding in findings} == {"ok"}
    assert sum(done) == 100 and content(path) == before


@pytest.mark.parametrize(("mode", "level"), [(0o600, "ok"), (0o640, "warn"), (0o604, "warn"), (0o620, "fault")])
async def test_a_file_that_others_may_touch_is_told_with_the_command_that_ends_it(
    path: Path, mode: int, level: str
) -> None:
    finding = found(path, mode)["file"]
    assert finding.level == level and f"{mode:04o}" in finding.said
    assert finding.advice == ("" if level == "ok" else f"chmod 600 {path}*")


async def test_a_damaged_page_is_found(path: Path) -> None:
    with apsw.Connection(str(path)) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = store.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'records'").fetchone()[0]
        size = store.pragma("page_size")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(os.urandom(size))
    finding = found(path)["integrity"]
    assert finding.level == "fault" and str(path) in finding.said and "keep a copy" in finding.advice


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(("free_mib", "level"), [(5_000, "ok"), (500, "warn"), (50, "fault")])
async def test_a_disk_that_fills_up_is_told_before_it_is_full(
    path: Path, free_mib: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks.shutil, "disk_usage", lambda _: Usage(1, 1, free_mib * looks.MIB))
    assert found(path)["disk"].level == level


async def test_a_log_that_is_not_copied_back_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert path.with_name("log.db-wal").stat().st_size
    monkeypatch.setattr(looks, "WAL_BYTES_WARN", 1)
    assert found(path)["wal"].level == "warn"


async def test_another_journal_mode_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with apsw.Connection(str(path)) as store:
        store.execute("CREATE TABLE t (x)")
    assert found(path)["durability"].level == "fault"


async def test_a_file_that_may_not_be_written_is_no_right_to_anything(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looks.rights(path).level == "ok"
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, to whom nothing is closed
    finding = looks.rights(path)
    assert finding.level == "fault" and str(path.parent) in finding.said and finding.advice


async def test_a_journal_of_which_there_is_nothing_is_not_made_by_looking(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "log.db"
    with pytest.raises(NoJournal):
        await connect(f"sqlite://{path}", create=False)
    assert not path.parent.exists()
