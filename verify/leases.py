"""Promise 7, of work: a lease ends no earlier than its own time or its session's, and never comes back.

Lane time alone counts. When a heartbeat was applied is in no event; that it was not before what is known to have
been applied before it is, and that is enough never to call a lapse early that was not.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NamedTuple

from keylane.schemas import topics
from keylane.schemas.events import AttemptFailed, Ended, Granted, Lost, Progressed, WorkerClosed, WorkerOpened
from keylane.schemas.items import WorkItem
from keylane.schemas.results import Completed, Failed, Progress
from keylane.schemas.state import LOCK_ACTION

from .lane import LEFT, Handlers, Lane, Reported, input_of
from .seen import SessionSeen


class Expired(NamedTuple):
    """A lease that its own time ended, and from when on that counts."""

    event: Lost
    at: int
    renewed_at: int
    renewed_ms: int
    granted_ms: int
    lease_ms: int


class Closed(NamedTuple):
    """A session that ended, with how it was opened."""

    event: WorkerClosed
    at: int
    opened: SessionSeen


class Leases:
    """Follows the leases of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold
        self.expired: list[Expired] = []
        self.closed: list[Closed] = []
        self.closed_at: dict[str, int] = {}
        """By session: when it was closed, unless it has been opened again."""
        self.believed: list[tuple[int, str, str, int | None, int]] = []
        """Events that a report brought about: its place in `results`, its type, run and token as the event has them."""
        self.applied: list[tuple[int, int, int]] = []
        """(offset in `results`, lane time, sequence number) of the first event of each input."""
        self.handlers: Handlers = {
            Granted: self.on_granted,
            Progressed: self.on_progressed,
            AttemptFailed: self.on_let_go,
            Lost: self.on_lost,
            Ended: self.on_ended,
            WorkerOpened: self.on_opened,
            WorkerClosed: self.on_closed,
        }

    def clock(self, event: Any, at: int) -> None:
        """Every event: lane time never goes back."""
        if event.clock_ms < self.fold.last_ms:
            self.lane.violation(
                7,
                f"the lane's clock went back from {self.fold.last_ms} to {event.clock_ms} ms",
                self.lane.event(self.fold.last_at),
                self.lane.event(at),
            )

    def note(self, event: Any, offset: int) -> None:
        """The first event of an input of `results`."""
        self.applied.append((offset, event.clock_ms, event.seq))

    def on_granted(self, event: Granted, at: int) -> None:
        if event.action == LOCK_ACTION:
            return  # its session is an agent's
        closed_at = self.closed_at.get(event.session)
        if closed_at is not None:
            self.lane.violation(
                7,
                f"{event.run} was granted to session {event.session}, which was over",
                self.lane.event(closed_at),
                self.lane.event(at),
            )

    def _live(self, event: Progressed | AttemptFailed | Lost, at: int, did: str) -> bool:
        """Whether the event is of the live lease of its run; says so if it is not."""
        run = self.fold.runs.get(event.run)
        if run is None or (run.state == "Held" and run.token == event.token):
            return run is not None
        let_go = run.ended_at if run.ended_at is not None else run.changed_at
        self.lane.violation(
            7,
            f"{event.run} {did} under token {event.token}, and it was not held under that any more: a lease came back",
            self.lane.event(let_go),
            self.lane.event(at),
        )
        return False

    def on_progressed(self, event: Progressed, at: int) -> None:
        if self._live(event, at, "was renewed"):
            self._believes(event, at, Progress.__name__)

    def on_let_go(self, event: AttemptFailed, at: int) -> None:
        if self._live(event, at, "failed an attempt"):
            self._believes(event, at, Failed.__name__)

    def _believes(self, event: Progressed | AttemptFailed | Ended, at: int, kind: str) -> None:
        place = input_of(event)
        if place is not None and place[0] == topics.RESULTS:
            self.believed.append((place[1], kind, event.run, event.token, at))

    def on_lost(self, event: Lost, at: int) -> None:
        run = self.fold.runs.get(event.run)
        if run is not None and run.lock is not None:
            return  # `locks` has those
        if not self._live(event, at, "lost a lease") or run is None:
            return
        if event.reason == "lease_expired":
            renewed = (run.renewed_at, run.renewed_ms, run.granted_ms, run.lease_ms)
            self.expired.append(Expired(event, at, *renewed))
        elif event.session in self.fold.sessions:
            self.lane.violation(
                7,
                f"{event.run} was taken from session {event.session} as {event.reason}, and that session is open",
                self.lane.event(self.fold.sessions[event.session].at),
                self.lane.event(at),
            )

    def on_ended(self, event: Ended, at: int) -> None:
        run = self.fold.runs.get(event.run)
        if run is None or event.repeat or event.coalesced or event.status != "completed" or run.state == "Done":
            return
        if run.state != "Held" or run.token != event.token:
            self.lane.violation(
                7,
                f"{event.run} completed under token {event.token}, and it was not held under that any more",
                self.lane.event(run.changed_at),
                self.lane.event(at),
            )
        else:
            self._believes(event, at, Completed.__name__)

    def on_opened(self, event: WorkerOpened, at: int) -> None:
        self.closed_at.pop(event.session, None)

    def on_closed(self, event: WorkerClosed, at: int) -> None:
        session = self.fold.sessions.get(event.session)
        self.closed_at[event.session] = at
        if session is not None:
            self.closed.append(Closed(event, at, session))

    # -- when all has been read ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Hold what ended against its items and heartbeats, which are other topics."""
        reports = {record.offset: record for record in self.lane.reported}
        self._leases()
        self._reports(reports)
        self._sessions(reports)

    def _leases(self) -> None:
        holds = {item.token: item.hold_ms for _, _, item in self.lane.items if isinstance(item, WorkItem)}
        for each in self.expired:
            until_ms = each.renewed_ms + each.lease_ms
            hold_ms = holds.get(each.event.token)
            if hold_ms is not None:
                until_ms = min(until_ms, each.granted_ms + hold_ms)
            if each.event.clock_ms >= until_ms:
                continue
            if hold_ms is None:
                self.lane.findings.undecided(7, "items of leases are not there, which say how long one may be held")
                continue
            self.lane.violation(
                7,
                f"the lease of {each.event.run} under token {each.event.token} ended at {each.event.clock_ms} ms, "
                f"and it was granted or renewed at {each.renewed_ms} ms until {until_ms} ms",
                self.lane.event(each.renewed_at),
                self.lane.event(each.at),
            )

    def _reports(self, reports: dict[int, Reported]) -> None:
        """What is believed of a holder was said by it: under the token that was live."""
        for offset, kind, run, token, at in self.believed:
            report = reports.get(offset)
            if report is not None and (report.kind, report.run, report.number) != (kind, run, token):
                said = f"{report.kind or 'something unreadable'} of {report.run} under token {report.number}"
                message = f"{said} was taken for a {kind} of {run} under {token}"
                self.lane.violation(7, message, self.lane.place(topics.RESULTS, offset), self.lane.event(at))

    def _sessions(self, reports: dict[int, Reported]) -> None:
        beats: dict[str, list[Reported]] = {}
        for record in self.lane.reported:
            if record.kind == "WorkerHeartbeat":
                beats.setdefault(record.session, []).append(record)
        lapses = self.lane.lapse_of()
        for each in self.closed:
            if each.event.reason == "session_lapsed":
                lapse_ms = lapses.get(each.event.session)
                if lapse_ms is None:
                    self.lane.findings.undecided(7, "the items that open sessions are not there")
                else:
                    self._lapsed(each, lapse_ms, beats.get(each.event.session, []))
            elif each.event.reason == "session_left":
                self._left(each, reports)

    def _left(self, each: Closed, reports: dict[int, Reported]) -> None:
        place = input_of(each.event)
        if place is None:
            message = f"session {each.event.session} is said to have left, and no record of its leaving is named"
            if self.applied:
                self.lane.violation(7, message, self.lane.event(each.at))
            return
        found = reports.get(place[1])
        if found is not None and (found.kind, found.session) != (LEFT, each.event.session):
            message = f"session {each.event.session} is said to have left by a record that says something else"
            self.lane.violation(7, message, self.lane.place(topics.RESULTS, found.offset), self.lane.event(each.at))

    def _lapsed(self, each: Closed, lapse_ms: int, beats: list[Reported]) -> None:
        """The newest renewal that is known to have been applied is not younger than the session lasts."""
        renewed_ms, where = each.opened.opened_ms, self.lane.event(each.opened.at)
        joined = input_of(each.opened)
        newest = 0
        for beat in beats:
            if joined is None or beat.offset < joined[1] or beat.number <= newest:
                continue
            after = bisect_left(self.applied, (beat.offset,))
            # Applied before the close if something that came later, or what it brought about itself, was.
            if after == len(self.applied) or self.applied[after][2] >= each.event.seq:
                break
            newest = beat.number
            known = self.applied[after] if self.applied[after][0] == beat.offset else self.applied[max(after - 1, 0)]
            if known[1] > renewed_ms:
                renewed_ms, where = known[1], self.lane.place(topics.RESULTS, beat.offset)
        if each.event.clock_ms < renewed_ms + lapse_ms:
            self.lane.violation(
                7,
                f"session {each.event.session} lapsed at {each.event.clock_ms} ms; it was renewed no earlier than at "
                f"{renewed_ms} ms, and lasts {lapse_ms} ms",
                where,
                self.lane.event(each.at),
            )
