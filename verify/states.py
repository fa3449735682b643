"""Promise 9: what `state` says is what the history comes to, by a fold of the events that shares no code with it.

Compared is what was last changed by an event that the state already counts. Ended runs may have been forgotten.
"""

from __future__ import annotations

from keylane.schemas import topics
from keylane.schemas.state import Member, Run, StateRecord, WaitLink, WorkerSession, first_member

from .lane import Lane
from .seen import RunSeen

SAME = {"Waiting": ("Waiting",), "Parked": ("Parked",), "Held": ("Held",), "Done": ("Done",), "Lost": ("Done",)}


class States:
    """Compares one lane's fold with its state, when all has been read."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold

    def close(self) -> None:
        """Judge both ways: what the fold has must be there, and what is there must come from an event."""
        lane = self.lane
        newest = lane.cut(drained=True)
        if newest is None:
            lane.findings.undecided(9, "state of a lane is not in what was read", int(self.fold.last_seq > 0))
            return
        if unread := lane.unreadable.get(topics.STATE):
            lane.findings.undecided(9, "records of state cannot be read by this keylane: upgrade it", unread)
            return
        own = newest[1]
        for run in self.fold.runs.values():
            if run.changed_seq <= own.seq:
                self._run(run)
        for key, (offset, record) in lane.state.items():
            self._known(key, offset, record, own.seq)
        for id, session in self.fold.sessions.items():
            if session.seq <= own.seq and b"session/" + id.encode() not in lane.state:
                self._missing(f"session {id} was opened and not closed, and state does not have it", session.at)

    def _run(self, run: RunSeen) -> None:
        lane = self.lane
        offset, record = lane.state.get(b"run/" + run.id.encode(), (-1, None))
        said = lane.event(run.changed_at)
        if not isinstance(record, Run):
            if run.state != "Done":
                self._missing(
                    f"{run.id} is {run.state.lower()} by its events, and state does not have it", run.changed_at
                )
            return
        if record.order != run.order:
            if run.state != "Done":
                message = f"{run.id} was accepted as event {run.order}, and state says as {record.order}"
                lane.violation(9, message, said, lane.place(topics.STATE, offset))
            return
        if wrong := _differs(run, record):
            message = f"{run.id} is {wrong[0]} by its events, and {wrong[1]} in state"
            lane.violation(9, message, said, lane.place(topics.STATE, offset))
        if run.state != "Done":
            self._members(run)

    def _missing(self, message: str, at: int) -> None:
        if self.lane.moving:
            self.lane.findings.undecided(9, "state was written to while it was read; let it rest, or try again")
        else:
            self.lane.violation(9, message, self.lane.event(at))

    def _members(self, run: RunSeen) -> None:
        for request, at in run.members.items():
            offset, member = remembered(self.lane, request)
            message = f"{request} is part of {run.id} by its events, and not in state"
            if member is None:
                self._missing(message, at)
            elif member.run != run.id or member.left is not None:
                self.lane.violation(9, message, self.lane.event(at), self.lane.place(topics.STATE, offset))

    def _known(self, key: bytes, offset: int, record: StateRecord, seq: int) -> None:
        """What state has was brought about by an event, where those of its time are there."""
        lane, fold = self.lane, self.fold
        place = lane.place(topics.STATE, offset)
        if isinstance(record, Run) and record.state == "Held" and record.lock is None:
            if b"session/" + record.session.encode() not in lane.state and not lane.moving:
                lane.violation(9, f"{record.id} is held by session {record.session}, which state does not have", place)
        if isinstance(record, WaitLink) and seq == fold.last_seq and not lane.moving:
            self._link(record, place)
        if fold.partial:
            return
        match record:
            case Run() if record.id not in fold.runs and record.order <= seq <= fold.last_seq:
                lane.violation(9, f"state has run {record.id}, and no event accepted it", place)
            case Member() if record.id not in fold.ids and record.order <= seq <= fold.last_seq:
                lane.violation(9, f"state has request {record.id}, and no event accepted it", place)
            case WorkerSession() if record.id not in fold.sessions and seq == fold.last_seq:
                lane.violation(9, f"state has session {record.id}, which is not open by its events", place)

    def _link(self, link: WaitLink, place: str) -> None:
        """Who is said to wait for whom does, by the events."""
        run = self.fold.runs.get(link.request)
        asked = None if run is None else self.lane.request_of(run)
        if run is None or asked is None:
            return
        holder = self.fold.live.get(link.owner)
        is_over = link.until_ms is None and run.state != "Waiting"
        if is_over or (link.waiter, link.owner) != (asked.session, run.owner):
            message = f"state has session {link.waiter} wait by {link.request}, which is {run.state.lower()}"
            self.lane.violation(9, message, self.lane.event(run.changed_at), place)
        elif holder is None or holder.lock is None or holder.session != link.holder:
            message = f"state has session {link.waiter} wait for {link.holder}, which does not hold {link.owner}"
            self.lane.violation(9, message, self.lane.event(run.changed_at), place)


def remembered(lane: Lane, request: str) -> tuple[int, Member | None]:
    """What state says of an accepted request and where: its own record, or that of the run that it made."""
    offset, record = lane.state.get(b"member/" + request.encode(), (-1, None))
    if isinstance(record, Member):
        return offset, record
    offset, record = lane.state.get(b"run/" + request.encode(), (-1, None))
    return offset, first_member(record) if isinstance(record, Run) else None


def _differs(run: RunSeen, record: Run) -> tuple[str, str] | None:
    """What the events make of a run, and what state says instead, if it does."""
    if record.state not in SAME[run.state]:
        return run.state.lower(), record.state.lower()
    if run.state == "Held":
        if (record.token, record.session) != (run.token, run.session):
            return f"held by {run.session} under token {run.token}", f"by {record.session} under {record.token}"
        longest_ms = run.renewed_ms + run.lease_ms
        if record.hold_until_ms is not None:
            longest_ms = min(longest_ms, record.hold_until_ms)
        if run.lock is not None and record.unclaimed != run.lock.unclaimed:
            return "waiting to be claimed" if run.lock.unclaimed else "claimed", "not"
        # Of work a renewal may have come with a checkpoint that was refused, which no event tells.
        is_longer = record.lease_until_ms is not None and run.lock is not None and record.lease_until_ms > longest_ms
        if record.lease_until_ms is None or record.lease_until_ms < longest_ms or is_longer:
            return f"leased until {longest_ms} ms at least", f"until {record.lease_until_ms} ms"
    if run.state == "Done" and record.status != run.status:
        return run.status, str(record.status)
    if run.state in ("Held", "Waiting") and record.attempt != run.attempt:
        return f"at attempt {run.attempt}", f"at attempt {record.attempt}"
    return None
