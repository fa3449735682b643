"""The graph of waits over random logs, held against a naive one, against what compaction leaves, and other machines."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keylane.router.core import waiting
from keylane.router.core.waiting import Checked, WaitGraph
from keylane.schemas.codec import Undecodable, encode
from keylane.schemas.waits import LaneLoaded, WaitEdge, WaitRecord, edge_key, lane_key

TESTS = Path(__file__).resolve().parents[1]
PARTITIONS = 3
logs = settings(
    max_examples=1000, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
dice_of = st.integers(0, 2**32).map(random.Random)
lengths = st.integers(1, 60)


class Written(NamedTuple):
    offset: int
    key: bytes
    record: WaitRecord | Undecodable | None


def drawn_log(dice: random.Random, length: int, *, sessions: int = 5, zombies: bool = True) -> list[Written]:
    """What lanes write, that are loaded again and again; and their fenced predecessors, late."""
    claims = [1] * PARTITIONS
    log: list[Written] = []
    names = [f"s{number}" for number in range(sessions)]
    for offset in range(length):
        partition = dice.randrange(PARTITIONS)
        late = zombies and claims[partition] > 1 and dice.random() < 0.15
        claim = dice.randrange(1, claims[partition]) if late else claims[partition]
        key = edge_key(partition, claim, f"r{dice.randrange(4)}")
        match dice.choices(("edge", "over", "loaded", "bad"), (12, 4, 1, 0.3))[0]:
            case "edge":
                waiter, holder = dice.sample(names, 2)
                edge = WaitEdge(
                    request=key.decode().split("/")[3],
                    waiter=waiter,
                    holder=holder,
                    resource=f"x://{dice.randrange(9)}",
                    partition=partition,
                    claim=claim,
                )
                log.append(Written(offset, key, edge))
            case "over":
                log.append(Written(offset, key, None))
            case "loaded":
                claims[partition] += 0 if late else 1
                claim = claim if late else claims[partition]
                log.append(Written(offset, lane_key(partition), LaneLoaded(partition=partition, claim=claim)))
            case _:
                log.append(Written(offset, key, Undecodable("no", None, None)))
    return log


def fold(log: list[Written]) -> tuple[WaitGraph, list[Checked]]:
    graph, told = WaitGraph(), []
    for written in log:
        told += graph.apply(*written)
    return graph, told


class Naive:
    """The definition, told another way: nothing is remembered but the log, and every graph is drawn from nothing."""

    def __init__(self, log: list[Written]) -> None:
        claims = dict.fromkeys(range(PARTITIONS), 0)
        for _, _, record in log:
            if isinstance(record, LaneLoaded | WaitEdge):
                claims[record.partition] = max(claims[record.partition], record.claim)
        newest = {written.key: written for written in log}
        self.live = [
            written
            for written in sorted(newest.values())
            if isinstance(written.record, WaitEdge) and written.record.claim == claims[written.record.partition]
        ]
        self.graph: list[Written] = []
        self.out: list[Written] = []
        for written in self.live:
            (self.out if self.reaches(written.record.holder, written.record.waiter) else self.graph).append(written)

    def reaches(self, start: str, end: str) -> bool:
        reached = {start}
        for _ in self.graph:
            reached |= {edge.record.holder for edge in self.graph if edge.record.waiter in reached}
        return end in reached


def is_cycle(cycle: tuple[str, ...], edges: set[tuple[str, str, str]]) -> bool:
    sessions, resources = cycle[::2], cycle[1::2]
    steps = zip(sessions, resources, (*sessions[1:], sessions[0]), strict=True)
    return len(set(sessions)) == len(sessions) >= 2 and all(step in edges for step in steps)


@logs
@given(dice=dice_of, length=lengths)
def test_after_each_record_the_graph_is_the_naive_one(dice: random.Random, length: int) -> None:
    log = drawn_log(dice, length)
    graph = WaitGraph()
    last: dict[int, tuple[str, ...]] = {}
    for number, written in enumerate(log):
        for edge, position, cycle in graph.apply(*written):
            assert log[position].record is edge
            last[position] = cycle
        naive = Naive(log[: number + 1])
        assert graph.edges() == [(each.offset, each.record) for each in naive.graph]
        assert len(graph) == len(naive.graph)
        # What was told last of each edge is so.
        assert all(last[each.offset] == () for each in naive.graph)
        assert all(last[each.offset] != () for each in naive.out)


@logs
@given(dice=dice_of, length=lengths)
def test_the_graph_has_no_cycle_and_each_that_is_told_was_there_at_its_position(
    dice: random.Random, length: int
) -> None:
    log = drawn_log(dice, length)
    graph = WaitGraph()
    for written in log:
        for _, position, cycle in graph.apply(*written):
            if cycle:
                live = Naive(log[: position + 1]).live
                edges = {(each.record.waiter, each.record.resource, each.record.holder) for each in live}
                assert is_cycle(cycle, edges), "promise 10"
        holders: dict[str, set[str]] = {}
        for _, edge in graph.edges():
            holders.setdefault(edge.waiter, set()).add(edge.holder)
        while holders:
            ends = [waiter for waiter, found in holders.items() if not found & holders.keys()]
            assert ends, f"a cycle among {holders}"
            for waiter in ends:
                del holders[waiter]


@logs
@given(dice=dice_of, length=lengths)
def test_what_compaction_leaves_gives_the_same_graph(dice: random.Random, length: int) -> None:
    """Whenever it came by, and wherever the reader was: as long as each tombstone was read that removed something.

    Fenced routers aside, which write a lane's word of before over that of now: their lane says it again.
    """
    log = drawn_log(dice, length, zombies=False)
    newest = {written.key: written.offset for written in log}
    is_newest = [newest[written.key] == written.offset for written in log]
    read_live = dice.randrange(length + 1)
    kept = [
        written
        for written in log
        # What has a newer record may go; a tombstone under whose key nothing is left may too.
        if (is_newest[written.offset] or dice.random() < 0.5 or written.offset < read_live)
    ]
    first = {}
    for written in kept:
        first.setdefault(written.key, written)
    kept = [each for each in kept if each.record is not None or first[each.key] is not each or dice.random() < 0.5]
    assert fold(kept)[0].edges() == fold(log)[0].edges()
    last = {position: cycle for _, position, cycle in fold(log)[1]}
    late = {position: cycle for _, position, cycle in fold(kept)[1]}
    live = {each.offset for each in Naive(log).live}
    refused = {offset for offset in live if late[offset]}
    assert refused == {offset for offset in live if last[offset]}, "whoever reads late refuses what all refuse"


@logs
@given(dice=dice_of, length=lengths)
def test_bounds_only_ever_leave_out(dice: random.Random, length: int) -> None:
    """No cycle comes about, nothing is refused that is no cycle, and what is over leaves nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "EDGES_MAX", 6)
        patch.setattr(waiting, "EDGES_A_SESSION_MAX", 2)
        patch.setattr(waiting, "LOOKS_MAX", dice.choice((2, 5, 1_000)))
        patch.setattr(waiting, "CYCLE_MAX", dice.choice((2, 3, 100)))
        log = drawn_log(dice, length)
        graph = WaitGraph()
        for number, written in enumerate(log):
            told = graph.apply(*written)
            live = {each.offset: each.record for each in Naive(log[: number + 1]).live}
            assert all(live[offset] is edge for offset, edge in graph.edges())
            assert len(graph) <= 6
            for edge, position, cycle in told:
                assert live[position] is edge
                told_of = {(each.waiter, each.resource, each.holder) for each in live.values()}
                assert not cycle or is_cycle(cycle, told_of)
            graph_now = [edge for _, edge in graph.edges()]
            assert not any(_closes(edge, graph_now) for edge in graph_now)
        for key in {written.key for written in log}:
            graph.apply(length, key, None)
        for partition in range(PARTITIONS):
            assert graph.left_over(partition, 10**6) == []
        left = {name: value for name, value in vars(graph).items() if name not in ("claims", "skipped", "_looks")}
        assert not any(left.values()), left


def _closes(edge: WaitEdge, edges: list[WaitEdge]) -> bool:
    reached = {edge.holder}
    for _ in edges:
        reached |= {each.holder for each in edges if each.waiter in reached}
    return edge.waiter in reached


def fingerprint(seed: int) -> str:
    """Of everything that is told of a log."""
    told = fold(drawn_log(random.Random(seed), 300, sessions=9))[1]
    text = b"".join(encode(edge) + repr((position, cycle)).encode() for edge, position, cycle in told)
    return hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("hash_seed", ["0", "1", "77"])
def test_every_router_is_told_the_same_under_any_hash_seed(hash_seed: str) -> None:
    program = "from core.test_waiting_properties import fingerprint\nprint(*[fingerprint(seed) for seed in range(20)])"
    environ = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
    run = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [fingerprint(seed) for seed in range(20)]
