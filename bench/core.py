"""What a router process spends on a request and on its completion: CPU time, by part, without a journal's waits.

`python bench/core.py [CHECKOUT ...]`: runs this file, and that of each other checkout with its own `.venv`, by turns,
and prints the medians as JSON: microseconds of CPU time a request or completion, and what an outcome costs in memory
and a run at a takeover. 300-byte requests over 50,000 resources in 8 lanes and turns of 1,000, as `make bench` has
them. CPU time is what a busy machine disturbs least; compare only within one run.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from aiokafka.producer.message_accumulator import BatchBuilder
from msgspec import Raw
from prometheus_client import CollectorRegistry

from keylane.journal import LaneSession, Record, Stored, TopicSpec
from keylane.journal._kafka_lane import pack
from keylane.journal._kafka_vendor import Producer
from keylane.journal.partitioner import partition_of
from keylane.journal.sqlite import Database
from keylane.journal.sqlite_log import SCHEMA, Job, create_topic, locate, write_jobs
from keylane.router import turn
from keylane.router.clock import LaneClock
from keylane.router.core.lane import Lane
from keylane.router.core.policy import Policy
from keylane.router.core.records import Arrived, Now
from keylane.router.core.step import step
from keylane.router.decisions import log_decisions
from keylane.router.meter import LaneMeter
from keylane.router.metrics import RouterMetrics
from keylane.router.setup import topic_specs
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.items import WorkItem
from keylane.schemas.requests import WorkRequest
from keylane.schemas.results import Completed, WorkerHeartbeat, WorkerJoined
from keylane.schemas.state import LANE_KEY

LANES = 8
RESOURCES = 50_000
REQUESTS = 40_000
RECORD_BYTES = 300
ROUNDS = 5
LOADED_RUNS = 100_000
BATCH_BYTES = 1024 * 1024
POOL = "default"
TRACE = (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),)

T = TypeVar("T")


def main() -> None:
    if sys.argv[1:] == ["--once"]:
        sys.stdout.write(json.dumps(Round().run()) + "\n")
        return
    here = Path(__file__).parent.parent
    checkouts = [here, *map(Path, sys.argv[1:])]
    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(ROUNDS):
        for checkout in checkouts:
            python = sys.executable if checkout is here else str(checkout / ".venv/bin/python")
            once = [python, str(checkout / "bench/core.py"), "--once"]
            figures = json.loads(subprocess.run(once, check=True, stdout=subprocess.PIPE).stdout)
            for name, figure in figures.items():
                found[str(checkout)][name].append(figure)
    for where, named in found.items():
        medians = {name: round(statistics.median(figures), 2) for name, figures in named.items()}
        sys.stdout.write(json.dumps({"checkout": where, **medians}, indent=1) + "\n")


class NoSession:
    """Stands where a lane session would be, for the parts of a turn that do not ask it anything."""


class Round:
    """One run over fresh lanes: requests, then completions until nothing is held, then a takeover."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.state: dict[int, dict[bytes, bytes]] = {number: {} for number in range(LANES)}
        metrics = RouterMetrics(CollectorRegistry(), Policy(), LANES)
        self.limits = {spec.name: BATCH_BYTES for spec in topic_specs(LANES, (POOL,))}
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(Path(self.folder.name) / "journal")
        self.database.create(SCHEMA)
        with self.database.write():
            for spec in topic_specs(LANES, (POOL,)):
                create_topic(self.database, TopicSpec(*spec))
        self.lanes = [Lane(number, Policy(), _place) for number in range(LANES)]
        self.meters = [LaneMeter(metrics, number, turn.INPUTS) for number in range(LANES)]
        self.turns: list[Any] = [
            turn.LaneTurns(lane, cast(LaneSession, NoSession()), LaneClock(0), {}, {}, False, meter)
            for lane, meter in zip(self.lanes, self.meters, strict=True)
        ]

    def run(self) -> dict[str, float]:
        gc.disable()  # as a router does while it serves, nearly
        for number, lane in enumerate(self.lanes):
            turn.load(lane, [], 0)
            joined = WorkerJoined(
                session=f"s{number}", pool=POOL, name="bench", actions=("restart",), slots=10**6, generation=1
            )
            beat = WorkerHeartbeat(session=f"s{number}", pool=POOL, number=1, slots=10**6, read=0)
            self.apply("opening", number, [_stored(topics.RESULTS, number, 0, encode(one)) for one in (joined, beat)])
        waiting = self.requests()
        held: list[tuple[int, WorkItem]] = []
        for number, batch in waiting:
            held += self.apply("request", number, batch)
        figures = self.figures("request", REQUESTS, sum(len(batch) for _, batch in waiting))
        figures |= self.takeover("live_run")
        completions = 0
        while held:
            completions += len(held)
            held = [
                each for number, batch in self.completions(held) for each in self.apply("completion", number, batch)
            ]
        figures |= self.figures("completion", completions, completions)
        return figures | self.takeover("outcome")

    def requests(self) -> list[tuple[int, list[Stored]]]:
        """The load, in turns."""
        queues: list[list[Stored]] = [[] for _ in range(LANES)]
        for index in range(REQUESTS):
            key = f"deploy://service-{random.Random(index).randrange(RESOURCES)}"
            number = _place(key)
            queues[number].append(_stored(topics.REQUESTS, number, len(queues[number]), _request(index, key)))
        return [
            (number, queue[start : start + turn.TURN_RECORDS_MAX])
            for start in range(0, REQUESTS, turn.TURN_RECORDS_MAX)
            for number, queue in enumerate(queues)
            if start < len(queue)
        ]

    def completions(self, held: Sequence[tuple[int, WorkItem]]) -> Iterator[tuple[int, list[Stored]]]:
        """What the workers report of the items that they have, in turns."""
        queues: list[list[Stored]] = [[] for _ in range(LANES)]
        for number, item in held:
            report = Completed(
                session=item.session, pool=POOL, resource=item.resource, run=item.run, token=item.token,
                result=Raw(b'{"replicas":3,"image":"sha256:0c1d6bc5"}'), version=f"v{item.token}",
            )  # fmt: skip
            queues[number].append(_stored(topics.RESULTS, number, len(queues[number]), encode(report)))
        for number, queue in enumerate(queues):
            for start in range(0, len(queue), turn.TURN_RECORDS_MAX):
                yield number, queue[start : start + turn.TURN_RECORDS_MAX]

    def apply(self, name: str, number: int, batch: list[Stored]) -> list[tuple[int, WorkItem]]:
        """One turn, part by part; what it granted."""
        lane, turns = self.lanes[number], self.turns[number]
        now = turns._clock.now()
        arrived = self.timed(f"{name}/decode", lambda: [turn.decode(stored) for stored in batch])
        self.timed(f"{name}/rules", partial(_step_all, lane, arrived, now))
        records: list[Record] = self.timed(f"{name}/encode", turns._outputs)
        self.spent[f"{name}/records"] += len(records)
        self.spent[f"{name}/bytes"] += sum(len(each.key or b"") + len(each.value or b"") for each in records)
        self.timed(f"{name}/kafka pack", lambda: pack(cast(Producer, Batches()), records, self.limits))
        located = {topic: locate(self.database, topic, number) for topic in {each.topic for each in records}}
        places = [located[each.topic] for each in records]
        self.timed(f"{name}/sqlite write", partial(write_jobs, self.database, [Job(places, records, None)]))
        granted = [(number, each.record) for each in lane.outputs if isinstance(each.record, WorkItem)]
        self.timed(f"{name}/after", partial(self.after, number))
        for each in records:
            if each.topic == topics.STATE:
                assert each.key is not None
                self.state[number].pop(each.key, None)
                if each.value is not None:
                    self.state[number][each.key] = each.value
        return granted

    def after(self, number: int) -> None:
        lane = self.lanes[number]
        self.meters[number].committed(lane.outputs, 0.0, 0.0)
        log_decisions(number, lane.outputs)
        lane.outputs.clear()
        lane.forwards.clear()
        lane.changed.clear()
        self.meters[number].turned(lane, {}, 0)

    def timed(self, part: str, work: Callable[[], T]) -> T:
        began_s = time.process_time()
        done = work()
        self.spent[part] += time.process_time() - began_s
        return done

    def figures(self, name: str, count: int, records: int) -> dict[str, float]:
        assert count == records
        parts = {key: amount for key, amount in self.spent.items() if key.startswith(f"{name}/")}
        counts = (f"{name}/records", f"{name}/bytes")
        found = {key: amount / count * (1 if key in counts else 1e6) for key, amount in parts.items()}
        journals = (f"{name}/kafka pack", f"{name}/sqlite write")
        found[f"{name}/without journal"] = sum(found[key] for key in found if key not in (*counts, *journals))
        return found

    def takeover(self, kind: str) -> dict[str, float]:
        """What all runs together cost to load from what was written of them so far, and to have."""
        stored = [
            _stored(topics.STATE, 0, offset, value, key)
            for offset, (key, value) in enumerate(item for state in self.state.values() for item in state.items())
            if key != LANE_KEY
        ]
        lane = Lane(0, Policy(), lambda _: 0)
        before_bytes, began_s = _resident_bytes(), time.process_time()
        turn.load(lane, stored, 0)
        spent_s = time.process_time() - began_s
        return {
            f"load_s_of_100000_{kind}s": spent_s / len(lane.runs) * LOADED_RUNS,
            f"bytes_per_{kind}": (_resident_bytes() - before_bytes) / len(lane.runs),
        }


class Batches:
    """As much of a producer as packing needs."""

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(BATCH_BYTES, 0, is_transactional=True)


def _step_all(lane: Lane, arrived: Sequence[Arrived], now: Now) -> None:
    for each in arrived:
        step(lane, each, now)


def _place(owner: str) -> int:
    return partition_of(owner.encode(), LANES)


def _request(index: int, key: str) -> bytes:
    def made(payload: bytes) -> bytes:
        asked = WorkRequest(id=f"r{index}", resource=key, action="restart", actor="bench", payload=Raw(payload))
        return encode(asked)

    return made(b'"' + b"x" * (RECORD_BYTES - len(made(b'""'))) + b'"')


def _stored(topic: str, partition: int, offset: int, value: bytes, key: bytes = b"") -> Stored:
    return Stored(topic, partition, offset, key, value, TRACE if topic == topics.REQUESTS else (), 0)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
