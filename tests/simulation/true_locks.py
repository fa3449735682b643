"""The rules of locks, held against each decision: who is let in, whose turn it is, who may say what, how it ends.

Told from the brief of the design (section 4, locks) and from what each event answers; none of the core's code. What
was to be answered and was not is in `true_answers`, who waits for whom in `true_waits`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from simulation.findings import true_owner
from simulation.true_lock_runs import LockSeen, held, is_shaped, of_session, waiting_runs
from simulation.true_runs import RulesSeen
from simulation.true_waits import TrueWaits

from keylane.schemas.events import (
    AgentSessionEnded,
    Coalesced,
    Ended,
    Fenced,
    Granted,
    Lost,
    Queued,
    Refused,
    Renewed,
    StopAsked,
    Withdrawn,
)
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, SessionEnded
from keylane.schemas.state import LOCK_ACTION, Run

OVERDUE_MS = 3_000
"""How late a timer may fire where nothing is wrong."""
OF_LOCKS = ("LockRequest", "Renewal", "Release", "SessionEnded")


def is_of_locks(event: Any) -> bool:
    """Whether an event is about a lock, or answers what only locks are told."""
    if isinstance(event, AgentSessionEnded | Renewed) or getattr(event, "action", "") == LOCK_ACTION:
        return True
    return getattr(event, "command", getattr(event, "report", "")) in OF_LOCKS


class TrueLocks:
    """The locks of all lanes."""

    def __init__(self, seen: RulesSeen, waits: TrueWaits) -> None:
        self._seen = seen
        self._waits = waits
        self._policy = seen.policy.locks
        self._ending: list[LockSeen] = []
        """What is to be over at the end of this commit, since its session is."""
        self.handlers: dict[type, Callable[[Any, int], None]] = {
            Queued: self._queued,
            Coalesced: self._coalesced,
            Refused: self._refused,
            Granted: self._granted,
            Renewed: self._renewed,
            Fenced: self._fenced,
            StopAsked: self._stop_asked,
            Withdrawn: self._withdrawn,
            Lost: self._lost,
            AgentSessionEnded: self._session_ended,
            Ended: self._ended,
        }

    # -- to have one ------------------------------------------------------------------------------------------

    def _queued(self, event: Queued, partition: int) -> None:
        if event.repeat:
            return
        request = self._seen.record(event, partition)
        assert isinstance(request, LockRequest)
        lock = LockSeen(event, request, self._policy)
        if event.owner != true_owner(event.resource):
            self._seen.broken("wrong owner", f"{lock.id} on {event.resource} was put under {event.owner}")
        before = len(list(waiting_runs(self._seen, lock.owner)))
        if event.position != before:
            self._seen.broken("wrong place", f"{lock.id} was told {event.position}, and {before} wait")
        if not is_shaped(request, self._policy):
            self._seen.broken("misshapen", f"{lock.id} was accepted, and it asks for what none may")
        if self._seen.cancelled.get((partition, request.id)) != event.resource:
            if self._is_refused_at_once(lock):
                self._seen.broken("lock not refused", f"{lock.id} would not wait, and was accepted behind others")
            if self._is_had(event.owner, request):
                self._seen.broken("not had again", f"{lock.id} is a lock of its own, and its session has it already")
        if len(of_session(self._seen, partition, request.session)) >= self._seen.policy.bounds.locks_per_session:
            self._seen.broken("too many locks", f"{lock.id} was accepted, and {request.session} has as many as it may")
        id = (partition, lock.id)
        self._seen.locks[id] = self._seen.open_locks[id] = self._seen.alive[lock.owner][id] = lock

    def _others(self, owner: str) -> list[Any]:
        return [run for run in self._seen.alive[owner].values() if run.state in ("Waiting", "Held")]

    def _is_refused_at_once(self, lock: LockSeen) -> bool:
        """It would not wait, others are there, and no graph has to be asked about them."""
        return bool(not lock.terms.wait_ms and self._others(lock.owner) and not self._is_looked_at(lock))

    def _is_looked_at(self, lock: LockSeen) -> bool:
        """Whether its waiting can close a cycle: its session may hold others, and so may the one that it waits for."""
        holder = held(self._seen, lock.owner)
        return lock.terms.explicit and isinstance(holder, LockSeen) and holder.terms.session != lock.terms.session

    def _is_had(self, owner: str, request: LockRequest) -> bool:
        holder = held(self._seen, owner)
        return isinstance(holder, LockSeen) and holder.is_of(request) and not holder.stopping

    def _coalesced(self, event: Coalesced, partition: int) -> None:
        if event.repeat:
            return
        request, lock = self._seen.record(event, partition), self._seen.locks[partition, event.run]
        assert isinstance(request, LockRequest)
        if lock.state != "Held" or not lock.is_of(request) or lock.stopping or event.token != lock.token:
            self._seen.broken("wrongly had", f"{request.id} was given {lock.id}, which its session does not hold so")
            return
        lock.members[request.id] = request
        lock.joined += 1
        lock.blocked = None
        self._counts(event, lock, lock.renew(event.clock_ms))

    def _counts(self, event: Coalesced | Renewed, lock: LockSeen, left_ms: int) -> None:
        if event.lease_ms != left_ms:
            self._seen.broken("wrong lease", f"{lock.id} was told {event.lease_ms} ms, and has {left_ms}")

    def _refused(self, event: Refused, partition: int) -> None:
        record = self._seen.record(event, partition)
        if event.repeat or record is None:
            return
        if isinstance(record, LockRequest):
            if not self._is_grounded(event, partition, record):
                self._seen.broken("wrongly refused", f"{record.id} (lock): {event.code}, without ground")

    def _is_grounded(self, event: Refused, partition: int, request: LockRequest) -> bool:
        owner, bounds = true_owner(event.resource), self._seen.policy.bounds
        holder = held(self._seen, owner)
        match event.code:
            case "BAD_RECORD":
                return not is_shaped(request, self._policy)
            case "LOCK_HELD":
                is_named = not isinstance(holder, LockSeen) or event.holder == holder.holder
                may_close = request.explicit and isinstance(holder, LockSeen)
                may_close = may_close and holder.terms.session != request.session  # type: ignore[union-attr]
                is_there = bool(self._others(owner) and event.retry_after_ms and event.position)
                return is_there and is_named and not request.wait_ms and not may_close
            case "QUEUE_FULL":
                waiting = [run for run in self._seen.alive[owner].values() if run.state in ("Waiting", "Parked")]
                joins = isinstance(holder, LockSeen) and holder.joined >= bounds.members_per_run
                of_its_own = len(of_session(self._seen, partition, request.session))
                is_full = len(waiting) >= bounds.waiters_per_resource or of_its_own >= bounds.locks_per_session
                return joins or is_full
        return True

    # -- its turn ---------------------------------------------------------------------------------------------

    def _granted(self, event: Granted, partition: int) -> None:
        lock = self._seen.locks[partition, event.run]
        if lock.state != "Waiting":
            self._seen.broken("granted over", f"{lock.id} was granted, and it is {lock.state}")
        first = next((run for run in waiting_runs(self._seen, lock.owner) if isinstance(run, LockSeen)), lock)
        if first.order < lock.order:
            self._seen.broken("past a waiter", f"{lock.id} was granted before {first.id}, which had come first")
        if event.clock_ms >= lock.waits_until_ms and event.input != lock.input:
            self._seen.broken("granted too late", f"{lock.id} was granted, and its wait had been over")
        as_it_came = event.input == lock.input
        claim_ms = None if as_it_came else self._policy.claim_ms
        said = (event.claim_ms, event.lease_ms, event.session, event.holder, event.attempt)
        if said != (claim_ms, lock.ttl_ms, lock.terms.session, lock.holder, 1):
            self._seen.broken("wrong grant", f"of {lock.id}: {said}; claim {claim_ms}, lease {lock.ttl_ms}")
        if set(event.requests) != set(lock.members):
            self._seen.broken("wrong grant", f"of {lock.id}: to {event.requests}, and it is of {sorted(lock.members)}")
        lock.state, lock.token = "Held", event.token
        lock.hold_until_ms = event.clock_ms + self._policy.max_hold_ms
        lock.until_ms = min(event.clock_ms + (claim_ms or lock.ttl_ms), lock.hold_until_ms)
        lock.unclaimed = not as_it_came

    # -- while it is held -------------------------------------------------------------------------------------

    def _renewed(self, event: Renewed, partition: int) -> None:
        renewal, lock = self._seen.record(event, partition), self._seen.locks[partition, event.run]
        assert isinstance(renewal, Renewal)
        if not self._speaks_for(renewal, lock):
            self._seen.broken("wrongly renewed", f"{lock.id} ({lock.state}, {lock.token}) by {renewal.id}")
        said = (event.renewal, event.token, event.claimed, event.blocked)
        if said != (renewal.id, lock.token, lock.unclaimed, renewal.blocked):
            self._seen.broken("wrongly renewed", f"{lock.id}: {said}")
        lock.blocked = renewal.blocked
        if renewal.blocked and not lock.unclaimed:
            self._counts(event, lock, max(0, lock.until_ms - event.clock_ms))
        else:
            self._counts(event, lock, lock.renew(event.clock_ms))

    def _speaks_for(self, report: Renewal | Release, lock: LockSeen) -> bool:
        return lock.state == "Held" and lock.obeys(report) and true_owner(report.resource) == lock.owner

    def _fenced(self, event: Fenced, partition: int) -> None:
        report = self._seen.record(event, partition)
        if not isinstance(report, Renewal | Release):
            return  # a worker's, which has no say about a lock
        lock = self._seen.locks.get((partition, report.run))
        if event.report_id != report.id:
            self._seen.broken("wrongly fenced", f"{report.id} is called {event.report_id}")
        if lock is not None and self._speaks_for(report, lock):
            self._seen.broken("wrongly fenced", f"{report.id}, of {lock.id}, which it may speak for")

    def _stop_asked(self, event: StopAsked, partition: int) -> None:
        lock, said = self._seen.locks[partition, event.run], self._seen.record(event, partition)
        if not isinstance(said, Cancellation) or lock.state != "Held" or not lock.is_meant_by(said):
            self._seen.broken("wrongly stopped", f"{lock.id} ({lock.state}) was asked to stop by {event.input}")
        elif lock.unclaimed or said.secret == lock.terms.secret:
            self._seen.broken("not cancelled at once", f"{lock.id} was asked to stop, and {said.id} was to end it")
        lock.stopping = True

    def _withdrawn(self, event: Withdrawn, partition: int) -> None:
        if not event.repeat:
            self._seen.locks[partition, event.run].members.pop(event.request, None)

    # -- the end ----------------------------------------------------------------------------------------------

    def _session_ended(self, event: AgentSessionEnded, partition: int) -> None:
        said = self._seen.record(event, partition)
        assert isinstance(said, SessionEnded)
        its = [lock for _, lock in of_session(self._seen, partition, said.session) if lock.is_ended_by(said)]
        if (event.ended, event.session, event.runs) != (said.id, said.session, tuple(lock.id for lock in its)):
            self._seen.broken("session ended otherwise", f"{said.id}: {event.runs}, and its are {[x.id for x in its]}")
        self._ending += its

    def _lost(self, event: Lost, partition: int) -> None:
        lock, said = self._seen.locks[partition, event.run], self._seen.record(event, partition)
        is_due = event.clock_ms >= lock.until_ms
        grounds = {
            "lease_expired": is_due and not lock.unclaimed,
            "unclaimed": is_due and lock.unclaimed,
            "session_ended": isinstance(said, SessionEnded) and lock.is_ended_by(said),
        }
        if lock.state != "Held" or event.token != lock.token or not grounds.get(event.reason, False):
            self._seen.broken("wrongly lost", f"{lock.id} ({lock.state}, until {lock.until_ms}): {event.reason}")
        if not event.final or event.session != lock.terms.session:
            self._seen.broken("wrongly lost", f"{lock.id}: a lock has one attempt, and one session")
        lock.lost = event.reason

    def _ended(self, event: Ended, partition: int) -> None:
        lock = self._seen.locks.get((partition, event.run))
        if lock is None or event.repeat or event.coalesced or lock.state == "Done":
            return
        said = self._seen.record(event, partition)
        if not self._is_its_end(event, lock, said, partition):
            code = "" if event.error is None else event.error.code
            self._seen.broken("lock ended otherwise", f"{lock.id} ({lock.state}): {event.status} {code}, by {said}")
        if set(event.requests) != set(lock.members):
            self._seen.broken("lock ended otherwise", f"{lock.id}: for {event.requests}, of {sorted(lock.members)}")
        lock.state, lock.status = "Done", event.status
        self._seen.alive[lock.owner].pop((partition, lock.id), None)
        self._seen.open_locks.pop((partition, lock.id), None)

    def _is_its_end(self, event: Ended, lock: LockSeen, said: Any, partition: int) -> bool:
        is_held = lock.state == "Held"
        released = is_held and isinstance(said, Release) and lock.obeys(said)
        match event.status:
            case "completed":
                return released and not lock.stopping
            case "cancelled" if lock.stopping:
                return released or bool(lock.lost) or (isinstance(said, Cancellation) and self._gives_up(lock, said))
            case "cancelled":
                kept = self._seen.cancelled.get((partition, lock.id)) == lock.resource
                ended = isinstance(said, SessionEnded) and lock.is_ended_by(said) and not is_held
                return ended or (kept if isinstance(said, LockRequest) else self._gives_up(lock, said))
            case "failed":
                code = None if event.error is None else event.error.code
                return code == "INTERNAL" or (code == "EXPIRED" and bool(lock.lost))
            case "refused":
                return not is_held and self._is_refused_late(event, lock, partition)
        return False

    def _gives_up(self, lock: LockSeen, said: Any) -> bool:
        """Whether a cancellation ends it: what waits, what nobody has claimed, and what its own session gives back."""
        if not isinstance(said, Cancellation) or not lock.is_meant_by(said):
            return False
        return lock.state == "Waiting" or lock.unclaimed or said.secret == lock.terms.secret

    def _is_refused_late(self, event: Ended, lock: LockSeen, partition: int) -> bool:
        assert event.error is not None
        if event.error.code == "DEADLOCK":
            return lock.terms.explicit and self._waits.is_deadlock(event, lock, partition)
        if event.error.code != "LOCK_HELD":
            return False
        holder = held(self._seen, lock.owner)
        if isinstance(holder, LockSeen) and event.holder != holder.holder:
            return False
        before = next(waiting_runs(self._seen, lock.owner), lock)
        in_the_way = holder is not None or before is not lock
        if not event.retry_after_ms or in_the_way != bool(event.holder and event.position):
            return False
        return event.clock_ms >= lock.waits_until_ms or (not lock.terms.wait_ms and self._waits.has_come_back(lock))

    def look(self, clocks_ms: dict[int, int]) -> None:
        """Some time after healing: by each lane's own clock what waits, or is held, ends when its time is over."""
        for (partition, _), lock in self._seen.open_locks.items():
            until_ms = lock.waits_until_ms if lock.state == "Waiting" else lock.until_ms
            if clocks_ms.get(partition, 0) > until_ms + OVERDUE_MS:
                self._seen.broken("without end", f"{lock.id} is {lock.state}, and was to end at {until_ms}")
                lock.waits_until_ms = lock.until_ms = 2**61

    # -- what goes with the events of a commit ----------------------------------------------------------------

    def committed(self) -> None:
        """All of it has been seen."""
        for lock in self._ending:
            if lock.state != "Done":
                self._seen.broken("outlives its session", f"{lock.id} is {lock.state}")
        self._ending = []

    def kept(self, record: Run, partition: int) -> None:
        """A run as the lane keeps it."""
        lock = self._seen.locks.get((partition, record.id))
        if lock is None or record.lock is None or record.state != lock.state:
            return
        terms, wanted = record.lock, lock.terms
        digest = hashlib.sha256(wanted.secret.encode()).hexdigest()
        if (terms.session, terms.secret_sha256, terms.hold) != (wanted.session, digest, wanted.hold):
            self._seen.broken("wrong lock", f"{lock.id} is kept as of {terms.session}")
        if lock.state != "Held":
            return
        kept = (record.token, record.lease_until_ms, record.unclaimed, record.blocked, record.stop is not None)
        true = (lock.token, lock.until_ms, lock.unclaimed, lock.blocked, lock.stopping)
        if kept != true:
            self._seen.broken("wrong lease", f"of {lock.id}: {kept}, and it is {true}")
