"""As much of anyio as keylane's shells use, for the tasks of simulated processes.

The shells run unchanged: `environment` puts `anyio` here in the place of the real one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any

from simulation.process import Cancelled, Crashed, Task, current, park, park_in_any_case


class Event:
    """As anyio's."""

    __slots__ = ("_set", "_waiting")

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[tuple[Task, int]] = []

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for task, serial in waiting:
            task.process.wake(task, serial)

    def is_set(self) -> bool:
        return self._set

    async def wait(self) -> None:
        task = current()
        while not self._set:
            self._waiting.append((task, task.serial))
            await park()


class CancelScope:
    """As anyio's: a cancellation stands until the scope is left, and a shield keeps outer ones out."""

    def __init__(self, deadline: float = math.inf, shield: bool = False) -> None:
        self.deadline = deadline
        self.shield = shield
        self.cancel_called = False
        self.cancelled_caught = False
        self._parent: CancelScope | None = None
        self._task: Task | None = None

    def __enter__(self) -> CancelScope:
        task = self._task = current()
        self._parent, task.scope = task.scope, self
        if self.deadline < math.inf:
            process = task.process
            left_us = process.true_us(max(0.0, self.deadline - process.monotonic_s()))
            process.world.after(left_us, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert self._task is not None
        self._task.scope, self._task = self._parent, None
        if isinstance(error, Cancelled) and self.cancel_called:
            self.cancelled_caught = self.shield or self._parent is None or not self._parent.is_effective()
        return self.cancelled_caught

    def _expire(self) -> None:
        if self._task is not None:
            self.cancel()

    def cancel(self) -> None:
        if self.cancel_called:
            return
        self.cancel_called = True
        if self._task is not None:
            process = self._task.process
            for task in process.tasks:
                if task.parked and task.scope is not None and task.scope.is_effective():
                    process.wake(task, task.serial, Cancelled())

    def is_effective(self) -> bool:
        """Whether what runs here is cancelled."""
        scope: CancelScope | None = self
        while scope is not None:
            if scope.cancel_called:
                return True
            if scope.shield:
                return False
            scope = scope._parent
        return False


class TaskGroup:
    """As anyio's."""

    def __init__(self) -> None:
        self.cancel_scope = CancelScope()
        self._children: dict[Task, None] = {}
        self._errors: list[BaseException] = []
        self._waiter: Task | None = None

    async def __aenter__(self) -> TaskGroup:
        self.cancel_scope.__enter__()
        return self

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: object = None) -> None:
        host = self.cancel_scope._task
        assert host is not None
        self._children[host.process.spawn(function, *args, group=self)] = None

    def ended(self, task: Task, error: BaseException | None) -> None:
        del self._children[task]
        if error is not None:
            self._errors.append(error)
            self.cancel_scope.cancel()
        if self._waiter is not None and not self._children:
            self._waiter.process.wake(self._waiter, self._waiter.serial)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, Crashed):
            self.cancel_scope.cancel()
            if not isinstance(error, Cancelled):
                self._errors.append(error)
        told = error
        while self._children and not isinstance(error, Crashed):
            self._waiter = current()
            try:
                await park_in_any_case()
            except Cancelled as cancelled:
                error = error or cancelled
        self._waiter = None
        caught = self.cancel_scope.__exit__(None, error, None)
        if self._errors:
            raise BaseExceptionGroup("tasks failed", self._errors)
        if error is not told and not caught:
            assert error is not None
            raise error
        return caught


async def sleep(seconds: float) -> None:
    task = current()
    task.process.wake_later(task.process.true_us(max(0.0, seconds)), task, task.serial)
    await park()


async def sleep_us(true_us: int) -> None:
    """Let so much true time pass."""
    task = current()
    task.process.wake_later(true_us, task, task.serial)
    await park()


async def sleep_forever() -> None:
    await park()


def current_time() -> float:
    return current().process.monotonic_s()


def move_on_after(delay: float | None, shield: bool = False) -> CancelScope:
    return CancelScope(math.inf if delay is None else current_time() + delay, shield)


@contextmanager
def fail_after(delay: float | None, shield: bool = False) -> Iterator[CancelScope]:
    with move_on_after(delay, shield) as scope:
        yield scope
    if scope.cancelled_caught:
        raise TimeoutError


async def ask(request: Callable[[Callable[[Any, BaseException | None], None]], None]) -> Any:
    """Begin something whose end is reported to a callback with a value or an error; return the one, raise the other."""
    task = current()
    serial = task.serial
    answer: list[Any] = []

    def answered(value: Any, error: BaseException | None) -> None:
        if not answer:
            answer.extend((value, error))
            task.process.wake(task, serial)

    request(answered)
    await park()
    value, error = answer
    if error is not None:
        raise error
    return value


anyio = SimpleNamespace(
    CancelScope=CancelScope,
    Event=Event,
    create_task_group=TaskGroup,
    current_time=current_time,
    fail_after=fail_after,
    move_on_after=move_on_after,
    sleep=sleep,
    sleep_forever=sleep_forever,
)
"""What stands in the place of the module."""
