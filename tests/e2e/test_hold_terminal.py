"""`keylane hold` at a terminal, under a shell with job control: its command can read, be stopped, go on, be ended."""

import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.processes import running
from e2e.shell import BIN, DEADLINE_S, Shell, is_running, until

KEY = "deploy://api-prod"
PROMPT = "ready> "


class Terminal:
    """bash at a terminal, and whoever types there."""

    def __init__(self, shell: Shell) -> None:
        self.said = ""
        self.pid, self._file = pty.fork()
        if not self.pid:
            os.chdir(shell.cwd)
            path = f"{BIN}{os.pathsep}{shell.environ['PATH']}"
            environ = shell.environ | {"PS1": PROMPT, "PATH": path, "TERM": "dumb", "HISTFILE": ""}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environ)
        self.hears(PROMPT)

    def types(self, text: str) -> None:
        os.write(self._file, text.encode())

    def hears(self, text: str) -> str:
        """Read on until that was said; returns what was said until then."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not (found := re.search(text, self.said)):
            assert time.monotonic() < deadline_s, f"it did not say {text!r}: {self.said!r}"
            if select.select([self._file], [], [], 0.1)[0]:
                self.said += os.read(self._file, 4_096).decode(errors="replace")
        before, self.said = self.said[: found.end()], self.said[found.end() :]
        return before

    def ends(self, line: str) -> int:
        """Run a command to its end; returns its exit code."""
        self.types(line + "; echo code=$?=\n")
        return int(re.findall(r"code=(\d+)=", self.hears(r"code=\d+=") + "")[-1])

    def close(self) -> None:
        os.kill(self.pid, signal.SIGHUP)
        os.close(self._file)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[tuple[Terminal, Shell]]:
    url = f"sqlite:///{tmp_path}/journal.db"
    with running("router", "--output", "json", says='"url"', url=url, cwd=tmp_path):
        shell = Shell(url, tmp_path)
        found = Terminal(shell)
        yield found, shell
        found.close()


def test_a_command_can_read_be_interrupted_and_its_shell_goes_on(terminal: tuple[Terminal, Shell]) -> None:
    tty, shell = terminal
    tty.types(f"keylane hold {KEY} -- sh -c 'echo begun; read line; echo \"got $line\"; exec cat'\n")
    tty.hears("begun\r\n")
    tty.types("hello\n")
    tty.hears("got hello")
    tty.types("more\n")
    tty.hears("more\r\nmore\r\n")
    tty.types("\x04")  # the end of its input
    tty.hears(PROMPT)
    assert tty.ends("true") == 0 and shell.locks() == []
    for line in ("cat", "sleep 600"):  # one that reads and so has the terminal, and one that never asked for it
        tty.types(f"keylane hold {KEY} -- {line}; echo code=$?=\n")
        until(lambda: [lock["state"] for lock in shell.locks()] == ["held"])
        if line == "cat":
            tty.types("x\n")
            tty.hears("x\r\nx\r\n")
        tty.types("\x03")
        assert "code=130=" in tty.hears(r"code=\d+=")
        tty.hears(PROMPT)
        assert shell.locks() == []


def test_in_a_pipeline_the_terminal_stays_with_who_reads_it(terminal: tuple[Terminal, Shell]) -> None:
    tty, _ = terminal
    tty.types(
        f"keylane hold {KEY} -- sh -c 'echo piped; sleep 0.2' | sh -c 'cat; echo ask; read a </dev/tty; echo $a'\n"
    )
    tty.hears("ask\r\n")
    tty.types("answer\n")
    tty.hears("answer\r\nanswer\r\n")
    assert tty.ends("true") == 0


def test_stopped_from_the_keyboard_it_goes_on_where_it_was(terminal: tuple[Terminal, Shell]) -> None:
    tty, shell = terminal
    for reads in (True, False):
        script = "read line; echo got $line" if reads else "while ! test -e go; do sleep 0.05; done; echo gone on"
        tty.types(f"keylane hold {KEY} -- sh -c 'echo $$ > pid; echo begun; {script}; exit 5'; echo code=$?=\n")
        tty.hears("begun\r\n")
        if reads:
            until(lambda: has_the_terminal((shell.cwd / "pid").read_text()), "it reads")
        tty.types("\x1a")
        tty.hears("Stopped")
        tty.hears(PROMPT)
        assert state((shell.cwd / "pid").read_text()) == "T", "the command itself is stopped"
        assert tty.ends("echo the shell has the terminal") == 0
        tty.types("fg\n")
        if reads:
            tty.types("again\n")
            tty.hears("got again")
        else:
            (shell.cwd / "go").touch()
            tty.hears("gone on")
        # bash ends the line that was stopped at Ctrl-Z, so it is asked for the code of `fg`.
        tty.hears(PROMPT)
        until(lambda: shell.locks() == [])


def test_stopped_beyond_its_lease_it_is_ended(terminal: tuple[Terminal, Shell]) -> None:
    tty, shell = terminal
    tty.types(f"keylane hold {KEY} --ttl 2s --kill-after 1 -- sh -c 'echo $$ > pid; echo begun; sleep 600'\n")
    tty.hears("begun\r\n")
    tty.types("\x1a")
    tty.hears("Stopped")
    pid = int((shell.cwd / "pid").read_text())
    until(lambda: not is_running(pid), "the guard has ended it")
    tty.types("fg; echo code=$?=\n")
    assert "code=4=" in tty.hears(r"code=\d+=")


def test_in_the_background_it_works_and_asks_for_the_terminal_as_jobs_do(terminal: tuple[Terminal, Shell]) -> None:
    tty, shell = terminal
    tty.types(f"keylane hold {KEY} -- sh -c 'sleep 0.1; echo quiet; exit 3' & wait $!; echo code=$?=\n")
    assert "code=3=" in tty.hears(r"code=\d+=")
    tty.types(f"keylane hold {KEY} -- sh -c 'echo begun; read line; echo got $line' &\n")
    tty.hears("begun\r\n")
    until(lambda: "Stopped" in poked(tty), "it waits for the terminal")
    tty.types("fg\n")
    tty.types("late\n")
    tty.hears("got late")
    until(lambda: shell.locks() == [])


def poked(tty: Terminal) -> str:
    """What the shell says of its jobs."""
    tty.types("jobs; echo listed\n")
    return tty.hears("\nlisted")


def state(pid: str) -> str:
    """As the kernel has it: S sleeps, T is stopped."""
    return Path(f"/proc/{pid.strip()}/stat").read_text().rpartition(")")[2].split()[0]


def has_the_terminal(pid: str) -> bool:
    """Whether its group, which it leads, is in the foreground."""
    return Path(f"/proc/{pid.strip()}/stat").read_text().rpartition(")")[2].split()[5] == pid.strip()
