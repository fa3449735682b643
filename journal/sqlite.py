"""One connection to a SQLite file: opening, transactions, and the one place where apsw's errors become ours.

The only module that imports apsw but for `sqlite_checks.py`. It knows nothing of topics; the tables are in
`sqlite_log.py`.

WAL with `synchronous=FULL`: `NORMAL` is eight times as fast but can lose acknowledged commits at power loss
(docs/decisions/sqlite-journal.md). apsw rather than the standard library's sqlite3, because SQLite before
3.51.3 can corrupt a WAL when two connections write and checkpoint at once, and apsw brings its own.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from .errors import BadUrl, NoJournal, Unavailable
from .mounts import shared_type_of

Value = int | str | bytes | None
Row = tuple[Value, ...]

APPLICATION_ID = 0x6B6C_6E65  # "klne"
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 10.0
"""How long to wait for another process's write. A healthy one takes a millisecond."""

WAL_PAGES = 2_000
"""When a commit copies the WAL back into the file: 8 MB. A larger one makes single commits wait longer."""
WAL_BYTES_KEPT = 64 * 1024 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room left: on the disk, in a quota, under a limit on file sizes. SQLite calls the last two "disk I/O error"."""


class OutcomeUnknown(Unavailable):
    """A commit failed on its way to the disk: a recovery may yet find it whole in the WAL."""


class Database:
    """One connection. Not durable means that a commit may be lost at power loss, never at a crash."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        try:
            self._connection = apsw.Connection(str(path))
        except apsw.Error as error:
            raise Unavailable(f"{path}: {error}") from error
        with self._mapped():
            # Only for opening, recovery and reads: a writer waits in `_begin`.
            self._connection.set_busy_timeout(int(BUSY_TIMEOUT_S * 1000))
            self._pragma("journal_mode", "wal")
            self._pragma("synchronous", "full" if durable else "normal")
            self._pragma("wal_autocheckpoint", WAL_PAGES)
            self._pragma("journal_size_limit", WAL_BYTES_KEPT)

    def rows(self, sql: str, values: Sequence[Value] = ()) -> Iterator[Row]:
        """The rows of a query, as they are asked for."""
        with self._mapped():
            yield from self._connection.execute(sql, tuple(values))

    def row(self, sql: str, values: Sequence[Value] = ()) -> Row | None:
        """The first row of a query, which runs to its end: also of a statement with RETURNING."""
        found = list(self.rows(sql, values))
        return found[0] if found else None

    def number(self, sql: str, values: Sequence[Value] = ()) -> int | None:
        """The one integer that a query finds, or None."""
        found = self.row(sql, values)
        if found is None:
            return None
        assert isinstance(found[0], int), sql
        return found[0]

    def run(self, sql: str, values: Sequence[Value] = ()) -> None:
        """Run a statement that returns nothing."""
        with self._mapped():
            self._connection.execute(sql, tuple(values)).fetchall()

    def run_many(self, sql: str, rows: Iterable[Row]) -> None:
        """Run a statement once for each row."""
        with self._mapped():
            self._connection.executemany(sql, rows)

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction that holds the write lock from its start; rolled back when the block raises.

        Raises `Unavailable` when the lock is not to be had in `BUSY_TIMEOUT_S` or when a statement fails
        (nothing was written), and `OutcomeUnknown` when the commit itself fails.
        """
        self._begin()
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        try:
            self.commit()
        except apsw.Error as error:
            self._roll_back()
            raise OutcomeUnknown(f"{self.path}: the commit failed: {self._said(error)}") from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A read transaction: all that is read inside is of one moment."""
        self.run("BEGIN")
        try:
            yield
        finally:
            self._roll_back()

    def data_version(self) -> int:
        """A number that changes when another connection, of any process, has committed."""
        version = self.number("PRAGMA data_version")
        assert version is not None
        return version

    def create(self, schema: str) -> None:
        """Lay out an empty file, or check that the file is a keylane journal of this version (`BadUrl`)."""
        with self.write():
            application = self.number("PRAGMA application_id")
            version = self.number("PRAGMA user_version")
            tables = self.number("SELECT count(*) FROM sqlite_schema")
            if (application, version, tables) == (0, 0, 0):
                with self._mapped():
                    self._connection.execute(schema)
                self._pragma("application_id", APPLICATION_ID)
                self._pragma("user_version", SCHEMA_VERSION)
            elif application != APPLICATION_ID:
                raise BadUrl(f"{self.path} is a SQLite file of another program, not a keylane journal")
            elif version != SCHEMA_VERSION:
                raise BadUrl(
                    f"{self.path} has journal schema {version}, and this keylane reads {SCHEMA_VERSION}: "
                    "use the keylane that wrote it, or begin a new file"
                )

    def close(self) -> None:
        """Close the connection; what is asked of it afterwards is `Unavailable`."""
        with self._mapped():
            self._connection.close()

    def _pragma(self, name: str, value: str | int) -> None:
        self._connection.execute(f"PRAGMA {name}={value}").fetchall()

    def _begin(self) -> None:
        # Own short sleeps instead of SQLite's busy handler, whose single waits grow to 100 ms;
        # with jitter, so that waiting processes do not keep step.
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        pause_s = 0.000_1
        with self._mapped():
            self._connection.set_busy_timeout(0)
            try:
                while not self._try_begin():
                    if time.monotonic() > deadline_s:
                        waited = f"another process has held the write lock for {BUSY_TIMEOUT_S} s"
                        raise Unavailable(f"{self.path}: {waited}")
                    time.sleep(pause_s * random.uniform(0.5, 1.5))
                    pause_s = min(2 * pause_s, 0.003)
            finally:
                self._connection.set_busy_timeout(int(BUSY_TIMEOUT_S * 1000))

    def _try_begin(self) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            return False
        return True

    def commit(self) -> None:
        """End the transaction of `write`, which calls it."""
        self._connection.execute("COMMIT")

    def _roll_back(self) -> None:
        # SQLite may have rolled back by itself, on a full disk for instance.
        with self._mapped():
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except apsw.NotADBError as error:
            raise BadUrl(f"{self.path} is not a SQLite file") from error
        except apsw.ConnectionClosedError as error:
            raise Unavailable(f"{self.path}: this journal was closed") from error
        except apsw.Error as error:
            raise Unavailable(f"{self.path}: {self._said(error)}") from error

    def _said(self, error: apsw.Error) -> str:
        is_full = isinstance(error, apsw.IOError) and self._connection.system_errno in FULL
        if is_full or isinstance(error, apsw.FullError):
            return f"the disk is full, make room ({error})"
        return str(error)


def existing_file(name: str) -> Path:
    """The whole path of a file that `prepare_file` made earlier; as that, but raises `NoJournal` where none is."""
    path = Path(name).absolute()
    if not (path.is_file() and path.stat().st_size):
        raise NoJournal(f"{path}: there is no journal yet")
    return prepare_file(name)


def prepare_file(name: str) -> Path:
    """Make the file, for its owner's eyes only, in a folder of the same kind; returns its whole path.

    SQLite gives its WAL and shared memory the file's own mode. An existing folder keeps its mode. Raises
    `BadUrl` for what can never be a journal and `Unavailable` when the disk refuses.
    """
    path = Path(name).absolute()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shared = shared_type_of(path.parent)
        if shared is not None:
            raise BadUrl(
                f"{path} lies on {shared}: SQLite is only safe on a local disk; "
                "put the journal on one, or use kafka:// to share it between machines"
            )
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise BadUrl(f"{path} cannot be a journal file: {error.strerror}") from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    return path
