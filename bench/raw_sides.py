"""The other two sides on Kafka, pass-through and Kafka Streams, on the very requests that a keylane run has drained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.to_thread
from msgspec import Struct

from bench import broker, load, processes, streams_side
from bench.keylane_side import Drained
from bench.watch import look, until_written
from bench.writing import prefix_of, servers_of
from keylane.journal import connect
from keylane.journal.port import Place
from keylane.schemas import topics

START_S = 60.0
QUIET_S = 3.0
"""Without a commit: longer than any side lets pass between two."""
COPIES = ("copy-0", "copy-1", "copy-2")
"""The topics of the pass-through, one for each of `Outputs`."""


class Outputs(NamedTuple):
    """How many records a side writes for a request, in the mean: to `events`, to items, to the state."""

    events: float
    items: float
    state: float


class Measured(Struct, frozen=True):
    seconds: float
    requests_per_s: float
    cpu_s: float


class Window(NamedTuple):
    """How long a side runs before it is measured (a JVM compiles), and for how long it is."""

    warm_s: float
    measured_s: float


def passthrough_command(url: str, outputs: Outputs) -> list[str]:
    prefix = prefix_of(url)
    arguments = (servers_of(url), f"{prefix}{topics.REQUESTS}", f"{prefix}copy-", *(f"{each:.4f}" for each in outputs))
    return [*processes.PYTHON, "bench.passthrough", *arguments]


async def passthrough(url: str, outputs: Outputs, window: Window) -> Measured:
    await broker.make_topics(url, COPIES, load.PARTITIONS)
    return await _measure(url, passthrough_command(url, outputs), COPIES[0], outputs.events, window)


@asynccontextmanager
async def passthrough_running(url: str, outputs: Outputs) -> AsyncIterator[None]:
    """In the background, on a journal that has requests."""
    await broker.make_topics(url, COPIES, load.PARTITIONS)
    with processes.process(passthrough_command(url, outputs)) as running:
        await anyio.to_thread.run_sync(processes.said, running)
        yield


async def streams(url: str, outputs: Outputs, window: Window, threads: int, commit_ms: int) -> Measured:
    servers, prefix = servers_of(url), prefix_of(url)
    sinks = outputs[:2]
    target = f"streams-{threads}-{commit_ms}-"
    await broker.make_topics(url, [f"{target}{number}" for number in range(len(sinks))], load.PARTITIONS)
    command = streams_side.command(
        servers, f"{prefix}{topics.REQUESTS}", f"{prefix}{target}", threads, commit_ms,
        outputs.state, sinks,
    )  # fmt: skip
    return await _measure(url, command, f"{target}0", outputs.events, window)


async def _measure(url: str, command: Sequence[str], topic: str, copies: float, window: Window) -> Measured:
    """Requests a second by one output topic that gets `copies` records for each.

    Its offsets also count the marks of transactions: one in hundreds of records, in this side's favour.
    """
    journal = await connect(url)
    places = [Place(topic, number) for number in range(load.PARTITIONS)]
    try:
        with processes.process(command) as running:
            await until_written(journal, places, START_S)
            await anyio.sleep(window.warm_s)
            # From one commit to another: a side that commits once a second shows its work once a second.
            try:
                since = await until_written(journal, places, QUIET_S)
            except TimeoutError:
                raise Drained from None
            since_cpu_s = processes.cpu_s(running.pid)
            until, until_cpu_s = since, since_cpu_s
            with anyio.move_on_after(window.measured_s):
                while True:
                    await anyio.sleep(0.1)
                    now = await look(journal, places)
                    if now.ends == until.ends and now.at_s - until.at_s > QUIET_S:
                        break  # all is drained: it ended when the last record came
                    if now.ends != until.ends:
                        until, until_cpu_s = now, processes.cpu_s(running.pid)
    finally:
        await journal.close()
    if until.at_s - since.at_s < window.measured_s / 4:
        raise Drained
    written = sum(until.ends[place] - since.ends[place] for place in places)
    seconds = until.at_s - since.at_s
    return Measured(seconds, written / copies / seconds, until_cpu_s - since_cpu_s)
