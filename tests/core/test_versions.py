"""Arrival rule 3: which versions the lane knows to be superseded, and what that refuses, at arrival and at dispatch."""

from __future__ import annotations

import pytest
from core.bench import API, Bench, events, image, kinds, of, only, policy

from keylane.router.core.policy import ActionPolicy, Bounds
from keylane.router.core.resources import SUPERSEDED_KEPT
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Ended, Refused
from keylane.schemas.items import WorkItem

DAY_MS = 24 * 3_600_000


def known(bench: Bench) -> tuple[str | None, tuple[str, ...]]:
    resource = bench.lane.resources[API]
    return resource.version, resource.superseded


def completed(bench: Bench, id: str, action: str = "restart", expected: str | None = None, **report: str) -> None:
    """Asked for on what it expects, and completed."""
    bench.request(id, action, f'"{id}"', expected_version=expected)
    bench.complete(id, **report)


def serving(**defaults: bool) -> Bench:
    bench = Bench(policy(actions={"look": ActionPolicy(harmless=True)}, **defaults))
    bench.join("w", "restart", "look")
    return bench


def test_a_completion_supersedes_what_was_known_and_what_it_expected() -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    assert known(bench) == ("v1", ())
    completed(bench, "r2", expected="v0", version="v2")
    assert known(bench) == ("v2", ("v1", "v0"))


def test_it_does_so_whether_or_not_it_reports_a_new_one() -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    completed(bench, "r2")
    assert known(bench) == (None, ("v1",))


def test_a_version_reported_as_current_is_not_superseded_any_more() -> None:
    bench = serving()
    for id, version in (("r1", "v1"), ("r2", "v2"), ("r3", "v1")):
        completed(bench, id, version=version)
    assert known(bench) == ("v1", ("v2",))
    completed(bench, "r4", expected="v1", version="v1")
    assert known(bench) == ("v1", ("v2",)), "it changed nothing after all"


def test_what_a_harmless_action_reports_is_current_and_supersedes_nothing() -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    completed(bench, "r2", "look", version="v2")
    assert known(bench) == ("v2", ())
    assert bench.lane.resources[API].completed_run == "r1"
    before = image(bench.lane)["resources"]
    completed(bench, "r3", "look")
    assert image(bench.lane)["resources"] == before


def test_superseded_versions_are_remembered_up_to_a_bound_the_newest() -> None:
    bench = serving()
    for number in range(SUPERSEDED_KEPT + 3):
        completed(bench, f"r{number}", version=f"v{number}")
    version, superseded = known(bench)
    assert version == f"v{SUPERSEDED_KEPT + 2}"
    assert superseded == tuple(f"v{number}" for number in range(2, SUPERSEDED_KEPT + 2))


def test_a_version_that_is_too_long_is_none_and_is_not_kept() -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    completed(bench, "r2", version="v" * 257)
    assert known(bench) == (None, ("v1",))


@pytest.mark.parametrize(("expected", "code"), [("v1", "STALE_VERSION"), ("v2", None), ("v9", None), (None, None)])
def test_only_what_is_known_to_be_superseded_is_refused(expected: str | None, code: str | None) -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    completed(bench, "r2", version="v2")
    outputs = bench.request("r3", expected_version=expected, actor="ann")
    if code is None:
        assert only(WorkItem, outputs).expected_version == expected
        return
    refused, artifact = only(Refused, outputs), only(ConflictArtifact, outputs)
    assert (refused.code, refused.expected_version, refused.known_version) == (code, "v1", "v2")
    assert (artifact.kind, artifact.next_step) == ("stale_version", "read_and_resubmit")
    assert [(side.request, side.version) for side in artifact.parties] == [("r3", "v1"), ("r2", None)]


def test_versions_are_of_the_requested_key_alone() -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    completed(bench, "r2", version="v2")
    assert events(bench.request("r3", resource="deploy://web", expected_version="v1")) == ["Queued", "Granted"]


def test_an_action_can_demand_a_version() -> None:
    bench = serving(version_required=True)
    outputs = bench.request("r1")
    assert (only(Refused, outputs).code, kinds(outputs)) == ("VERSION_REQUIRED", [])
    assert events(bench.request("r2", expected_version="v1")) == ["Queued", "Granted"]


def test_what_was_accepted_is_refused_at_dispatch_for_everybody_in_it() -> None:
    bench = serving()
    bench.request("r1", expected_version="v1")
    bench.request("r2", payload="2", expected_version="v1", actor="ann")
    bench.request("r3", payload="2", expected_version="v1", actor="bob")
    bench.request("r4", payload="2", expected_version="v2")
    outputs = bench.complete("r1", version="v2")
    ended = of(Ended, outputs)[1]
    assert (ended.run, ended.status, ended.requests) == ("r2", "refused", ("r2", "r3"))
    assert ended.error is not None and ended.error.code == "STALE_VERSION"
    assert (ended.expected_version, ended.known_version, kinds(outputs)) == ("v1", "v2", ["stale_version"])
    assert [side.actor for side in only(ConflictArtifact, outputs).parties] == ["ann", "bob", ""]
    assert only(WorkItem, outputs).run == "r4", "another version is another run"
    again = only(Ended, bench.request("r3", payload="2", expected_version="v1", actor="bob"))
    assert (again.status, again.repeat) == ("refused", True)


def test_the_workers_own_check_ends_the_run_and_teaches_the_lane() -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    bench.request("r2", payload="2", expected_version="v1")
    outputs = bench.fail("r2", code="STALE_VERSION", observed_version="v2")
    ended = only(Ended, outputs)
    assert (ended.status, ended.expected_version, ended.known_version) == ("refused", "v1", "v2")
    assert (kinds(outputs), known(bench)) == (["stale_version"], ("v2", ("v1",)))


def test_a_holder_that_was_asked_to_stop_ends_as_it_was_asked_to() -> None:
    bench = serving()
    bench.request("r1", expected_version="v1")
    bench.cancel("r1")
    assert only(Ended, bench.fail("r1", code="STALE_VERSION", observed_version="v2")).status == "cancelled"


def test_versions_are_remembered_while_the_resource_is_idle_and_no_longer() -> None:
    bench = serving()
    completed(bench, "r1", version="v1")
    completed(bench, "r2")
    bench.leave("w")
    bench.wait(30 * DAY_MS - 1)
    assert only(Refused, bench.request("r3", expected_version="v1")).code == "STALE_VERSION"
    bench.wait(1)
    assert bench.lane.resources == {}


def test_a_run_that_waits_keeps_what_is_known_of_its_resource() -> None:
    bench = Bench(policy(bounds=Bounds(resources=1), queue_ms=5 * DAY_MS))
    bench.join("w")
    completed(bench, "r1", version="v1")
    bench.request("r2", payload="2", expected_version="v1")
    bench.request("r3", payload="3", expected_version="v1")
    bench.complete("r2", version="v2")
    assert bench.states()["r3"] == "refused"
    bench.request("r4", "other", expected_version="v2")
    for number in range(3):
        bench.request(f"x{number}", resource=f"deploy://{number}")
        bench.complete(f"x{number}")
    bench.forget(100)
    assert set(bench.lane.resources) == {API}
