"""Any program as a handler: `keylane worker exec`. Starts it, feeds it, obeys its lines, and ends it with its group.

What lines mean is in `program_lines.py`; leases and reports are the worker's. The program runs in a session of its
own: a Ctrl-C at the worker's terminal is the worker's, which lets what runs finish.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process

from keylane.workers.item import Done, Fail, Item, Json, Retry
from keylane.workers.process_groups import end_group
from keylane.workers.program_lines import Blocked, GaveUp, Lines, Progressed, Resulted, ToRetry, said

log = logging.getLogger("keylane.workers.program")

ERROR_BYTES_MAX = 4_096
"""Of the end of standard error, for the report on an attempt that failed."""
OWN_LINE_CHARACTERS_MAX = 2_000
DRAIN_S = 1.0
"""How long to wait for more output once the group is gone: only who left the group can hold the pipes then."""
DRAIN_BYTES_MAX = 1024 * 1024
"""And how much of it to read: far more than pipes hold."""

Handler = Callable[[Item[Json]], Awaitable[Done]]


class NoProgram(ValueError):
    """The command cannot be run. The message says why."""


def handler_running(command: Sequence[str], *, kill_after_s: float) -> Handler:
    """An async handler that runs `command` for each item.

    The payload is on its standard input as JSON; its environment has the item (`environment_of`). Exit code 0
    completes, with what it said as `result`; anything else fails the attempt. When the item is lost or to be
    stopped its process group gets SIGTERM, and SIGKILL after `kill_after_s`. Raises `NoProgram` at once where there
    is no such program: better now than with every item.
    """
    program = shutil.which(command[0]) if command else None
    if program is None:
        raise NoProgram(f"there is no program {command[0] if command else ''!r} that can be run")
    if not (math.isfinite(kill_after_s) and kill_after_s >= 0):
        raise NoProgram("the time after which it is killed must be some seconds, or 0")

    async def run(item: Item[Json]) -> Done:
        with _checkpoint_file(item) as file:
            running = Running(item, [program, *command[1:]], environment_of(item, file), kill_after_s)
            return await running.run()

    return run


def environment_of(item: Item[Json], checkpoint: Path | None) -> dict[str, str]:
    """What the program finds beside the worker's own environment. What is not known is not set."""
    found = {
        "KEYLANE_RUN": item.run,
        "KEYLANE_RESOURCE": item.resource,
        "KEYLANE_ACTION": item.action,
        "KEYLANE_TOKEN": str(item.token),
        "KEYLANE_ATTEMPT": str(item.attempt),
        "KEYLANE_EXPECTED_VERSION": item.version,
        "KEYLANE_PREVIOUS_END": item.previous_end,
        "KEYLANE_CHECKPOINT_FILE": None if checkpoint is None else str(checkpoint),
        "TRACEPARENT": item.traceparent,
    }
    # Agents wrote some of it, and the system takes no NUL in an environment.
    return {name: value.replace("\0", "\\0") for name, value in found.items() if value is not None}


@contextmanager
def _checkpoint_file(item: Item[Json]) -> Iterator[Path | None]:
    """The checkpoint as JSON. A file, since the system takes no more than 128 KiB in a variable."""
    if item.checkpoint is None:
        yield None
        return
    with TemporaryDirectory(prefix="keylane-") as folder:
        file = Path(folder) / "checkpoint.json"
        file.write_bytes(msgspec.json.encode(item.checkpoint))
        yield file


class Running:
    """One run of the program."""

    def __init__(
        self, item: Item[Json], command: Sequence[str], environment: Mapping[str, str], kill_after_s: float
    ) -> None:
        self._item = item
        self._command = command
        self._environment = environment
        self._kill_after_s = kill_after_s
        self._ending: Resulted | GaveUp | ToRetry | None = None
        self._errors = b""
        self._is_over = False
        self._reads: set[anyio.CancelScope] = set()

    async def run(self) -> Done:
        """To its end. Raises Fail, Retry, and LeaseLost where a progress was not taken any more."""
        try:
            process = await anyio.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | self._environment,
                start_new_session=True,
            )
        except OSError as error:
            raise Retry(None, f"{self._command[0]} could not be started: {error.strerror}") from None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._feed, process)
                tasks.start_soon(self._follow_errors, process)
                tasks.start_soon(self._follow_output, process)
                await process.wait()
                # What it left running would act without a lease.
                await end_group(process.pid, process.wait, self._kill_after_s)
                self._is_over = True
                for read in self._reads:
                    read.deadline = anyio.current_time() + DRAIN_S
        except ExceptionGroup as group:
            raise _first(group) from None
        finally:
            with anyio.CancelScope(shield=True):
                await end_group(process.pid, process.wait, self._kill_after_s)
                await process.aclose()
        return self._judged(process.returncode)

    def _judged(self, code: int | None) -> Done:
        match self._ending:
            case GaveUp(fail=why):
                raise Fail(why)
            case ToRetry(retry=why, after_s=after_s):
                raise Retry(after_s, why)
        if code != 0:
            told = self._errors.decode(errors="replace").strip()
            how = f"ended by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            raise Retry(None, f"{how}: {told}" if told else how)
        if self._ending is None:
            return Done()
        return self._item.done(
            self._ending.result, version=self._ending.version, observed_version=self._ending.observed_version
        )

    async def _feed(self, process: Process) -> None:
        assert process.stdin is not None
        try:
            await process.stdin.send(msgspec.json.encode(self._item.payload) + b"\n")
            await process.stdin.aclose()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            return  # it need not read it

    async def _follow_output(self, process: Process) -> None:
        lines = Lines()
        async for data in self._chunks(process.stdout):
            for line in lines.feed(data):
                await self._heard(line)
        await self._heard(lines.rest())

    async def _heard(self, line: bytes) -> None:
        try:
            told = said(line)
        except ValueError as error:
            self._pass_on(logging.WARNING, "not understood", f"{error}: ".encode() + line)
            return
        match told:
            case None:
                self._pass_on(logging.INFO, "says", line)
            case Progressed():
                await self._item.progress(
                    told.progress, evidence=told.evidence, open_questions=tuple(told.open_questions)
                )
            case Blocked():
                await self._item.progress(blocked=told.blocked)
            case _:
                self._ending = told

    async def _follow_errors(self, process: Process) -> None:
        lines = Lines()
        async for data in self._chunks(process.stderr):
            self._errors = (self._errors + data)[-ERROR_BYTES_MAX:]
            for line in lines.feed(data):
                self._pass_on(logging.INFO, "says on standard error", line)
        self._pass_on(logging.INFO, "says on standard error", lines.rest())

    async def _chunks(self, stream: ByteReceiveStream | None) -> AsyncIterator[bytes]:
        """What comes, until its end. The wait for it alone is bounded, never what is done with it."""
        assert stream is not None
        left = DRAIN_BYTES_MAX
        while left > 0:
            deadline = anyio.current_time() + DRAIN_S if self._is_over else math.inf
            with anyio.CancelScope(deadline=deadline) as read:
                self._reads.add(read)
                try:
                    data = await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
                finally:
                    self._reads.discard(read)
            if read.cancelled_caught:
                return
            if self._is_over:
                left -= len(data)
            yield data

    def _pass_on(self, level: int, how: str, line: bytes) -> None:
        if line.strip():
            text = line[:OWN_LINE_CHARACTERS_MAX].decode(errors="replace")
            extra = {"run": self._item.run, "token": self._item.token, "resource": self._item.resource}
            log.log(level, "%s %s: %s", self._item.action, how, text, extra=extra)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
