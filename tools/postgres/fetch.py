#!/usr/bin/env python3
"""`initdb` and `postgres` for the tests. Standard library only.

Those on the PATH are taken, or where Debian keeps them; where they are missing, PostgreSQL is installed with apt-get
when that is allowed; else exit 69 says what to do. Prints the folder that has both.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = ("initdb", "postgres")
DEBIAN = Path("/usr/lib/postgresql")
LOCK = Path(tempfile.gettempdir()) / f"keylane-postgres-{os.geteuid()}.lock"
UNAVAILABLE = 69


def found() -> Path | None:
    """The folder that has both, the newest of Debian's first."""
    versions = sorted(DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    folders = [*versions, *([Path(on_path).resolve().parent] if on_path else [])]
    return next((folder for folder in folders if all((folder / name).exists() for name in PROGRAMS)), None)


def install() -> str | None:
    """What stands in the way, if anything does."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "the tests need PostgreSQL's initdb and postgres: install it, or run this as root with apt-get"
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-qy", "--no-install-recommends", "postgresql"],
    ):
        done = subprocess.run(
            ["env", "DEBIAN_FRONTEND=noninteractive", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            return f"{' '.join(command)} failed:\n{done.stdout[-2000:]}"
    return None


def main() -> int:
    with os.fdopen(os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reason = None if found() else install()
    folder = found()
    if folder is None:
        sys.stderr.write(f"{reason or 'PostgreSQL was installed, but where it is not known'}\n")
        return UNAVAILABLE
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
