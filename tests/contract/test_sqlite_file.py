"""What is SQLite's alone: the file and its folder, versions, kill -9, retention, locks and failing disks."""

import stat
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import apsw
import pytest
from contract.children import Child
from contract.sites import values

from keylane.journal import BadUrl, LaneLost, Place, PositionLost, Record, TopicSpec, Unavailable, connect
from keylane.journal import sqlite as store
from keylane.journal.mounts import shared_type
from keylane.journal.rules import TOMBSTONE_KEPT_MS
from keylane.journal.sqlite_journal import SqliteJournal

pytestmark = pytest.mark.anyio

RETENTION_MS = 60_000
SPECS = [
    TopicSpec("requests", 1),
    TopicSpec("events", 1, retention_ms=RETENTION_MS),
    TopicSpec("state", 1, compacted=True),
    TopicSpec("other", 1, compacted=True),
]
EVENTS = Place("events", 0)

MOUNTINFO = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home/ann/net rw,relatime shared:5 master:1 - nfs4 server:/export rw
31 22 0:41 / /home/ann/net/local rw,relatime - xfs /dev/sdb1 rw
32 22 0:42 / /mnt/with\040space rw - cifs //server/share rw
33 22 0:43 / /mnt/ssh rw - fuse.sshfs ann@server: rw
34 22 0:44 / /mnt/stick rw - fuseblk /dev/sdc1 rw
35 22 0:45 / /mnt/twice rw - ext4 /dev/sdd1 rw
36 22 0:46 / /mnt/twice rw - 9p host rw
"""


def event(value: bytes) -> Record:
    return Record("events", 0, value, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "log.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite://{path}?session_timeout_ms=500"


@pytest.fixture
async def journal(url: str) -> AsyncIterator[SqliteJournal]:
    journal = await connect(url)
    assert isinstance(journal, SqliteJournal)
    await journal.create_topics(SPECS)
    yield journal
    await journal.close()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def execute(path: Path, sql: str) -> None:
    with apsw.Connection(str(path)) as connection:
        connection.set_busy_timeout(5000)
        connection.execute(sql).fetchall()


async def test_only_its_owner_can_read_the_journal(journal: SqliteJournal, path: Path) -> None:
    await journal.append([event(b"secret")])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == {"log.db": 0o600, "log.db-wal": 0o600, "log.db-shm": 0o600}


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("/home/ann/journal", None),
        ("/home/ann/net", "nfs4"),
        ("/home/ann/net/keylane", "nfs4"),
        ("/home/ann/network", None),
        ("/home/ann/net/local/keylane", None),
        ("/mnt/with space/keylane", "cifs"),
        ("/mnt/ssh/x", "fuse.sshfs"),
        ("/mnt/stick/x", None),
        ("/mnt/twice/x", "9p"),
    ],
)
def test_shared_file_systems_are_found_by_the_mount_that_counts(place: str, found: str | None) -> None:
    assert shared_type(place, MOUNTINFO) == found


def test_a_sandboxs_own_root_and_what_is_like_it_are_its_own() -> None:
    sandbox = "1 0 0:1 / / rw - 9p none rw\n2 1 0:2 / /srv rw - 9p none rw\n3 1 0:3 / /net rw - nfs x rw\n"
    assert shared_type("/srv/keylane", sandbox) is None
    assert shared_type("/net/keylane", sandbox) == "nfs"


async def test_a_network_file_system_is_refused(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "shared_type_of", lambda folder: "nfs4")
    with pytest.raises(BadUrl, match=r"nfs4.*kafka://"):
        await connect(url)
    assert not path.exists()  # noqa: ASYNC240


async def test_another_schema_version_is_refused_and_says_what_to_do(
    journal: SqliteJournal, url: str, path: Path
) -> None:
    execute(path, f"PRAGMA user_version = {store.SCHEMA_VERSION + 6}")
    with pytest.raises(BadUrl, match=r"schema 7, and this keylane reads 1: use the keylane that wrote it"):
        await connect(url)


async def test_files_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    execute(other, "CREATE TABLE theirs (x)")
    text = tmp_path / "text.db"
    text.write_text("not a database, and long enough to be read as a header" * 100)
    for file, reason in ((other, "another program"), (text, "not a SQLite file")):
        with pytest.raises(BadUrl, match=reason):
            await connect(f"sqlite://{file}")
    assert text.read_text().startswith("not a database")


async def test_kill_9_loses_nothing_that_was_acknowledged(
    journal: SqliteJournal, url: str, stack: AsyncExitStack
) -> None:
    acknowledged: set[int] = set()
    for _ in range(5):
        child = await Child.start(stack, "appender", url, "requests")
        acknowledged |= {int(await child.says()) for _ in range(30)}
        acknowledged |= set(map(int, await child.end()))
    reader = await journal.reader({Place("requests", 0): None})
    stored: set[int] = set()
    while records := await reader.poll(1000, 0):
        stored |= {record.offset for record in records}
    assert acknowledged <= stored
    assert len(acknowledged) >= 150


async def test_retention_works_off_what_is_old_in_small_steps(journal: SqliteJournal, path: Path) -> None:
    await journal.append([event(b"%d" % n) for n in range(200)])
    execute(path, f"UPDATE records SET at_ms = at_ms - {2 * RETENTION_MS}")
    behind = await journal.reader({EVENTS: 0})
    starts = []
    for _ in range(20):
        [end] = await journal.append([event(b"new")])
        reader = await journal.reader({EVENTS: None})
        starts.append(reader.positions()[EVENTS])
    assert 0 < starts[0] < 200, "one commit took all or nothing"
    assert starts == sorted(starts) and starts[-1] == 200
    assert values(await reader.poll(1000, 0)) == [b"new"] * 20
    with pytest.raises(PositionLost):
        await behind.poll(10, 0)
    assert end == 219


async def test_offsets_are_not_used_again_when_all_records_are_gone(
    journal: SqliteJournal, url: str, path: Path
) -> None:
    await journal.append([event(b"a"), event(b"b")])
    execute(path, "DELETE FROM records; UPDATE places SET start = next")
    again = await connect(url)
    assert await again.append([event(b"c")]) == [2]
    await again.close()


async def test_tombstones_do_not_stay_for_ever(journal: SqliteJournal, path: Path) -> None:
    for value in (b"1", None):
        await journal.append([Record("state", 0, b"%d" % n, value) for n in range(10)])
    execute(path, f"UPDATE records SET at_ms = at_ms - {2 * TOMBSTONE_KEPT_MS}")
    await journal.append([Record("state", 0, b"live", b"1")])
    reader = await journal.reader({Place("state", 0): None})
    assert values(await reader.poll(100, 0)) == [b"1"]


async def test_a_reader_reaches_the_end_though_the_last_records_were_tombstones_and_are_gone(
    journal: SqliteJournal, path: Path
) -> None:
    """Who reads a topic up to its end would else wait for ever for what is not there any more."""
    place = Place("state", 0)
    await journal.append([Record("state", 0, b"k", b"1"), Record("state", 0, b"gone", b"1")])
    await journal.append([Record("state", 0, b"gone", None)])
    execute(path, f"UPDATE records SET at_ms = at_ms - {2 * TOMBSTONE_KEPT_MS}")
    await journal.append([Record("other", 0, b"k", b"1")])
    reader = await journal.reader({place: None})
    assert values(await reader.poll(1, 0)) == [b"1"] and reader.positions() == {place: 1}
    assert await reader.poll(1, 0) == []
    assert reader.positions() == await journal.end_positions([place]) == {place: 3}
    await journal.append([Record("state", 0, b"next", b"2")])
    assert values(await reader.poll(10, 0)) == [b"2"]


async def test_a_full_disk_is_unavailable_and_nothing_is_written(journal: SqliteJournal) -> None:
    session = await journal.claim(0, ["requests"], "state")
    pages = journal.writes.number("PRAGMA page_count")
    journal.writes.row(f"PRAGMA max_page_count = {pages}")
    large = Record("state", 0, b"k", b"x" * 100_000)
    with pytest.raises(Unavailable, match="full"):
        await journal.append([event(b"a"), large])
    with pytest.raises(Unavailable, match="full"):
        await session.commit([event(b"a"), large])
    with pytest.raises(LaneLost):
        await session.commit([event(b"after")])
    journal.writes.row("PRAGMA max_page_count = 1000000")
    assert await journal.append([event(b"later")]) == [0]


async def test_a_write_lock_that_is_never_given_back_is_unavailable(
    journal: SqliteJournal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT_S", 0.1)
    with apsw.Connection(str(path)) as other:  # a transaction of this connection
        other.execute("DELETE FROM claims")
        with pytest.raises(Unavailable, match="write lock"):
            await journal.append([event(b"a")])
    assert await journal.append([event(b"b")]) == [0]


async def test_a_cancelled_append_is_not_written_and_holds_up_nobody(journal: SqliteJournal, path: Path) -> None:
    async def append(value: bytes, scope: anyio.CancelScope) -> None:
        with scope:
            await journal.append([event(value)])

    async with anyio.create_task_group() as tasks:
        scopes = {value: anyio.CancelScope() for value in (b"writing", b"cancelled", b"waiting")}
        with apsw.Connection(str(path)) as other:
            other.execute("DELETE FROM claims")  # all appends wait for this transaction's end
            for value, scope in scopes.items():
                tasks.start_soon(append, value, scope)
            await anyio.wait_all_tasks_blocked()
            scopes[b"cancelled"].cancel()
            await anyio.wait_all_tasks_blocked()
    reader = await journal.reader({EVENTS: None})
    assert values(await reader.poll(10, 0)) == [b"writing", b"waiting"]


async def test_the_wal_is_worked_off_while_readers_read(journal: SqliteJournal, path: Path) -> None:
    reader = await journal.reader({Place("requests", 0): None})
    for _ in range(60):
        await journal.append([Record("requests", 0, b"k", b"x" * 50_000) for _ in range(10)])
        await reader.poll(5, 0)
    assert path.with_name("log.db-wal").stat().st_size < 16 * 1024 * 1024, "30 MB were written"


async def test_a_member_stays_while_its_event_loop_is_busy(journal: SqliteJournal, url: str) -> None:
    member = await journal.join("group", "requests")
    assert await member.changed(1) is not None
    other = await connect(url)
    busy_s = time.monotonic()
    time.sleep(1.2)  # noqa: ASYNC251  (more than twice the session's time, without the event loop)
    assert member.confirmed_since(busy_s + 0.6)
    await other.join("group", "requests")  # drops those that have lapsed
    assert journal.reads.number("SELECT count(*) FROM members") == 2
    await other.close()


async def test_a_closed_journal_says_so(journal: SqliteJournal) -> None:
    session = await journal.claim(0, ["requests"], "state")
    await journal.close()
    for asked in (journal.append([event(b"a")]), journal.partitions("events"), session.poll(1, 0)):
        with pytest.raises(Unavailable, match="closed"):
            await asked


async def test_members_of_an_earlier_boot_are_forgotten(journal: SqliteJournal, url: str, path: Path) -> None:
    await journal.join("group", "requests")
    execute(path, "UPDATE members SET boot = 'earlier', seen_ms = seen_ms + 3600000")
    other = await connect(url)
    member = await other.join("group", "requests")
    assignment = await member.changed(1)
    assert assignment is not None and assignment.partitions == {0}
    await other.close()
