"""Links: a lane tells of each explicit session that waits for a lock of another one, and of no other wait."""

from __future__ import annotations

from core.bench import API, Bench, events, image, kinds, of, only, policy

from keylane.router.core.policy import Bounds
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Ended, Granted, Refused

WAIT = {"wait_ms": 60_000, "explicit": True}


def links(bench: Bench) -> dict[str, tuple[str, str]]:
    """By request: who waits for whom. Also what a load makes of it is the same."""
    assert image(bench.restored()) == image(bench.lane)
    return {link.request: (link.waiter, link.holder) for link in bench.lane.links.values()}


def held(explicit: bool = True) -> Bench:
    """s1 holds the resource by l1."""
    bench = Bench()
    bench.lock("l1", "s1", explicit=explicit)
    return bench


def test_a_session_that_waits_for_another_is_linked_and_one_that_could_hold_nothing_else_is_not() -> None:
    bench = held()
    bench.lock("l2", "s2", **WAIT)
    bench.lock("l3", "s3", wait_ms=60_000)
    assert links(bench) == {"l2": ("s2", "s1")}


def test_whoever_holds_it_need_not_be_explicit() -> None:
    bench = held(explicit=False)
    bench.lock("l2", "s2", **WAIT)
    assert links(bench) == {"l2": ("s2", "s1")}


def test_a_session_does_not_wait_for_itself() -> None:
    bench = held()
    bench.lock("l2", "s1", hold="h", **WAIT)
    assert links(bench) == {}


def test_the_links_follow_the_holder() -> None:
    bench = held()
    for number in (2, 3, 4):
        bench.lock(f"l{number}", f"s{number}", **WAIT)
    assert only(Granted, bench.release("l1")).run == "l2"
    assert links(bench) == {"l3": ("s3", "s2"), "l4": ("s4", "s2")}
    bench.give_up("l3")
    assert links(bench) == {"l4": ("s4", "s2")}
    bench.renew("l2")
    bench.release("l2")
    assert links(bench) == {}


def test_no_session_is_linked_to_a_worker_or_to_nobody() -> None:
    bench = held()
    bench.join("w", "restart")
    bench.request("r1")
    bench.lock("l2", "s2", **WAIT)
    assert links(bench) == {"l2": ("s2", "s1")}
    assert only(Granted, bench.release("l1")).run == "r1"
    assert links(bench) == {}
    bench.complete("r1")
    assert bench.run("l2").state == "Held"
    bench.lock("l3", "s3", **WAIT)
    assert links(bench) == {"l3": ("s3", "s2")}


def test_a_wait_that_is_over_is_linked_no_more() -> None:
    bench = held()
    bench.lock("l2", "s2", **WAIT)
    bench.lock("l3", "s3", **WAIT)
    bench.end_session("s3")
    assert links(bench) == {"l2": ("s2", "s1")}
    bench.wait(60_000)
    assert links(bench) == {}


def test_who_closes_a_cycle_is_told_the_path_and_waits_no_more() -> None:
    bench = held()
    bench.lock("l2", "s2", **WAIT)
    outputs = bench.checked("l2", "s1", "s2", API, "s1", "deploy://web")
    ended = only(Ended, outputs)
    assert ended.error is not None and ended.error.code == "DEADLOCK"
    assert ended.cycle == ("s2", API, "s1", "deploy://web") and ended.waits_position == 7
    assert kinds(outputs) == ["deadlock"]
    assert {party.session for party in only(ConflictArtifact, outputs).parties} == {"", "s1"}
    assert links(bench) == {}


def test_what_is_said_of_a_holder_of_before_ends_nothing() -> None:
    bench = held()
    bench.lock("l2", "s2", **WAIT)
    bench.lock("l3", "s3", **WAIT)
    bench.release("l1")
    assert bench.checked("l3", "s1", "s3", API, "s1", "deploy://web") == []
    assert bench.run("l3").state == "Waiting"
    assert only(Ended, bench.checked("l3", "s2", "s3", API, "s2", "deploy://web")).status == "refused"


def test_who_would_not_wait_is_answered_when_its_edge_was_seen_and_waits_until_it_may_ask_again() -> None:
    bench = held()
    assert events(bench.lock("l2", "s2", explicit=True)) == ["Queued"]
    ended = only(Ended, bench.checked("l2"))
    assert ended.error is not None and ended.error.code == "LOCK_HELD"
    assert (ended.holder, ended.position, ended.retry_after_ms) == ("s1", 1, 5_000)
    bench.wait(4_999)
    assert links(bench) == {"l2": ("s2", "s1")}
    bench.wait(1)
    assert links(bench) == {}


def test_who_would_not_wait_is_told_of_a_cycle_as_well() -> None:
    bench = held()
    bench.lock("l2", "s2", explicit=True)
    ended = only(Ended, bench.checked("l2", "s1", "s2", API, "s1", "deploy://web"))
    assert ended.error is not None and ended.error.code == "DEADLOCK"
    assert links(bench) == {}


def test_an_answer_is_held_back_for_a_second_at_most() -> None:
    bench = held()
    bench.lock("l2", "s2", explicit=True)
    assert not of(Ended, bench.wait(999))
    ended = only(Ended, bench.wait(1))
    assert ended.error is not None and ended.error.code == "LOCK_HELD"
    assert links(bench) == {"l2": ("s2", "s1")}, "it may be seen yet"


def test_who_would_not_wait_has_what_becomes_free_meanwhile() -> None:
    bench = held()
    bench.lock("l2", "s2", explicit=True)
    assert only(Granted, bench.release("l1")).claim_ms == 30_000


def test_who_was_refused_waits_no_more_for_a_holder_that_is_gone() -> None:
    bench = held()
    bench.lock("l2", "s2", explicit=True)
    bench.checked("l2")
    bench.release("l1")
    bench.lock("l3", "s3")
    assert links(bench) == {}


def test_who_asks_again_is_linked_once() -> None:
    bench = held()
    bench.lock("l2", "s2", explicit=True)
    bench.checked("l2")
    bench.lock("l3", "s2", explicit=True)
    assert links(bench) == {"l3": ("s2", "s1")}


def test_where_a_worker_holds_it_the_answer_is_not_held_back() -> None:
    bench = Bench()
    bench.join("w", "restart")
    bench.request("r1")
    assert only(Refused, bench.lock("l2", "s2", explicit=True)).code == "LOCK_HELD"


def test_beyond_the_bound_waits_are_not_looked_at() -> None:
    bench = Bench(policy(bounds=Bounds(wait_links=1)))
    bench.lock("l1", "s1", explicit=True)
    bench.lock("l2", "s2", **WAIT)
    assert events(bench.lock("l3", "s3", **WAIT)) == ["Queued"]
    assert only(Refused, bench.lock("l4", "s4", explicit=True)).code == "LOCK_HELD"
    assert links(bench) == {"l2": ("s2", "s1")}
