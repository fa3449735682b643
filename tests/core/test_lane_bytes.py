"""A lane's memory is bounded by what its runs carry, not by their number alone (promise 12)."""

from core.bench import API, Bench, events, only, policy
from msgspec import Raw

from keylane.router.core.policy import Bounds
from keylane.schemas.events import Refused

PAYLOAD = '"' + "x" * 98 + '"'


def test_what_runs_carry_is_counted_from_payload_to_outcome() -> None:
    bench = Bench()
    bench.join("w")
    empty = bench.lane.carried_bytes
    bench.request("r1", payload=PAYLOAD)
    bench.progress("r1", checkpoint=Raw(b'"0123456789"'))
    assert bench.lane.carried_bytes - empty > 100 + 12
    bench.complete("r1", result="[1,2,3]")
    assert bench.lane.carried_bytes == empty + len("null") + len("[1,2,3]")
    bench.wait(3_600_001)
    bench.forget(10)
    assert bench.lane.carried_bytes == empty


def test_a_lane_that_carries_too_much_refuses_new_work_and_still_answers_repeats() -> None:
    bench = Bench(policy(bounds=Bounds(lane_bytes=150)))
    assert events(bench.request("r1", payload=PAYLOAD)) == ["Queued"]
    assert events(bench.request("r2", "other", payload=PAYLOAD)) == ["Queued"]
    assert only(Refused, bench.request("r3", "third", payload=PAYLOAD)).code == "LANE_FULL"
    assert events(bench.request("r1", payload=PAYLOAD)) == ["Queued"]
    bench.cancel("r1", API)
    bench.cancel("r2", API)
    assert events(bench.request("r4", "third", payload=PAYLOAD)) == ["Queued"]


def test_a_lane_that_carries_much_keeps_outcomes_for_the_shorter_time() -> None:
    bench = Bench(policy(bounds=Bounds(crowded_bytes=50)))
    bench.join("w")
    bench.request("r1")
    bench.complete("r1", result=PAYLOAD)
    bench.wait(119_000)
    bench.forget(10)
    assert "r1" in bench.lane.runs
    bench.wait(2_000)
    bench.forget(10)
    assert "r1" not in bench.lane.runs
