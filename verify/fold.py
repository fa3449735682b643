"""An independent fold of a lane's events: what its runs, leases, queues and sessions were at each position.

It believes what it reads and judges nothing; rules look at it as it stood before an event, and it goes on from
there whatever they find. Where events are missing it forgets everything and is `partial` from then on: what it
knows is true, and what it does not know may be so all the same.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from keylane.schemas.events import (
    ApprovalVoided,
    AttemptFailed,
    Coalesced,
    Decided,
    Delayed,
    Ended,
    Granted,
    Lost,
    Parked,
    Progressed,
    Queued,
    Refused,
    Renewed,
    StopAsked,
    Withdrawn,
    WorkerClosed,
    WorkerOpened,
)
from keylane.schemas.state import LOCK_ACTION

from .seen import IdSeen, LockSeen, RunSeen, SessionSeen

FORGETTABLE = frozenset(("BAD_RECORD", "BAD_KEY", "TOO_LARGE", "INTERNAL"))
"""Refusals that a lane need not remember: they say what is wrong with the record, and say it again each time."""
ACCEPTABLE = frozenset(("WorkRequest", "LockRequest"))
"""Commands whose refusal is their one end."""


Heap = list[tuple[int, RunSeen]]


class Fold:
    """One lane. `apply` takes the next event; everything else is for reading."""

    def __init__(self) -> None:
        self.partial = False
        self.last_seq = 0
        self.last_ms = 0
        self.last_at = -1
        self.last_token = 0
        self.last_token_at = -1
        self.lost_at = -1
        """Events are missing behind this one, the last time that any are."""
        self.locks: list[RunSeen] = []
        """All that were ever accepted. One of before `lost_at` that is not over may be so all the same."""
        self._clear()

    def _clear(self) -> None:
        self.runs: dict[str, RunSeen] = {}
        self.ids: dict[str, IdSeen] = {}
        self.live: dict[str, RunSeen] = {}
        self.waiting: dict[str, dict[str, RunSeen]] = {}
        self.sessions: dict[str, SessionSeen] = {}
        self.serving: dict[str, dict[str, int]] = {}
        """By action: the pools whose open sessions handle it."""
        self.pool_of: dict[str, str] = {}
        """The pool that an action's work goes to, where that was seen since the lane was last loaded."""
        self.ready: dict[str, dict[str, Heap]] = {}
        """By owning key and action: what waits and is in no backoff, oldest first; with entries that are over."""
        self._backing_off: list[tuple[int, int, RunSeen]] = []
        self._fired_ms = 0

    def lose_track(self) -> None:
        """Events are missing before the next one."""
        self.partial = True
        self.lost_at = self.last_at
        self._clear()

    def apply(self, event: Any, at: int) -> None:
        """Take the event at offset `at` into account."""
        self.last_seq, self.last_ms, self.last_at = event.seq, event.clock_ms, at
        handler = _APPLY.get(type(event))
        if handler is not None:
            handler(self, event, at)

    def first_ready(self, owner: str, action: str) -> RunSeen | None:
        """The oldest run of this action that waits for the key and is known to be in no backoff."""
        heaps = self.ready.get(owner)
        heap = None if heaps is None else heaps.get(action)
        if heaps is None or heap is None:
            return None
        while heap:
            order, run = heap[0]
            if run.state == "Waiting" and run.ready_ms is None and run.order == order and self.runs.get(run.id) is run:
                return run
            heappop(heap)
        del heaps[action]
        if not heaps:
            del self.ready[owner]
        return None

    def serves(self, action: str) -> bool:
        """Whether an open session of the action's pool is known to handle it."""
        pool = self.pool_of.get(action)
        return pool is not None and pool in self.serving.get(action, ())

    # -- one event each -----------------------------------------------------------------------------------------

    def _queued(self, event: Queued, at: int) -> None:
        if not event.unserved and not event.repeat:
            pools = self.serving.get(event.action, {})
            if len(pools) == 1:
                self.pool_of[event.action] = next(iter(pools))
        if event.repeat:
            return
        run = self._accepted(event, at)
        if event.action == LOCK_ACTION:
            run.lock = LockSeen(event.input)
            self.locks.append(run)
        run.ready_ms = event.clock_ms + event.ready_in_ms if event.ready_in_ms else None
        self._wait(run)

    def _accepted(self, event: Queued | Parked, at: int) -> RunSeen:
        run = RunSeen(event, at)
        self.runs[run.id] = run
        self.ids[event.request] = IdSeen(event, run.id, at)
        return run

    def _parked(self, event: Parked, at: int) -> None:
        if event.repeat:
            return
        if event.reason == "on_conflict":
            self._accepted(event, at).state = "Parked"
            return
        run = self.runs.get(event.run)
        if run is not None:
            self._park(run, event, at)

    def _park(self, run: RunSeen, event: Parked | ApprovalVoided, at: int) -> None:
        self._leave_queue(run)
        if self.live.get(run.owner) is run:
            del self.live[run.owner]
        run.state, run.ready_ms = "Parked", None
        run.changed_seq, run.changed_at = event.seq, at

    def _voided(self, event: ApprovalVoided, at: int) -> None:
        run = self.runs.get(event.run)
        if run is not None:
            self._park(run, event, at)

    def _decided(self, event: Decided, at: int) -> None:
        run = self.runs.get(event.run)
        if run is None:
            return
        run.changed_seq, run.changed_at = event.seq, at
        if event.verdict == "approve":
            self._wait(run)

    def _delayed(self, event: Delayed, at: int) -> None:
        run = self.runs.get(event.run)
        if run is not None and run.state == "Waiting":
            run.changed_seq, run.changed_at = event.seq, at
            run.ready_ms = event.clock_ms + event.ready_in_ms
            self._wait(run)

    def _wait(self, run: RunSeen) -> None:
        run.state = "Waiting"
        self.waiting.setdefault(run.owner, {})[run.id] = run
        if run.ready_ms is None:
            self._ripe(run)
        else:
            heappush(self._backing_off, (run.ready_ms, run.order, run))

    def _ripe(self, run: RunSeen) -> None:
        heappush(self.ready.setdefault(run.owner, {}).setdefault(run.action, []), (run.order, run))

    def fire(self, due_ms: int) -> None:
        """A timer that fell due then has fired: so have all that fell due before (design section 4, the clock)."""
        self._fired_ms = max(self._fired_ms, due_ms)
        while self._backing_off and self._backing_off[0][0] < self._fired_ms:
            ready_ms, _, run = heappop(self._backing_off)
            if run.state == "Waiting" and run.ready_ms == ready_ms:
                run.ready_ms = None
                self._ripe(run)

    def _coalesced(self, event: Coalesced, at: int) -> None:
        if event.repeat:
            return
        self.ids[event.request] = IdSeen(event, event.run, at)
        run = self.runs.get(event.run)
        if run is not None:
            run.members[event.request] = at
            run.requests += 1
            run.changed_seq, run.changed_at = event.seq, at
            if run.lock is not None and event.lease_ms is not None and run.token == event.token:
                self._lease(run, run.lock, event, event.lease_ms, at)

    def _renewed(self, event: Renewed, at: int) -> None:
        run = self.runs.get(event.run)
        if run is None or run.lock is None or run.token != event.token or run.state != "Held":
            return
        run.changed_seq, run.changed_at = event.seq, at
        if event.blocked is None or run.lock.unclaimed:
            self._lease(run, run.lock, event, event.lease_ms, at)

    def _lease(self, run: RunSeen, lock: LockSeen, event: Renewed | Coalesced, lease_ms: int, at: int) -> None:
        """A lock's lease runs anew, or begins."""
        run.renewed_ms, run.renewed_at, run.lease_ms = event.clock_ms, at, lease_ms
        lock.unclaimed = False
        if lease_ms < lock.ttl_ms:
            lock.hold_until_ms = event.clock_ms + lease_ms

    def _leave_queue(self, run: RunSeen) -> None:
        queue = self.waiting.get(run.owner)
        if queue is not None and queue.get(run.id) is run:
            del queue[run.id]
            if not queue:
                del self.waiting[run.owner]

    def _granted(self, event: Granted, at: int) -> None:
        if event.token != self.last_token + 1:
            self.pool_of.clear()  # the lane may have been loaded anew, with another configuration
        self.last_token, self.last_token_at = max(self.last_token, event.token), at
        session = self.sessions.get(event.session)
        if session is not None and event.action != LOCK_ACTION:
            self.pool_of[event.action] = session.pool
        run = self.runs.get(event.run)
        if run is None:
            return
        if run.ready_ms is not None and run.ready_ms <= event.clock_ms:  # else enough others had joined it
            self.fire(run.ready_ms)
        self._leave_queue(run)
        run.state = "Held"
        run.ready_ms = None
        run.token, run.session, run.attempt = event.token, event.session, event.attempt
        run.granted_at = run.renewed_at = run.changed_at = at
        run.granted_ms = run.renewed_ms = event.clock_ms
        run.lease_ms = event.lease_ms
        if run.lock is not None:
            run.lock.ttl_ms, run.lock.unclaimed = event.lease_ms, event.claim_ms is not None
            run.lease_ms = event.lease_ms if event.claim_ms is None else event.claim_ms
        run.changed_seq = event.seq
        self.live[run.owner] = run

    def _progressed(self, event: Progressed, at: int) -> None:
        run = self.runs.get(event.run)
        if run is not None and run.token == event.token and run.state == "Held":
            run.changed_seq, run.changed_at = event.seq, at
            if event.blocked is None:
                run.renewed_ms, run.renewed_at = event.clock_ms, at

    def _stop_asked(self, event: StopAsked, at: int) -> None:
        run = self.runs.get(event.run)
        if run is not None:
            run.changed_seq, run.changed_at = event.seq, at

    def _let_go(self, event: AttemptFailed | Lost, at: int) -> None:
        run = self.runs.get(event.run)
        if run is None or run.state != "Held":
            return
        if self.live.get(run.owner) is run:
            del self.live[run.owner]
        run.changed_seq, run.changed_at = event.seq, at
        run.ready_ms = event.clock_ms + event.retry_in_ms if event.retry_in_ms else None
        if isinstance(event, Lost):
            run.final_at = at if event.final else None
            run.attempt -= not event.spent
        if run.final_at is None:
            self._wait(run)
        else:
            run.state = "Lost"

    def _refused(self, event: Refused, at: int) -> None:
        if event.repeat or event.command not in ACCEPTABLE:
            return
        seen = self.ids[event.request] = IdSeen(event, "", at)
        seen.done_at, seen.done_ms, seen.code = at, event.clock_ms, event.code

    def _withdrawn(self, event: Withdrawn, at: int) -> None:
        if event.repeat:
            return
        self._done(event.request, event.clock_ms, at)
        run = self.runs.get(event.run)
        if run is not None:
            run.members.pop(event.request, None)
            run.changed_seq, run.changed_at = event.seq, at

    def _done(self, request: str, clock_ms: int, at: int) -> None:
        seen = self.ids.get(request)
        if seen is not None and seen.done_at is None:
            seen.done_at, seen.done_ms = at, clock_ms

    def _ended(self, event: Ended, at: int) -> None:
        if event.repeat:
            return
        run = self.runs.get(event.run)
        if event.coalesced:
            for request in event.requests:
                seen = self.ids[request] = IdSeen(event, event.run, at)
                # It is forgotten with its run, which may have ended long before it came.
                seen.done_at, seen.done_ms = at, 0 if run is None else run.ended_ms
            if run is not None:
                run.requests += 1
            return
        for request in event.requests:
            self._done(request, event.clock_ms, at)
        if run is None or run.state == "Done":
            return
        self._leave_queue(run)
        if self.live.get(run.owner) is run:
            del self.live[run.owner]
        run.state = "Done"
        run.status = event.status
        run.outcome = outcome_of(event)
        run.ended_at = run.changed_at = at
        run.ended_ms = event.clock_ms
        run.changed_seq = event.seq
        run.members = {}
        if run.lock is not None:
            run.lock.ended_by = event.input

    def _opened(self, event: WorkerOpened, at: int) -> None:
        self.sessions[event.session] = SessionSeen(event, at)
        for action in event.actions:
            pools = self.serving.setdefault(action, {})
            pools[event.pool] = pools.get(event.pool, 0) + 1

    def _closed(self, event: WorkerClosed, at: int) -> None:
        session = self.sessions.pop(event.session, None)
        if session is None:
            return
        for action in session.actions:
            pools = self.serving[action]
            pools[session.pool] -= 1
            if not pools[session.pool]:
                del pools[session.pool]
                if not pools:
                    del self.serving[action]


def outcome_of(event: Ended) -> int:
    """What an outcome says, small enough to keep of every run."""
    return hash((event.status, bytes(event.result), event.version, event.token, event.superseded_by))


_APPLY: dict[type, Any] = {
    Queued: Fold._queued,
    Parked: Fold._parked,
    Delayed: Fold._delayed,
    Decided: Fold._decided,
    ApprovalVoided: Fold._voided,
    Coalesced: Fold._coalesced,
    Granted: Fold._granted,
    Renewed: Fold._renewed,
    Progressed: Fold._progressed,
    StopAsked: Fold._stop_asked,
    AttemptFailed: Fold._let_go,
    Lost: Fold._let_go,
    Refused: Fold._refused,
    Withdrawn: Fold._withdrawn,
    Ended: Fold._ended,
    WorkerOpened: Fold._opened,
    WorkerClosed: Fold._closed,
}
