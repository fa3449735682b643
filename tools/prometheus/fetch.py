#!/usr/bin/env python3
"""`prometheus` and `promtool` for the tests, in .prometheus/, without installing anything and without a service.

Standard library only. Those on the PATH are linked; else Debian's package is downloaded with apt-get and unpacked.
Where neither can be, exit 69 says what to do. Prints the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / ".prometheus"
PROGRAMS = ("prometheus", "promtool")
PACKAGE = "prometheus"
UNAVAILABLE = 69


class Refused(Exception):
    """What stands in the way, said so that a person can remove it."""


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Refused(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def fetch(folder: Path) -> None:
    """Put both programs into `folder`, unless they are there."""
    if all((folder / name).exists() for name in PROGRAMS):
        return
    there = {name: shutil.which(name) for name in PROGRAMS}
    if all(there.values()):
        for name, path in there.items():
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(str(path))
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Refused("the tests need prometheus and promtool on the PATH: install Prometheus and run this again")
    with tempfile.TemporaryDirectory() as scratch:
        if os.geteuid() == 0:
            run(["apt-get", "update", "-q"], Path(scratch))
            # The download is written by an unprivileged user of apt's.
            os.chmod(scratch, 0o755)
        run(["apt-get", "download", "-q", PACKAGE], Path(scratch))
        (package,) = Path(scratch).glob("*.deb")
        run(["dpkg", "-x", str(package), "unpacked"], Path(scratch))
        for name in PROGRAMS:
            shutil.move(Path(scratch) / "unpacked" / "usr" / "bin" / name, folder / name)


def main() -> int:
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            fetch(HOME)
        except Refused as reason:
            sys.stderr.write(f"{reason}\n")
            return UNAVAILABLE
    sys.stdout.write(f"{HOME}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
