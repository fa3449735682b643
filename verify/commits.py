"""Promise 8: what one input brings about is visible together or not at all, and each input is applied once.

Events are numbered without gaps and name their inputs in order; what else a decision writes (items, dead letters,
the lane's own positions) is held against them. Artifacts have a promise of their own (`clashes`).
"""

from __future__ import annotations

from typing import Any

from keylane.schemas import topics
from keylane.schemas.events import DeadLettered
from keylane.schemas.items import Notice, SessionClosed, SessionOpened, WorkItem
from keylane.schemas.state import LOCK_ACTION, LaneRecord

from .grants import Grants
from .lane import Handlers, Lane, input_of
from .seen import RunSeen

INPUTS = (topics.REQUESTS, topics.RESULTS)
SPEAKING = frozenset(
    (
        "Cancellation", "Decision", "Resolution", "ResourceChange", "Renewal", "Release", "SessionEnded", "Progress",
        "Failed", "",
    )
)  # fmt: skip
"""Records that always bring about an event, those that cannot be decoded among them; for work, promise 3 asks.
A completion that comes twice is silent, as a Release is, and heartbeats are."""


class Commits:
    """Follows the numbering of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold
        self.seen: dict[str, list[tuple[int, int, int]]] = {topic: [] for topic in INPUTS}
        """By input topic: (offset, sequence number, offset in `events`) of the first event of each input."""
        self.set_aside: dict[int, tuple[int, str, int]] = {}
        self.last_input = ""
        self.handlers: Handlers = {DeadLettered: self.on_dead_lettered}

    def admit(self, event: Any, at: int) -> bool:
        """Whether an event of this number is the next one, or one after a gap; not where it is there already."""
        fold, seq, last = self.fold, event.seq, self.fold.last_seq
        if seq == last + 1:
            return True
        self.last_input = event.input  # what is missing may have begun to answer it
        if fold.last_at < 0:
            fold.lose_track()  # retention has taken what was before, or it was not recorded
            why = "the history begins in the middle: what was decided before is not there"
            for promise in (1, 2, 3, 4, 5, 7, 8, 9, 11, 14):
                self.lane.findings.undecided(promise, why)
            return True
        places = (self.lane.event(fold.last_at), self.lane.event(at))
        if seq <= last:
            self.lane.violation(8, f"event {seq} follows event {last}: it was written twice, or out of order", *places)
            return False
        self.lane.violation(8, f"event {seq} follows event {last}: what is between is missing", *places)
        fold.lose_track()
        return True

    def first_of_input(self, event: Any, at: int) -> tuple[str, int] | None:
        """The input that an event begins to answer, if it begins one; says so if it was applied before."""
        place = event.input
        if place == self.last_input:
            return None
        self.last_input = place
        found = input_of(event)
        if found is None:
            return None
        topic, offset = found
        self.lane.names_inputs = True
        seen = self.seen.setdefault(topic, [])
        if seen and offset <= seen[-1][0]:
            self.lane.violation(
                8,
                f"{topic} {offset} was applied after {topic} {seen[-1][0]}: twice, or out of order",
                self.lane.place(topic, offset),
                self.lane.event(seen[-1][2]),
                self.lane.event(at),
            )
            return None
        seen.append((offset, event.seq, at))
        return found

    def on_dead_lettered(self, event: DeadLettered, at: int) -> None:
        self.set_aside[event.seq] = (at, event.topic, event.offset)

    # -- when all has been read ---------------------------------------------------------------------------------

    def close(self, drained: bool, grants: Grants) -> None:
        """Hold the other outputs against the events."""
        if self.lane.unreadable.get(topics.EVENTS):
            self.lane.findings.undecided(8, "some events cannot be read by this keylane: upgrade it")
            return
        cut = self.lane.cut(drained)
        settled = self.fold.last_seq if cut is None else min(self.fold.last_seq, cut[1].seq)
        self._positions(drained)
        self._items(settled, grants)
        self._letters(settled)
        self._spoken(cut)

    def _positions(self, drained: bool) -> None:
        lane = self.lane
        before: tuple[int, LaneRecord] | None = None
        for offset, own in lane.owns:
            if before is not None:
                self._forward(before, (offset, own))
            for topic in INPUTS:
                self._covers(offset, own, topic)
            before = (offset, own)
        newest = lane.cut(drained=True)
        if drained and newest is not None and newest[1].seq != self.fold.last_seq:
            message = f"the lane's record counts {newest[1].seq} events, and the last that is there is "
            state = (lane.place(topics.STATE, newest[0]),) if lane.owns else ()
            last = (lane.event(self.fold.last_at),) if self.fold.last_seq else ()
            lane.violation(8, f"{message}{self.fold.last_seq}", *last, *state)

    def _forward(self, before: tuple[int, LaneRecord], after: tuple[int, LaneRecord]) -> None:
        old, new = before[1], after[1]
        back = [topic for topic in old.positions if new.positions.get(topic, 0) < old.positions[topic]]
        if new.seq < old.seq:
            back.append("event count")
        if new.clock_ms < old.clock_ms:
            back.append("clock")
        if back:
            message = f"the lane's record went back: {', '.join(back)}"
            places = (self.lane.place(topics.STATE, each[0]) for each in (before, after))
            self.lane.violation(8, message, *places)

    def _covers(self, offset: int, own: LaneRecord, topic: str) -> None:
        """Up to its event count a lane has applied exactly what is below its positions."""
        position = own.positions.get(topic, 0)
        seen = self.seen[topic]
        # The first input that is not below the position, and the last that is, are the ones that can be wrong.
        low, high = 0, len(seen)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if seen[middle][0] < position else (low, middle)
        state = self.lane.place(topics.STATE, offset)
        if low < len(seen) and seen[low][1] <= own.seq:
            message = f"{topic} {seen[low][0]} was answered, and the lane's position says that it was not applied"
            self.lane.violation(8, message, self.lane.event(seen[low][2]), state)
        if low and seen[low - 1][1] > own.seq:
            message = f"the lane's position is beyond {topic} {seen[low - 1][0]}, which was answered only later"
            self.lane.violation(8, message, state, self.lane.event(seen[low - 1][2]))

    def _items(self, settled: int, grants: Grants) -> None:
        lane = self.lane
        numbers: dict[str, int] = {}
        items: dict[int, tuple[str, WorkItem]] = {}
        cut_short = {topic for topic, _, _ in lane.items if lane.begin_of(topic)}
        cut_short |= {topic for topic in lane.read_to if topic.startswith("items.") and lane.begin_of(topic)}
        oldest: dict[str, int] = {}
        for topic, offset, record in lane.items:
            if isinstance(record, SessionClosed):
                numbers.pop(record.session, None)
                continue
            assert isinstance(record, SessionOpened | WorkItem | Notice)
            last = numbers.get(record.session, None if topic in cut_short else 0)
            if last is not None and record.number != last + 1:
                message = f"session {record.session} was sent number {record.number} after {last}"
                lane.violation(8, message, lane.place(topic, offset))
            numbers[record.session] = record.number
            if isinstance(record, WorkItem):
                oldest.setdefault(topic, record.token)
                self._one_item(lane.place(topic, offset), record, items, grants)
        from_token = max((oldest.get(topic, 2**63) for topic in cut_short), default=0)
        gone = 0
        for token, (at, event) in grants.granted.items():
            if token not in items and event.seq <= settled and event.action != LOCK_ACTION:
                if token < from_token:
                    gone += 1
                else:
                    message = f"{event.run} was granted under token {token}, and no worker was sent its item"
                    lane.violation(8, message, lane.event(at))
        lane.findings.undecided(8, "items of older grants are not there any more", gone)

    def _one_item(self, place: str, item: WorkItem, items: dict[int, tuple[str, WorkItem]], grants: Grants) -> None:
        if item.token in items:
            message = f"two items were sent under token {item.token}"
            self.lane.violation(8, message, items[item.token][0], place)
        items[item.token] = (place, item)
        found = grants.granted.get(item.token)
        if found is None:
            # A token that no event has yet is of a commit that came after the events had been read.
            if not self.fold.partial and item.token < self.fold.last_token:
                message = f"{item.run} was sent as an item under token {item.token}, and never granted under it"
                self.lane.violation(8, message, place)
            return
        at, event = found
        said = (event.run, event.owner, event.session, event.attempt, event.requests)
        if (item.run, item.owner, item.session, item.attempt, item.requests) != said or event.action == LOCK_ACTION:
            message = f"the item under token {item.token} and its grant do not say the same"
            self.lane.violation(8, message, self.lane.event(at), place)

    def _letters(self, settled: int) -> None:
        lane = self.lane
        there: dict[int, int] = {}
        for offset, seq, topic, of in lane.letters:
            place = lane.place(topics.DEADLETTERS, offset)
            if seq in there:
                lane.violation(8, f"event {seq} has two dead letters", place)
            there[seq] = offset
            event = self.set_aside.get(seq)
            if event is not None and event[1:] != (topic, of):
                lane.violation(8, f"a dead letter of {topic} {of} is not what its event says", place)
            elif event is None and not self.fold.partial and seq <= self.fold.last_seq:
                lane.violation(8, f"a dead letter of {topic} {of} has no event", place)
        begin = min(there, default=2**63) if lane.begin_of(topics.DEADLETTERS) else 0
        for seq, (at, topic, of) in self.set_aside.items():
            if begin <= seq <= settled and seq not in there:
                lane.violation(8, f"{topic} {of} was set aside without a dead letter", lane.event(at))

    def _spoken(self, cut: tuple[int, LaneRecord] | None) -> None:
        """Every command and every report that cannot be passed over in silence has its event."""
        if cut is None:
            self.lane.findings.undecided(8, "state of a lane is not in what was read: nobody knows what it has applied")
            return
        kinds: dict[str, list[tuple[int, str]]] = {
            topics.REQUESTS: [(each.offset, each.kind) for each in self.lane.asked if each.kind in SPEAKING],
            topics.RESULTS: [(each.offset, each.kind) for each in self.lane.reported if each.kind in SPEAKING],
        }
        if not self.lane.names_inputs and self.fold.last_seq:
            why = "no event names the record that it answers"
            self.lane.findings.undecided(8, why, sum(map(len, kinds.values())))
            return
        locks = {(run.id, run.token): run for run in self.fold.locks}
        for topic, records in kinds.items():
            answered = {offset for offset, _, _ in self.seen[topic]}
            first = min(answered, default=2**63) if self.fold.partial else 0
            for offset, kind in records:
                if first <= offset < cut[1].positions.get(topic, 0) and offset not in answered:
                    if kind == "Release" and self._has_come_again(offset, locks):
                        continue
                    message = f"{kind or 'a record that cannot be decoded'} was passed over: nothing was decided on it"
                    places = (self.lane.place(topic, offset), self.lane.place(topics.STATE, cut[0]))
                    self.lane.violation(8, message, *places)

    def _has_come_again(self, offset: int, locks: dict[tuple[str, int | None], RunSeen]) -> bool:
        """Whether a Release is of a lock that was given back already, or cancelled: its sender cannot know."""
        said = self.lane.said[offset]
        run = locks.get((said.about, said.token))
        if run is None:
            return self.fold.partial
        asked = self.lane.request_of(run)
        is_its = asked is None or asked.secret == said.secret
        is_unknown = run.ended_at is None and run.accepted_at <= self.fold.lost_at
        return is_its and (is_unknown or run.status in ("completed", "cancelled"))
