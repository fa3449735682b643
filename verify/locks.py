"""Promises 7 and 14, of locks: a lease is as long as its renewals say, and only who has the secret does anything to it.

What each command says is in another topic: who did it is judged when all has been read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keylane.schemas import topics
from keylane.schemas.events import (
    AgentSessionEnded,
    AttemptFailed,
    Coalesced,
    Ended,
    Fenced,
    Granted,
    Lost,
    Progressed,
    Renewed,
)
from keylane.schemas.state import Run

from .commands import Said
from .history import Configured
from .lane import Handlers, Lane, input_of
from .seen import LockSeen, RunSeen

COMMANDS_GONE = "commands about locks are not there any more"


class Deed(NamedTuple):
    """Something that was done to a lock, to be held against the command that asked for it."""

    kind: str
    at: int
    place: tuple[str, int] | None
    """Of that command."""
    run: RunSeen
    token: int | None
    id: str = ""
    """Which the event says the command has; or the event's status."""
    unclaimed: bool = False
    blocked: bool = False
    lease_ms: int = 0
    """That was granted; or for how long it had waited."""
    requests: tuple[str, ...] = ()


class Locks:
    """Follows the locks of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold
        self.deeds: list[Deed] = []
        self.cut: list[tuple[RunSeen, int, int, int]] = []
        """Leases that were shorter than their time: until when, and when and where they were granted or renewed."""
        self.farthest: list[tuple[RunSeen, int, int]] = []
        """Until when a lease reached, and the event that said so."""
        self.session_ends: dict[str, frozenset[str]] = {}
        """By the input of the newest AgentSessionEnded: the runs that it names."""
        self.handlers: Handlers = {
            Granted: self.on_granted,
            Coalesced: self.on_coalesced,
            Renewed: self.on_renewed,
            Progressed: self.on_report,
            AttemptFailed: self.on_report,
            Lost: self.on_lost,
            Ended: self.on_ended,
            Fenced: self.on_fenced,
            AgentSessionEnded: self.on_session_ended,
        }

    def _lock(self, event: Any) -> tuple[RunSeen, LockSeen] | None:
        run = self.fold.runs.get(event.run)
        return None if run is None or run.lock is None else (run, run.lock)

    def _wrong(self, promise: int, message: str, run: RunSeen, at: int) -> None:
        before = run.ended_at if run.ended_at is not None else run.changed_at
        self.lane.violation(promise, message, self.lane.event(before), self.lane.event(at))

    def _deed(self, event: Any, at: int, run: RunSeen, id: str = "", **more: Any) -> None:
        kind, place = type(event).__name__, input_of(event)
        self.deeds.append(Deed(kind, at, place, run, event.token, id, **more))

    # -- held -----------------------------------------------------------------------------------------------------

    def on_granted(self, event: Granted, at: int) -> None:
        found = self._lock(event)
        if found is None:
            return
        run, lock = found
        if event.claim_ms is None and event.input != lock.input:
            message = f"{run.id} had waited for {run.owner} and was granted it without a claim: perhaps nobody is there"
            self._wrong(7, message, run, at)
        self._deed(event, at, run, event.session, lease_ms=event.lease_ms)
        if event.claim_ms is None:
            self.farthest.append((run, event.clock_ms + event.lease_ms, at))

    def _is_live(self, run: RunSeen, token: int | None, at: int, did: str) -> bool:
        if run.state == "Held" and run.token == token:
            return True
        message = f"{run.id} {did} under token {token}, and it was not held under that: a lease came back"
        self._wrong(7, message, run, at)
        return False

    def on_renewed(self, event: Renewed, at: int) -> None:
        found = self._lock(event)
        if found is None:
            if not self.fold.partial:
                message = f"{event.run} was renewed, and is no lock that was ever accepted"
                self.lane.violation(7, message, self.lane.event(at))
            return
        run, lock = found
        if not self._is_live(run, event.token, at, "was renewed"):
            return
        if event.claimed != lock.unclaimed:
            is_so = "had been claimed before" if event.claimed else "was renewed before it was claimed"
            self._wrong(7, f"{run.id} {is_so}", run, at)
        left_ms = max(0, run.renewed_ms + run.lease_ms - event.clock_ms)
        if event.blocked is not None and not lock.unclaimed:
            if event.lease_ms != left_ms:
                message = f"{run.id} is blocked, and its lease of {left_ms} ms more is said to be of {event.lease_ms}"
                self._wrong(7, message, run, at)
        else:
            self._lease(run, lock, event, event.lease_ms, at)
        more = {"unclaimed": lock.unclaimed, "blocked": event.blocked is not None}
        self._deed(event, at, run, event.renewal, **more)

    def _lease(self, run: RunSeen, lock: LockSeen, event: Any, lease_ms: int, at: int) -> None:
        """A lease runs anew: for its whole time, unless that reaches beyond the longest hold."""
        if lease_ms == 0:
            return  # the longest hold was over, and the timer that says so had not fired yet
        until_ms = event.clock_ms + lease_ms
        self.farthest.append((run, until_ms, at))
        if lease_ms > lock.ttl_ms:
            self._wrong(7, f"{run.id} has a lease of {lease_ms} ms, and asked for {lock.ttl_ms}", run, at)
        elif lock.hold_until_ms is not None and until_ms != lock.hold_until_ms:
            message = f"the lease of {run.id} was cut at {lock.hold_until_ms} ms, and then at {until_ms} ms"
            self._wrong(7, message, run, at)
        elif lease_ms < lock.ttl_ms:
            self.cut.append((run, until_ms, run.granted_ms, at))

    def on_coalesced(self, event: Coalesced, at: int) -> None:
        found = self._lock(event)
        if found is None or event.repeat:
            return
        run, lock = found
        if self._is_live(run, event.token, at, "was had again"):
            self._lease(run, lock, event, event.lease_ms or 0, at)
            self._deed(event, at, run, event.request)

    def on_report(self, event: Progressed | AttemptFailed, at: int) -> None:
        found = self._lock(event)
        if found is not None:
            self._wrong(14, f"{event.run} is a lock, and a worker's report was believed of it", found[0], at)

    def on_fenced(self, event: Fenced, at: int) -> None:
        found = self._lock(event)
        if found is not None and found[0].state == "Held" and found[0].token == event.token:
            self._deed(event, at, found[0], event.report_id)

    # -- over -----------------------------------------------------------------------------------------------------

    def on_lost(self, event: Lost, at: int) -> None:
        found = self._lock(event)
        if found is None:
            return
        run, lock = found
        if not self._is_live(run, event.token, at, "was lost"):
            return
        if not event.final:
            self._wrong(7, f"{run.id} is a lock that was lost, and it is said to wait again", run, at)
        until_ms = run.renewed_ms + run.lease_ms
        if event.reason == "session_ended":
            if run.id not in self.session_ends.get(event.input, ()):
                self._wrong(7, f"{run.id} was taken from session {run.session}, which was not said to be over", run, at)
        elif event.reason != ("unclaimed" if lock.unclaimed else "lease_expired"):
            is_so = "waits to be claimed" if lock.unclaimed else "is claimed"
            self._wrong(7, f"{run.id} {is_so}, and was lost as {event.reason}", run, at)
        elif event.clock_ms < until_ms:
            self.lane.violation(
                7,
                f"the lease of {run.id} under token {event.token} ended at {event.clock_ms} ms, and it was granted or "
                f"renewed at {run.renewed_ms} ms until {until_ms} ms",
                self.lane.event(run.renewed_at),
                self.lane.event(at),
            )

    def on_session_ended(self, event: AgentSessionEnded, at: int) -> None:
        self.session_ends = {event.input: frozenset(event.runs)}

    def on_ended(self, event: Ended, at: int) -> None:
        found = self._lock(event)
        if found is None or event.repeat or event.coalesced or found[0].state == "Done":
            return
        run, lock = found
        error = None if event.error is None else event.error.code
        if event.status == "refused" and run.state == "Waiting":
            self._deed(event, at, run, error or "", lease_ms=event.clock_ms - run.accepted_ms)
        elif run.state == "Waiting" and event.status == "cancelled":
            self._deed(event, at, run, "withdrawn")
        elif run.state == "Held" and event.status in ("completed", "cancelled"):
            self._deed(event, at, run, event.status, unclaimed=lock.unclaimed, requests=event.requests)
        elif run.state == "Held" and error != "INTERNAL":
            message = f"{run.id} was held under token {run.token} and ended {event.status}: nobody gave it back"
            self._wrong(7, message, run, at)

    # -- when all has been read -----------------------------------------------------------------------------------

    def close(self, configured: Configured) -> None:
        """Hold each deed against its command, and leases against the longest hold."""
        for deed in self.deeds:
            self._judge(deed)
        self._longest(configured.max_hold_ms)
        for run in self.fold.locks:
            if self.fold.runs.get(run.id) is run:
                self._state(run)

    def _judge(self, deed: Deed) -> None:
        lock = self.lane.request_of(deed.run)
        if lock is None:
            self.lane.findings.undecided(14, COMMANDS_GONE)
            return
        if deed.kind == "Granted":
            self._granted(deed, lock)
            return
        if deed.kind == "Ended" and deed.id in ("LOCK_HELD", "DEADLOCK"):
            if deed.id == "LOCK_HELD" and deed.lease_ms < lock.wait_ms:
                message = f"{lock.id} would wait for {lock.wait_ms} ms, and was refused after {deed.lease_ms} ms"
                self.lane.violation(4, message, self.lane.event(deed.run.accepted_at), self.lane.event(deed.at))
            return
        said = None
        if deed.place is not None and deed.place[0] == topics.REQUESTS:
            said = self.lane.said.get(deed.place[1])
            if said is None and deed.place[1] < self.lane.begin_of(topics.REQUESTS):
                self.lane.findings.undecided(14, COMMANDS_GONE)
                return
        _RULES[deed.kind](self, deed, lock, said)

    def _told(self, promise: int, message: str, deed: Deed) -> None:
        command = () if deed.place is None else (self.lane.place(*deed.place),)
        self.lane.violation(promise, message, *command, self.lane.event(deed.at))

    def _granted(self, deed: Deed, lock: Said) -> None:
        if deed.id != lock.session:
            self._told(14, f"{lock.id} was asked for by session {lock.session}, and granted to {deed.id}", deed)
        if lock.ttl_ms is not None and deed.lease_ms != lock.ttl_ms:
            self._told(7, f"{lock.id} asked for a lease of {lock.ttl_ms} ms, and got one of {deed.lease_ms} ms", deed)

    def _renewed(self, deed: Deed, lock: Said, said: Said | None) -> None:
        if said is None or (said.kind, said.about, said.token) != ("Renewal", lock.id, deed.token):
            self._told(14, f"{lock.id} was renewed under token {deed.token} by no Renewal that says so", deed)
        elif said.secret != lock.secret:
            self._told(14, f"{lock.id} was renewed by who does not have its secret", deed)
        elif said.blocked and not deed.blocked and not deed.unclaimed:
            self._told(7, f"{lock.id} was renewed by who says that it is blocked", deed)
        elif said.id != deed.id:
            self._told(14, f"{lock.id} was renewed by {said.id}, and is said to be by {deed.id}", deed)

    def _coalesced(self, deed: Deed, lock: Said, said: Said | None) -> None:
        whose = None if said is None else (said.kind, said.id, said.session, said.hold, said.secret)
        if whose != ("LockRequest", deed.id, lock.session, lock.hold, lock.secret):
            message = f"{deed.id} was let into {lock.id}, which another session holds, or under another hold or secret"
            self._told(14, message, deed)

    def _ended(self, deed: Deed, lock: Said, said: Said | None) -> None:
        kind = "" if said is None else said.kind
        if deed.id == "withdrawn":
            if kind not in ("Cancellation", "SessionEnded", "LockRequest"):
                self._told(4, f"{lock.id} waited and ended as cancelled, and nobody had cancelled it", deed)
            elif said is not None and kind == "Cancellation" and said.about != lock.id:
                self._told(4, f"{lock.id} was ended by the cancellation of {said.about}", deed)
        elif said is not None and kind == "Release":
            if (said.about, said.token) != (lock.id, deed.token):
                self._told(14, f"{lock.id} was given back by a Release of {said.about} under token {said.token}", deed)
            elif said.secret != lock.secret:
                self._told(14, f"{lock.id} was given back by who does not have its secret", deed)
        elif said is None or deed.id == "completed" or kind != "Cancellation":
            self._told(14, f"{lock.id} was held under token {deed.token} and ended, and nobody gave it back", deed)
        elif said.about not in deed.requests:
            self._told(4, f"{lock.id} was ended by the cancellation of {said.about}", deed)
        elif said.secret != lock.secret and not deed.unclaimed:
            self._told(14, f"{lock.id} was cancelled while it was held, by who does not have its secret", deed)

    def _fenced(self, deed: Deed, lock: Said, said: Said | None) -> None:
        if said is None or said.kind not in ("Renewal", "Release"):
            return  # a worker has no say about a lock
        whole = (said.about, said.token, said.secret, said.resource)
        if whole == (lock.id, deed.token, lock.secret, lock.resource):
            self._told(7, f"{said.kind} {said.id} of who held {lock.id} was turned away as late", deed)

    def _longest(self, max_hold_ms: int | None) -> None:
        """A lease is cut only to the longest hold, and never reaches beyond; where that is known."""
        if max_hold_ms is None:
            for run, until_ms, _, at in self.cut:
                held = self._in_state(run)
                if held is None or held.hold_until_ms is None or held.token != run.token:
                    why = "leases of locks were cut short, and how long one may be held is not on record"
                    self.lane.findings.undecided(7, why)
                elif until_ms != held.hold_until_ms:
                    message = f"the lease of {run.id} was cut at {until_ms} ms, and it may last until "
                    self._wrong(7, f"{message}{held.hold_until_ms} ms", run, at)
            return
        for run, until_ms, granted_ms, at in self.cut:
            if until_ms != granted_ms + max_hold_ms:
                message = f"the lease of {run.id} was cut at {until_ms} ms, and it may last until "
                self._wrong(7, f"{message}{granted_ms + max_hold_ms} ms", run, at)
        for run, until_ms, at in self.farthest:
            if until_ms > run.granted_ms + max_hold_ms:
                message = f"{run.id} was granted at {run.granted_ms} ms, and its lease reaches until {until_ms} ms, "
                self._wrong(7, f"{message}beyond the longest hold", run, at)

    def _in_state(self, run: RunSeen) -> Run | None:
        record = self.lane.state.get(b"run/" + run.id.encode(), (-1, None))[1]
        return record if isinstance(record, Run) and record.order == run.order else None

    def _state(self, run: RunSeen) -> None:
        """State remembers a lock as it was asked for."""
        record, asked = self._in_state(run), self.lane.request_of(run)
        if record is None or asked is None:
            return
        kept = record.lock
        same = kept is not None and (kept.session, kept.hold, kept.wait_ms, kept.explicit) == (
            asked.session, asked.hold, asked.wait_ms, asked.explicit,
        )  # fmt: skip
        if kept is None or not same or not (asked.hidden or kept.secret_sha256 == asked.secret):
            self._wrong(9, f"{run.id} is kept in state as another lock than was asked for", run, run.accepted_at)


_RULES: dict[str, Any] = {
    "Renewed": Locks._renewed,
    "Coalesced": Locks._coalesced,
    "Ended": Locks._ended,
    "Fenced": Locks._fenced,
}
