"""The guard of a program that runs only while something is held: the process between it and the one that holds.

It is forked before there is any thread, and forks the program, which waits until it is told to begin and is nobody's if
the holding process dies before. The guard reports what becomes of the program, and ends its group when the holding
process has died, kill -9 included, or is paused beyond the time until which it said that it holds. On Linux the program
dies with its guard (PR_SET_PDEATHSIG), unless it is one that changes its user; elsewhere, and for what the program has
started, nobody is left then to end it. Runs without an event loop, and never returns to the code that forked it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

import msgspec

from keylane.workers.clock import boottime_ms
from keylane.workers.process_groups import GROUP_POLL_S, signal_group

LOOK_S = 0.5
"""How often the guard looks at the clock, which can run on while timers rest."""
DONE = b"done"
RESTORED = ("SIGPIPE", "SIGXFSZ", "SIGXFZ")
"""Python ignores them, and the program must not inherit that."""
NOT_FOR_THE_GUARD = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip
PR_SET_PDEATHSIG = 1


class Guard:
    """The process between: whose child the program is, and who lives longer than the one that holds."""

    def __init__(self, command: Sequence[str], orders: socket.socket, news: int, reports: int, kill_after_s: float):
        self._news = news
        self._reports = reports
        self._kill_after_s = kill_after_s
        self._over = False
        os.setpgid(0, 0)  # what is sent to the terminal's groups is not for it
        self._woken, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        guard = os.getpid()
        self._pid = forked(lambda: _become(command, orders, guard))
        with suppress(PermissionError, ProcessLookupError):  # whoever of the two is later finds it done
            os.setpgid(self._pid, self._pid)
        for number in NOT_FOR_THE_GUARD:
            signal.signal(number, signal.SIG_IGN)
        _keep_open({news, reports, self._woken, wakeup})

    def stand(self) -> None:
        """Until it is let go, or there is nobody any more to let it go."""
        self._report(b"%d" % self._pid)
        until_ms: int | None = None
        begun = b""
        while True:
            waits_s = None if until_ms is None else LOOK_S
            readable, _, _ = select.select([self._news, self._woken], [], [], waits_s)
            if self._woken in readable:
                os.read(self._woken, 4_096)
                self._look()
            if self._news in readable:
                read = os.read(self._news, 4_096)
                *told, begun = (begun + read).split(b"\n")
                if DONE in told:
                    return
                if not read:
                    return self._end()
                until_ms = int(told[-1]) if told else until_ms
            if until_ms is not None and boottime_ms() >= until_ms:
                self._end()
                until_ms = None

    def _look(self) -> None:
        """Report what became of the program."""
        while not self._over:
            pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if os.WIFSTOPPED(status):
                self._report(b"stopped %d" % os.WSTOPSIG(status))
                continue
            self._over = True
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            self._report(b"ended %d" % code)

    def _report(self, line: bytes) -> None:
        with suppress(BrokenPipeError):
            os.write(self._reports, line + b"\n")

    def _end(self) -> None:
        """As `end_group`, for a process without an event loop."""
        if not signal_group(self._pid, signal.SIGTERM):
            return
        signal_group(self._pid, signal.SIGCONT)
        until_ms = boottime_ms() + round(self._kill_after_s * 1_000)
        while boottime_ms() < until_ms:
            self._look()
            if not signal_group(self._pid, 0):
                return
            time.sleep(GROUP_POLL_S)
        signal_group(self._pid, signal.SIGKILL)
        while not self._over:
            self._look()
            time.sleep(GROUP_POLL_S)


def forked(become: Callable[[], None]) -> int:
    """The pid of a process that does nothing but `become`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        become()
    except BaseException:
        os._exit(1)
    os._exit(0)


def _keep_open(kept: set[int]) -> None:
    """Close all else: whoever reads the program's output, or waits for another file's end, must not wait for us."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, max(begin, os.sysconf("SC_OPEN_MAX")))


def _become(command: Sequence[str], orders: socket.socket, guard: int) -> None:
    with suppress(PermissionError):
        os.setpgid(0, 0)
    _die_with(guard)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for name in RESTORED:
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_DFL)
    told = b""
    while part := orders.recv(65_536):
        told += part
    # Empty, or cut off: whoever was to say that it is held has died.
    changes = msgspec.json.decode(told, type=dict[str, str | None])
    kept = {name: value for name, value in os.environ.items() if name not in changes}
    added = {name: value for name, value in changes.items() if value is not None}
    _replaced_by(list(command), kept | added, orders)


def _die_with(guard: int) -> None:
    """Be killed when the guard is: where it was killed with us, say by a pattern, nobody else would end the program."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)


def _replaced_by(command: list[str], environment: Mapping[str, str], orders: socket.socket) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        orders.sendall(str(error.errno).encode())
    except ValueError:  # a NUL in it
        orders.sendall(b"22")
    os._exit(127)
