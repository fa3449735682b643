"""Files that only their owner may read: made, replaced and read so that nobody else ever can. Knows no locks.

A file is written beside its place, to disk, and then put there in one step: at every moment, also after kill -9 or a
power cut, it is whole, as it was before, or not there. What belongs to another user or lets others in is refused, never
mended: whoever could write there may know, or have chosen, what is in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from keylane.errors import ConfigError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
OTHERS = 0o077
FILE_BYTES_MAX = 64 * 1024
UNFINISHED = ".new-"
"""Begins the name of a file that is still written, or whose writer was killed. It may hold what the file was to."""
NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
TRIES_MAX = 100


@contextmanager
def told_plainly(path: Path) -> Iterator[None]:
    """Raise what the system refuses as `ConfigError`, with the path."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; KEYLANE_STATE_DIR can name another folder") from error


def private_folder(path: Path) -> None:
    """Make it and those above it, or see that it is private. Raises `ConfigError`."""
    with told_plainly(path):
        _folder(path)


def read_private(path: Path) -> bytes | None:
    """What is in it; None where there is none. Raises `ConfigError` where it or its folder is not private."""
    try:
        with told_plainly(path):
            _check(path.parent, os.lstat(path.parent), stat.S_ISDIR, "folder", FOLDER_MODE)
            # Not a link's target, and no waiting for whoever writes to a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except ConfigError as refused:
        cause = refused.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENOENT:
            return None
        if isinstance(cause, OSError) and cause.errno in (errno.ELOOP, errno.EMLINK):
            raise ConfigError(f"{path} is a link, where a file of yours has to be: remove it") from cause
        raise
    with os.fdopen(descriptor, "rb") as file, told_plainly(path):
        _check(path, os.fstat(descriptor), stat.S_ISREG, "file", FILE_MODE)
        return file.read(FILE_BYTES_MAX)


def replace_private(path: Path, data: bytes) -> None:
    """Put `data` there, whatever was. It is on disk when this returns. Makes the folder again if it was removed."""
    _put(path, data, os.rename)


def create_private(path: Path, data: bytes) -> bool:
    """Put `data` there, unless there is something: then False, and that stays. Of many at once one has True."""
    return _put(path, data, os.link)


@contextmanager
def locked_private(path: Path) -> Iterator[None]:
    """An empty file that `is_locked` while the block runs. Leaving by an exception, or by death, leaves it there."""
    unfinished = path.parent / f"{UNFINISHED}{token_hex(8)}"
    with told_plainly(path):
        _folder(path.parent)
        descriptor = os.open(unfinished, NEW, FILE_MODE)
    try:
        with told_plainly(path):
            # Locked before it has its name: whoever finds it under that finds it locked.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.rename(unfinished, path)
            _sync(path.parent)
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether the process that made it by `locked_private` is still in its block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _put(path: Path, data: bytes, into_place: Callable[[Path, Path], None]) -> bool:
    with told_plainly(path):
        for _ in range(TRIES_MAX):
            try:
                _folder(path.parent)
                return _put_once(path, data, into_place)
            except FileNotFoundError:
                continue  # whoever was done with the folder has just removed it
        raise FileNotFoundError(errno.ENOENT, "its folder is removed again and again", str(path))


def _put_once(path: Path, data: bytes, into_place: Callable[[Path, Path], None]) -> bool:
    unfinished = path.parent / f"{UNFINISHED}{token_hex(8)}"
    try:
        with os.fdopen(os.open(unfinished, NEW, FILE_MODE), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        into_place(unfinished, path)
        _sync(path.parent)
    except FileExistsError:
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def _folder(path: Path) -> None:
    path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(FOLDER_MODE)
    _check(path, os.lstat(path), stat.S_ISDIR, "folder", FOLDER_MODE)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(path: Path, found: os.stat_result, is_kind: Callable[[int], bool], kind: str, mode: int) -> None:
    if not is_kind(found.st_mode):
        raise ConfigError(f"{path} is no {kind}, where a {kind} of yours has to be: remove it")
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}, and you are {os.geteuid()}: secrets are kept only where nobody"
            " else can; KEYLANE_STATE_DIR can name another folder"
        )
    if stat.S_IMODE(found.st_mode) & OTHERS:
        raise ConfigError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, and lets others in: what is in it may be known."
            f" Remove it, or if you trust it, chmod {mode:o} it"
        )
