"""Puts what is simulated in the place of what is real, for as long as a run lasts: the event loop, ids, wall time.

What has an argument for it (the routers' clocks, the workers' clocks and ids) is not here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

from simulation import tasks
from simulation.decoding import decode_event
from simulation.meter import SimulatedMeter
from simulation.process import current

import keylane.client
import keylane.commands
import keylane.lease
import keylane.lock_reports
import keylane.locking
import keylane.publishing
import keylane.receipts
import keylane.sessions
import keylane.views
import keylane.waiting
from keylane.journal.port import Journal
from keylane.router import lane_task, service, turn, waits_task
from keylane.workers import crew, group, holding, outbox, reading, runner

WITH_ANYIO = (
    keylane.client, keylane.lease, keylane.lock_reports, keylane.locking, keylane.publishing, keylane.receipts,
    keylane.views, keylane.waiting, lane_task, service, turn, waits_task, crew, group, holding, outbox, reading, runner,
)  # fmt: skip
PATIENCE: dict[Any, dict[str, float]] = {
    service: {"MEMBERSHIP_POLL_S": 4.0}, reading: {"POLL_S": 1.0}, keylane.receipts: {"POLL_TIMEOUT_S": 8.0},
    waits_task: {"POLL_S": 8.0},
}  # fmt: skip
"""Polls that end early when something comes are made longer: only the simulation's speed depends on them."""


class Ids:
    """Names that no other has, and the same in each run of a seed."""

    def __init__(self) -> None:
        self._count = count(1)

    def __call__(self) -> SimpleNamespace:
        return SimpleNamespace(hex=f"{current().process.name}-{next(self._count)}")


def _patches(journals: dict[str, Journal]) -> Iterator[tuple[Any, str, Any]]:
    async def connect(url: str) -> Journal:
        return journals[current().process.name]

    for module in WITH_ANYIO:
        yield module, "anyio", tasks.anyio
    for module, constants in PATIENCE.items():
        yield from ((module, name, value) for name, value in constants.items())
    yield keylane.client, "connect", connect
    ids = Ids()
    for named in (keylane.client, keylane.lease, keylane.lock_reports, keylane.locking):
        yield named, "uuid4", ids
    yield keylane.sessions, "token_urlsafe", lambda size: f"{ids().hex:-<{size}}"
    yield keylane.commands, "time", SimpleNamespace(time=lambda: current().process.wall_s())
    for counting in (runner, keylane.lease, keylane.locking):
        yield counting, "boottime_ms", lambda: current().process.boot_ms()
    yield keylane.receipts, "decode_event", decode_event
    yield service, "LaneMeter", SimulatedMeter


class Told(logging.Handler):
    """What the shells log as errors: a turn that failed says why there alone."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(record.getMessage() + (f": {record.exc_info[1]!r}" if record.exc_info else ""))


@contextmanager
def simulated(journals: dict[str, Journal]) -> Iterator[Told]:
    """`journals` by the name of the process that connects."""
    log = logging.getLogger("keylane")
    told, before = Told(), []
    kept = (log.level, log.handlers, log.propagate)
    log.setLevel(logging.ERROR)
    log.handlers, log.propagate = [told], False
    try:
        for module, name, value in _patches(journals):
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
        yield told
    finally:
        for module, name, value in reversed(before):
            setattr(module, name, value)
        log.setLevel(kept[0])
        log.handlers, log.propagate = kept[1:]
