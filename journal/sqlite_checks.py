"""How a journal's file is doing, and what whoever opened it may do with it. Reads only.

The one other module that imports apsw: checking needs a connection of its own, so that a long read holds up nobody.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from .upkeep import Finding, Level

MIB = 1024 * 1024
FREE_BYTES_FAULT = 128 * MIB
FREE_BYTES_WARN = 1024 * MIB
WAL_BYTES_WARN = 256 * MIB
"""Four times what is kept of it by itself: somebody has been reading for very long, or nothing copies it back."""
LOOK_EVERY_STEPS = 20_000
PROBLEMS_MAX = 5


def checks(path: Path, advance: Callable[[int], None]) -> list[Finding]:
    """Every check of the file. Takes as long as reading it, which is nearly all of it the last check's."""
    return [_mode(path), _disk(path), _wal(path), *_inside(path, advance)]


def rights(path: Path) -> Finding:
    """A file knows no roles: who may write it may do everything."""
    missing = []
    if not os.access(path, os.R_OK | os.W_OK):
        missing.append(str(path))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        missing.append(f"{path.parent}, where SQLite keeps its log beside the file")
    if missing:
        advice = f"run keylane as {_owner(path)}, who owns the file"
        return Finding("rights", "fault", f"may not write {' nor '.join(missing)}", advice)
    return Finding("rights", "ok", f"may read and write {path}, which is the right to everything in it")


def _mode(path: Path) -> Finding:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    said = f"{path} has mode {mode:04o} and belongs to {_owner(path)}"
    if mode & 0o022:
        return Finding("file", "fault", f"{said}: others may forge anything in it", f"chmod 600 {path}*")
    if mode & 0o077:
        return Finding("file", "warn", f"{said}: others may read every payload", f"chmod 600 {path}*")
    if found.st_uid != os.geteuid():
        return Finding("file", "warn", f"{said}, not to this user", f"run every keylane process as {_owner(path)}")
    return Finding("file", "ok", said)


def _disk(path: Path) -> Finding:
    free = shutil.disk_usage(path.parent).free
    said = f"{_mib(free)} free where the file of {_mib(path.stat().st_size)} lies"
    if free < FREE_BYTES_WARN:
        level: Level = "fault" if free < FREE_BYTES_FAULT else "warn"
        return Finding("disk", level, said, "make room: on a full disk nothing is acknowledged and no lane turns")
    return Finding("disk", "ok", said)


def _wal(path: Path) -> Finding:
    wal = path.with_name(path.name + "-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > WAL_BYTES_WARN:
        advice = "end the program that has had the file open for reading for so long; the next commits then shrink it"
        return Finding("wal", "warn", f"{wal} has {_mib(size)}: it cannot be copied back into the file", advice)
    return Finding("wal", "ok", f"{_mib(size)} of the log not yet copied back into the file")


def _inside(path: Path, advance: Callable[[int], None]) -> Iterator[Finding]:
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as error:
        yield Finding("integrity", "fault", f"{path} cannot be opened for reading: {error}", "see the line `file`")
        return
    try:
        yield _journal_mode(connection)
        yield _integrity(connection, path, advance)
    finally:
        connection.close()


def _journal_mode(connection: apsw.Connection) -> Finding:
    mode = str(connection.pragma("journal_mode"))
    if mode != "wal":
        advice = "stop what else uses this file; a router that opens it sets the mode again"
        return Finding(
            "durability", "fault", f"the journal mode is {mode}, not wal: another program changed it", advice
        )
    said = f"SQLite {apsw.sqlite_lib_version()}; every commit waits for the disk (wal, synchronous=full)"
    return Finding("durability", "ok", said)


def _integrity(connection: apsw.Connection, path: Path, advance: Callable[[int], None]) -> Finding:
    """`PRAGMA quick_check`. It reads every page once, so the pages read tell how far it is."""
    pages = int(str(connection.pragma("page_count")))
    told = 0

    def watch() -> bool:
        nonlocal told
        read = connection.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
        share = min(100, 100 * read // max(1, pages))
        advance(share - told)
        told = share
        return False

    connection.set_progress_handler(watch, LOOK_EVERY_STEPS)
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({PROBLEMS_MAX})")]
    except apsw.Error as error:
        found = [str(error)]
    finally:
        connection.set_progress_handler(None)
    advance(100 - told)
    if found == ["ok"]:
        return Finding("integrity", "ok", f"all {pages} pages are sound")
    advice = "stop every router, keep a copy of the file with its -wal and -shm, find out what the disk did, restore"
    return Finding("integrity", "fault", f"{path} is damaged: {'; '.join(found)}", advice)


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # a user without a name, as in containers
        return f"user {path.stat().st_uid}"


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
