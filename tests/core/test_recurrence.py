"""Clashes of one kind are counted, up to a bound, and point to where people read what to do."""

from __future__ import annotations

import pytest
from core.bench import Bench, image, of, only
from msgspec.structs import replace

from keylane.router.core.policy import ActionPolicy, Bounds, Policy
from keylane.schemas.conflicts import ConflictArtifact

REJECTS = Policy(defaults=ActionPolicy(on_conflict="reject"), runbooks={"lock_held": "https://wiki/lock"})


def clash(bench: Bench, number: int, resource: str) -> ConflictArtifact:
    bench.request(f"a{number}", payload="1", resource=resource)
    return only(ConflictArtifact, bench.request(f"b{number}", payload="2", resource=resource))


@pytest.mark.requirement("S1.9")
def test_clashes_of_one_pattern_are_counted_together_over_resources_and_loads() -> None:
    bench = Bench(REJECTS)
    first = clash(bench, 1, "deploy://api/1")
    bench.reload()
    second, other = clash(bench, 2, "deploy://api/2"), clash(bench, 3, "deploy://web/x")
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert [artifact.recurrence for artifact in (first, second, other)] == [1, 2, 1]
    assert first.runbook == "https://wiki/lock"
    assert image(bench.restored()) == image(bench.lane)


def test_a_kind_without_a_runbook_names_none() -> None:
    bench = Bench(replace(REJECTS, runbooks={}))
    assert clash(bench, 1, "deploy://api").runbook is None


def test_counts_are_bounded_and_the_oldest_goes() -> None:
    bench = Bench(replace(REJECTS, bounds=Bounds(recurrences=2)))
    for number, name in enumerate(["a", "b", "a", "c"]):
        clash(bench, number, f"deploy://{name}/{number}")
    assert len(bench.lane.recurrences) == len(bench.lane.recurred) == 2
    counts = [artifact.recurrence for artifact in of(ConflictArtifact, bench.published)]
    assert counts == [1, 1, 2, 1]
    assert clash(bench, 9, "deploy://b/9").recurrence == 1, "b was forgotten"
