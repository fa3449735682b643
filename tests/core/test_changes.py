"""Changes made outside keylane: what they make known, whom they tell, and what they end."""

from __future__ import annotations

from typing import Any

import pytest
from core.bench import API, Bench, events, image, kinds, names, of, only, policy

from keylane.router.core.policy import ActionPolicy, Bounds, Limit
from keylane.router.core.resources import CHANGES_KEPT, SOURCES_KEPT
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Changed, Ended, Refused
from keylane.schemas.items import Notice
from keylane.schemas.requests import ResourceChange


def serving(**fields: Any) -> Bench:
    bench = Bench(policy(coalesce_ms=60_000, **fields))
    bench.join("w", "restart", "stop", "drain", "terminate")
    return bench


def known(bench: Bench) -> tuple[str | None, tuple[str, ...]]:
    resource = bench.lane.resources[API]
    return resource.version, resource.superseded


@pytest.mark.requirement("S1.7")
def test_a_change_is_an_event_and_sets_the_known_version() -> None:
    bench = serving()
    bench.change("v1")
    outputs = bench.change("v2", by="ann", what="edit", source="console", sequence=7, at="2026-11-22T09:00:00Z")
    event = only(Changed, outputs)
    assert names(outputs) == ["Changed"]
    assert (event.version, event.previous, event.by, event.what, event.effect) == ("v2", "v1", "ann", "edit", "applied")
    assert known(bench) == ("v2", ("v1",))
    assert only(Refused, bench.request("r1", expected_version="v1")).code == "STALE_VERSION"


def test_a_change_to_nobody_knows_what_supersedes_all_the_same() -> None:
    bench = serving()
    bench.change("v1")
    bench.change("")
    assert known(bench) == (None, ("v1",))


@pytest.mark.requirement("S1.7")
def test_the_holder_is_told_and_only_of_its_own_resource() -> None:
    bench = serving()
    bench.request("r1")
    notice = only(Notice, bench.change("v2", by="ann", what="edit"))
    assert (notice.kind, notice.run, notice.reason) == ("changed", "r1", "edit by ann: v2")
    assert notice.token == bench.run("r1").token
    assert of(Notice, bench.change("v2", "deploy://web")) == []


@pytest.mark.requirement("S1.7")
def test_a_waiting_run_that_was_decided_on_another_version_is_refused_at_once() -> None:
    bench = serving()
    bench.change("v1")
    bench.request("r1", "stop")
    bench.request("r2", payload="2", expected_version="v1")
    bench.request("r3", payload="3")
    outputs = bench.change("v2")
    ended = only(Ended, outputs)
    other = only(ConflictArtifact, outputs).parties[1]
    assert (other.actor, other.version) == ("ann", "v2")
    assert (ended.run, ended.status, ended.known_version, kinds(outputs)) == ("r2", "refused", "v2", ["stale_version"])
    assert bench.states() == {"r1": "Held", "r2": "refused", "r3": "Waiting"}


def test_a_change_ends_the_step_that_was_done_last() -> None:
    bench = serving(actions={"terminate": ActionPolicy(requires=("drain",))})
    bench.request("d", "drain")
    bench.complete("d")
    bench.request("x", "stop")
    bench.request("t1", "terminate")
    outputs = bench.change("v2")
    assert (only(Ended, outputs).run, kinds(outputs)) == ("t1", ["order_violation"])
    bench.complete("x")
    assert only(Refused, bench.request("t2", "terminate")).code == "ORDER_VIOLATION"


@pytest.mark.parametrize(("what", "lifted"), [("undrain", True), ("edit", False)])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_change_lifts_a_limit_only_by_the_name_of_what_undoes_it(what: str, lifted: bool, version: str) -> None:
    drain = ActionPolicy(limit=Limit(count=1, until=("undrain",)), coalesce_ms=0)
    bench = serving(actions={"drain": drain})
    bench.request("d1", "drain")
    bench.complete("d1", version="v1")
    bench.change(version, what=what)
    expected = ["Queued", "Granted"] if lifted else ["Refused"]
    assert events(bench.request("d2", "drain")) == expected


@pytest.mark.parametrize(
    ("again", "effect"),
    [
        ({"id": "c", "sequence": 5}, "repeated"),
        ({"id": "c2", "sequence": 5}, "older"),
        ({"id": "c2", "sequence": 4}, "older"),
        ({"id": "c2", "sequence": 4, "source": "other"}, "applied"),
        ({"id": "c2"}, "applied"),
        ({"id": "c2", "sequence": 6}, "applied"),
        ({"id": "c2", "sequence": -1, "source": "other"}, "applied"),
    ],
)
def test_what_is_told_again_or_late_is_recorded_and_not_applied(again: dict[str, Any], effect: str) -> None:
    bench = serving()
    bench.change("v1", id="c", source="web", sequence=5)
    bench.request("r1")
    outputs = bench.change("v0", **({"source": "web"} | again))
    assert only(Changed, outputs).effect == effect
    assert (known(bench)[0], len(of(Notice, outputs))) == (("v0", 1) if effect == "applied" else ("v1", 0))


def test_what_keylane_itself_has_made_comes_back_as_no_news() -> None:
    """A webhook tells of the version that a run has reported: no holder is alarmed and no step is over."""
    bench = serving(actions={"terminate": ActionPolicy(requires=("drain",))})
    bench.request("d", "drain")
    bench.complete("d", version="v1")
    bench.request("x", "stop")
    outputs = bench.change("v1", source="web", sequence=1)
    assert (names(outputs), only(Changed, outputs).effect) == (["Changed"], "known")
    bench.complete("x")
    assert only(Changed, bench.change("v0", source="web", sequence=1)).effect == "older", "it counts as told"


def test_nothing_joins_a_run_after_its_resource_was_changed() -> None:
    bench = serving()
    bench.request("r1")
    bench.change("v2")
    assert events(bench.request("r2")) == ["Queued"]
    bench.complete("r1")
    bench.complete("r2")
    bench.change("v3")
    assert events(bench.request("r3")) == ["Queued", "Granted"]


def test_an_outcome_of_before_says_what_has_changed_since() -> None:
    bench = serving()
    bench.request("r1", idempotency_key="k")
    bench.complete("r1")
    bench.change("v2", id="c7")
    assert only(Ended, bench.request("r2", idempotency_key="k")).superseded_since == "c7"


def test_what_is_remembered_of_changes_is_bounded() -> None:
    bench = Bench(policy(bounds=Bounds(resources=3)))
    for number in range(max(CHANGES_KEPT, SOURCES_KEPT) + 5):
        bench.change(f"v{number}", source=f"s{number}", sequence=number)
    resource = bench.lane.resources[API]
    assert resource.outside is not None
    assert (len(resource.outside.changes), len(resource.outside.sources)) == (CHANGES_KEPT, SOURCES_KEPT)
    assert image(bench.restored()) == image(bench.lane)
    for number in range(9):
        bench.change("v1", f"deploy://{number}")
    bench.forget(100)
    assert len(bench.lane.resources) == 3


@pytest.mark.parametrize("field", ["by", "what", "version", "source", "at"])
def test_a_misshapen_change_is_refused(field: str) -> None:
    bench = serving()
    fields = {"id": "c", "resource": API, "version": "v", "by": "a", "what": "w"} | {field: "x" * 257}
    refused = only(Refused, bench.feed(ResourceChange(**fields)))
    assert (refused.code, refused.command, bench.lane.resources) == ("BAD_RECORD", "ResourceChange", {})
