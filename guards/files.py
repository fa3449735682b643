"""The guard of files: the highest token is kept beside the file, and compared under a lock while the file changes.

For any number of processes of one machine, on Linux and other POSIX systems with `flock`; a network file system keeps
the promise as far as it keeps `flock`. Beside FILE lie `.FILE.keylane-lock`, never removed, and `.FILE.keylane-token`.
Whoever writes past the guard is not stopped by it.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from keylane.guards.tokens import Busy, StaleToken, Unusable, check_token, parse_token

WAIT_S = 30.0
LOOK_S = 0.02
"""Between looks at a lock that another has: `flock` has no time limit of its own."""

OWN = re.compile(r"\..*\.keylane-(lock|token|new)", re.DOTALL)

Path = str | os.PathLike[str]


def write(path: Path, data: bytes, token: int, *, wait_s: float = WAIT_S) -> None:
    """Make `data` the content of `path`, all of it or nothing, also where the machine fails on the way.

    A file that is there keeps its permissions; a symbolic link stays one. Raises as `holding`.
    """
    with holding(path, token, wait_s=wait_s) as file:
        _replace(file, data)


def read(path: Path, token: int, *, wait_s: float = WAIT_S) -> bytes:
    """The content of `path`, for who will change it: from then on lower tokens are refused. Raises as `holding`."""
    with holding(path, token, wait_s=wait_s) as file, open(file, "rb") as content:
        return content.read()


def highest(path: Path) -> int | None:
    """The highest token that was let pass; None where none was."""
    return _seen(_named(path))


@contextmanager
def holding(path: Path, token: int, *, wait_s: float = WAIT_S) -> Iterator[str]:
    """Entered when `token` has passed for `path` and is on the disk; nobody else passes until it is left.

    For changes other than `write` makes, to what it yields: the path of the file itself, by whatever symbolic links it
    was named. The file need not be there, its folder must be. Raises StaleToken, Unusable
    also where what lies beside the file is no token, and Busy where another is at work for `wait_s` seconds.
    """
    check_token(token)
    file = _named(path)
    with _locked(file, wait_s):
        seen = _seen(file)
        if seen is not None and token < seen:
            raise StaleToken(file, token, seen)
        # Before the file changes, since a crash in between must not let a lower token pass.
        if token != seen:
            _replace(_beside(file, "token"), b"%d\n" % token)
        yield file


def _named(path: Path) -> str:
    """By whatever links it is reached, a file has one token."""
    file = os.path.realpath(path)
    if OWN.fullmatch(os.path.basename(file)):
        raise Unusable("BAD_TARGET", f"{file!r} is named as the guard names what it keeps beside a file")
    return file


def _beside(file: str, what: str) -> str:
    folder, name = os.path.split(file)
    return os.path.join(folder, f".{name}.keylane-{what}")


def _seen(file: str) -> int | None:
    beside = _beside(file, "token")
    try:
        with open(beside, "rb") as content:
            text = content.read(64).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    return parse_token(text.removesuffix("\n"), beside)


@contextmanager
def _locked(path: str, wait_s: float) -> Iterator[None]:
    file = os.open(_beside(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        until_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    raise Busy(f"another has been changing {path!r} for {wait_s:g} s") from None
            time.sleep(LOOK_S)
        yield
    finally:
        os.close(file)


def _replace(path: str, data: bytes) -> None:
    """Under the lock, so that the new file can have a fixed name, and one that a crash left is not left for good."""
    folder, new = os.path.dirname(path), _beside(path, "new")
    with suppress(FileNotFoundError):
        os.unlink(new)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path).st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise
    folder_file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_file)
    finally:
        os.close(folder_file)
