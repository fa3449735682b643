"""A simulated process: its tasks, which run until each waits, and what befalls it. Over simulated time, without chance.

What is awaited parks the task; whoever ends the wait wakes it. A process that is paused runs none of its tasks, one
that crashed never again. What a task may await is in `tasks`.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from simulation.clocks import MachineClock

if TYPE_CHECKING:
    from simulation.tasks import CancelScope, TaskGroup
    from simulation.world import World

SECOND_US = 1_000_000


class Cancelled(BaseException):
    """Thrown into a task whose scope was cancelled."""


class Crashed(BaseException):
    """Thrown into every task of a process that is no more: nothing it then does reaches anybody."""


class Task:
    """A coroutine with its place in the scopes. `serial` names its present wait, so that a late wake is seen as one."""

    __slots__ = ("coroutine", "error", "group", "parked", "process", "scope", "serial")

    def __init__(self, process: Process, coroutine: Coroutine[Any, Any, Any], group: TaskGroup | None) -> None:
        self.process = process
        self.coroutine = coroutine
        self.group = group
        self.scope: CancelScope | None = None if group is None else group.cancel_scope
        self.error: BaseException | None = None
        self.parked = False
        self.serial = 0


class _Running:
    """The task that runs now: there is one thread, and one world at a time."""

    task: Task = None  # type: ignore[assignment]


def current() -> Task:
    return _Running.task


@types.coroutine
def park() -> Generator[None, None, None]:
    """Wait until somebody wakes this task: take `current()` and its serial before."""
    task = _Running.task
    if task.process.dead:
        raise Crashed
    if task.scope is not None and task.scope.is_effective():
        raise Cancelled
    task.parked = True
    yield


@types.coroutine
def park_in_any_case() -> Generator[None, None, None]:
    task = _Running.task
    if task.process.dead:
        raise Crashed
    task.parked = True
    task.serial += 1
    yield


class Process:
    """The tasks of one process on a machine with a clock of its own."""

    def __init__(self, world: World, name: str, clock: MachineClock) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.dead = False
        self._stops = 0
        self.tasks: dict[Task, None] = {}
        self._ready: deque[Task] = deque()
        self._scheduled = False

    def spawn(
        self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, group: TaskGroup | None = None
    ) -> Task:
        if self.dead:
            raise Crashed
        task = Task(self, function(*args), group)
        self.tasks[task] = None
        task.parked = True
        self.wake(task, task.serial)
        return task

    def wake(self, task: Task, serial: int, error: BaseException | None = None) -> None:
        """Let the task go on, unless the wait that `serial` names is over."""
        if not task.parked or task.serial != serial or self.dead:
            return
        task.parked = False
        task.serial += 1
        task.error = error
        self._ready.append(task)
        self._schedule()

    def wake_later(self, delay_us: int, task: Task, serial: int) -> None:
        """Wake it after so much true time."""
        self.world.after(delay_us, self.wake, task, serial)

    def _schedule(self) -> None:
        if not self._scheduled and not self._stops:
            self._scheduled = True
            self.world.ready.append(self)

    def run(self) -> None:
        """Let the tasks that were woken go on, until each waits again."""
        self._scheduled = False
        if self._stops or self.dead:
            return
        ready = self._ready
        while ready:
            self._step(ready.popleft())
            if self._stops or self.dead:
                return

    def _step(self, task: Task) -> None:
        error, task.error = task.error, None
        before, _Running.task = _Running.task, task
        try:
            if error is None:
                task.coroutine.send(None)
            else:
                task.coroutine.throw(error)
        except StopIteration:
            self._finish(task, None)
        except (Cancelled, Crashed):
            self._finish(task, None)
        except BaseException as raised:
            self._finish(task, raised)
        finally:
            _Running.task = before

    def _finish(self, task: Task, error: BaseException | None) -> None:
        del self.tasks[task]
        if task.group is not None:
            task.group.ended(task, error)
        elif error is not None:
            self.world.failed(self, error)

    # -- faults -------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        return self._stops > 0

    def pause(self) -> None:
        """SIGSTOP: nothing runs; what arrives waits. Stopped twice, it goes on after the second `resume`."""
        self._stops += 1

    def resume(self) -> None:
        self._stops = max(0, self._stops - 1)
        if self._ready and not self._stops:
            self._schedule()

    def crash(self) -> None:
        """SIGKILL. The coroutines are ended at once, and can neither send nor wait any more."""
        if self.dead:
            return
        self.dead = True
        self._ready.clear()
        for task in list(self.tasks):
            if task in self.tasks:
                self._step_dead(task)
        self.tasks.clear()

    def _step_dead(self, task: Task) -> None:
        task.serial += 1
        before, _Running.task = _Running.task, task
        try:
            task.coroutine.throw(Crashed())
            raise AssertionError(f"{self.name}: {task.coroutine!r} waits after the process's end")
        except (StopIteration, Cancelled, Crashed):
            pass
        except BaseExceptionGroup:
            pass
        finally:
            _Running.task = before

    # -- clocks -------------------------------------------------------------------------------------------

    def monotonic_s(self) -> float:
        return self.clock.monotonic_us(self.world.now_us) / SECOND_US

    def boot_ms(self) -> int:
        return self.clock.boot_us(self.world.now_us) // 1_000

    def wall_us(self) -> int:
        return self.clock.wall_us(self.world.now_us)

    def wall_s(self) -> float:
        return self.wall_us() / SECOND_US

    def true_us(self, seconds: float) -> int:
        """How much true time passes while this process counts so many seconds."""
        return self.clock.true_after_us(int(seconds * SECOND_US))
