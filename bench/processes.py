"""Processes that a measurement starts: each known by its pid, ended with it, and what they cost in CPU and memory.

Costs are read from `/proc`, so measuring needs Linux. CPU is what the kernel charged to the process, not wall time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.say import say

ROOT = Path(__file__).resolve().parents[1]
STOP_S = 20.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PYTHON = (sys.executable, "-m")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """A part cannot be measured. The message says what stood in the way."""


def scratch() -> Path:
    """Where a part may leave large files for as long as it runs: on the disk that the journals would be on."""
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def python(module: str, *arguments: str, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`python -m MODULE` with pipes, stopped at the end: gently, and killed if that does not help."""
    with process([*PYTHON, module, *arguments], environ) as running:
        yield running


@contextmanager
def process(
    command: Sequence[str], environ: dict[str, str] | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """As `python`, any program. What it says on standard error is shown, unless it is to be a pipe."""
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | (environ or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        yield running
    finally:
        stop(running)


def stop(running: subprocess.Popen[str]) -> None:
    if running.stdin is not None and not running.stdin.closed:
        running.stdin.close()
    if running.poll() is None:
        running.terminate()
        try:
            running.wait(STOP_S)
        except subprocess.TimeoutExpired:
            say(f"process {running.pid} did not stop in {STOP_S:.0f} s: killed")
            running.kill()
            running.wait(STOP_S)


def said(running: subprocess.Popen[str]) -> str:
    """The next line on its standard output. Raises `Failed` where it ended without one."""
    assert running.stdout is not None
    line = running.stdout.readline()
    if not line:
        raise Failed(f"{running.args!r} ended with {running.wait(STOP_S)} and said nothing")
    return line.strip()


def tell(running: subprocess.Popen[str], word: str) -> None:
    assert running.stdin is not None
    running.stdin.write(word + "\n")
    running.stdin.flush()


def cpu_s(pid: int) -> float:
    """CPU seconds of the process so far, user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Cost(NamedTuple):
    """What processes have used so far: CPU, and time for which they were runnable without having a core."""

    cpu_s: float
    waited_s: float


def cost(pids: Sequence[int]) -> Cost:
    waits_ns = [
        int(task.read_text().split()[1]) for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    ]
    return Cost(sum(map(cpu_s, pids)), sum(waits_ns) / 1e9)


def resident_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
