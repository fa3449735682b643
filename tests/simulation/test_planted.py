"""Bugs that are planted are found, each by the promise that it breaks; and what is found is made short."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from simulation.draw import draw
from simulation.planted import BUGS, FIXED
from simulation.run import run
from simulation.scenario import from_json
from simulation.shrink import shrunk

FOUND = Path(__file__).parent / "found"


@cache
def is_clean(seed: int, mix: str | None) -> bool:
    """Whether nothing is found in the code as it is."""
    return run(draw(seed, mix)).violations == []


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    bug = BUGS[name]
    for seed in range(bug.seeds):
        scenario = draw(seed, bug.mix)
        with bug.planted():
            violations = run(scenario).violations
        assert is_clean(seed, bug.mix), "without it"
        if any(violation.kind in bug.kinds for violation in violations):
            return
    pytest.fail(f"not found in {bug.seeds} seeds")


def test_a_failing_scenario_is_shrunk_to_what_matters() -> None:
    bug = BUGS["keys are not canonical"]
    with bug.planted():
        seed = next(seed for seed in range(20) if {each.kind for each in run(draw(seed)).violations} & bug.kinds)
        short = shrunk(draw(seed), frozenset(["two live grants"]))
        assert [each.kind for each in run(short).violations].count("two live grants") == 1
    assert len(short.acts) <= 4 and short.faults == () and short.routers == 1
    assert {act.does for act in short.acts} >= {"request_alias"}
    assert run(short).violations == []


@pytest.mark.parametrize("name", FIXED)
def test_a_scenario_that_was_found_fails_without_its_fix(name: str) -> None:
    scenario = from_json((FOUND / f"{name}.json").read_bytes())
    with FIXED[name].planted():
        assert {each.kind for each in run(scenario).violations} & FIXED[name].kinds
