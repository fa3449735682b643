"""A program that runs only while something is held: started in a process group of its own, followed, and guarded.

Two processes are forked before there is any thread. One becomes the program, once it is told to; it is nobody's if
this process dies before. The other is the guard: it ends the program's group when this process has died, kill -9
included, or is paused beyond the time until which it said that it holds. So neither rests on this process living. A
parent-death signal would reach the program alone, none of what it started, and only on Linux.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import anyio
import msgspec

from keylane.cli_context import NotRun
from keylane.workers.clock import boottime_ms
from keylane.workers.process_groups import GROUP_POLL_S, end_group, signal_group

GUARD_GRACE_MS = 200
"""How much later than this process itself the guard acts: it is for when that does not."""
LOOK_S = 0.5
"""How often the guard looks at the clock, which can run on while timers rest."""
DONE = b"done\n"
RESTORED = ("SIGPIPE", "SIGXFSZ", "SIGXFZ")
"""Python ignores them, and the program must not inherit that."""


class NotStarted(Exception):
    """The system did not run the program. `number` is its error."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


NOT_FOUND = 127
NOT_RUNNABLE = 126
"""As shells have it."""


def not_run(name: str, failed: NotStarted) -> NotRun:
    """Why a program could not be run."""
    return NotRun(f"{name}: {failed}", NOT_FOUND if failed.number == errno.ENOENT else NOT_RUNNABLE)


def look_for(name: str) -> None:
    """Raises `NotRun` where there is no such program: better now than when it is held."""
    if shutil.which(name) is None:
        is_there = os.sep in name and os.path.exists(name)
        raise not_run(name, NotStarted(errno.EACCES if is_there else errno.ENOENT))


@dataclass(frozen=True)
class Stopped:
    """The program was stopped, by this signal; it may go on."""

    signal: int


@dataclass(frozen=True)
class Ended:
    """The program is over, with what a shell would tell of it: its exit code, or 128 and the signal."""

    code: int


class HeldProgram:
    """One program, from before it is started until nothing of it is left. `close` is to be called in any case."""

    def __init__(self, command: Sequence[str], kill_after_s: float) -> None:
        """Forks: there must be no other thread."""
        self.kill_after_s = kill_after_s
        self._orders, orders = socket.socketpair()
        self.pid = _forked(lambda: _become(command, orders, self._orders))
        orders.close()
        with suppress(PermissionError, ProcessLookupError):  # whoever of the two is later finds it done
            os.setpgid(self.pid, self.pid)
        news, self._news = os.pipe()
        self._guard = _forked(lambda: self._stand_guard(news))
        os.close(news)
        self._over: Ended | None = None
        self._is_over = anyio.Event()

    def start(self, environment: Mapping[str, str | None]) -> None:
        """Let it begin, with this in its environment beside what is there, or without. Raises `NotStarted`."""
        with self._orders:
            try:
                self._orders.sendall(msgspec.json.encode(environment))
                self._orders.shutdown(socket.SHUT_WR)
                failed = self._orders.recv(16)
            except OSError:
                return  # it was killed before, which `changed` will tell
        if failed:
            raise NotStarted(int(failed))

    def changed(self) -> Stopped | Ended | None:
        """What became of it since it was asked last. To be asked after each SIGCHLD."""
        if self._over is not None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if not pid:
            return None
        if os.WIFSTOPPED(status):
            return Stopped(os.WSTOPSIG(status))
        self._over = Ended(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
        self._is_over.set()
        return self._over

    async def ended(self) -> int:
        """Its code, once `changed` has told it."""
        await self._is_over.wait()
        assert self._over is not None
        return self._over.code

    def signal(self, number: int) -> None:
        """To all of its group, until it is over."""
        if self._over is None:
            signal_group(self.pid, number)

    def held_until(self, deadline_ms: int) -> None:
        """Tell the guard: until then (of `boottime_ms`) it is held for certain."""
        with suppress(BrokenPipeError):  # somebody has killed the guard: then there is none
            os.write(self._news, b"%d\n" % (deadline_ms + GUARD_GRACE_MS))

    async def end(self) -> None:
        """End all of its group: SIGTERM, and SIGKILL after `kill_after_s`."""
        self.held_until(boottime_ms() + round(self.kill_after_s * 2_000) + 60_000)  # it is ended here
        await end_group(self.pid, self._gone, self.kill_after_s)

    async def _gone(self) -> None:
        """As `ended`, whoever looks at SIGCHLD or not."""
        while self._over is None:
            self.changed()
            await anyio.sleep(GROUP_POLL_S)

    def close(self) -> None:
        """Kill what has not ended, and let the guard go."""
        self._orders.close()  # not started: it ends by that
        if self._over is None:
            self.signal(signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        with suppress(BrokenPipeError):
            os.write(self._news, DONE)
        os.close(self._news)
        with suppress(ChildProcessError):
            os.waitpid(self._guard, 0)

    def _stand_guard(self, news: int) -> None:
        os.close(self._news)
        self._orders.close()
        os.setsid()  # what is sent to the terminal's groups is not for it
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):  # whoever reads the program's output must not wait for the guard
            os.dup2(nothing, descriptor)
        if _is_to_end(news):
            _end_now(self.pid, self.kill_after_s)


def _forked(become: Callable[[], None]) -> int:
    """The pid of a process that does nothing but `become`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        become()
    except BaseException:
        os._exit(1)
    os._exit(0)


def _become(command: Sequence[str], orders: socket.socket, other_end: socket.socket) -> None:
    other_end.close()
    with suppress(PermissionError):
        os.setpgid(0, 0)
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


def _replaced_by(command: list[str], environment: Mapping[str, str], orders: socket.socket) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        orders.sendall(str(error.errno).encode())
    except ValueError:  # a NUL in it
        orders.sendall(b"22")
    os._exit(127)


def _is_to_end(news: int) -> bool:
    """Wait for the end of what is held: True if the program is to be ended, False if that was seen to."""
    until_ms: int | None = None
    begun = b""
    while until_ms is None or boottime_ms() < until_ms:
        if select.select([news], [], [], None if until_ms is None else LOOK_S)[0]:
            read = os.read(news, 4_096)
            *told, begun = (begun + read).split(b"\n")
            if DONE.strip() in told:
                return False
            if not read:
                return True
            until_ms = int(told[-1]) if told else until_ms
    return True


def _end_now(leader: int, kill_after_s: float) -> None:
    """As `end_group`, for a process without an event loop that the leader is no child of."""
    if not signal_group(leader, signal.SIGTERM):
        return
    signal_group(leader, signal.SIGCONT)
    until_ms = boottime_ms() + round(kill_after_s * 1_000)
    while boottime_ms() < until_ms and signal_group(leader, 0):
        time.sleep(GROUP_POLL_S)
    signal_group(leader, signal.SIGKILL)
