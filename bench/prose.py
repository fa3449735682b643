"""What `docs/benchmarks.md` says between its tables, with the figures of the run filled in."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from statistics import median

from bench import load
from bench.figures import number
from bench.keylane_side import Stretch
from bench.raw_sides import Measured
from bench.results import Cost, Kafka, Results
from bench.rounds import THREADS

WIDTH = 118
BUSY_CORES = 0.85
"""A router is one thread: one that uses as much of a core has no more to use."""
CROWDED = 0.15
"""Of its time a process was ready to run and had no core."""

ABOUT = {
    "Kafka": """*Routed*: requests that get their answer (queued, or granted as well) while nothing is completed and the
        outcomes of before are being forgotten. *Full round trips*: request, item, completion by a stand-in worker,
        `Ended`, forgotten. Kafka Streams and the pass-through read the same requests and write as many records a
        request as keylane does when it routes; they decode nothing and decide nothing.""",
    "Latency": """From when a request was *to be* sent, at a fixed rate, so that whoever falls behind is charged for
        it. Capacity is the full round trips of one router on Kafka; the pass-through, and keylane on SQLite, get the
        same rates. A turn is one transaction whether it carries one record or a thousand, so that a low rate costs
        nearly as many turns as records; at 10 % the small transactions of lanes, broker and readers can fill the cores
        (`decisions/cost-of-a-request.md`), at 1 % each has them for itself.""",
    "Embedded": """`keylane up` on SQLite. Raw inserts: the same tables and pragmas (WAL, `synchronous=FULL`), as many
        rows of the same mean sizes, commits as large, with apsw alone.""",
    "Memory": """Growth of the resident set of a process whose lane has so many of them, with all indexes and timers;
        requests of 300 bytes, each on a resource of its own.""",
    "Takeover": """From the group's word to a new router, after the old one was killed with -9, until a request that was
        published meanwhile is answered. Before that comes the time in which the group misses the dead one.""",
    "Idle": "CPU of one router process, and with a worker session in each lane that beats every two seconds.",
}

COST = """Microseconds of one router's CPU a request, on Kafka: what the kernel charged to the process, shared out by
    samples of its stack that a profiling timer takes every 4 ms of CPU. Time in C counts as its caller's."""

PARTS = {
    "decode": "bytes to records",
    "step": "the rules: arrival, table, dispatch, indexes",
    "encode": "records to bytes, headers",
    "journal": "keylane's adapter and aiokafka: fetching, batches, transactions",
    "forget": "timers, and outcomes past their retention",
    "meter": "metrics and logs of what was committed",
    "turn": "the turn itself",
    "loop": "the event loop and all else",
}


def wrapped(text: str, first: str = "", later: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )


def head(results: Results) -> Iterator[str]:
    it = results.machine
    yield wrapped("Written by `make bench`, as are `benchmarks.json` and `benchmarks.svg`; changes by hand are lost.")
    yield wrapped(
        f"{results.at[:10]}, commit {it.commit}: {it.cores} cores of {it.cpu}, {it.memory_gib} GiB, {it.system}, "
        f"Python {it.python}, Java {it.java}, Kafka {it.kafka}. One broker, the routers, the stand-in worker and, for "
        "latency, the generator share the cores. Absolute figures are this machine's; what can be compared are ratios "
        "within a round."
    )


def bounds(kafka: Kafka, cost: Cost | None) -> str:
    routed = [each.keylane[1].routed for each in kafka.rounds]
    waited = 100 * median(each.waited_s / each.seconds for each in routed)
    said = (
        f"One router that routes uses {number(median(each.cores for each in routed))} of a core, and could run for "
        f"another {waited:.0f} % of the time but has none: {_bound(routed)}. A request costs it "
        f"{median(each.cpu_us for each in routed):.0f} µs of CPU"
    )
    if cost is not None:
        total = sum(cost.routed_us.values())
        largest = sorted(cost.routed_us.items(), key=lambda each: -each[1])[:3]
        said += ", of which " + ", ".join(f"{name} {100 * part / total:.0f} %" for name, part in largest)
    passthrough, streams = (_cpu_us([side[1] for side in sides]) for sides in _others(kafka))
    said += f"; it costs the pass-through {passthrough:.0f} µs, and Kafka Streams {streams:.0f} µs."
    return wrapped(said)


def _others(kafka: Kafka) -> tuple[list[dict[int, Measured]], list[dict[int, Measured]]]:
    return [each.passthrough for each in kafka.rounds], [each.streams for each in kafka.rounds]


def _bound(stretches: Sequence[Stretch]) -> str:
    if median(each.cores for each in stretches) >= BUSY_CORES:
        return "its own CPU is the bound, since it is one thread"
    if median(each.waited_s / each.seconds for each in stretches) >= CROWDED:
        return "the cores are the bound, which broker, stand-in and router share"
    return "the broker's commits are the bound, which it waits for"


def _cpu_us(measured: Sequence[Measured]) -> float:
    return median(each.cpu_s / (each.requests_per_s * each.seconds) * 1e6 for each in measured)


def method(results: Results) -> Iterator[str]:
    yield "\n".join(wrapped(each, "- ", "  ") for each in _method(results))
    yield wrapped('`make bench ROUNDS=3 ONLY="kafka memory"` measures some parts, and writes them to `build/bench/`.')


def _method(results: Results) -> Iterator[str]:
    plan = results.plan
    yield f"""Requests of {load.RECORD_BYTES} bytes over {load.RESOURCES:,} resources and {load.PARTITIONS} partitions,
        each with a payload of its own, so that none is merged. They are encoded, and lie in the input topic, before
        any clock runs; a side is measured by how fast its committed output grows. So no generator shares the cores; the
        stand-in worker does."""
    yield f"""All sides in turn: {_rounds(results)}. A ratio is of two values of one round; its median, least and most
        are shown."""
    yield f"""keylane as users run it, but for a retention of {number(plan.retention_s)} s, so that forgetting is in
        what is measured: {number(plan.warm_s)} s to warm up, {number(plan.trips_s)} s of full round trips, then
        {number(plan.routed_s)} s of routing alone, while what ended before is still being forgotten."""
    yield """The stand-in worker is one process with a session in each partition, which completes items at once. A real
        `keylane worker` has costs of its own, which are not the router's."""
    if results.kafka is not None:
        yield f"""Records a request of the other sides: as many to events, items and state as keylane wrote in the mean
            when it routed just before ({_records(results.kafka)}), with the request's own 300 bytes and no headers. As
            nothing is completed, more and more requests only queue: the faster, the more. The pass-through has a
            transaction for a partition and up to 1,000 requests, as keylane has. The marks of transactions count as
            records there, which is under 0.5 % in their favour."""
        chosen = results.kafka.rounds[0].commit_ms
        commits = ", ".join(f"{each_ms} ms with {count} thread{'s' * (count > 1)}" for count, each_ms in chosen.items())
        yield f"""Kafka Streams (`bench/streams/Route.java`): one instance, exactly-once v2, a RocksDB store whose
            changelog is the third kind of output, batches of 256 KiB, polls of 1,000, a heap of 2 GiB. Commits every
            100 ms, its default for exactly-once, or 1,000 ms, whichever gave more in the first round: {commits}. Its
            threads are of one process; several routers are processes."""


def _records(kafka: Kafka) -> str:
    said = []
    for count in THREADS:
        routed = [each.keylane[count].routed for each in kafka.rounds]
        records = number(median(each.records_per_request for each in routed))
        granted = median(each.granted / each.answered for each in routed)
        said.append(f"{records} with {count} router{'s' * (count > 1)}, {100 * granted:.0f} % of the requests granted")
    return "; ".join(said)


def _rounds(results: Results) -> str:
    found = {"Kafka": results.kafka, "latency": results.latency, "embedded": results.embedded}
    return ", ".join(f"{len(each.rounds)} rounds of {name}" for name, each in found.items() if each is not None)
