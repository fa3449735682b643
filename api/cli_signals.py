"""Signals that ask a command to stop, where it has to undo something before it goes."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus

T = TypeVar("T")

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those that this process was not started to ignore, as under nohup, or in a shell's background."""
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


async def unless_stopped(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns. A signal cancels it, so that it undoes what it has begun; then raises `SystemExit`."""
    stopped_by: list[int] = []
    done: list[T] = []
    async with anyio.create_task_group() as tasks:

        async def listen(*, task_status: TaskStatus[None]) -> None:
            with anyio.open_signal_receiver(*heeded(STOPS)) as signals:
                task_status.started()
                async for number in signals:
                    stopped_by.append(number)
                    tasks.cancel_scope.cancel()

        await tasks.start(listen)
        done.append(await work())
        tasks.cancel_scope.cancel()
    if not done:
        raise SystemExit(128 + stopped_by[0])
    return done[0]
