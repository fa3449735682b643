"""`Worker`: the public face of a worker process, how it starts, and how it stops."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup
from prometheus_client import CollectorRegistry

from keylane.journal import Journal, Unavailable, connect
from keylane.journal.connect import resolve_url
from keylane.schemas import topics
from keylane.telemetry.build import process_registry
from keylane.telemetry.listener import listening
from keylane.telemetry.pulse import Pulse
from keylane.workers.clock import boottime_ms
from keylane.workers.crew import Crew, Settings
from keylane.workers.group import follow_group, group_of
from keylane.workers.handler import AnyHandler, Handler, handler_of
from keylane.workers.metrics import WorkerMetrics
from keylane.workers.reading import Reading

log = logging.getLogger("keylane.workers")

H = TypeVar("H", bound=AnyHandler)

FLUSH_S = 2.0
SET_UP_S = 10.0
"""How long to wait for a router to set up the journal: the two may be started together."""
SET_UP_POLL_S = 0.2


class Worker:
    """Handlers, and the process that calls them. `slots` is how many items it takes at once, over all partitions.

    `url` names the journal: without it `KEYLANE_URL`, else the embedded one in `./.keylane`. `metrics` is the HOST:PORT
    at which metrics and health are served, without it `KEYLANE_METRICS`, else nowhere; beyond loopback only with
    `metrics_exposed` (`KEYLANE_METRICS_EXPOSED=true`).
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str | None = None,
        pool: str = "default",
        slots: int = 8,
        drain_s: float = 30,
        metrics: str | None = None,
        metrics_exposed: bool | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1: a worker that takes nothing is none")
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._url = url
        self._pool = pool
        self._slots = slots
        self._drain_s = drain_s
        self._metrics = metrics
        self._metrics_exposed = metrics_exposed
        self._handlers: dict[str, Handler] = {}
        self._threads_left = 0

    def handler(self, action: str) -> Callable[[H], H]:
        """Decorator: the function does `action`. It takes an `Item` and returns the result, or `item.done(…)`.

        `Item[Restart]` as the annotation decodes payloads to `Restart`; without it they are plain JSON. An async
        function runs in a task and is cancelled when its lease is lost; a plain one runs in a thread and calls
        `item.check()`. Raise `Fail` to end the run; `Retry`, or any other exception, fails the attempt.
        Only `item.progress()` renews the lease (300 s unless configured).

        Raises ValueError for a second handler of one action, TypeError for a function that cannot be one.
        """

        def add(function: H) -> H:
            if action in self._handlers:
                raise ValueError(f"action {action!r} has a handler already")
            self._handlers[action] = handler_of(action, function)
            return function

        return add

    async def serve(self) -> None:
        """Work until cancelled. Cancellation drains: takes nothing more, lets handlers finish for up to `drain_s`,
        reports, leaves.

        Raises Unavailable when the journal does not answer or no router has set it up (AccessDenied when it
        does not let this process in), BadUrl for a wrong URL,
        ValueError without any handler.
        """
        await self._serve(anyio.CancelScope(shield=True))

    def run(self) -> None:
        """`serve` in an event loop of its own. The first SIGTERM or SIGINT drains, the second stops at once."""
        stopped_by = anyio.run(self._run_with_signals)
        if self._threads_left:
            # The interpreter would wait for them at exit, and nothing can end a thread but the end of the process.
            log.warning("%d handlers did not return: the process ends without them", self._threads_left)
            logging.shutdown()
            os._exit(128 + (stopped_by or signal.SIGTERM))
        if stopped_by is not None:
            raise SystemExit(128 + stopped_by)

    async def _run_with_signals(self) -> int | None:
        """Returns the second signal, if there was one."""
        at_once = anyio.CancelScope(shield=True)
        draining = anyio.CancelScope()
        second: list[int] = []
        errors: list[Exception] = []

        async def obey() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for number in signals:
                    if draining.cancel_called:
                        second.append(number)
                        at_once.cancel()
                    draining.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(obey)
            with draining:
                try:
                    await self._serve(at_once)
                except Exception as error:
                    errors.append(error)  # raised outside, where the task group does not wrap it
            tasks.cancel_scope.cancel()
        if errors:
            raise errors[0]
        return second[0] if second else None

    async def _serve(self, at_once: anyio.CancelScope) -> None:
        """A cancellation from outside drains; only that of `at_once`, which shields, reaches what runs here."""
        if not self._handlers:
            raise ValueError("a worker without handlers would serve nothing: add one with @worker.handler(action)")
        draining, ended = anyio.Event(), anyio.Event()
        errors: list[Exception] = []

        async def shielded() -> None:
            try:
                with at_once:
                    await self._work(draining)
            except Exception as error:
                errors.append(_single(error))
            finally:
                ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shielded)
            try:
                await ended.wait()
            finally:
                draining.set()
        if errors:
            raise errors[0]

    async def _work(self, draining: anyio.Event) -> None:
        url = resolve_url(self._url, os.environ)
        registry, pulse = process_registry(url.partition("://")[0]), Pulse()
        metrics = WorkerMetrics(registry, sorted(self._handlers), self._slots)
        crews: list[Crew] = []
        with self._listening(registry, pulse, crews):
            journal = await connect(url)
            try:
                topic = topics.items(self._pool)
                if await self._is_set_up(journal, topic, draining):
                    async with anyio.create_task_group() as tasks:
                        settings = Settings(self._pool, self.name, self._slots, self._handlers, boottime_ms, metrics)
                        crew = Crew(journal, settings, tasks)
                        crews.append(crew)
                        tasks.start_soon(pulse.beat)
                        await self._work_as(journal, crew, draining, tasks)
            finally:
                await self._part(journal, crews)

    async def _part(self, journal: Journal, crews: list[Crew]) -> None:
        self._threads_left = sum(crew.threads_left() for crew in crews)
        with anyio.move_on_after(FLUSH_S, shield=True):
            await journal.close()

    @contextmanager
    def _listening(self, registry: CollectorRegistry, pulse: Pulse, crews: list[Crew]) -> Iterator[None]:
        """Serve metrics and health meanwhile, where that is asked for."""
        address = self._metrics or os.environ.get("KEYLANE_METRICS")
        if not address:
            yield
            return
        exposed = self._metrics_exposed
        if exposed is None:
            exposed = os.environ.get("KEYLANE_METRICS_EXPOSED") == "true"

        def why_unready() -> list[str]:
            return crews[0].why_unready() if crews else ["waiting for a router to set up the journal"]

        with listening(
            address, exposed=exposed, registry=registry, is_alive=pulse.is_alive, why_unready=why_unready
        ) as shown:
            log.info("metrics at %s/metrics", shown)
            yield

    async def _work_as(self, journal: Journal, crew: Crew, draining: anyio.Event, tasks: TaskGroup) -> None:
        topic = topics.items(self._pool)
        reading = Reading(journal, topic, crew)
        following, followed = anyio.CancelScope(), anyio.Event()

        async def follow() -> None:
            with following:
                group = group_of(self._pool, tuple(sorted(self._handlers)))
                await follow_group(journal, group, topic, reading, crew, boottime_ms)
            followed.set()

        for loop in (crew.tick, crew.outbox.deliver, reading.read, follow):
            tasks.start_soon(loop)
        await draining.wait()
        # Out of the group first: others get the partitions at once, while what is held here is finished.
        following.cancel()
        with anyio.move_on_after(self._drain_s):
            await crew.drain()
        crew.leave()
        with anyio.move_on_after(FLUSH_S):
            await crew.outbox.flush()
            await followed.wait()
        tasks.cancel_scope.cancel()

    async def _is_set_up(self, journal: Journal, topic: str, draining: anyio.Event) -> bool:
        """Wait for the pool's topic; False when asked to stop meanwhile."""
        deadline_s = anyio.current_time() + SET_UP_S
        while await journal.partitions(topic) is None:
            if anyio.current_time() >= deadline_s:
                raise Unavailable(
                    f"no router has set up this journal for pool {self._pool!r}: start one that has this pool"
                )
            with anyio.move_on_after(SET_UP_POLL_S):
                await draining.wait()
                return False
        return True


def _single(error: Exception) -> Exception:
    """The one error in a group of one, as callers expect to catch it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
