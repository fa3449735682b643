"""Worker sessions: who gets new grants, who keeps what, and how their item records are numbered."""

from __future__ import annotations

import pytest
from core.bench import Bench, events, image, names, of, only, policy, work

from keylane.router.core.policy import ActionPolicy, Bounds, Policy
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.events import Granted, WorkerClosed, WorkerOpened
from keylane.schemas.items import ItemRecord, SessionClosed, SessionOpened, WorkItem
from keylane.schemas.results import WorkerHeartbeat, WorkerJoined


def ask(bench: Bench, *ids: str) -> list[str]:
    """Request each of these on a resource of its own; return to which sessions they went."""
    outputs = [output for id in ids for output in bench.request(id, resource=f"deploy://{id}")]
    return [granted.session for granted in of(Granted, outputs)]


def test_a_join_opens_a_session_and_a_join_again_is_answered_again() -> None:
    bench = Bench()
    outputs = bench.join("s", "b", "a", "a", slots=3, name="w" * 300)
    opened = only(WorkerOpened, outputs)
    assert (opened.session, opened.actions, opened.slots, len(opened.name)) == ("s", ("a", "b"), 3, 256)
    assert only(SessionOpened, outputs) == SessionOpened(session="s", number=1, lapse_ms=10_000)
    before = bench.lane.sessions["s"]
    again = bench.join("s", "b", "a", slots=3)
    assert names(again) == ["SessionOpened"] and only(SessionOpened, again).number == 2
    assert bench.lane.sessions["s"].sent == 2 and bench.lane.sessions["s"].order == before.order


@pytest.mark.parametrize(
    "fields",
    [
        {"pool": "nope"},
        {"session": ""},
        {"session": "s" * 129},
        {"actions": ()},
        {"actions": ("a",) * 1_025},
        {"actions": ("a" * 129,)},
    ],
)
def test_a_join_that_cannot_be_served_is_a_dead_letter(fields: dict[str, object]) -> None:
    bench = Bench()
    values = {"session": "s", "pool": "default", "name": "w", "actions": ("a",), "slots": 1, "generation": 1} | fields
    outputs = bench.report(WorkerJoined(**values))  # type: ignore[arg-type]
    assert names(outputs) == ["DeadLettered", "DeadLetter"] and bench.lane.sessions == {}
    assert only(DeadLetter, outputs).topic == "results"


def test_sessions_of_a_lane_are_bounded() -> None:
    bench = Bench(policy(bounds=Bounds(sessions=1)))
    bench.join("a")
    assert names(bench.join("b")) == ["DeadLettered", "DeadLetter"]
    assert names(bench.join("a")) == ["SessionOpened"]


def test_a_heartbeat_of_an_unknown_session_closes_it() -> None:
    outputs = Bench().beat("ghost")
    assert [output.record for output in outputs] == [SessionClosed(session="ghost", reason="unknown")]
    assert outputs[0].topic == "items.default"
    assert names(Bench().beat("ghost", pool="nope")) == ["DeadLettered", "DeadLetter"]


def test_a_heartbeat_puts_off_the_lapse_and_an_older_one_does_not() -> None:
    bench = Bench()
    bench.join("w")
    bench.wait(9_999)
    bench.beat("w")
    bench.wait(5_000)
    assert bench.report(WorkerHeartbeat(session="w", pool="default", number=1, slots=7, read=9)) == []
    assert (bench.lane.sessions["w"].lapses_ms, bench.lane.sessions["w"].slots) == (19_999, 1)
    assert bench.wait(4_999) == []
    outputs = bench.wait(1)
    assert only(WorkerClosed, outputs).reason == "session_lapsed"
    assert only(SessionClosed, outputs).reason == "session_lapsed" and bench.lane.sessions == {}


def test_what_was_read_never_goes_beyond_what_was_sent_nor_back() -> None:
    bench = Bench()
    bench.join("w")
    bench.beat("w", read=99)
    assert bench.lane.sessions["w"].read == 1
    bench.beat("w", read=0)
    assert bench.lane.sessions["w"].read == 1


def test_the_newest_generation_gets_new_grants_and_the_older_keeps_what_it_holds() -> None:
    bench = Bench()
    bench.join("old", slots=5, generation=1)
    assert ask(bench, "a") == ["old"]
    bench.join("new", slots=1, generation=2)
    bench.join("late", slots=5, generation=1)
    assert ask(bench, "b", "c") == ["new"], "full: and neither older one is asked instead"
    assert only(Granted, bench.complete("b")).session == "new"
    assert events(bench.complete("a")) == ["Ended"]


def test_when_the_current_session_ends_the_highest_generation_then_the_latest_join_takes_over() -> None:
    bench = Bench()
    for session, generation in (("g1", 1), ("g2a", 2), ("g2b", 2), ("g3", 3)):
        bench.join(session, generation=generation)
    ask(bench, "a")
    outputs = bench.leave("g3")
    assert events(outputs) == ["WorkerClosed", "Lost", "Granted"], "unread, and so granted again at once"
    assert only(Granted, outputs).session == "g2b"
    assert only(Granted, bench.leave("g2b")).session == "g2a"


def test_slots_are_respected_and_filled_oldest_first() -> None:
    bench = Bench()
    bench.join("w", slots=2)
    assert ask(bench, "a", "b", "c", "d") == ["w", "w"]
    assert only(Granted, bench.complete("b")).run == "c"
    assert [granted.run for granted in of(Granted, bench.beat("w", slots=3))] == ["d"]


def test_no_slots_drains_the_session_which_keeps_what_it_holds() -> None:
    bench = Bench()
    bench.join("w", slots=1)
    ask(bench, "a")
    bench.beat("w", slots=0)
    assert ask(bench, "b") == []
    bench.beat("w", slots=-5)
    assert events(bench.complete("a")) == ["Ended"]
    assert only(Granted, bench.beat("w", slots=1)).run == "b"


def test_of_several_groups_the_one_with_most_free_slots_then_the_first_by_name() -> None:
    bench = Bench()
    bench.join("x", "restart", "stop", slots=2, name="bob")
    bench.join("y", "restart", slots=2, name="ann")
    assert ask(bench, "a", "b", "c", "d") == ["y", "x", "y", "x"]


def test_an_action_goes_to_its_own_pool() -> None:
    actions = {"deploy": ActionPolicy(pool="deployers")}
    bench = Bench(Policy(actions=actions, pools=("default", "deployers")))
    bench.join("d", "deploy", "restart", pool="deployers")
    bench.join("w", "deploy", "restart")
    outputs = bench.feed(work("r1", "deploy"))
    assert only(Granted, outputs).session == "d"
    assert [output.topic for output in outputs if isinstance(output.record, WorkItem)] == ["items.deployers"]
    assert only(Granted, bench.feed(work("r2", "restart", resource="deploy://b"))).session == "w"


def test_records_to_a_session_are_numbered_without_gaps() -> None:
    bench = Bench(policy(backoff_ms=1))
    bench.join("w", slots=3)
    ask(bench, "a", "b")
    bench.cancel("a", resource="deploy://a")
    bench.join("w", slots=3)
    bench.fail("b")
    bench.wait(1)
    bench.reload()
    ask(bench, "c")
    sent = [output.record for output in bench.published if isinstance(output.record, ItemRecord)]
    assert [record.number for record in sent] == [1, 2, 3, 4, 5, 6, 7]  # type: ignore[union-attr]
    assert [type(record).__name__ for record in sent] == [
        "SessionOpened", "WorkItem", "WorkItem", "Notice", "SessionOpened", "WorkItem", "WorkItem",
    ]  # fmt: skip


def test_an_item_names_the_newest_heartbeat_applied_when_it_was_granted() -> None:
    bench = Bench()
    bench.join("w", slots=9)
    assert only(WorkItem, bench.request("a")).heartbeat == 1
    bench.beat("w", slots=9)
    bench.beat("w", slots=9)
    assert only(WorkItem, bench.request("b", resource="deploy://b")).heartbeat == 3


def test_nothing_is_granted_before_the_first_heartbeat() -> None:
    """A join may have lain unread for longer than the session lasts; what it was granted would be given up unread."""
    bench = Bench()
    bench.report(WorkerJoined(session="w", pool="default", name="w", actions=("restart",), slots=1, generation=1))
    assert events(bench.request("a")) == ["Queued"]
    assert only(WorkItem, bench.beat("w")).heartbeat == 1


def test_leaving_twice_or_without_having_come_changes_nothing() -> None:
    bench = Bench()
    bench.join("w")
    assert events(bench.leave("w")) == ["WorkerClosed"]
    before = image(bench.lane)
    assert bench.leave("w") == [] and image(bench.lane) == before
