"""What agents do with locks from a shell: `rlock` and the others as programs, `keylane hold` in the background."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.processes import PROGRAM

DEADLINE_S = 30.0
BIN = Path(sys.executable).parent


def is_running(pid: int) -> bool:
    """A zombie has ended: it only waits to be reaped by whoever is its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(is_so: Callable[[], object], what: str = "") -> None:
    """Of another process's doing nothing tells us: look, until a deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s, what or "it did not come about"
        time.sleep(0.02)


class Shell:
    """One user's: the journal, a folder to work in, and one where secrets are kept."""

    def __init__(self, url: str, cwd: Path, **environ: str) -> None:
        self.url = url
        self.cwd = cwd
        self.state = cwd / "state"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYLANE_")}
        self.environ = inherited | {"KEYLANE_URL": url, "KEYLANE_STATE_DIR": str(self.state)} | environ

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`rlock`, `runlock`, `rlock-heartbeat` or `keylane` to its end."""
        return subprocess.run(
            [str(BIN / program), *arguments],
            cwd=self.cwd, env=self.environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def done(self, program: str, *arguments: str) -> dict[str, Any]:
        """As `run`, of what succeeds; returns its answer."""
        ran = self.run(program, "--output", "json", *arguments)
        assert ran.returncode == 0, (program, arguments, ran.returncode, ran.stderr)
        answer: dict[str, Any] = json.loads(ran.stdout)
        return answer

    def refused(self, code: int, program: str, *arguments: str) -> dict[str, Any]:
        """As `run`, of what ends with `code`; returns its error."""
        ran = self.run(program, "--output", "json", *arguments)
        assert ran.returncode == code, (program, arguments, ran.returncode, ran.stdout, ran.stderr)
        error: dict[str, Any] = json.loads(ran.stderr.splitlines()[-1])["error"]
        return error

    def locks(self, *arguments: str) -> list[dict[str, Any]]:
        """`keylane lock list`."""
        return [json.loads(line) for line in self._lines("lock", "list", *arguments)]

    def log(self, resource: str) -> list[dict[str, Any]]:
        """`keylane events RESOURCE`: the events themselves."""
        return [json.loads(line)["event"] for line in self._lines("events", resource)]

    def _lines(self, *arguments: str) -> list[str]:
        ran = self.run("keylane", *arguments, "--output", "json")
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    def start(self, program: str, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        """One in the background."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [str(BIN / program), *arguments], cwd=self.cwd, env=self.environ, text=True, **streams | popen
        )

    def kept(self) -> list[Path]:
        """All files that are on disk now."""
        return [path for path in self.state.rglob("*") if path.is_file()]

    def secrets(self) -> set[str]:
        """Those of every session that is on disk now."""
        return {json.loads(path.read_bytes())["secret"] for path in self.state.rglob("session.json")}

    @contextmanager
    def holding(self, *arguments: str, script: str, **popen: Any) -> Iterator[subprocess.Popen[str]]:
        """`keylane hold` with a shell script that has begun; its pid is in the file `pid`, those of more in `pids`."""
        pid = self.cwd / "pid"
        pid.unlink(missing_ok=True)
        hold = self.start("keylane", "hold", *arguments, "--", "sh", "-c", f"echo $$ > pid; {script}", **popen)
        try:
            until(lambda: hold.poll() is not None or (pid.exists() and pid.read_text().endswith("\n")), "it began")
            yield hold
        finally:
            if hold.poll() is None:
                hold.send_signal(signal.SIGCONT)
                hold.kill()
            hold.communicate()

    def child(self) -> int:
        """The pid of the script that `holding` runs."""
        return int((self.cwd / "pid").read_text())


def started(command: Sequence[str], log: Path, url: str, cwd: Path) -> subprocess.Popen[bytes]:
    """A router that is to be killed and started again: the process itself, whose output is in `log`."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *PROGRAM, *command],
            cwd=cwd, env=os.environ | {"KEYLANE_URL": url}, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
