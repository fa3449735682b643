"""Two ways in which a disk is full, since SQLite takes them differently. Both end with the body.

A limit on the size of files needs no rights, and gives EFBIG; a small file system gives ENOSPC, and needs the right to
mount one. Where that is not to be had, the head of the test session says so (`tests/conftest.py`).
"""

import resource
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

SMALL = "16m"
ROOM_BYTES = 64 * 1024
"""What is left: the fault is to hit a commit under way, not only the next file."""


@contextmanager
def limited(journal: Path, processes: Sequence[Popen[bytes]]) -> Iterator[None]:
    """No file of these processes, of this one or of those that it starts grows beyond what the journal has now.

    Its WAL counts for itself: it is not worked off before it has 8 MB, so it will not find room again by that.
    """
    largest = journal.stat().st_size
    pids = [0, *(process.pid for process in processes)]
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
    for pid, (_, hard) in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest + ROOM_BYTES, hard))
    try:
        yield
    finally:
        for pid, limits in zip(pids, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def filled(journal: Path, processes: Sequence[Popen[bytes]]) -> Iterator[None]:
    """The rest of the file system is taken by something else."""
    ballast = journal.with_name("ballast")
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * ROOM_BYTES)
        except OSError:
            file.truncate(file.tell() - ROOM_BYTES)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def small_file_system(folder: Path) -> Iterator[None]:
    """One of its own at `folder`, which must exist. Raises `CalledProcessError` where nothing may be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def can_mount() -> bool:
    """Whether `small_file_system` works here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_file_system(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False
