"""The rounds: every side once, in turn, on the same machine and the same requests; then all of them again.

What disturbs the machine for minutes then disturbs all sides of a round, and only ratios within a round are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from bench import broker, keylane_side, latency, load, processes, raw_sides, raw_sqlite
from bench.keylane_side import Plan, Run, Stretch
from bench.latency import Ends, Schedule, Times
from bench.raw_sides import Measured, Outputs, Window
from bench.raw_sqlite import Rate, Rows, Shape
from bench.say import say
from keylane.journal import connect
from keylane.journal.port import Record
from keylane.schemas import topics

THREADS = (1, 2)
"""Of Kafka Streams, beside as many router processes."""
COMMITS_MS = (100, 1_000)
"""Of Kafka Streams: its default for exactly-once, and a longer one. The first round tries both."""
PASSTHROUGH_WINDOW = Window(2.0, 5.0)
STREAMS_WINDOW = Window(6.0, 5.0)
PERCENTS = (1, 10, 50)
"""Of capacity: the full round trips a second of one router."""
LATENCY_S = 8.0


class KafkaRound(Struct, frozen=True):
    """By how many processes keylane has, and threads Kafka Streams; the pass-through always has one."""

    keylane: dict[int, Run]
    passthrough: dict[int, Measured]
    streams: dict[int, Measured]
    commit_ms: dict[int, int]
    """Of Kafka Streams, by threads."""


class EmbeddedRound(Struct, frozen=True):
    keylane: Run
    raw: Rate


class LatencyRound(Struct, frozen=True):
    """By percent of capacity, then by what was waited for: `item`, `outcome`, `output`; `sent` is the generator's
    own lateness, which the others include."""

    keylane: dict[int, dict[str, Times]]
    passthrough: dict[int, dict[str, Times]]
    embedded: dict[int, dict[str, Times]]


def outputs_of(stretch: Stretch) -> Outputs:
    """What the other sides write for a request."""
    return Outputs(*(stretch.written[topic] / stretch.answered for topic in keylane_side.WRITTEN))


async def kafka_round(
    broker_at: broker.Broker, name: str, plan: Plan, requests: Sequence[Record], commit_ms: dict[int, int] | None
) -> KafkaRound:
    """With one of each, then with two. The other sides write what keylane has just written, in the mean.

    `commit_ms` None: Kafka Streams has the better of `COMMITS_MS`, which is then known for the rounds to come.
    """
    keylane: dict[int, Run] = {}
    streams: dict[int, Measured] = {}
    passthrough: dict[int, Measured] = {}
    chosen_ms: dict[int, int] = {}
    for number in THREADS:
        prefix = f"{name}-{number}"
        url = broker_at.url(prefix)
        await keylane_side.fill(url, requests)
        keylane[number] = await keylane_side.run(url, plan, number)
        keylane_side.describe(f"keylane, {number} process(es)", keylane[number])
        outputs = outputs_of(keylane[number].routed)
        passthrough[number] = await raw_sides.passthrough(url, outputs, PASSTHROUGH_WINDOW)
        say(f"pass-through, {sum(outputs):.1f} records a request: {passthrough[number].requests_per_s:.0f} a second")
        tried: dict[int, Measured] = {}
        for each_ms in COMMITS_MS if commit_ms is None else (commit_ms[number],):
            tried[each_ms] = await raw_sides.streams(url, outputs, STREAMS_WINDOW, number, each_ms)
            rate = tried[each_ms].requests_per_s
            say(f"Kafka Streams, {number} thread(s), commits every {each_ms} ms: {rate:.0f} a second")
        chosen_ms[number] = max(tried, key=lambda each_ms: tried[each_ms].requests_per_s)
        streams[number] = tried[chosen_ms[number]]
        await broker.drop_topics(broker_at, f"{prefix}.")
    return KafkaRound(keylane, passthrough, streams, chosen_ms)


async def embedded_round(plan: Plan, requests: Sequence[Record], raw_s: float) -> EmbeddedRound:
    """keylane on a file of its own, then raw inserts of rows like those that it wrote."""
    with TemporaryDirectory(dir=processes.scratch()) as folder:
        file = Path(folder) / "journal.db"
        url = f"sqlite://{file}"
        await keylane_side.fill(url, requests)
        run = await keylane_side.run(url, plan)
        keylane_side.describe("keylane, embedded", run)
        routed = run.routed
        rows = [
            Rows(number / routed.answered, *raw_sqlite.sizes_in(file, topic))
            for topic, number in routed.written.items()
        ]
        shape = Shape(
            logs=rows[:-1],
            state=rows[-1],
            rows_per_commit=round(sum(routed.written.values()) / routed.commits),
            warm_s=raw_s / 4,
            measured_s=raw_s,
        )
        command = [*processes.PYTHON, "bench.raw_sqlite", str(file.with_name("raw.db"))]
        done = await anyio.run_process(command, input=msgspec.json.encode(shape), stderr=None, cwd=processes.ROOT)
        rate = msgspec.json.decode(done.stdout, type=Rate)
        say(f"raw inserts, {shape.rows_per_commit} rows a commit: {rate.requests_per_s:.0f} requests' rows a second")
        return EmbeddedRound(run, rate)


async def latency_round(
    broker_at: broker.Broker, name: str, capacity: float, retention_s: float, outputs: Outputs
) -> LatencyRound:
    keylane = await _keylane_latency(broker_at.url(f"{name}-k"), capacity, retention_s)
    await broker.drop_topics(broker_at, f"{name}-k.")
    passthrough = await _passthrough_latency(broker_at.url(f"{name}-p"), capacity, outputs)
    await broker.drop_topics(broker_at, f"{name}-p.")
    with TemporaryDirectory(dir=processes.scratch()) as folder:
        embedded = await _keylane_latency(f"sqlite://{folder}/journal.db", capacity, retention_s)
    return LatencyRound(keylane, passthrough, embedded)


async def _keylane_latency(url: str, capacity: float, retention_s: float) -> dict[int, dict[str, Times]]:
    environ = {"KEYLANE_URL": url, "KEYLANE_RETENTION": f"{retention_s}s"}
    module, *arguments = keylane_side.router_command(url)
    journal = await connect(url)
    found = {}
    try:
        with processes.python(module, *arguments, environ=environ) as router:
            await anyio.to_thread.run_sync(processes.said, router)
            async with latency.posting(url, journal) as post:
                ends = Ends(journal, post)
                await ends.open()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ends.beat)
                    readings = {"item": ends.items, "outcome": ends.outcomes}
                    for percent in PERCENTS:
                        schedule = Schedule(f"at{percent}-", capacity * percent / 100, LATENCY_S)
                        found[percent] = await latency.measure(schedule, post, readings)
                        latency.describe(f"keylane on {url.partition(':')[0]} at {percent} %", schedule, found[percent])
                    tasks.cancel_scope.cancel()
        return found
    finally:
        await journal.close()


async def _passthrough_latency(url: str, capacity: float, outputs: Outputs) -> dict[int, dict[str, Times]]:
    await broker.make_topics(url, [topics.REQUESTS], load.PARTITIONS)
    journal = await connect(url)
    found = {}
    try:
        async with raw_sides.passthrough_running(url, outputs), latency.posting(url, journal) as post:
            ends = Ends(journal, post)
            for percent in PERCENTS:
                schedule = Schedule(f"at{percent}-", capacity * percent / 100, LATENCY_S)
                found[percent] = await latency.measure(schedule, post, {"output": ends.copies})
                latency.describe(f"pass-through at {percent} %", schedule, found[percent])
        return found
    finally:
        await journal.close()
