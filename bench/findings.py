"""What the results come to: one row each, with the target that it is held against. Here is what a target is; how rows
look is `report.py`'s."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.latency import Times
from bench.results import Embedded, Idles, Kafka, Latency, Memory, Results, Takeovers
from bench.rounds import PERCENTS, THREADS
from bench.summary import Spread, ratios, spread

ROUTED_OF_STREAMS = 1.0
ROUTED_OF_PASSTHROUGH = 0.5
EMBEDDED_OF_RAW = 0.5
ITEM_MEDIAN_OF_PASSTHROUGH = 1.5
ITEM_P99_OF_PASSTHROUGH = 3.0
CALM_PERCENT = 10
"""The load at which the latency targets hold."""
OUTCOME_BYTES = 1_024
TAKEOVER_S = 5.0


class Finding(NamedTuple):
    """`spread` over the rounds. `target` None: measured, and held against nothing."""

    part: str
    what: str
    spread: Spread
    unit: str
    target: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        """By the median."""
        if self.target is None:
            return None
        return self.spread.median <= self.target if self.at_most else self.spread.median >= self.target


def findings(results: Results) -> list[Finding]:
    """Of all the parts that were measured."""
    found: list[Finding] = []
    if results.kafka is not None:
        found += _kafka(results.kafka)
    if results.latency is not None:
        found += _latency(results.latency)
    if results.embedded is not None:
        found += _embedded(results.embedded)
    if results.memory is not None:
        found += _memory(results.memory)
    if results.takeover is not None:
        found += _takeover(results.takeover)
    if results.idle is not None:
        found += _idle(results.idle)
    return found


def _count(number: int, one: str, more: str) -> str:
    return f"one {one}" if number == 1 else f"{number} {more}"


def _kafka(kafka: Kafka) -> Iterator[Finding]:
    part, rounds = "Kafka", kafka.rounds
    routed = {n: [each.keylane[n].routed.answered_per_s for each in rounds] for n in THREADS}
    streams = {n: [each.streams[n].requests_per_s for each in rounds] for n in THREADS}
    passthrough = {n: [each.passthrough[n].requests_per_s for each in rounds] for n in THREADS}
    for number in THREADS:
        routers = _count(number, "router", "routers")
        yield Finding(part, f"routed, {routers}", spread(routed[number]), "/s")
        trips = [each.keylane[number].trips.ended_per_s for each in rounds]
        yield Finding(part, f"full round trips, {routers}", spread(trips), "/s")
    for number in THREADS:
        threads = _count(number, "thread", "threads")
        yield Finding(part, f"Kafka Streams, {threads}", spread(streams[number]), "/s")
    for number in THREADS:
        what = f"pass-through, with the records of {_count(number, 'router', 'routers')}"
        yield Finding(part, what, spread(passthrough[number]), "/s")
    for number in THREADS:
        what = f"routed, of Kafka Streams: {_count(number, 'router', 'routers')}, as many threads"
        yield Finding(part, what, ratios(routed[number], streams[number]), "x", ROUTED_OF_STREAMS)
    for number in THREADS:
        what = f"routed, of the pass-through: {_count(number, 'router', 'routers')}"
        yield Finding(part, what, ratios(routed[number], passthrough[number]), "x", ROUTED_OF_PASSTHROUGH)


def _latency(latency: Latency) -> Iterator[Finding]:
    part, rounds = "Latency", latency.rounds
    for percent in PERCENTS:
        at = f"at {percent} % of capacity ({latency.capacity * percent / 100:,.0f}/s)"
        found = {what: [each.keylane[percent][what] for each in rounds] for what in ("item", "outcome")}
        found["output"] = [each.passthrough[percent]["output"] for each in rounds]
        for what, name in (("item", "request to item"), ("outcome", "request to outcome"), ("output", "pass-through")):
            yield Finding(part, f"{name}, {at}, median", spread(_medians(found[what])), "ms")
            yield Finding(part, f"{name}, {at}, p99", spread(_p99s(found[what])), "ms")
        is_calm = percent == CALM_PERCENT
        yield Finding(
            part,
            f"request to item, of the pass-through, at {percent} %, median",
            ratios(_medians(found["item"]), _medians(found["output"])),
            "x",
            ITEM_MEDIAN_OF_PASSTHROUGH if is_calm else None,
            at_most=True,
        )
        yield Finding(
            part,
            f"request to item, of the pass-through, at {percent} %, p99",
            ratios(_p99s(found["item"]), _p99s(found["output"])),
            "x",
            ITEM_P99_OF_PASSTHROUGH if is_calm else None,
            at_most=True,
        )
        for what in ("item", "outcome"):
            times_of = [each.embedded[percent][what] for each in rounds]
            yield Finding(part, f"embedded, request to {what}, {at}, median", spread(_medians(times_of)), "ms")
            yield Finding(part, f"embedded, request to {what}, {at}, p99", spread(_p99s(times_of)), "ms")
        late = [side[percent]["sent"] for each in rounds for side in (each.keylane, each.passthrough, each.embedded)]
        yield Finding(
            part, f"of all these, the generator's own lateness at {percent} %, p99", spread(_p99s(late)), "ms"
        )


def _medians(times: Sequence[Times]) -> list[float]:
    return [each.median_ms for each in times]


def _p99s(times: Sequence[Times]) -> list[float]:
    return [each.p99_ms for each in times]


def _embedded(embedded: Embedded) -> Iterator[Finding]:
    part, rounds = "Embedded", embedded.rounds
    routed = [each.keylane.routed.answered_per_s for each in rounds]
    raw = [each.raw.requests_per_s for each in rounds]
    yield Finding(part, "routed", spread(routed), "/s")
    yield Finding(part, "full round trips", spread([each.keylane.trips.ended_per_s for each in rounds]), "/s")
    yield Finding(part, "raw inserts of the rows of a request", spread(raw), "/s")
    yield Finding(part, "routed, of raw inserts", ratios(routed, raw), "x", EMBEDDED_OF_RAW)


MEMORY = {
    "waiting": "a waiting run",
    "held": "a held run",
    "outcome": "a remembered outcome",
    "loaded": "a remembered outcome, after a takeover",
}


def _memory(memory: Memory) -> Iterator[Finding]:
    for kind, each in memory.bytes_a_run.items():
        target = OUTCOME_BYTES if kind in ("outcome", "loaded") else None
        yield Finding("Memory", MEMORY[kind], spread([each]), "bytes", target, at_most=True)


def _takeover(takeover: Takeovers) -> Iterator[Finding]:
    for journal, each in takeover.by_journal.items():
        runs = f"a lane of {each[0].runs:,} runs, {journal}"
        totals = spread([one.total_s for one in each])
        yield Finding("Takeover", runs, totals, "s", TAKEOVER_S, at_most=True)


def _idle(idle: Idles) -> Iterator[Finding]:
    for journal, each in idle.by_journal.items():
        lanes = f"{each.lanes} idle lanes, {journal}"
        yield Finding("Idle", lanes, spread([each.alone_cores * 100]), "% of a core")
        yield Finding("Idle", f"{lanes}, a worker beating in each", spread([each.beating_cores * 100]), "% of a core")
