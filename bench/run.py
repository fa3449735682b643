"""`python -m bench`: which parts to measure, in which order, and where what was found is written."""

from __future__ import annotations

import argparse
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import anyio

from bench import broker, idle, keylane_side, load, memory, parts, processes, report, results, rounds, streams_side
from bench import svg as drawing
from bench import takeover as taking
from bench.findings import findings
from bench.keylane_side import Plan
from bench.processes import Failed
from bench.results import Cost, Embedded, Idles, Kafka, Latency, Memory, Results, Takeovers
from bench.say import say
from keylane.journal.port import Record

PARTS = ("kafka", "latency", "embedded", "cost", "memory", "takeover", "idle")
TINY_PARTS = ("embedded", "memory")
ON_KAFKA = {"kafka", "latency", "cost", "takeover", "idle"}
DOCS = processes.ROOT / "docs"


class Size:
    """How much of everything. `tiny` shows that it all works, on SQLite; its figures mean nothing."""

    def __init__(self, tiny: bool, rounds: int, backlog: int) -> None:
        self.rounds = rounds
        self.backlog = backlog
        self.latency_rounds = min(rounds, 3)
        self.plan = Plan(0.5, 0.6, 0.5, 0.2, 0.4) if tiny else Plan(5.0, 6.0, 8.0, 1.2, 3.0)
        self.cost_plan = Plan(5.0, 6.0, 16.0, 1.2, 3.0)
        self.raw_s = 0.5 if tiny else 5.0
        self.runs = 1_000 if tiny else 100_000
        self.takeovers = 3
        self.lanes = 64
        self.idle_s = 12.0


class Bench:
    """The parts, measured one after the other into one `Results`."""

    def __init__(self, size: Size, at: broker.Broker | None) -> None:
        self.size = size
        self.found = Results(at=results.now(time.time()), machine=results.machine(), plan=size.plan)
        self._at = at
        self._requests: list[Record] = []

    async def measure(self, part: str) -> None:
        """One of `PARTS`. Raises `Failed`."""
        say(f"-- {part}")
        by_name: dict[str, Callable[[], Awaitable[None]]] = {
            "kafka": self._kafka,
            "latency": self._latency,
            "embedded": self._embedded,
            "cost": self._cost,
            "memory": self._memory,
            "takeover": self._takeover,
            "idle": self._idle,
        }
        await by_name[part]()

    def _backlog(self) -> Sequence[Record]:
        """Encoded once for all rounds, off every clock."""
        if not self._requests:
            self._requests = list(load.requests(self.size.backlog))
        return self._requests

    @property
    def _broker(self) -> broker.Broker:
        assert self._at is not None, "the part is in ON_KAFKA"
        return self._at

    async def _kafka(self) -> None:
        streams_side.build()
        found: list[rounds.KafkaRound] = []
        for number in range(self.size.rounds):
            say(f"round {number + 1} of {self.size.rounds}")
            commit_ms = found[0].commit_ms if found else None
            one = await rounds.kafka_round(self._broker, f"r{number}", self.size.plan, self._backlog(), commit_ms)
            found.append(one)
        self.found.kafka = Kafka(found)

    async def _latency(self) -> None:
        kafka = self.found.kafka
        if kafka is None:
            url = self._broker.url("capacity")
            await keylane_side.fill(url, self._backlog())
            runs = [await keylane_side.run(url, self.size.plan)]
            await broker.drop_topics(self._broker, "capacity.")
        else:
            runs = [each.keylane[1] for each in kafka.rounds]
        capacity = median(each.trips.ended_per_s for each in runs)
        outputs = rounds.outputs_of(runs[0].routed)
        found = [
            await rounds.latency_round(self._broker, f"l{number}", capacity, self.size.plan.retention_s, outputs)
            for number in range(self.size.latency_rounds)
        ]
        self.found.latency = Latency(capacity, found)

    async def _embedded(self) -> None:
        requests = self._backlog()
        found = [
            await rounds.embedded_round(self.size.plan, requests, self.size.raw_s) for _ in range(self.size.rounds)
        ]
        self.found.embedded = Embedded(found)

    async def _cost(self) -> None:
        url = self._broker.url("cost")
        with TemporaryDirectory(dir=processes.scratch()) as folder:
            file = Path(folder) / "samples"
            await keylane_side.fill(url, self._backlog())
            run = await keylane_side.run(url, self.size.cost_plan, around=("bench.sampler", str(file)))
            keylane_side.describe("keylane, sampled", run)
            samples = parts.read(file)
        await broker.drop_topics(self._broker, "cost.")
        self.found.cost = Cost(*(parts.cost_us(samples, stretch) for stretch in (run.trips, run.routed)))

    async def _memory(self) -> None:
        runs = self.size.runs
        found = {kind: memory.measure(kind, runs) for kind in memory.KINDS}
        say(f"bytes a run: {found}")
        self.found.memory = Memory(runs, found)

    async def _takeover(self) -> None:
        found: dict[str, list[taking.Takeover]] = {}
        for number in range(self.size.takeovers):
            with TemporaryDirectory(dir=processes.scratch()) as folder:
                urls = {"SQLite": f"sqlite://{folder}/journal.db?session_timeout_ms=1000"}
                urls["Kafka"] = self._broker.url(f"t{number}") + "&session_timeout_ms=3000"
                for journal, url in urls.items():
                    one = await taking.measure(url, self.size.runs)
                    say(f"takeover on {journal}: {one.total_s:.2f} s, of which {one.loaded_s:.2f} s to load")
                    found.setdefault(journal, []).append(one)
            await broker.drop_topics(self._broker, f"t{number}.")
        self.found.takeover = Takeovers(found)

    async def _idle(self) -> None:
        with TemporaryDirectory(dir=processes.scratch()) as folder:
            urls = {"SQLite": f"sqlite://{folder}/journal.db", "Kafka": self._broker.url("idle")}
            found = {
                journal: await idle.measure(url, self.size.lanes, self.size.idle_s) for journal, url in urls.items()
            }
        say(f"idle: {found}")
        self.found.idle = Idles(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure keylane beside its ceilings.")
    parser.add_argument("--rounds", type=int, default=5, help="of all sides in turn (5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--backlog", type=int, default=1_300_000, help="requests that a side finds waiting (1300000)")
    parser.add_argument("--out", type=Path, help="folder for the results; docs/ where all parts are measured")
    parser.add_argument("--tiny", action="store_true", help="show that it works, in seconds; figures mean nothing")
    options = parser.parse_args()
    wanted = TINY_PARTS if options.tiny else [part for part in PARTS if part in options.only]
    whole = list(wanted) == list(PARTS)
    # As Ctrl-C, which a shell's background has switched off: what was started is ended, and nothing is left lying.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with ExitStack() as stack:
        needs_kafka = not options.tiny and ON_KAFKA & set(wanted)
        at = stack.enter_context(broker.running()) if needs_kafka else None
        bench = Bench(Size(options.tiny, options.rounds, options.backlog), at)
        for part in wanted:
            try:
                anyio.run(bench.measure, part)
            except Failed as failed:
                raise SystemExit(f"{part}: {failed}") from None
            except KeyboardInterrupt:
                raise SystemExit(f"{part}: interrupted") from None
            # What was found is not lost with a later part.
            (processes.scratch() / "so-far.json").write_bytes(results.encode(bench.found))
    write(bench.found, options.out or (DOCS if whole else processes.scratch()))


def write(found: Results, folder: Path) -> None:
    """`benchmarks.md`, `.svg` and `.json`; and the table on the terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.json").write_bytes(results.encode(found))
    (folder / "benchmarks.svg").write_text(drawing.draw(found))
    (folder / "benchmarks.md").write_text(report.text(found))
    report.show(findings(found), width=shutil.get_terminal_size().columns)
    say(f"written to {folder}/benchmarks.md, .svg and .json")
