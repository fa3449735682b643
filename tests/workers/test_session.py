"""The session machine, driven by hand: numbers, deadlines and what is let go, with a clock made of integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_bench import (
    LAPSE_MS,
    LEASE_MS,
    LEASE_USABLE_MS,
    SESSION_USABLE_MS,
    T0,
    Bench,
    completed,
    ends,
    of,
    progress,
    published,
    report,
    work_item,
)

from keylane.schemas.base import ErrorDetail
from keylane.schemas.items import SessionClosed, SessionOpened
from keylane.schemas.results import (
    Completed,
    Failed,
    WorkerHeartbeat,
    WorkerJoined,
)
from keylane.workers.session import Cancel, Over, Publish, Start, Warn


def test_join_is_sent_again_until_answered_ever_more_rarely() -> None:
    bench = Bench()
    bench.take([bench.session.join(T0)])
    joins = published([*bench.outputs, *bench.tick_to(T0 + 100_000)], WorkerJoined)
    assert len(joins) - 1 <= 6
    assert joins[0] == WorkerJoined(session="s1", pool="p", name="w", actions=("a",), slots=4, generation=3)
    bench.tell(SessionOpened(session="s1", number=1, lapse_ms=LAPSE_MS))
    assert published(bench.tick_to(T0 + 200_000), WorkerJoined) == []


def test_heartbeats_are_numbered_from_one_and_say_what_was_read() -> None:
    bench = Bench().open()
    bench.item()
    bench.tick_to(T0 + 9_500)
    assert [beat.number for beat in bench.beats()] == list(range(1, len(bench.beats()) + 1))
    assert 3 <= len(bench.beats()) <= 5
    assert (bench.beats()[0].read, bench.beats()[-1].read) == (1, 2)


def test_heartbeats_keep_up_with_a_short_lapse() -> None:
    bench = Bench().open(lapse_ms=400)
    bench.item()
    assert of(bench.tick_to(T0 + 5_000), Over) == []


def test_item_starts_and_its_completion_is_published_under_the_owning_key() -> None:
    bench = Bench().open()
    started = of(bench.item(), Start)
    assert [start.item.token for start in started] == [1]
    outputs = report(bench, completed())
    assert [(publish.key, publish.record) for publish in of(outputs, Publish)] == [("x://owner", completed())]
    assert bench.session.held == {}


def test_records_to_other_sessions_are_ignored() -> None:
    bench = Bench().open()
    assert bench.tell(work_item(17, 9, 0, session="other")) == []
    assert of(bench.item(), Start) != []


def test_repeated_opening_takes_the_next_number() -> None:
    bench = Bench().open()
    assert of(bench.tell(SessionOpened(session="s1", number=bench.number(), lapse_ms=LAPSE_MS)), Over) == []
    assert of(bench.item(), Start) != []


@pytest.mark.parametrize("off_by", [-1, 1, 5])
def test_gap_lets_everything_go_leaves_and_rejoins(off_by: int) -> None:
    bench = Bench().open()
    bench.item(1)
    outputs = bench.tell(work_item(bench.number() + off_by, 2, 0))
    assert ends(outputs) == [("Cancel",), ("Publish", "WorkerLeft"), ("Over",)]
    assert of(outputs, Over)[0].rejoin
    assert bench.item(3) == []


def test_item_before_the_opening_is_a_gap() -> None:
    bench = Bench()
    bench.take([bench.session.join(T0)])
    assert of(bench.tell(work_item(1, 1, 0)), Over)[0].rejoin


def test_closed_session_lets_everything_go_and_rejoins() -> None:
    bench = Bench().open()
    bench.item()
    outputs = bench.tell(SessionClosed(session="s1", reason="unknown"))
    assert ends(outputs) == [("Cancel",), ("Over",)]
    assert of(outputs, Over)[0].rejoin


def test_session_deadline_counts_from_when_the_heartbeat_was_sent() -> None:
    bench = Bench().open()
    bench.item()
    bench.broken = True
    sent_ms = T0
    assert of(bench.tick_to(sent_ms + SESSION_USABLE_MS - 1), Over) == []
    outputs = bench.tick_to(sent_ms + SESSION_USABLE_MS)
    assert [cancel.token for cancel in of(outputs, Cancel)] == [1]
    assert of(outputs, Over)[0].rejoin


def test_heartbeat_acknowledged_after_the_deadline_does_not_count() -> None:
    bench = Bench().open()
    bench.item()
    bench.broken = True
    beats = [p for p in of(bench.tick_to(T0 + 3_000), Publish) if isinstance(p.record, WorkerHeartbeat)]
    assert bench.session.sending(beats[-1], bench.now_ms)
    outputs = bench.session.acknowledged(beats[-1], T0 + SESSION_USABLE_MS)
    assert [cancel.token for cancel in of(outputs, Cancel)] == [1]


def test_heartbeat_acknowledged_in_time_counts_from_when_it_was_sent() -> None:
    bench = Bench().open()
    bench.item()
    bench.broken = True
    beats = [p for p in of(bench.tick_to(T0 + 3_000), Publish) if isinstance(p.record, WorkerHeartbeat)]
    sent_ms = bench.now_ms
    assert bench.session.sending(beats[-1], sent_ms)
    bench.take(bench.session.acknowledged(beats[-1], T0 + SESSION_USABLE_MS - 1))
    assert bench.session.remaining_ms(1, sent_ms) == SESSION_USABLE_MS


def test_heartbeat_that_failed_is_not_sent_under_its_number_again() -> None:
    bench = Bench().open()
    bench.broken = True
    beat = [p for p in of(bench.tick_to(T0 + 3_000), Publish) if isinstance(p.record, WorkerHeartbeat)][-1]
    assert bench.session.sending(beat, bench.now_ms)
    assert not bench.session.sending(beat, bench.now_ms + 500)
    bench.broken = False
    bench.tick_to(T0 + 6_000)
    assert bench.beats()[-1].number == beat.record.number + 1


def test_item_lease_ends_at_its_own_deadline_though_the_session_lives() -> None:
    bench = Bench().open()
    bench.item(1)
    bench.item(2, lease_ms=LEASE_MS * 10)
    assert of(bench.tick_to(T0 + LEASE_USABLE_MS - 1), Cancel) == []
    outputs = bench.tick_to(T0 + LEASE_USABLE_MS)
    assert [cancel.token for cancel in of(outputs, Cancel)] == [1]
    assert of(outputs, Over) == []
    assert published(report(bench, completed(1)), Completed) == []
    assert published(report(bench, completed(2)), Completed) == [completed(2)]


def test_progress_renews_from_when_it_was_sent() -> None:
    bench = Bench().open()
    bench.item()
    bench.tick_to(T0 + 30_000)
    report(bench, progress())
    assert of(bench.tick_to(T0 + 30_000 + LEASE_USABLE_MS - 1), Cancel) == []
    assert of(bench.tick_to(T0 + 30_000 + LEASE_USABLE_MS), Cancel) != []


def test_progress_acknowledged_after_the_deadline_does_not_renew() -> None:
    bench = Bench().open()
    bench.item()
    bench.tick_to(T0 + 50_000)
    bench.broken = True
    (publish,) = of(report(bench, progress()), Publish)
    bench.broken = False
    assert bench.session.sending(publish, bench.now_ms)
    bench.tick_to(T0 + LEASE_USABLE_MS - 1)
    outputs = bench.session.acknowledged(publish, T0 + LEASE_USABLE_MS)
    assert [cancel.token for cancel in of(outputs, Cancel)] == [1]


def test_item_lease_counts_from_the_heartbeat_that_it_names() -> None:
    bench = Bench().open()
    bench.tick_to(T0 + 2_000)
    bench.item(heartbeat=1, lease_ms=5_000)
    assert bench.session.remaining_ms(1, bench.now_ms) == 4_500 - 2_000


def test_late_acknowledgement_does_not_revive_an_idle_session() -> None:
    bench = Bench().open()
    bench.broken = True
    beat = [p for p in of(bench.tick_to(T0 + 3_000), Publish) if isinstance(p.record, WorkerHeartbeat)][-1]
    assert bench.session.sending(beat, bench.now_ms)
    bench.take(bench.session.acknowledged(beat, T0 + SESSION_USABLE_MS))
    bench.now_ms = T0 + SESSION_USABLE_MS
    assert of(bench.item(heartbeat=1), Over)[0].rejoin


def test_progress_acknowledged_in_time_counts_from_when_it_was_sent() -> None:
    bench = Bench().open()
    bench.item()
    bench.tick_to(T0 + 30_000)
    bench.broken = True
    (publish,) = of(report(bench, progress()), Publish)
    assert bench.session.sending(publish, T0 + 30_000)
    bench.broken = False
    bench.tick_to(T0 + 50_000)
    bench.take(bench.session.acknowledged(publish, T0 + 50_000))
    assert of(bench.tick_to(T0 + 30_000 + LEASE_USABLE_MS - 1), Cancel) == []
    assert of(bench.tick_to(T0 + 30_000 + LEASE_USABLE_MS), Cancel) != []


def test_blocked_stops_renewal_until_a_progress_without_it() -> None:
    bench = Bench().open()
    bench.item()
    bench.tick_to(T0 + 30_000)
    report(bench, progress(blocked="waits for a person"))
    assert bench.session.remaining_ms(1, T0 + 58_999) <= SESSION_USABLE_MS
    bench.tick_to(T0 + 58_000)
    report(bench, progress())
    assert of(bench.tick_to(T0 + 58_000 + LEASE_USABLE_MS - 1), Cancel) == []


def test_blocked_alone_loses_the_item() -> None:
    bench = Bench().open()
    bench.item()
    bench.tick_to(T0 + 30_000)
    report(bench, progress(blocked="waits for a person"))
    assert of(bench.tick_to(T0 + LEASE_USABLE_MS), Cancel) != []


def test_silent_handler_is_warned_of_once_at_two_thirds_and_again_after_a_renewal() -> None:
    bench = Bench().open()
    bench.item()
    assert of(bench.tick_to(T0 + 39_999), Warn) == []
    assert len(of(bench.tick_to(T0 + 45_000), Warn)) == 1
    report(bench, progress())
    assert of(bench.tick_to(T0 + 84_999), Warn) == []
    assert len(of(bench.tick_to(T0 + 90_000), Warn)) == 1


def test_item_that_names_a_newer_heartbeat_moves_the_deadline() -> None:
    bench = Bench().open()
    bench.tick_to(T0 + 20_000)
    bench.item()
    assert bench.session.remaining_ms(1, bench.now_ms) > SESSION_USABLE_MS - 3_001


def test_item_that_names_a_heartbeat_from_too_long_ago_is_not_started() -> None:
    bench = Bench().open()
    bench.broken = True
    bench.jump(SESSION_USABLE_MS)
    outputs = bench.item(heartbeat=0)
    assert of(outputs, Start) == []
    assert of(outputs, Over)[0].rejoin


def test_item_whose_lease_is_over_though_the_session_lives_is_given_back_at_once() -> None:
    """After an outage a lane grants in the middle of its backlog; in silence the item would be held by nobody."""
    bench = Bench().open()
    bench.tick_to(T0 + 20_000)
    outputs = bench.item(heartbeat=bench.session._beat - 1, lease_ms=1_000)
    assert of(outputs, Start) == []
    assert ends(outputs) == [("Publish", "WorkerLeft"), ("Over",)] and of(outputs, Over)[0].rejoin


def test_after_a_stop_of_the_process_handlers_are_cancelled_before_anything_else() -> None:
    bench = Bench().open()
    bench.item(1)
    bench.item(2)
    bench.now_ms += 60_000
    outputs = bench.item(3)
    assert ends(outputs) == [("Cancel",), ("Cancel",), ("Publish", "WorkerLeft"), ("Over",)]
    bench = Bench().open()
    bench.item(1)
    bench.now_ms += 60_000
    outputs = report(bench, completed())
    assert ends(outputs)[0] == ("Cancel",)
    assert published(outputs, Completed) == []


def test_report_is_not_sent_past_the_deadline_even_if_it_was_queued_before() -> None:
    bench = Bench().open()
    bench.item()
    bench.broken = True
    (publish,) = of(report(bench, completed()), Publish)
    assert bench.session.sending(publish, T0 + SESSION_USABLE_MS - 1)
    assert not bench.session.sending(publish, T0 + SESSION_USABLE_MS)


def test_lost_notice_cancels_and_silences() -> None:
    bench = Bench().open()
    bench.item()
    assert [cancel.token for cancel in of(bench.notice("lost"), Cancel)] == [1]
    assert report(bench, completed()) == []


def test_stop_notice_cancels_but_the_end_is_reported() -> None:
    bench = Bench().open()
    bench.item()
    assert [cancel.token for cancel in of(bench.notice("stop"), Cancel)] == [1]
    end = Failed(session="s1", pool="p", resource="x://a", run="r1", token=1, error=ErrorDetail(code="S", message=""))
    assert published(report(bench, end), Failed) == [end]


def test_change_notice_is_told_and_cancels_nothing() -> None:
    bench = Bench().open()
    bench.item()
    outputs = bench.notice("changed")
    assert (len(of(outputs, Warn)), of(outputs, Cancel)) == (1, [])


def test_drain_offers_no_slots_finishes_what_is_held_then_leaves() -> None:
    bench = Bench().open()
    bench.item()
    bench.take(bench.session.drain(bench.now_ms))
    assert bench.beats()[-1].slots == 0
    assert of(bench.tick_to(T0 + 5_000), Over) == []
    outputs = bench.outputs
    report(bench, completed())
    assert ends(outputs)[-3:] == [("Publish", "Completed"), ("Publish", "WorkerLeft"), ("Over",)]
    assert not of(outputs, Over)[0].rejoin


@pytest.mark.parametrize("opened", [True, False])
def test_drain_of_an_idle_session_leaves_at_once(opened: bool) -> None:
    bench = Bench()
    if opened:
        bench.open()
    else:
        bench.take([bench.session.join(T0)])
    outputs = bench.take(bench.session.drain(bench.now_ms))
    assert ends(outputs) == [("Publish", "WorkerLeft"), ("Over",)]


def test_leave_cancels_what_runs() -> None:
    bench = Bench().open()
    bench.item()
    assert ends(bench.session.leave(bench.now_ms)) == [("Cancel",), ("Publish", "WorkerLeft"), ("Over",)]


class Walk(Bench):
    """A bench and what the lane makes of it, at its strictest: it applied everything when it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.open()
        self.token = 0
        self.item_until_ms: dict[int, int] = {}

    def step(self, what: str, much: int) -> None:
        if what == "wait":
            self.tick_to(self.now_ms + much)
        elif what == "break":
            self.broken = bool(much)
        elif what == "drain":
            self.take(self.session.drain(self.now_ms))
        elif what == "item":
            self.token += 1
            applied = [0, *self.applied_beats][-1 - min(much, len(self.applied_beats))]
            self.item_until_ms[self.token] = self.now_ms + LEASE_MS
            self.item(self.token, heartbeat=applied)
        elif self.token and what == "report":
            report(self, completed(self.token))
        elif self.token:
            report(self, progress(self.token, blocked="x" if much else None))
            if not self.broken and not much:
                self.item_until_ms[self.token] = self.now_ms + LEASE_MS


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 20_000)),
        st.tuples(st.just("break"), st.booleans()),
        st.tuples(st.just("item"), st.integers(0, 2)),
        st.tuples(st.just("progress"), st.booleans()),
        st.tuples(st.just("report"), st.just(0)),
        st.tuples(st.just("drain"), st.just(0)),
    ),
    max_size=30,
)


@given(STEPS)
def test_holder_always_stops_before_the_lane_could(steps: list[tuple[str, int]]) -> None:
    """And never asks to be woken at once for nothing, which would be a busy loop."""
    walk = Walk()
    for what, much in steps:
        walk.step(what, much)
        walk.take(walk.session.tick(walk.now_ms))
        for token in walk.session.held:
            remaining_ms = walk.session.remaining_ms(token, walk.now_ms)
            assert remaining_ms > 0
            assert walk.now_ms + remaining_ms < walk.item_until_ms[token]
            assert walk.now_ms + remaining_ms < walk.alive_ms + LAPSE_MS
        due_ms = walk.session.next_due_ms()
        assert due_ms is None or due_ms > walk.now_ms
        if walk.session.over:
            assert walk.session.held == {}
            return
