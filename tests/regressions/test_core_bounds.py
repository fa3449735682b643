"""What agents and workers write is bounded before it is kept, and forgetting never stands still."""

from __future__ import annotations

from typing import Any

import pytest
from core.bench import API, Bench, names, only, policy, work
from msgspec import Raw

from keylane.router.core.policy import Bounds
from keylane.schemas.codec import Undecodable, encode
from keylane.schemas.events import Refused
from keylane.schemas.requests import Cancellation, Renewal
from keylane.schemas.results import Completed


@pytest.mark.parametrize("field", ["request", "actor"])
def test_a_cancellation_with_a_huge_name_is_refused_and_not_kept(field: str) -> None:
    bench = Bench()
    fields = {"id": "c1", "resource": API, "request": "r1"} | {field: "x" * 200_000}
    outputs = bench.feed(Cancellation(**fields))
    assert names(outputs) == ["Refused"]
    assert only(Refused, outputs).code == "BAD_RECORD"
    assert not bench.lane.kept


def test_evidence_without_a_checkpoint_leaves_the_checkpoint() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.progress("r1", checkpoint=Raw(b'{"done":1}'), open_questions=("old",))
    bench.progress("r1", evidence=Raw(b'"seen"'))
    kept = bench.run("r1").checkpoint
    assert kept is not None
    assert (bytes(kept.data), bytes(kept.evidence), kept.open_questions) == (b'{"done":1}', b'"seen"', ("old",))
    bench.progress("r1", checkpoint=Raw(b'{"done":2}'))
    kept = bench.run("r1").checkpoint
    assert kept is not None
    assert (bytes(kept.data), bytes(kept.evidence), kept.open_questions) == (b'{"done":2}', b"null", ())


def test_resources_over_their_bound_are_forgotten_though_one_is_held() -> None:
    bench = Bench(policy(bounds=Bounds(resources=3)))
    bench.join("w", slots=10)
    bench.request("h1", resource="deploy://held")
    bench.complete("h1")
    bench.wait(5_000)
    bench.beat("w", slots=10)
    bench.request("h2", resource="deploy://held")
    for number in range(20):
        bench.request(f"r{number}", resource=f"deploy://{number}")
        bench.complete(f"r{number}")
    bench.forget(2_000)
    assert len(bench.lane.resources) == 3


def test_a_retry_is_not_put_off_beyond_the_longest_wait() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.fail("r1", retry_after_ms=10**30)
    run = bench.run("r1")
    assert run.ready_ms is not None and run.expires_ms is not None
    assert run.ready_ms <= run.expires_ms


HUGE = "x" * 200_000


@pytest.mark.parametrize(
    "record",
    [
        work("r1", action=HUGE),
        work("r1", actor=HUGE),
        Undecodable("no record", "r1", HUGE),
        Renewal(id="n", resource=HUGE, run=HUGE, token=1, secret="s"),
        Completed(session=HUGE, pool="default", resource=HUGE, run=HUGE, token=1),
    ],
    ids=lambda record: type(record).__name__,
)
def test_what_is_said_of_a_record_is_no_copy_of_it(record: Any) -> None:
    for output in Bench().feed(record):
        assert len(encode(output.record)) + len(output.key) < 8_192


def test_a_cancellation_that_names_another_resource_is_not_of_this_request() -> None:
    bench = Bench()
    bench.request("r1")
    assert names(bench.cancel("r1", resource="deploy://other")) == ["CancellationKept"]
    assert bench.states() == {"r1": "Waiting"}
