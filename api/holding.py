"""What `keylane hold` does: how signals, the lease and the program go together, and what comes of it.

What the program is, and what guards it, is in `held_program`; the terminal's part in `terminal`; the lease is the
client's.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus
from msgspec.structs import replace

from keylane.cli_context import CommandContext, NotRun
from keylane.cli_signals import heeded
from keylane.client import Client
from keylane.credentials import Credentials, KeptSession
from keylane.errors import LeaseLost
from keylane.held_program import HeldProgram, NotStarted, Stopped, not_run
from keylane.lease import Lease
from keylane.locks_in_hand import given_up, kept_by
from keylane.terminal import Terminal
from keylane.workers.clock import boottime_ms

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
LOOK_S = 0.5
"""How often the guard is told, and the clock looked at: it runs on while timers rest."""
LOOK_FIRST = "See what it left half done before anything else."


@dataclass(frozen=True)
class Terms:
    """What is held, and how."""

    keys: tuple[str, ...]
    named: str | None
    wait_s: float
    ttl_s: float | None
    actor: str | None
    max_s: float | None


class Holding:
    """One run of `hold`."""

    def __init__(self, terms: Terms, program: HeldProgram, context: CommandContext) -> None:
        self._terms = terms
        self._program = program
        self._context = context
        self._terminal = Terminal(program.pid)
        self._acquiring: anyio.CancelScope | None = None
        self._stopped_by: int | None = None
        self._until_ms: int | None = None
        self._lost: str | None = None

    async def run(self) -> int:
        """To the end of all of it; returns what to exit with. Raises `LeaseLost`, `NotRun` and as the client does."""
        credentials = kept_by(self._context)
        code: int | None = None
        sessions: list[KeptSession] = []
        acquiring = self._acquiring = anyio.CancelScope()  # from the first signal on that is heard
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._listen)
            tasks.start_soon(self._follow)
            with acquiring:
                async with Client(self._context.url, actor=self._terms.actor) as client:
                    sessions.append(credentials.session(self._terms.named))
                    code = await self._with_locks(client, credentials, sessions[0])
            tasks.cancel_scope.cancel()
        if code is None:
            assert self._stopped_by is not None
            await given_up(self._context, credentials, sessions)
            return 128 + self._stopped_by
        return code

    async def _with_locks(self, client: Client, credentials: Credentials, session: KeptSession) -> int:
        terms = self._terms
        with ExitStack() as asking:
            for key in terms.keys:
                asking.enter_context(credentials.asking(session, key))
            ended: int | NotRun
            try:
                async with client.lock(
                    *terms.keys,
                    wait_s=terms.wait_s,
                    ttl_s=terms.ttl_s,
                    session=session.session,
                    explicit=session.named or len(terms.keys) > 1,
                ) as lease:
                    await anyio.lowlevel.checkpoint()  # a signal may have come with the lock
                    self._acquiring = None
                    ended = await self._with_program(lease, self._environment(lease, credentials, session))
            except NotRun as not_run:
                ended = not_run
        if not session.named:
            credentials.forget(session)
        if isinstance(ended, NotRun):
            raise ended
        return ended

    def _environment(self, lease: Lease, credentials: Credentials, session: KeptSession) -> dict[str, str | None]:
        """What the program finds beside our own. What another hold around this one has said is not its own."""
        tokens = dict(lease.resources)
        ((key, token), *others) = tokens.items()
        return {
            "KEYLANE_RESOURCES": json.dumps([*tokens]),
            "KEYLANE_TOKENS": json.dumps(tokens),
            "KEYLANE_RESOURCE": None if others else key,
            "KEYLANE_TOKEN": None if others else str(token),
            "KEYLANE_SESSION_ID": session.id if session.named else None,
            "KEYLANE_SESSION_TMP": str(credentials.temporary(session)),
        }

    async def _with_program(self, lease: Lease, environment: dict[str, str | None]) -> int:
        if self._terms.max_s is not None:
            self._until_ms = boottime_ms() + round(self._terms.max_s * 1_000)
        try:
            self._program.held_until(self._held_until_ms(lease))
            self._start(environment)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, lease)
                code = await self._program.ended()
                tasks.cancel_scope.cancel()
        finally:
            # What it leaves running would act without a lease.
            await self._program.end()
            self._terminal.close()
        if self._lost is not None:
            raise _stopped(self._lost)
        return code

    def _start(self, environment: dict[str, str | None]) -> None:
        try:
            self._program.start(environment)
        except NotStarted as failed:
            raise not_run(self._context.program[0], failed) from None
        held = ", ".join(
            f"{key} (token {token})" for key, token in json.loads(environment["KEYLANE_TOKENS"] or "").items()
        )
        self._context.note(f"holding {held}")

    async def _watch(self, lease: Lease) -> None:
        """Until the program is not to go on, and then until it has ended."""
        while (why := self._over(lease)) is None:
            held_until_ms = self._held_until_ms(lease)
            self._program.held_until(held_until_ms)
            with anyio.move_on_after(min(LOOK_S, max(0, held_until_ms - boottime_ms()) / 1_000)):
                await lease.until_lost()
        self._lost = why
        await self._program.end()

    def _over(self, lease: Lease) -> str | None:
        if (why := lease.lost) is not None:
            return why
        if (by := lease.stop_asked) is not None:
            return f"{by} has asked that it be given back"
        if self._until_ms is not None and boottime_ms() >= self._until_ms:
            return "it was held for as long as --max allows"
        return None

    def _held_until_ms(self, lease: Lease) -> int:
        lease_ms = boottime_ms() + int(lease.expires_in_s * 1_000)
        return lease_ms if self._until_ms is None else min(lease_ms, self._until_ms)

    async def _follow(self) -> None:
        while True:
            what = await self._program.changed()
            if isinstance(what, Stopped):
                self._terminal.stopped(what.signal)
            else:
                self._terminal.take_back()

    # -- signals -------------------------------------------------------------------------------------------------

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGCONT, *heeded(PASSED_ON)) as signals:
            task_status.started()
            async for number in signals:
                self._take(number)

    def _take(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGCONT:
                self._terminal.continued()
            case signal.SIGTSTP if self._acquiring is not None:
                os.kill(os.getpid(), signal.SIGSTOP)
            case _ if self._acquiring is not None:
                self._stopped_by = number
                self._acquiring.cancel()
            case _:
                self._program.signal(number)


def _stopped(why: str) -> LeaseLost:
    """What is said of a command that could not run to its end. It need not be that another holds its resource now."""
    stopped = LeaseLost(f"the command was stopped: {why}")
    stopped.body = replace(stopped.body, suggestion=LOOK_FIRST)
    return stopped
