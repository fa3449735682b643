"""A worker session whose lapse crashes a turn is closed on record, and what waits for its actions is unserved."""

from __future__ import annotations

from core.bench import Bench, names, work

from keylane.router.core.step import quarantine_due


def test_a_session_that_is_set_aside_is_closed_for_all_to_see() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.feed(work("r2", payload="2"))
    quarantine_due(bench.lane, b"session/w", bench.now, "it fails")
    assert names(bench.commit()) == ["Ended", "WorkerClosed", "SessionClosed"]
    assert not bench.lane.sessions and "restart" in bench.lane.unserved
    assert bench.states() == {"r1": "failed", "r2": "Waiting"}
