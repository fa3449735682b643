"""Real processes of keylane, started for one test and ended with it, each known by its own pid."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 30.0
STOP_S = 20.0
PROGRAM = ("-m", "keylane.cli")


def keylane(*arguments: str, url: str, cwd: Path, check: bool = True, input: bytes = b"") -> bytes:
    """Run a command to its end; returns its standard output."""
    done = ended(*arguments, url=url, cwd=cwd, input=input)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done.stdout


def ended(*arguments: str, url: str, cwd: Path, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, whatever that is."""
    return subprocess.run(
        [sys.executable, *PROGRAM, *arguments],
        cwd=cwd,
        env=os.environ | {"KEYLANE_URL": url},
        input=input,
        capture_output=True,
        timeout=120,
        check=False,
    )


@contextmanager
def running(
    *arguments: str, url: str, cwd: Path, says: str, program: Sequence[str] = PROGRAM
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said `says` on its output; stopped gently at the end, and killed if that does not help.

    `program` is what Python is to run, if not the command line as it is.
    """
    log = cwd / f"{'-'.join(arguments[:3]).replace('/', '_').replace(':', '_')}-{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=cwd,
            env=os.environ | {"KEYLANE_URL": url, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_text(log, says, process)
        yield process
    finally:
        stop(process)


def wait_for_text(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_S
    while text not in (said := log.read_text(errors="replace")):
        assert process.poll() is None, f"it ended with {process.returncode}: {said}"
        assert time.monotonic() < deadline_s, f"it did not say {text!r}: {said}"
        time.sleep(0.02)  # between looks at another process's output, of which nothing tells us


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)


def write_worker(folder: Path, actions: Sequence[str], handling_ms: int = 2) -> str:
    """A worker module in `folder`; returns what `keylane worker run` is to be given."""
    (folder / "crew.py").write_text(
        f"""import os

import anyio
import keylane

worker = keylane.Worker(slots=16)


async def work(item: keylane.Item) -> dict[str, object]:
    await anyio.sleep({handling_ms} / 1000)
    return {{"by": os.getpid(), "token": item.token}}


for action in {list(actions)!r}:
    worker.handler(action)(work)
"""
    )
    return "crew:worker"
