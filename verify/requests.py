"""Promises 3, 4 and 6: each request has one first answer and one end, merged ones share theirs, keys run once.

While the events come the life of each id is followed; which record was answered is held against `requests` when
all has been read, since the two topics may come in any order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keylane.schemas import topics
from keylane.schemas.event_parts import Event
from keylane.schemas.events import Coalesced, DeadLettered, Ended, Granted, Parked, Queued, Refused, SentOn, Withdrawn
from keylane.schemas.state import Member, RefusedRequest, Run

from .fold import ACCEPTABLE, FORGETTABLE, outcome_of
from .lane import WORK, Asked, Handlers, Lane, input_of
from .seen import IdSeen, RunSeen
from .states import remembered

CROWDED_MS = 120_000
"""A crowded lane remembers outcomes for at least so long (design section 4)."""


class Anew(NamedTuple):
    """An id that had its end and got a first answer again: right only if it had been forgotten in between."""

    request: str
    before: IdSeen
    at: int
    seq: int
    clock_ms: int


class Requests:
    """Follows the ids of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold
        self.answers: dict[int, tuple[int, str]] = {}
        """By offset in `requests`: the first event that the record brought about, and the id that it answers."""
        self.anew: list[Anew] = []
        self.withdrawn: list[tuple[Withdrawn, int, IdSeen | None]] = []
        self.sent_on: list[tuple[SentOn, int]] = []
        self.runs_of: dict[tuple[str, int], tuple[RunSeen, int, str]] = {}
        """Runs that were granted, with their first grant and the record that asked for them."""
        self.handlers: Handlers = {
            Queued: self.on_answer,
            Coalesced: self.on_answer,
            Parked: self.on_parked,
            Refused: self.on_refused,
            Withdrawn: self.on_withdrawn,
            Ended: self.on_ended,
            SentOn: self.on_sent_on,
            Granted: self.on_granted,
        }

    def note(self, event: Any, at: int, offset: int) -> None:
        """The first event of an input of `requests`."""
        match event:
            case Ended(requests=(request,)) if event.repeat or event.coalesced:
                self.answers[offset] = (at, request)
            case DeadLettered():
                self.answers[offset] = (at, "")
            case Queued() | Parked() | Coalesced() | Refused() | Withdrawn() | SentOn():
                self.answers[offset] = (at, event.request)
            case _:
                self.answers[offset] = (at, "\0")  # no answer to a request: nobody can send an id like this

    # -- the life of an id ---------------------------------------------------------------------------------------

    def on_parked(self, event: Parked, at: int) -> None:
        if event.reason == "on_conflict":  # else it had been accepted before
            self.on_answer(event, at)

    def on_answer(self, event: Queued | Coalesced | Parked, at: int) -> None:
        seen = self.fold.ids.get(event.request)
        if event.repeat:
            self._repeated(event.request, seen, at, ended=False)
        else:
            self._first(event.request, seen, at, event)

    def _first(self, request: str, seen: IdSeen | None, at: int, event: Event) -> None:
        if seen is None:
            return
        if seen.done_at is None:
            self.lane.violation(
                3,
                f"{request} was accepted, and before it had its end it was answered once more as if it were new",
                self.lane.event(seen.accepted_at),
                self.lane.event(at),
            )
        elif seen.code not in FORGETTABLE:
            self.anew.append(Anew(request, seen, at, event.seq, event.clock_ms))

    def _repeated(self, request: str, seen: IdSeen | None, at: int, *, ended: bool) -> None:
        if seen is None:
            if not self.fold.partial:
                message = f"{request} was told its answer again, and never had a first one"
                self.lane.violation(3, message, self.lane.event(at))
        elif ended != (seen.done_at is not None):
            is_so = "its end again, and it has had none" if ended else "again that it was accepted, after its end"
            first = seen.accepted_at if seen.done_at is None else seen.done_at
            self.lane.violation(3, f"{request} was told {is_so}", self.lane.event(first), self.lane.event(at))

    def on_refused(self, event: Refused, at: int) -> None:
        if event.command not in ACCEPTABLE:
            return
        seen = self.fold.ids.get(event.request)
        if event.repeat:
            self._repeated(event.request, seen, at, ended=True)
        else:
            self._first(event.request, seen, at, event)

    def on_withdrawn(self, event: Withdrawn, at: int) -> None:
        seen = self.fold.ids.get(event.request)
        if event.repeat:
            self._repeated(event.request, seen, at, ended=True)
            return
        self._ends(event.request, seen, at)
        self.withdrawn.append((event, at, seen))

    def _ends(self, request: str, seen: IdSeen | None, at: int) -> None:
        if seen is None:
            if not self.fold.partial:
                self.lane.violation(3, f"{request} was ended and had never been accepted", self.lane.event(at))
        elif seen.done_at is not None:
            message = f"{request} was ended twice"
            self.lane.violation(3, message, self.lane.event(seen.done_at), self.lane.event(at))

    def on_ended(self, event: Ended, at: int) -> None:
        run = self.fold.runs.get(event.run)
        for request in event.requests:
            seen = self.fold.ids.get(request)
            if event.repeat:
                self._repeated(request, seen, at, ended=True)
            elif event.coalesced:
                self._first(request, seen, at, event)
            else:
                self._ends(request, seen, at)
        if run is None:
            return
        if event.repeat or event.coalesced:
            self._same_outcome(event, at, run)
        else:
            self._everybody(event, at, run)

    def _same_outcome(self, event: Ended, at: int, run: RunSeen) -> None:
        who = ", ".join(event.requests)
        if run.ended_at is None:
            message = f"{who} was told that {run.id} had ended, and it has not"
            self.lane.violation(4, message, self.lane.event(run.accepted_at), self.lane.event(at))
        elif run.outcome != outcome_of(event):
            message = f"{who} was told {event.status} of {run.id}, which ended {run.status} or with another result"
            self.lane.violation(4, message, self.lane.event(run.ended_at), self.lane.event(at))

    def _everybody(self, event: Ended, at: int, run: RunSeen) -> None:
        if run.state == "Done" or set(event.requests) == set(run.members):
            return
        for request in run.members:
            if request not in event.requests:
                self.lane.violation(
                    4,
                    f"{request} was merged into {run.id}, has not left, and is not among those that its end names",
                    self.lane.event(run.members[request]),
                    self.lane.event(at),
                )
        for request in event.requests:
            if request not in run.members:
                message = f"the end of {run.id} is said to be that of {request}, which was not part of it then"
                self.lane.violation(4, message, self.lane.event(run.accepted_at), self.lane.event(at))

    def on_granted(self, event: Granted, at: int) -> None:
        run = self.fold.runs.get(event.run)
        if run is None:
            if not self.fold.partial:
                message = f"{event.run} was granted {event.owner} and had never been accepted"
                self.lane.violation(3, message, self.lane.event(at))
            return
        if (run.id, run.order) not in self.runs_of:
            seen = self.fold.ids.get(run.id)
            self.runs_of[run.id, run.order] = (run, at, "" if seen is None else seen.input)
        if run.state in ("Done", "Lost"):
            ended = run.ended_at if run.ended_at is not None else run.changed_at
            message = f"{run.id} was granted {event.owner} after it had ended"
            self.lane.violation(3, message, self.lane.event(ended), self.lane.event(at))
        elif set(event.requests) != set(run.members):
            missing = sorted(set(run.members) ^ set(event.requests))
            message = f"the grant of {run.id} names other requesters than it has: {', '.join(missing)}"
            self.lane.violation(4, message, self.lane.event(run.accepted_at), self.lane.event(at))

    def on_sent_on(self, event: SentOn, at: int) -> None:
        self.sent_on.append((event, at))

    # -- when all has been read -----------------------------------------------------------------------------------

    def close(self, drained: bool, configured_ms: int | None, observed_ms: int | None) -> None:
        """Hold what was answered against what was asked. How long outcomes are remembered: as a recorder knows it,
        and as the outcomes of now have it, which proves nothing of those of another configuration."""
        asked = {each.offset: each for each in self.lane.asked}
        self._answered(drained, asked)
        self._final(drained)
        self._left(asked)
        remembered_ms = 0 if configured_ms is None else min(configured_ms, CROWDED_MS)
        self._anew(remembered_ms, observed_ms if configured_ms is None else configured_ms)
        self._keys(asked, remembered_ms)

    def _answered(self, drained: bool, asked: dict[int, Asked]) -> None:
        lane, cut = self.lane, self.lane.cut(drained)
        if cut is None:
            lane.findings.undecided(3, "state of a lane is not in what was read: nobody knows what it has applied")
        applied = -1 if cut is None else cut[1].positions.get(topics.REQUESTS, 0)
        first_seen = min(self.answers, default=None)
        gone = unnamed = unread = 0
        for record in lane.asked:
            answer = self.answers.get(record.offset)
            if answer is None:
                if record.offset >= applied or record.kind not in WORK:
                    continue
                if self.fold.partial and (first_seen is None or record.offset < first_seen):
                    gone += 1
                elif lane.unreadable.get(topics.EVENTS):
                    unread += 1
                elif self.fold.last_seq and not lane.names_inputs:
                    unnamed += 1
                else:
                    own = () if cut is None else (lane.place(topics.STATE, cut[0]),)
                    message = f"{record.kind} {record.id} was applied, says the lane's record, and never answered"
                    lane.violation(3, message, lane.place(topics.REQUESTS, record.offset), *own)
            elif record.kind in WORK and answer[1] not in ("", record.id, record.id[:128]):
                message = f"{record.kind} {record.id} was answered under another id"
                lane.violation(3, message, lane.place(topics.REQUESTS, record.offset), lane.event(answer[0]))
        lane.findings.undecided(3, "the events of that time are not there any more, for requests", gone)
        lane.findings.undecided(3, "events cannot be read by this keylane, perhaps answers of requests", unread)
        lane.findings.undecided(3, "no event names the record that it answers, for requests", unnamed)

    def _final(self, drained: bool) -> None:
        """A loss that ends a run is followed by its end at once."""
        cut = self.lane.cut(drained)
        for run in self.fold.runs.values():
            if run.state == "Lost" and (cut is None or run.changed_seq <= cut[1].seq):
                message = f"{run.id} was lost for the last time, and its requesters were never told that it has ended"
                places = (run.accepted_at, run.changed_at)
                self.lane.violation(3, message, *(self.lane.event(at) for at in places))

    def _left(self, asked: dict[int, Asked]) -> None:
        """Who was withdrawn had asked for it, or had a deadline that was over."""
        for event, at, seen in self.withdrawn:
            if event.status == "cancelled":
                cause = _asked_at(asked, event)
                if cause is not None and cause.about != event.request:
                    message = f"{event.request} was withdrawn as cancelled by a record that does not cancel it"
                    where = self.lane.place(topics.REQUESTS, cause.offset)
                    self.lane.violation(4, message, where, self.lane.event(at))
                continue
            request = None if seen is None else _asked_at(asked, seen)
            if seen is None or request is None:
                continue
            if request.deadline_ms is None or event.clock_ms < seen.accepted_ms + request.deadline_ms:
                message = f"{event.request} was withdrawn as expired before its deadline"
                self.lane.violation(4, message, self.lane.event(seen.accepted_at), self.lane.event(at))

    def _anew(self, remembered_ms: int, retention_ms: int | None) -> None:
        counted = self.lane.owns[-1][1].seq if self.lane.owns else 0
        for each in self.anew:
            kept: object = remembered(self.lane, each.request)[1]
            if each.before.code:
                kept = self.lane.state.get(b"refused/" + each.request.encode(), (0, None))[1]
            # As state has it now, or had it when it was read, which may have been before it was answered anew.
            surely = each.seq <= counted and isinstance(kept, Member | RefusedRequest) and kept.order == each.before.seq
            if each.before.done_ms and not each.before.code:
                surely = surely or each.clock_ms < each.before.done_ms + remembered_ms
            if surely:
                self.lane.violation(
                    3,
                    f"{each.request} had its end, is still remembered, and was answered once more as if it were new",
                    self.lane.event(each.before.done_at or each.before.accepted_at),
                    self.lane.event(each.at),
                )
            elif each.before.code or retention_ms is None or each.clock_ms < each.before.done_ms + retention_ms:
                why = "an id was answered anew, and whether its first answer was still remembered is not on record"
                self.lane.findings.undecided(3, why)

    def _keys(self, asked: dict[int, Asked], remembered_ms: int) -> None:
        """Promise 6: of the runs that were granted, no two have one idempotency key while it is remembered."""
        keys = {f"{topics.REQUESTS}/{each.offset}": each.idempotency_key for each in asked.values()}
        if not any(keys.values()):
            return
        first: dict[tuple[str, str], tuple[RunSeen, int]] = {}
        for run, at, place in self.runs_of.values():
            key = keys.get(place)
            if key is None:
                continue
            before = first.get((run.owner, key))
            if before is not None:
                is_over = before[0].ended_at is not None and run.accepted_ms >= before[0].ended_ms + remembered_ms
                if not is_over:
                    message = f"{before[0].id} and {run.id} have one idempotency key, and both were granted"
                    self.lane.violation(6, message, self.lane.event(before[1]), self.lane.event(at))
            first[run.owner, key] = (run, at)


def _asked_at(asked: dict[int, Asked], event: Withdrawn | IdSeen) -> Asked | None:
    """The record of `requests` that an event names as its input."""
    place = input_of(event)
    return asked.get(place[1]) if place is not None and place[0] == topics.REQUESTS else None


def judge_sent_on(all_requests: list[Requests]) -> None:
    """Promise 3 over lanes: what was sent on has arrived where it belongs."""
    by_partition = {each.lane.partition: each.lane for each in all_requests}
    arrived: dict[int, set[str]] = {}
    for each in all_requests:
        for event, at in each.sent_on:
            other = by_partition.get(event.to_partition)
            if other is None or other.begin_of(topics.REQUESTS):
                why = "requests were sent on to a partition whose beginning is not in what was read"
                each.lane.findings.undecided(3, why)
                continue
            if other.partition not in arrived:
                arrived[other.partition] = {record.id for record in other.asked}
            if event.request not in arrived[other.partition]:
                message = f"{event.request} was sent on to partition {event.to_partition}, and is not there"
                each.lane.violation(3, message, each.lane.event(at))


def judge_acknowledged(all_requests: list[Requests], acknowledged: list[Any]) -> None:
    """Promise 3: what the journal acknowledged is there."""
    ids = {each.lane.partition: {record.id for record in each.lane.asked} for each in all_requests}
    anywhere = set().union(*ids.values()) if ids else set()
    begins = {each.lane.partition: each.lane.begin_of(topics.REQUESTS) for each in all_requests}
    for said in acknowledged:
        partition = -1 if said.partition is None else said.partition
        there = anywhere if said.partition is None else ids.get(said.partition, set())
        if said.id in there:
            continue
        begin = begins.get(partition, 0) if said.partition is not None else max(begins.values(), default=0)
        if begin and (said.offset is None or said.offset < begin):
            all_requests[0].lane.findings.undecided(3, "acknowledged requests are not there any more")
            continue
        where = () if said.offset is None else (f"{topics.REQUESTS}/{partition}/{said.offset}",)
        findings = all_requests[0].lane.findings
        findings.violation(3, partition, f"{said.id} was acknowledged and is not in the log", *where)


def retention_of(lanes: list[Lane]) -> int | None:
    """How long outcomes are remembered, read off those that are."""
    for lane in lanes:
        for _, record in lane.state.values():
            if isinstance(record, Run) and record.forget_ms is not None and not record.keyed:
                return record.forget_ms - record.ended_ms
    return None
