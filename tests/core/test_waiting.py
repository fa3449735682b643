"""The graph of waits: cycles of any length, what replaces and removes an edge, claims, bounds, one order for all."""

from __future__ import annotations

from itertools import pairwise

import pytest

from keylane.router.core import waiting
from keylane.router.core.waiting import Checked, WaitGraph
from keylane.schemas.codec import Undecodable
from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key, lane_key


class Fold:
    """A graph with the offset that comes next."""

    def __init__(self) -> None:
        self.graph = WaitGraph()
        self.end = 0

    def waits(self, waiter: str, holder: str, partition: int = 0, claim: int = 1, request: str = "") -> list[Checked]:
        edge = edge_of(waiter, holder, partition, claim, request)
        return self.put(edge_key(partition, claim, edge.request), edge)

    def over(self, waiter: str, holder: str, partition: int = 0, claim: int = 1, request: str = "") -> list[Checked]:
        return self.put(edge_key(partition, claim, request or f"{waiter}-{holder}"), None)

    def loaded(self, partition: int, claim: int) -> list[Checked]:
        return self.put(lane_key(partition), LaneLoaded(partition=partition, claim=claim))

    def put(self, key: bytes, record: object) -> list[Checked]:
        self.end += 1
        return self.graph.apply(self.end - 1, key, record)  # type: ignore[arg-type]

    def drawn(self) -> list[str]:
        return [f"{edge.waiter}{edge.holder}" for _, edge in self.graph.edges()]


def edge_of(waiter: str, holder: str, partition: int = 0, claim: int = 1, request: str = "") -> WaitEdge:
    request = request or f"{waiter}-{holder}"
    resource = f"of-{holder}"
    return WaitEdge(request=request, waiter=waiter, holder=holder, resource=resource, partition=partition, claim=claim)


@pytest.fixture
def fold() -> Fold:
    return Fold()


def test_an_edge_that_closes_no_cycle_is_in(fold: Fold) -> None:
    (checked,) = fold.waits("a", "b")
    assert checked == Checked(edge_of("a", "b"), 0, ())
    assert fold.drawn() == ["ab"] and len(fold.graph) == 1


@pytest.mark.parametrize("length", [2, 3, 7, waiting.CYCLE_MAX])
def test_the_edge_that_closes_a_cycle_is_told_with_its_path_and_is_not_in(fold: Fold, length: int) -> None:
    names = [f"s{number:03}" for number in range(length)]
    for waiter, holder in pairwise(names):
        assert [each.cycle for each in fold.waits(waiter, holder)] == [()]
    (checked,) = fold.waits(names[-1], names[0])
    path = [names[-1], f"of-{names[0]}"]
    for waiter, holder in pairwise(names):
        path += [waiter, f"of-{holder}"]
    assert checked.cycle == tuple(path) and checked.position == length - 1
    assert len(fold.graph) == length - 1 and names[-1] not in {edge.waiter for _, edge in fold.graph.edges()}


def test_of_several_ways_the_shortest_is_told_and_of_those_the_oldest(fold: Fold) -> None:
    for pair in ("ab", "bd", "ac", "cd", "ad"):
        fold.waits(*pair)
    (checked,) = fold.waits("d", "a")
    assert checked.cycle == ("d", "of-a", "a", "of-d")
    fold.over("a", "d")
    (checked,) = fold.waits("d", "a")
    assert checked.cycle == ("d", "of-a", "a", "of-b", "b", "of-d")


def test_a_wait_that_was_refused_closes_no_other_cycle(fold: Fold) -> None:
    fold.waits("a", "b")
    fold.waits("b", "a")
    assert [each.cycle for each in fold.waits("c", "b")] == [()]
    assert [each.cycle for each in fold.waits("a", "c")] == [()], "c waits for b, which waits for nobody any more"


def test_when_the_wait_is_over_the_other_may_wait(fold: Fold) -> None:
    fold.waits("a", "b")
    fold.over("a", "b")
    assert [each.cycle for each in fold.waits("b", "a")] == [()]
    assert fold.drawn() == ["ba"]


def test_a_refused_edge_that_goes_leaves_the_graph_as_it_is(fold: Fold) -> None:
    fold.waits("a", "b")
    fold.waits("b", "a")
    assert fold.over("b", "a") == [] and fold.drawn() == ["ab"]


def test_an_edge_replaces_the_one_of_its_request(fold: Fold) -> None:
    fold.waits("a", "b", request="r")
    (checked,) = fold.waits("a", "c", request="r")
    assert checked.cycle == () and fold.drawn() == ["ac"]
    assert [each.cycle for each in fold.waits("b", "a")] == [()], "a does not wait for b any more"
    assert [each.cycle for each in fold.waits("c", "a")] == [("c", "of-a", "a", "of-c")]


def test_a_session_waits_for_several_and_a_request_of_another_lane_is_another(fold: Fold) -> None:
    fold.waits("a", "b", partition=0, request="r")
    fold.waits("a", "c", partition=1, request="r")
    assert fold.drawn() == ["ab", "ac"]
    fold.over("a", "b", partition=0, request="r")
    assert fold.drawn() == ["ac"]


# -- what was left out comes in ---------------------------------------------------------------------------------


def test_an_edge_that_was_left_out_comes_in_when_its_cycle_is_gone(fold: Fold) -> None:
    fold.waits("a", "b")
    fold.waits("b", "a")
    assert fold.over("a", "b") == [Checked(edge_of("b", "a"), 1, ())]
    assert fold.drawn() == ["ba"]


def test_two_routers_of_which_one_missed_what_was_replaced_refuse_the_same_edge(fold: Fold) -> None:
    """`b` waits for `a` in one lane, `c` for `b` in another: were both let wait, nobody would ever go on."""
    fold.waits("a", "b", request="r")
    fold.waits("b", "a")
    replaced = fold.waits("a", "c", request="r")
    assert [(each.edge.waiter, each.cycle) for each in replaced] == [("b", ()), ("a", ())]
    late = Fold()  # reads only what compaction has left
    late.end = 1
    late.waits("b", "a")
    late.waits("a", "c", request="r")
    closing = fold.waits("c", "b")
    assert closing == late.waits("c", "b")
    assert closing[0].cycle == ("c", "of-b", "b", "of-a", "a", "of-c")


def test_a_younger_edge_goes_where_an_older_one_comes_in(fold: Fold) -> None:
    """As whoever begins to read now will have it: that one never sees what kept the older one out."""
    fold.waits("a", "b")
    fold.waits("b", "a")
    fold.waits("a", "c")
    assert [each.cycle for each in fold.waits("c", "b")] == [()]
    told = fold.over("a", "b")
    assert told == [
        Checked(edge_of("b", "a"), 1, ()),
        Checked(edge_of("c", "b"), 3, ("c", "of-b", "b", "of-a", "a", "of-c")),
    ]
    assert fold.drawn() == ["ba", "ac"]


# -- claims -----------------------------------------------------------------------------------------------------


def test_a_lane_that_is_loaded_drops_what_it_said_before_and_no_other_lanes(fold: Fold) -> None:
    fold.waits("a", "b", partition=0)
    fold.waits("c", "d", partition=1)
    fold.loaded(0, 2)
    assert fold.drawn() == ["cd"]
    assert [each.cycle for each in fold.waits("b", "a", partition=1)] == [()]


def test_an_edge_of_a_lower_claim_that_comes_late_does_not_count(fold: Fold) -> None:
    fold.loaded(0, 3)
    assert fold.waits("a", "b", claim=2) == [] and fold.drawn() == []
    fold.waits("a", "b", claim=3)
    assert fold.over("a", "b", claim=2) == [] and fold.drawn() == ["ab"], "a late tombstone is under its own claim"


def test_a_lane_that_is_told_to_be_loaded_under_a_lower_claim_is_not_believed(fold: Fold) -> None:
    fold.loaded(0, 3)
    fold.waits("a", "b", claim=3)
    fold.loaded(0, 2)
    assert fold.drawn() == ["ab"] and fold.graph.claims == {0: 3}


def test_an_edge_under_a_higher_claim_is_as_good_as_the_word_that_the_lane_was_loaded(fold: Fold) -> None:
    fold.waits("a", "b", claim=1)
    fold.waits("c", "d", claim=2)
    assert fold.drawn() == ["cd"] and fold.graph.claims == {0: 2}


def test_what_a_lane_drops_lets_in_what_it_kept_out(fold: Fold) -> None:
    fold.waits("a", "b", partition=0)
    fold.waits("b", "a", partition=1)
    assert fold.loaded(0, 2) == [Checked(edge_of("b", "a", partition=1), 1, ())]
    assert fold.drawn() == ["ba"]


def test_what_lies_under_lower_claims_is_left_over_until_it_is_removed(fold: Fold) -> None:
    for claim in (1, 2, 3):
        fold.waits("a", "b", claim=claim)
    fold.waits("c", "d", claim=2)
    fold.waits("e", "f", partition=1)
    fold.loaded(1, 2)
    fold.over("c", "d", claim=2)
    assert fold.graph.left_over(0, 2) == [edge_key(0, 1, "a-b")]
    assert fold.graph.left_over(0, 3) == [edge_key(0, 2, "a-b")]
    assert fold.graph.left_over(0, 3) == [], "told once"
    assert fold.graph.left_over(1, 2) == [edge_key(1, 1, "e-f")]


# -- what is no record, and bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "record"),
    [
        (b"edge/0/1/x", Undecodable("no", None, None)),
        (b"", Undecodable("no", None, None)),
        (b"edge/0/1/other", edge_of("a", "b")),
        (b"edge/0/2/a-b", edge_of("a", "b")),
        (edge_key(0, 1, "a-a"), edge_of("a", "a")),
        (b"lane/1", LaneLoaded(partition=0, claim=9)),
        (b"edge/0/1/a-b", LaneLoaded(partition=0, claim=9)),
    ],
)
def test_what_says_nothing_is_skipped_and_counted(fold: Fold, key: bytes, record: object) -> None:
    assert fold.put(key, record) == []
    assert (fold.graph.skipped, fold.drawn(), fold.graph.claims) == (1, [], {})


def test_whatever_is_written_over_an_edge_removes_it(fold: Fold) -> None:
    """Compaction does so."""
    fold.waits("a", "b")
    fold.put(edge_key(0, 1, "a-b"), Undecodable("no", None, None))
    assert fold.drawn() == []


def test_tombstones_of_what_is_not_there_change_nothing(fold: Fold) -> None:
    fold.loaded(0, 1)
    for key in (b"", b"lane/0", b"edge/0/1/x", b"edge", b"\xff"):
        assert fold.put(key, None) == []
    assert fold.graph.skipped == 0 and fold.graph.claims == {0: 1}


def test_beyond_the_bound_of_a_session_nothing_is_added_and_nothing_refused(
    fold: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "EDGES_A_SESSION_MAX", 2)
    for holder in "bcd":
        assert [each.cycle for each in fold.waits("a", holder)] == [()]
    assert fold.drawn() == ["ab", "ac"]
    assert [each.cycle for each in fold.waits("d", "a")] == [()]
    fold.over("a", "b")
    fold.waits("a", "e")
    assert fold.drawn() == ["ac", "da", "ae"]


def test_beyond_the_bound_of_all_edges_nothing_is_added_and_nothing_refused(
    fold: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "EDGES_MAX", 2)
    fold.waits("a", "b")
    fold.waits("b", "a")
    assert [each.cycle for each in fold.waits("c", "d")] == [()]
    assert fold.drawn() == ["ab"]
    fold.loaded(0, 2)
    for waiter in "xyz":
        fold.waits(waiter, "w", claim=1)
    assert len(fold.graph.left_over(0, 2)) == 2


def test_a_search_that_is_cut_off_neither_adds_nor_refuses(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOKS_MAX", 3)
    for number in range(5):
        fold.waits(f"s{number}", f"s{number + 1}")
    (checked,) = fold.waits("s5", "s0")
    assert checked.cycle == () and "s5s0" not in fold.drawn()
    monkeypatch.undo()
    told = fold.over("s4", "s5")
    assert [(each.edge.waiter, each.cycle) for each in told] == [("s5", ())], "it is looked at again, and comes in"


def test_a_cycle_that_is_too_long_to_tell_is_neither_added_nor_refused(fold: Fold) -> None:
    names = [f"s{number}" for number in range(waiting.CYCLE_MAX + 1)]
    for waiter, holder in pairwise(names):
        fold.waits(waiter, holder)
    (checked,) = fold.waits(names[-1], names[0])
    assert checked.cycle == () and len(fold.graph) == waiting.CYCLE_MAX
