"""A program that runs only while something is held: started in a process group of its own, followed, and guarded.

Between this process and the program is its guard (`program_guard`), so that the program does not outlive what is held
when this process is killed with -9, or paused beyond it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import msgspec

from keylane.cli_context import NotRun
from keylane.program_guard import DONE, Guard, forked
from keylane.workers.clock import boottime_ms
from keylane.workers.process_groups import GROUP_POLL_S, end_group, signal_group

GUARD_GRACE_MS = 200
"""How much later than this process itself the guard acts: it is for when that does not."""
NOT_FOUND = 127
NOT_RUNNABLE = 126
"""As shells have it."""


class NotStarted(Exception):
    """The system did not run the program. `number` is its error."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


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
        news, self._news = os.pipe()
        self._reports, reports = os.pipe()
        self._guard = forked(lambda: self._guarded(command, orders, news, reports))
        orders.close()
        os.close(news)
        os.close(reports)
        self._over: Ended | None = None
        self._is_over = anyio.Event()
        pid, _, self._read = os.read(self._reports, 4_096).partition(b"\n")  # the guard begins with it
        self.pid = int(pid)
        os.set_blocking(self._news, False)
        os.set_blocking(self._reports, False)

    def _guarded(self, command: Sequence[str], orders: socket.socket, news: int, reports: int) -> None:
        self._orders.close()  # where these stayed open, nobody would see that we have died
        os.close(self._news)
        os.close(self._reports)
        Guard(command, orders, news, reports, self.kill_after_s).stand()

    def start(self, environment: Mapping[str, str | None]) -> None:
        """Let it begin, with this in its environment beside what is there, or without. Raises `NotStarted`."""
        with self._orders:
            try:
                self._orders.sendall(msgspec.json.encode(environment))
                self._orders.shutdown(socket.SHUT_WR)
                failed = self._orders.recv(16)
            except OSError:
                return  # it was killed before, which is reported
        if failed:
            raise NotStarted(int(failed))

    async def changed(self) -> Stopped | Ended:
        """What becomes of it next. Once it has ended, nothing does."""
        while (what := self._next()) is None:
            if self._over is not None:
                await anyio.sleep_forever()
            await anyio.wait_readable(self._reports)
        return what

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
        self._tell(b"%d" % (deadline_ms + GUARD_GRACE_MS))

    async def end(self) -> None:
        """End all of its group: SIGTERM, and SIGKILL after `kill_after_s`."""
        self.held_until(boottime_ms() + round(self.kill_after_s * 2_000) + 60_000)  # it is ended here
        await end_group(self.pid, self._gone, self.kill_after_s)

    async def _gone(self) -> None:
        """As `ended`, whether anybody asks what changed or not."""
        while self._over is None:
            self._next()
            await anyio.sleep(GROUP_POLL_S)

    def _next(self) -> Stopped | Ended | None:
        """The next report that is there."""
        if self._over is not None:
            return None
        if b"\n" not in self._read:
            try:
                # Without its guard nobody knows what became of it, but that it does not outlive that.
                self._read += os.read(self._reports, 4_096) or b"ended %d\n" % (128 + signal.SIGKILL)
            except BlockingIOError:
                return None
        line, _, self._read = self._read.partition(b"\n")
        what, _, number = line.partition(b" ")
        if what == b"stopped":
            return Stopped(int(number))
        self._over = Ended(int(number))
        self._is_over.set()
        return self._over

    def close(self) -> None:
        """Kill what has not ended, and let the guard go."""
        self._orders.close()  # not started: it ends by that
        if self._over is None:
            signal_group(self.pid, signal.SIGKILL)
        self._tell(DONE)
        os.close(self._news)
        os.close(self._reports)
        with suppress(ChildProcessError):
            os.waitpid(self._guard, 0)

    def _tell(self, news: bytes) -> None:
        # Somebody has killed the guard, or has stopped it: then there is none.
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(self._news, news + b"\n")
