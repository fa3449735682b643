"""The fold of `waits` by which deadlocks are judged: what an edge is worth, and when no more."""

from __future__ import annotations

from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key, lane_key
from keylane.verify.waits import Waits


def edge(request: str, waiter: str, holder: str, partition: int = 0, claim: int = 1) -> tuple[bytes, WaitEdge]:
    said = WaitEdge(
        request=request, waiter=waiter, holder=holder, resource=f"r://{holder}", partition=partition, claim=claim
    )
    return edge_key(partition, claim, request), said


def waits(*records: tuple[bytes, WaitEdge | LaneLoaded | None]) -> set[tuple[str, str]]:
    fold = Waits()
    for each in records:
        fold.apply(*each)
    assert fold.count == len(records) and all(fold.steps.values())
    return {(waiter, holder) for waiter, _, holder in fold.steps}


def loaded(partition: int, claim: int) -> tuple[bytes, LaneLoaded]:
    return lane_key(partition), LaneLoaded(partition=partition, claim=claim)


def test_an_edge_counts_until_another_or_none_is_under_its_key() -> None:
    first, other = edge("q", "a", "b"), edge("q", "a", "c")
    assert waits(first) == {("a", "b")}
    assert waits(first, other) == {("a", "c")}
    assert waits(first, (first[0], None)) == set()
    assert waits(first, edge("p", "a", "b"), (first[0], None)) == {("a", "b")}, "the same wait by two requests"


def test_what_a_lane_said_before_it_was_loaded_does_not_count() -> None:
    assert waits(edge("q", "a", "b"), edge("p", "a", "c", partition=1), loaded(0, 2)) == {("a", "c")}
    assert waits(loaded(0, 2), edge("q", "a", "b")) == set()
    assert waits(edge("q", "a", "b"), edge("p", "c", "d", claim=2)) == {("c", "d")}, "by an edge as well"
    assert waits(edge("q", "a", "b", claim=2), loaded(0, 1)) == {("a", "b")}


def test_who_lost_the_lane_removes_no_edge_of_its_successor() -> None:
    old, new = edge("q", "a", "b"), edge("q", "a", "b", claim=2)
    assert waits(old, loaded(0, 2), new, (old[0], None)) == {("a", "b")}


def test_an_edge_under_a_key_that_is_not_its_own_is_nobodys() -> None:
    assert waits((b"edge/0/1/other", edge("q", "a", "b")[1])) == set()
    first = edge("q", "a", "b")
    assert waits(first, (first[0], edge("p", "c", "d")[1])) == set()


def test_a_request_may_be_called_anything() -> None:
    first = edge("a/b//c", "a", "b")
    assert waits(first, (first[0], None)) == set()
