"""A real PostgreSQL of the tests' own, reached by a socket in its own folder alone.

Where it cannot run the tests fail, for a skipped proof is none.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

TOOL = Path(__file__).resolve().parents[2] / "tools" / "postgres" / "fetch.py"
START_S = 30.0
STOP_S = 30.0


def programs() -> Path:
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no PostgreSQL for the tests: {done.stderr}")
    return Path(done.stdout.strip())


def somebody() -> int | None:
    """Who it is to run as: it refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return names.get("postgres", names["nobody"])


@contextmanager
def running_postgres() -> Iterator[str]:
    """Yields what psycopg connects to."""
    # Not in pytest's folder, which other users may not enter.
    folder, user = Path(tempfile.mkdtemp(prefix="keylane-postgres-")), somebody()
    if user is not None:
        os.chown(folder, user, -1)
    bin, data, log = programs(), folder / "data", folder / "log"
    options: dict[str, object] = {"cwd": folder, "user": user, "stdin": subprocess.DEVNULL}
    try:
        initdb = [bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8"]
        done = subprocess.run(initdb, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr
        with log.open("wb") as out:
            server = [bin / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-F"]
            process = subprocess.Popen(server, stdout=out, stderr=out, **options)
        try:
            conninfo = f"host={folder} user=postgres dbname=postgres"
            wait_until_up(conninfo, process, log)
            yield conninfo
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: it does not wait for clients
            process.wait(STOP_S)
    finally:
        shutil.rmtree(folder)


def wait_until_up(conninfo: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(conninfo).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)  # between looks at another process, of which nothing tells us
