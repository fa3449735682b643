"""From URLs to journals: what each scheme needs, and what is said when it is missing."""

import sys
from pathlib import Path

import pytest

from keylane.journal import BadUrl, connect
from keylane.journal.memory import MemoryJournal
from keylane.journal.sqlite_journal import SqliteJournal

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "bad", ["sqlite://", "sqlite:///tmp", "sqlite:///tmp/x.db?mode=ro", "redis://x", "log.db", "sqlite:log.db"]
)
async def test_urls_that_name_no_journal_are_refused(bad: str) -> None:
    with pytest.raises(BadUrl):
        await connect(bad)


async def test_kafka_without_its_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith(("aiokafka", "keylane.journal.kafka", "keylane.journal._kafka")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    with pytest.raises(BadUrl, match=r"pip install 'keylane\[kafka\]'"):
        await connect("kafka://127.0.0.1:1")


async def test_a_relative_path_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journal = await connect("sqlite://.keylane/journal.db")
    assert isinstance(journal, SqliteJournal)
    assert journal.path == tmp_path / ".keylane" / "journal.db"
    await journal.close()


async def test_memory_is_shared_by_name() -> None:
    first, second = await connect("memory://connect"), await connect("memory://connect")
    assert isinstance(first, MemoryJournal) and isinstance(second, MemoryJournal)
    assert first.log is second.log
