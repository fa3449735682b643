"""What becomes of runs, held against the rules of dispatch, of reviews and of changes made outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulation.true_runs import RulesSeen, RunSeen

from keylane.schemas.events import (
    ApprovalVoided,
    AttemptFailed,
    Changed,
    Decided,
    Delayed,
    Ended,
    Granted,
    Lost,
    Progressed,
    StopAsked,
    Withdrawn,
    WorkerOpened,
)
from keylane.schemas.requests import Decision, ResourceChange
from keylane.schemas.results import Failed, Progress


class TrueTurns:
    """Whose turn it is, what that means, and how it ends."""

    def __init__(self, seen: RulesSeen) -> None:
        self._seen = seen
        self.handlers: dict[type, Callable[[Any, int], None]] = {
            Granted: self._granted,
            Progressed: self._progressed,
            AttemptFailed: self._let_go,
            Lost: self._let_go,
            StopAsked: self._stop_asked,
            Withdrawn: self._withdrawn,
            Ended: self._ended,
            Changed: self._changed,
            Decided: self._decided,
            ApprovalVoided: self._voided,
            WorkerOpened: self._opened,
            Delayed: self._delayed,
        }

    def _granted(self, event: Granted, partition: int) -> None:
        run, policy = self._seen.runs[partition, event.run], self._seen.policy.of(event.action)
        self._goes_forward(event, run)
        self._is_its_time(event, run)
        if self._seen.pools.get((partition, event.session)) != policy.pool:
            self._seen.broken("wrong pool", f"{run.id} ({run.action}) was granted to a session of another pool")
        for request, since_ms in run.members.values():
            if request.deadline_ms is not None and since_ms + request.deadline_ms <= event.clock_ms:
                self._seen.broken("past deadline", f"{run.id} was granted after the deadline of {request.id}")
        if policy.limit is not None:
            self._seen.known.counted(run.owner, run.action)[run.id] = run.resource
        if run.granted is None:
            run.granted = event.seq
            self._seen.known.of(run.resource).started[run.action] = event.clock_ms
        run.state, run.token, run.holder = "Held", event.token, event.holder
        run.granted_ms = run.renewed_ms = event.clock_ms
        run.lease_ms = event.lease_ms
        leads, merged = run.payloads()
        self._seen.items[partition, event.token] = (leads, merged, run.decided_on(), run.checkpoint)

    def _goes_forward(self, event: Granted, run: RunSeen) -> None:
        """Dispatch asks again what was asked at arrival; and what has begun or is approved goes only forward."""
        seen, firm, version = self._seen.known.of(run.resource), run.firm(), run.decided_on()
        if run.state == "Parked":
            self._seen.broken("granted parked", f"{run.id} was granted, and a person was to decide")
        if run.approved is not None and seen.outside > run.approved.seq:
            self._seen.broken("approval not voided", f"{run.id} was granted on an approval of before a change")
        if run.doomed_by:
            self._seen.broken("not replaced", f"{run.id} was granted, though {run.doomed_by} replaced it")
        if self._seen.known.over_limit(run.owner, run.action, run.id):
            self._seen.broken("over limit", f"{run.id} ({run.action}) was granted beyond the limit")
        if not self._seen.remembers:
            return
        if version in seen.superseded:
            self._seen.broken("stale", f"{run.id} was granted for {version}, which is superseded")
        if firm is not None and seen.moved[0] > firm and seen.moved[1] != run.id:
            self._seen.broken("not forward", f"{run.id} was granted after {seen.moved[1]} was completed")
        if self._seen.known.out_of_order(run.resource, run.action, run.first.requires):
            self._seen.broken("out of order", f"{run.id} ({run.action}) was granted without the step that it requires")

    def _is_its_time(self, event: Granted, run: RunSeen) -> None:
        """A first grant waits until it is quiet, and for the interval."""
        policy = self._seen.policy.of(run.action)
        if run.granted is not None:
            return
        started_ms = self._seen.known.of(run.resource).started.get(run.action)
        if self._seen.remembers and started_ms is not None and event.clock_ms < started_ms + policy.min_interval_ms:
            self._seen.broken("too soon", f"{run.id} ({run.action}) was granted too soon after the last of its action")
        if run.approved is not None or not policy.quiet_ms:
            return
        quiet_ms = run.quiet_ms(policy)
        if event.clock_ms < quiet_ms and not run.was_quiet and not 0 < policy.max_count <= run.count:
            self._seen.broken(
                "not quiet", f"{run.id} was granted at {event.clock_ms}, and was to wait until {quiet_ms}"
            )

    def _delayed(self, event: Delayed, partition: int) -> None:
        """No longer than the last of its policy's bounds."""
        run = self._seen.runs[partition, event.run]
        policy = self._seen.policy.of(run.action)
        until_ms = run.accepted_ms + policy.max_delay_ms if not 0 < policy.max_count <= run.count else 0
        started_ms = self._seen.known.of(run.resource).started.get(run.action)
        if started_ms is not None:
            until_ms = max(until_ms, started_ms + policy.min_interval_ms)
        if self._seen.remembers and event.clock_ms + event.ready_in_ms > until_ms:
            self._seen.broken("delayed too long", f"{run.id}, for {event.ready_in_ms} ms, was to wait until {until_ms}")

    def _opened(self, event: WorkerOpened, partition: int) -> None:
        self._seen.pools[partition, event.session] = event.pool

    def _progressed(self, event: Progressed, partition: int) -> None:
        run, report = self._seen.runs[partition, event.run], self._seen.record(event, partition)
        assert isinstance(report, Progress)
        run.renews(report, event.clock_ms)
        if event.checkpoint:
            run.saves(report.checkpoint)

    def _let_go(self, event: AttemptFailed | Lost, partition: int) -> None:
        run = self._seen.runs[partition, event.run]
        self._seen.fails(event, partition, run)
        run.state = "Waiting"
        if isinstance(event, AttemptFailed) or not event.final:  # else its end follows, which says who held it
            run.holder = ""

    def _stop_asked(self, event: StopAsked, partition: int) -> None:
        self._seen.runs[partition, event.run].stopping = True

    def _withdrawn(self, event: Withdrawn, partition: int) -> None:
        run = self._seen.runs.get((partition, event.run))
        if run is not None and not event.repeat:
            run.members.pop(event.request, None)

    def _ended(self, event: Ended, partition: int) -> None:
        run = self._seen.runs.get((partition, event.run))
        if run is None or event.repeat or event.coalesced:
            return
        self._seen.fails(event, partition, run)
        if event.status == "refused":
            self._is_refused(event, partition, run)
        if event.status == "expired" and event.error is not None and "undecided" in event.error.message:
            if event.clock_ms < run.parked_ms + self._seen.policy.of(run.action).review_ms:
                self._seen.broken("undecided early", f"{run.id} was given up before a person's time was over")
        if event.status == "superseded" and (partition, event.superseded_by or "") not in self._seen.cancelled:
            self._is_replaced(run)
        if event.status == "completed":
            self._seen.known.completed(event, run.decided_on())
        run.state = "Done"
        self._seen.alive[run.owner].pop((partition, run.id), None)

    def _is_replaced(self, run: RunSeen) -> None:
        firm, moved = run.firm(), self._seen.known.of(run.resource).moved
        if self._seen.remembers and not run.doomed_by and (firm is None or moved[0] < firm):
            self._seen.broken("wrongly replaced", f"{run.id} ended superseded, and nothing has replaced it")

    def _is_refused(self, event: Ended, partition: int, run: RunSeen) -> None:
        """Though it had been accepted: by the worker's own check, or when it was asked again."""
        seen, version = self._seen.known.of(run.resource), run.decided_on()
        found = self._seen.record(event, partition) if run.state == "Held" else None
        if isinstance(found, Failed):
            if found.observed_version is not None:
                seen.learns((seen.version, version), (found.observed_version,))
            return
        code = "" if event.error is None else event.error.code
        is_stale = bool({version, run.first.expected_version} & seen.superseded)
        is_right = is_stale if code == "STALE_VERSION" else self._is_grounded_late(code, run)
        if self._seen.remembers and not is_right:
            self._seen.broken("wrongly refused", f"{run.id} ({run.action}) ended {code}, without ground")

    def _is_grounded_late(self, code: str, run: RunSeen) -> bool:
        if code == "ORDER_VIOLATION":
            return self._seen.known.out_of_order(run.resource, run.action, run.first.requires)
        return code != "LIMIT_REACHED" or self._seen.known.over_limit(run.owner, run.action, run.id)

    def _changed(self, event: Changed, partition: int) -> None:
        change, seen = self._seen.record(event, partition), self._seen.known.of(event.resource)
        assert isinstance(change, ResourceChange)
        meant = seen.effect_of(change.id, change.version, change.source, change.sequence)
        if self._seen.remembers and meant != event.effect:
            self._seen.broken("change mistaken", f"{change.id} was {event.effect}, and is {meant}")
        self._seen.known.changed(event, change.sequence)
        if event.effect == "applied":
            for (at, _), run in self._seen.alive[event.owner].items():
                if not isinstance(run, RunSeen):
                    continue  # who holds a lock reads events
                if at == partition and run.state == "Held" and run.resource == event.resource:
                    assert run.token is not None
                    self._seen.told.append((partition, run.token))

    def _decided(self, event: Decided, partition: int) -> None:
        run, decision = self._seen.runs[partition, event.run], self._seen.record(event, partition)
        assert isinstance(decision, Decision)
        if run.state != "Parked":
            self._seen.broken("decided unasked", f"{decision.id} was taken for {run.id}, which is {run.state}")
        if decision.digest not in (None, run.digest()):
            self._seen.broken("decided on another", f"{decision.id} was on another payload than {run.id} has")
        if event.verdict == "reject":
            return
        seen = self._seen.known.of(run.resource)
        if self._seen.remembers and event.version_seen in seen.superseded:
            self._seen.broken("decided on another", f"{decision.id} was on {event.version_seen}, which is superseded")
        if self._seen.remembers and not event.version_seen and seen.version is not None:
            self._seen.broken("decided on another", f"{decision.id} names no version, and it is {seen.version}")
        run.state, run.approved = "Waiting", event

    def _voided(self, event: ApprovalVoided, partition: int) -> None:
        run = self._seen.runs[partition, event.run]
        if run.approved is None or self._seen.known.of(run.resource).outside < run.approved.seq:
            self._seen.broken("wrongly voided", f"the approval of {run.id}, with no change after it")
        run.parks(event, partition)
