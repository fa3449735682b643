"""Workers deliver at least once: the report that completed a run may come twice, and is no conflict."""

from core.bench import Bench, image, kinds, of

from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Fenced


def completed() -> Bench:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.complete("r1", result="1", version="v2")
    return bench


def test_the_same_completion_again_changes_nothing_and_says_nothing() -> None:
    bench = completed()
    before = image(bench.lane)
    assert bench.complete("r1", result="1", version="v2") == []
    assert image(bench.lane) == before


def test_another_completion_under_the_same_token_is_fenced() -> None:
    bench = completed()
    outputs = bench.complete("r1", result="2", version="v2")
    assert len(of(Fenced, outputs)) == len(of(ConflictArtifact, outputs)) == 1
    assert bytes(bench.run("r1").result) == b"1"


def test_the_same_completion_of_a_run_that_was_lost_is_fenced() -> None:
    bench = Bench()
    bench.join("w")
    bench.request("r1")
    bench.leave("w")
    assert kinds(bench.complete("r1", token=bench.run("r1").token)) == ["fenced_report"]
