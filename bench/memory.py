"""What a lane's memory holds: bytes a live run and bytes a remembered outcome, of 100,000 each.

Each is measured in a process of its own, by the growth of its resident set, so all indexes, timers and what the
allocator wastes are in it. `waiting`, `held`, `outcome`: a lane that has lived, fed record by record as a turn does;
`loaded`: one of outcomes that was loaded from its state records, as after a takeover.
"""

from __future__ import annotations

import gc
import subprocess
import sys

from bench import load
from bench.processes import PYTHON, ROOT, resident_bytes
from keylane.journal.port import Stored
from keylane.router.core.lane import Lane
from keylane.router.core.policy import Policy
from keylane.router.core.records import Arrived, Now
from keylane.router.core.step import step
from keylane.router.turn import decode
from keylane.router.turn import load as load_lane
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.items import WorkItem
from keylane.schemas.results import Completed
from keylane.schemas.state import StateRecord

NOW = Now(1_000, "2026-01-01T00:00:00.000Z")
KINDS = ("waiting", "held", "outcome", "loaded")
TURN = 500


def stored(topic: str, offset: int, value: bytes) -> Stored:
    return Stored(topic, 0, offset, None, value, (), 0)


def fill(lane: Lane, count: int, kind: str, kept: dict[bytes, bytes] | None) -> None:
    """Take `count` requests, each for a resource of its own, as far as `kind` says. `kept`: gets the state records."""
    if kind != "waiting":
        for record in load.joins(1):
            step(lane, decode(stored(topics.RESULTS, 0, record.value or b"")), NOW)
    for number in range(count):
        resource = f"deploy://service-{number}"
        step(lane, decode(stored(topics.REQUESTS, number, load.request(f"r{number}", resource, number))), NOW)
        if kind == "outcome":
            complete_items(lane)
        if number % TURN == 0:
            end_turn(lane, kept)
    end_turn(lane, kept)


def complete_items(lane: Lane) -> None:
    for item in [each.record for each in lane.outputs if isinstance(each.record, WorkItem)]:
        done = Completed(session=item.session, pool=load.POOL, resource=item.resource, run=item.run, token=item.token)
        step(lane, Arrived(record=done, topic=topics.RESULTS), NOW)
    lane.outputs.clear()


def end_turn(lane: Lane, kept: dict[bytes, bytes] | None) -> None:
    """What a commit does to a lane."""
    if kept is not None:
        for key, record in lane.changed.items():
            keep(kept, key, record)
    lane.outputs.clear()
    lane.changed.clear()


def keep(kept: dict[bytes, bytes], key: bytes, record: StateRecord | None) -> None:
    if record is None:
        kept.pop(key, None)
    else:
        kept[key] = encode(record)


def grown_bytes(count: int, kind: str) -> int:
    lane = Lane(0, Policy(), lambda _: 0)
    lines = sys.stdin.buffer.readlines() if kind == "loaded" else []
    state = [stored(topics.STATE, number, line.rstrip()) for number, line in enumerate(lines)]
    gc.collect()
    before = resident_bytes()
    if kind == "loaded":
        load_lane(lane, state, 0)
    else:
        fill(lane, count, kind, None)
    gc.collect()
    return resident_bytes() - before


def write_state(count: int) -> None:
    kept: dict[bytes, bytes] = {}
    fill(Lane(0, Policy(), lambda _: 0), count, "outcome", kept)
    for value in kept.values():
        sys.stdout.buffer.write(value + b"\n")


def measure(kind: str, count: int) -> float:
    """Bytes a run, measured in a process of its own."""
    state = run("state", count) if kind == "loaded" else b""
    return float(run(kind, count, state))


def run(kind: str, count: int, given: bytes = b"") -> bytes:
    command = [*PYTHON, "bench.memory", kind, str(count)]
    return subprocess.run(command, cwd=ROOT, input=given, stdout=subprocess.PIPE, check=True).stdout


if __name__ == "__main__":
    if sys.argv[1] == "state":
        write_state(int(sys.argv[2]))
    else:
        sys.stdout.write(str(grown_bytes(int(sys.argv[2]), sys.argv[1]) / int(sys.argv[2])))
