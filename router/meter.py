"""What a lane's turns did, counted: a total projection of the events that they have committed; and how the lane stands.

Nothing here decides, and nothing is counted before its commit, so that a turn that is replayed counts once. The
series themselves are in `metrics.py`.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import Counter

from keylane.journal.port import Place
from keylane.router.core.lane import Lane
from keylane.router.core.records import Output
from keylane.router.metrics import OTHER, RouterMetrics
from keylane.schemas import events as said
from keylane.schemas.conflicts import ConflictArtifact

LOCK_CODES = ("LOCK_HELD", "DEADLOCK")
"""What the failed acquisition of a resource ends with (requirements, S4.3)."""
SAMPLES_MAX = 1_000


class Behind:
    """How long a lane has been behind an end of its input that was seen.

    By the router's own clock, not by the records' times, which agents' machines write. What already lay there when
    the lane was taken counts from then on; `keylane lag` shows the age of the record itself.
    """

    def __init__(self) -> None:
        self.records = 0
        self.since_s: float | None = None
        self._ends: deque[tuple[int, float]] = deque()

    def saw(self, end: int, at_s: float) -> None:
        """The input ends at `end` now."""
        if (not self._ends or end > self._ends[-1][0]) and len(self._ends) < SAMPLES_MAX:
            self._ends.append((end, at_s))

    def applied(self, position: int) -> None:
        """The lane has applied everything before `position`."""
        while self._ends and self._ends[0][0] <= position:
            self._ends.popleft()
        self.records = self._ends[-1][0] - position if self._ends else 0
        self.since_s = self._ends[0][1] if self._ends else None

    def age_s(self) -> float:
        """Asked from other threads, at a scrape: it grows also where the lane does not move."""
        since_s = self.since_s
        return 0.0 if since_s is None else time.monotonic() - since_s


class LaneMeter:
    """What one lane hands over. It outlives the lives of the lane, so that one that cannot be loaded is seen to lag."""

    def __init__(self, metrics: RouterMetrics, partition: int, inputs: Sequence[str]) -> None:
        self._metrics = metrics
        self._partition = str(partition)
        self._counts: defaultdict[Counter, float] = defaultdict(float)
        self._oldest_s: float | None = None
        self._positions: dict[str, int] = {}
        self._behind = {topic: Behind() for topic in inputs}
        self._turning = self._halted = self._closed = False
        metrics.oldest.labels(self._partition).set_function(self._oldest_wait_s)
        for topic, behind in self._behind.items():
            metrics.lag.labels(topic, self._partition).set(0)
            metrics.lag_age.labels(topic, self._partition).set_function(behind.age_s)
        for gauge in (metrics.depth, metrics.held, metrics.unserved, metrics.sessions):
            gauge.labels(self._partition).set(0)

    def places(self) -> list[Place]:
        """Whose ends `ends_seen` wants to be told."""
        return [Place(topic, int(self._partition)) for topic in self._behind]

    def ends_seen(self, ends: Mapping[Place, int]) -> None:
        """Where the lane's inputs end now. Before its first load nothing is known of how far it is."""
        if self._closed:
            return
        at_s = time.monotonic()
        for topic, behind in self._behind.items():
            behind.saw(ends[Place(topic, int(self._partition))], at_s)
        if self._positions:
            self._measure()

    def loaded(self, lane: Lane, positions: Mapping[str, int], now_ms: int) -> None:
        """A life of the lane begins."""
        self._metrics.loads.inc()
        self._set_turning(True)
        self.turned(lane, positions, now_ms)

    def stands(self) -> None:
        """A life ended: the lane does not turn."""
        self._set_turning(False)

    def reloads(self, reason: str) -> None:
        """Another life is to follow; `reason` is of `RELOADS`."""
        self._metrics.reloads[reason].inc()

    def halted(self) -> None:
        """No life follows until an operator has looked."""
        self._halted = True
        self._metrics.halted.inc()

    def turned(self, lane: Lane, positions: Mapping[str, int], now_ms: int) -> None:
        """How the lane stands after a turn. `now_ms` is lane time."""
        if self._closed:
            return
        self._positions = dict(positions)
        self._measure()
        metrics, partition = self._metrics, self._partition
        metrics.depth.labels(partition).set(len(lane.waiting))
        metrics.held.labels(partition).set(len(lane.held))
        metrics.unserved.labels(partition).set(len(lane.unserved))
        metrics.sessions.labels(partition).set(len(lane.sessions))
        accepted_ms = lane.waiting.first_ms()
        self._oldest_s = None if accepted_ms is None else time.monotonic() - max(0, now_ms - accepted_ms) / 1_000

    def committed(self, outputs: Sequence[Output], turn_s: float, commit_s: float) -> None:
        """These outputs are in the journal now."""
        for output in outputs:
            tally = TALLIES.get(type(output.record))
            if tally is not None:
                tally(self, output.record)
        for counter, amount in self._counts.items():
            counter.inc(amount)
        self._counts.clear()
        self._metrics.turns.observe(turn_s)
        self._metrics.commits.observe(commit_s)

    def close(self) -> None:
        """The lane is another router's now: it would be counted twice if its series stayed."""
        self._set_turning(False)
        self._closed = True  # the last turn may still be under way
        metrics, partition = self._metrics, self._partition
        if self._halted:
            metrics.halted.dec()
        for gauge in (metrics.depth, metrics.held, metrics.oldest, metrics.unserved, metrics.sessions):
            gauge.remove(partition)
        for topic in self._behind:
            metrics.lag.remove(topic, partition)
            metrics.lag_age.remove(topic, partition)

    def _measure(self) -> None:
        for topic, behind in self._behind.items():
            behind.applied(self._positions.get(topic, 0))
            self._metrics.lag.labels(topic, self._partition).set(behind.records)

    def _oldest_wait_s(self) -> float:
        since_s = self._oldest_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def _set_turning(self, turning: bool) -> None:
        if turning != self._turning:
            self._turning = turning
            self._metrics.owned.inc(1 if turning else -1)

    def _action(self, action: str) -> str:
        return action if action in self._metrics.waits else OTHER

    # -- one event each; TALLIES says which ----------------------------------------------------------------

    def _parked(self, event: said.Parked) -> None:
        if event.reason == "on_conflict":  # else it was accepted before
            self._queued(event)

    def _queued(self, event: said.Queued | said.Parked) -> None:
        if event.repeat:
            self._counts[self._metrics.repeated] += 1
        else:
            self._counts[self._metrics.accepted[self._action(event.action)]] += 1

    def _coalesced(self, event: said.Coalesced) -> None:
        if event.repeat:
            self._counts[self._metrics.repeated] += 1
            return
        action = self._action(event.action)
        self._counts[self._metrics.accepted[action]] += 1
        self._counts[self._metrics.coalesced[action]] += 1

    def _granted(self, event: said.Granted) -> None:
        action = self._action(event.action)
        self._counts[self._metrics.grants[action]] += 1
        if event.attempt == 1:
            self._metrics.waits[action].observe(event.waited_ms / 1_000)

    def _refused(self, event: said.Refused) -> None:
        if event.repeat:
            self._counts[self._metrics.repeated] += 1
            return
        self._counts[self._metrics.refusals[event.code]] += 1
        if event.code in LOCK_CODES:
            self._counts[self._metrics.lock_failures[self._action(event.action)]] += 1
        if event.command in ("WorkRequest", "LockRequest"):
            self._counts[self._metrics.ended["refused"]] += 1

    def _attempt_failed(self, event: said.AttemptFailed) -> None:
        self._counts[self._metrics.failed[self._action(event.action)]] += 1

    def _lost(self, event: said.Lost) -> None:
        self._counts[self._metrics.expirations[self._action(event.action), event.reason]] += 1

    def _fenced(self, event: said.Fenced) -> None:
        self._counts[self._metrics.fenced[event.report]] += 1

    def _withdrawn(self, event: said.Withdrawn) -> None:
        if event.repeat:
            self._counts[self._metrics.repeated] += 1
        else:
            self._counts[self._metrics.ended[event.status]] += 1

    def _ended(self, event: said.Ended) -> None:
        if event.repeat:
            self._counts[self._metrics.repeated] += 1
            return
        action = self._action(event.action)
        self._counts[self._metrics.ended[event.status]] += len(event.requests)
        if event.status == "refused" and event.error is not None and event.error.code in LOCK_CODES:
            self._counts[self._metrics.lock_failures[action]] += 1
        if event.coalesced:
            self._counts[self._metrics.accepted[action]] += len(event.requests)
            self._counts[self._metrics.coalesced[action]] += len(event.requests)
        elif event.held_ms is not None:
            self._metrics.handlings[action].observe(event.held_ms / 1_000)

    def _dead_lettered(self, event: said.DeadLettered) -> None:
        self._counts[self._metrics.dead_letters[event.code]] += 1

    def _conflict(self, artifact: ConflictArtifact) -> None:
        self._counts[self._metrics.conflicts[artifact.kind]] += 1
        if artifact.kind == "inconsistent_state":
            self._counts[self._metrics.inconsistent[self._action(artifact.action)]] += 1


TALLIES: dict[type, Callable[[LaneMeter, Any], None]] = {
    said.Queued: LaneMeter._queued,
    said.Parked: LaneMeter._parked,
    said.Coalesced: LaneMeter._coalesced,
    said.Granted: LaneMeter._granted,
    said.Refused: LaneMeter._refused,
    said.AttemptFailed: LaneMeter._attempt_failed,
    said.Lost: LaneMeter._lost,
    said.Fenced: LaneMeter._fenced,
    said.Withdrawn: LaneMeter._withdrawn,
    said.Ended: LaneMeter._ended,
    said.DeadLettered: LaneMeter._dead_lettered,
    ConflictArtifact: LaneMeter._conflict,
}
UNCOUNTED = {
    said.Renewed,
    said.AgentSessionEnded,
    said.Progressed,
    said.StopAsked,
    said.CancellationKept,
    said.Delayed,
    said.Decided,
    said.ApprovalVoided,
    said.Changed,
    said.Resolved,
    said.SentOn,
    said.WorkerOpened,
    said.WorkerClosed,
}
"""With `TALLIES` every event has its place; a test holds that."""
