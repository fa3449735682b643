"""Each way of breaking a promise is found, under its number, with the records that show it.

A case takes the good history, spoils it in one way, and names places that the counterexample must name.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from verify.recording import judged, told
from verify.spoiling import CASES, Case
from verify.stories import story

from keylane.verify import Acknowledged, Configured, Effect, Entry
from verify import (
    spoiled_deadlocks,
    spoiled_grants,
    spoiled_lock_leases,
    spoiled_locks,
    spoiled_outputs,
    spoiled_requests,
    spoiled_secrets,
)

assert all((spoiled_grants, spoiled_outputs, spoiled_requests))  # they add their cases
assert all((spoiled_deadlocks, spoiled_lock_leases, spoiled_locks, spoiled_secrets))


@pytest.mark.parametrize(("promise", "of", "case"), CASES)
def test_a_broken_promise_is_found(promise: int, of: Callable[[], tuple[Entry, ...]], case: Case) -> None:
    entries, places = case(list(of()))
    report = judged(entries)
    found = [each for each in report.violations if each.promise == promise]
    assert found, told(report)
    assert any(set(places) <= set(each.places) for each in found), (places, told(report))


def test_the_history_that_is_spoiled_is_good() -> None:
    report = judged(story())
    assert not report.violations and not report.undecided and not report.open, told(report)


def test_every_promise_has_a_way_of_being_broken() -> None:
    assert {case.values[0] for case in CASES} == set(range(1, 15))


def test_only_the_promises_that_are_asked_for_are_told() -> None:
    entries, _ = spoiled_grants.a_token_used_again(list(story()))
    assert {each.promise for each in judged(entries, promises=[2]).violations} == {2}
    assert not judged(entries, promises=[5]).violations


def test_an_acknowledged_request_that_is_not_there_is_lost() -> None:
    lost = Acknowledged(id="r77", partition=0, offset=99)
    (found,) = judged([*story(), lost]).violations
    assert (found.promise, found.places) == (3, ("requests/0/99",))
    kept = Acknowledged(id="r7", partition=0, offset=8)
    assert not judged([*story(), kept]).violations


def test_a_target_that_takes_an_older_token_is_seen() -> None:
    effects = [Effect(resource="deploy://api", run=run, token=token) for run, token in (("r7", 1_006), ("r6", 1_005))]
    (found,) = judged([*story(), *effects]).violations
    assert found.promise == 2 and "under token 1005" in found.message


def test_bounds_are_judged_where_they_are_known() -> None:
    tight = Configured(members_per_run=1)
    assert {each.promise for each in judged([*story(), tight]).violations} == {12}
