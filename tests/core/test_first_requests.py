"""A run speaks for its first request: nothing is lost by it, and state that was written before loads as it is."""

from __future__ import annotations

import sys

import pytest
from core.bench import API, Bench, events, image, only
from msgspec import Raw
from msgspec.structs import replace

from keylane.journal.port import Stored
from keylane.router import turn
from keylane.router.core.lane import Lane
from keylane.router.core.policy import Policy
from keylane.schemas.codec import decode_state, encode
from keylane.schemas.events import DeadLettered, Ended, Queued, Withdrawn
from keylane.schemas.items import Checkpoint
from keylane.schemas.state import Member, Run, first_member


def as_before(bench: Bench) -> None:
    """Write the stored state as routers did when each request had a record of its own, and load it."""
    bench.commit()
    for key, value in list(bench.stored.items()):
        run = decode_state(value)
        if isinstance(run, Run):
            first = first_member(run)
            assert first is not None
            bench.stored[key] = encode(replace(run, request_digest="", deadline_ms=None))
            bench.stored.setdefault(b"member/" + run.id.encode(), encode(first))
    bench.reload()


@pytest.fixture(params=["now", "before"])
def written(request: pytest.FixtureRequest) -> str:
    how: str = request.param
    return how


def loaded(bench: Bench, written: str) -> Bench:
    if written == "before":
        as_before(bench)
    else:
        bench.reload()
    return bench


def test_a_run_of_one_request_is_one_record() -> None:
    bench = Bench()
    bench.request("r1")
    assert sorted(bench.stored) == [b"lane", b"run/r1", b"unserved/restart"]
    bench.request("r2")
    assert b"member/r2" in bench.stored, "whoever joins has its own"


@pytest.mark.parametrize("done", [False, True])
def test_a_repeat_is_told_from_a_reused_id(written: str, done: bool) -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1", payload="1")
    if done:
        bench.complete("r1")
    loaded(bench, written)
    again = bench.request("r1", payload="1")
    assert only(Ended if done else Queued, again).repeat
    assert only(DeadLettered, bench.request("r1", payload="2")).code == "ID_REUSED"


def test_the_first_requester_that_left_is_out_for_good(written: str) -> None:
    bench = Bench()
    bench.request("r1")
    bench.request("r2")
    bench.cancel("r1")
    loaded(bench, written)
    again = only(Withdrawn, bench.request("r1"))
    assert again.repeat and again.status == "cancelled"
    bench.join("w")
    assert only(Ended, bench.complete("r1")).requests == ("r2",)


def test_its_deadline_holds_while_it_is_in(written: str) -> None:
    bench = Bench()
    bench.request("r1", deadline_ms=1_000)
    bench.request("r2", deadline_ms=5_000)
    loaded(bench, written)
    assert only(Withdrawn, bench.wait(1_000)).request == "r1"
    loaded(bench, "now")
    assert events(bench.wait(3_999)) == []
    assert only(Ended, bench.wait(1)).requests == ("r2",)


def test_a_requester_that_left_early_is_not_waited_for(written: str) -> None:
    bench = Bench()
    bench.request("r1", deadline_ms=1_000)
    bench.request("r2")
    bench.cancel("r1")
    loaded(bench, written)
    assert events(bench.wait(2_000)) == []


def test_what_is_forgotten_leaves_nothing(written: str) -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.complete("r1")
    loaded(bench, written)
    bench.wait(3_600_001)
    bench.forget(10)
    lane = bench.lane
    assert (lane.runs, lane.members, lane.members_of, lane.deadlines_of, lane.member("r1")) == ({}, {}, {}, {}, None)
    assert not [key for key in bench.stored if key.startswith((b"run/", b"member/"))]


def test_the_order_of_the_records_is_no_matter() -> None:
    run = Run(
        id="r1", order=1, state="Waiting", resource=API, owner=API, action="restart", digest="d", accepted_ms=0,
        request_digest="w", deadline_ms=50, expires_ms=100,
    )  # fmt: skip
    left = Member(id="r1", run="r1", order=1, digest="w", accepted_ms=0, deadline_ms=50, left="cancelled")
    lanes = []
    for records in ((run, left), (left, run)):
        lane = Lane(0, Policy(), lambda _: 0)
        for record in records:
            lane.put(record)
        lanes.append(image(lane))
    assert lanes[0] == lanes[1]
    assert lanes[0]["deciding"] == {b"run/r1": 100}


def test_a_loaded_lane_holds_no_bytes_of_what_it_was_read_from() -> None:
    payload = Raw(b'"' + b"x" * 100 + b'"')
    run = Run(
        id="r1", order=1, state="Waiting", resource=API, owner=API, action="restart", digest="d", accepted_ms=0,
        payload=payload,
    )  # fmt: skip
    value = encode(run)
    before = sys.getrefcount(value)
    lane = Lane(0, Policy(), lambda _: 0)
    stored = [Stored("state", 0, 0, b"run/r1", value, (), 0)]
    turn.load(lane, stored, 0)
    del stored
    assert bytes(lane.runs["r1"].payload) == bytes(payload)
    assert sys.getrefcount(value) == before


def test_nor_of_what_a_checkpoint_or_a_merged_request_was_read_from() -> None:
    saved = Raw(b'"' + b"x" * 100 + b'"')
    run = Run(
        id="r1", order=1, state="Waiting", resource=API, owner=API, action="restart", digest="d", accepted_ms=0,
        checkpoint=Checkpoint(data=saved, evidence=saved),
    )  # fmt: skip
    member = Member(id="r2", run="r1", order=2, digest="e", accepted_ms=0, payload_digest="p", payload=saved)
    values = [encode(run), encode(member)]
    before = [sys.getrefcount(value) for value in values]
    lane = Lane(0, Policy(), lambda _: 0)
    turn.load(lane, [Stored("state", 0, at, b"k", value, (), 0) for at, value in enumerate(values)], 0)
    checkpoint = lane.runs["r1"].checkpoint
    assert checkpoint is not None
    assert bytes(checkpoint.data) == bytes(checkpoint.evidence) == bytes(lane.members["r2"].payload) == bytes(saved)
    assert [sys.getrefcount(value) for value in values] == before
