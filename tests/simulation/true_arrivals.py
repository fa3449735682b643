"""What becomes of requests, held against the arrival rules: what was accepted, merged or refused, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from simulation.findings import true_owner, true_resource
from simulation.true_runs import RulesSeen, RunSeen, is_same_work

from keylane.schemas.events import CancellationKept, Coalesced, Ended, Parked, Queued, Refused
from keylane.schemas.requests import Decision, WorkRequest
from keylane.schemas.results import Progress

OPEN = ("Waiting", "Held")


class TrueArrivals:
    """Design section 4, arrival, rules 2 to 6."""

    def __init__(self, seen: RulesSeen) -> None:
        self._seen = seen
        self.handlers: dict[type, Callable[[Any, int], None]] = {
            Queued: self._queued,
            Parked: self._parked,
            Coalesced: self._coalesced,
            Refused: self._refused,
            Ended: self._joined_late,
            CancellationKept: self._kept,
        }

    def _queued(self, event: Queued, partition: int) -> None:
        if not event.repeat:
            self._arrives(event, partition, "Waiting")

    def _parked(self, event: Parked, partition: int) -> None:
        if event.repeat:
            return
        if event.reason == "on_conflict":
            run = self._arrives(event, partition, "Parked")
        else:
            run = self._seen.runs[partition, event.run]
            self._seen.fails(event, partition, run)
        run.parks(event, partition)

    def _arrives(self, event: Queued | Parked, partition: int, state: str) -> RunSeen:
        request = self._seen.record(event, partition)
        assert isinstance(request, WorkRequest)
        run = RunSeen(event.run, event.resource, event.owner, request, event.clock_ms)
        if event.owner != true_owner(event.resource):
            self._seen.broken("wrong owner", f"{event.run} on {event.resource} was put under {event.owner}")
        if self._seen.cancelled.get((partition, request.id)) != event.resource:
            self._is_right(run, request, state)
            self._is_new_work(partition, run, request)
            if state == "Waiting":
                self._dooms(run)
        run.joins(request, event.clock_ms)
        self._seen.runs[partition, run.id] = self._seen.alive[run.owner][partition, run.id] = run
        return run

    def _is_right(self, run: RunSeen, request: WorkRequest, state: str) -> None:
        """Rules 3, 5 and 6, for a run of its own."""
        self._has_its_version(run.resource, request)
        if self._seen.remembers and self._seen.known.out_of_order(run.resource, run.action, request.requires):
            self._seen.broken("out of order", f"{run.id} ({run.action}) was accepted without the step that it requires")
        if self._seen.known.over_limit(run.owner, run.action, run.id):
            self._seen.broken("over limit", f"{run.id} ({run.action}) was accepted beyond the limit")
        modes = self._seen.modes(run.owner, run.action, OPEN)
        asks = "review" in modes | self._seen.modes(run.owner, run.action, ("Parked",))
        if "reject" in modes or ("queue" in modes and request.reject_if_busy):
            self._seen.broken("not rejected", f"{run.id} ({run.action}) was accepted although others are there")
        if asks != (state == "Parked"):
            self._seen.broken(
                "wrong review", f"{run.id} ({run.action}) is {state}; a person is {'' if asks else 'not '}asked"
            )

    def _has_its_version(self, resource: str, request: WorkRequest) -> None:
        if request.expected_version is None and self._seen.policy.of(request.action).version_required:
            self._seen.broken("no version", f"{request.id} ({request.action}) was accepted without a version")
        if self._seen.remembers and request.expected_version in self._seen.known.of(resource).superseded:
            self._seen.broken("stale", f"{request.id} was accepted for {request.expected_version}, which is superseded")

    def _is_new_work(self, partition: int, run: RunSeen, request: WorkRequest) -> None:
        """What is under an idempotency key already is no new run (rule 2)."""
        other = self._seen.under_key(partition, run.owner, request.idempotency_key)
        if other is not None:
            self._seen.broken("key ignored", f"{run.id} is new, and {other.id} has its idempotency key (promise 6)")

    def _dooms(self, run: RunSeen) -> None:
        policy = self._seen.policy.of(run.action)
        for other in self._seen.alive[run.owner].values():
            if not isinstance(other, RunSeen) or other.resource != run.resource:
                continue  # what is done under a lock is not known, so nothing replaces it
            if self._seen.mode(run.action, other.action) == "supersede":
                if other.state == "Waiting" or (other.state == "Held" and policy.stop_holder):
                    other.doomed_by = run.id
                    self._seen.doomed.append(other)

    def _coalesced(self, event: Coalesced, partition: int) -> None:
        if not event.repeat:
            self._joins(event, partition)

    def _joins(self, event: Coalesced | Ended, partition: int) -> None:
        request, run = self._seen.record(event, partition), self._seen.runs[partition, event.run]
        assert isinstance(request, WorkRequest)
        before = None if request.idempotency_key is None else run.keys.get(request.idempotency_key)
        if before is not None:
            if not is_same_work(_canonical(before), _canonical(request)):
                self._seen.broken("key mistaken", f"{request.id} was merged into {run.id} by its key, for other work")
        else:
            self._has_its_version(event.resource, request)
            if not run.is_like(request) or run.resource != event.resource:
                self._seen.broken(
                    "merged unlike", f"{request.id} was merged into {run.id}, which is other work (rule 4)"
                )
        if event.clock_ms >= run.quiet_ms(self._seen.policy.of(run.action)):
            run.was_quiet = True
        run.joins(request, event.clock_ms)

    def _joined_late(self, event: Ended, partition: int) -> None:
        if event.coalesced and not event.repeat and (partition, event.run) in self._seen.runs:
            self._joins(event, partition)

    def _refused(self, event: Refused, partition: int) -> None:
        record = self._seen.record(event, partition)
        if event.repeat or record is None:
            return
        if isinstance(record, Progress) and event.code == "TOO_LARGE":
            self._seen.runs[partition, record.run].renews(record, event.clock_ms)
        elif isinstance(record, WorkRequest) and self._seen.remembers:
            if not self._is_grounded(event.code, event.resource, partition, record):
                self._seen.broken("wrongly refused", f"{record.id} ({record.action}): {event.code}, without ground")
        elif isinstance(record, Decision):
            self._decision_refused(event, partition, record)

    def _is_grounded(self, code: str, resource: str, partition: int, request: WorkRequest) -> bool:
        owner = true_owner(resource)
        match code:
            case "STALE_VERSION":
                return request.expected_version in self._seen.known.of(resource).superseded
            case "VERSION_REQUIRED":
                return request.expected_version is None and self._seen.policy.of(request.action).version_required
            case "ORDER_VIOLATION":
                return self._seen.known.out_of_order(resource, request.action, request.requires)
            case "LIMIT_REACHED":
                return self._seen.known.over_limit(owner, request.action, request.id)
            case "LOCK_HELD":
                modes = self._seen.modes(owner, request.action, OPEN)
                return "reject" in modes or ("queue" in modes and request.reject_if_busy)
            case "IDEMPOTENCY_MISMATCH":
                run, key = self._seen.under_key(partition, owner, request.idempotency_key), request.idempotency_key
                return run is not None and not is_same_work(_canonical(run.keys[key or ""]), _canonical(request))
        return True

    def _decision_refused(self, event: Refused, partition: int, decision: Decision) -> None:
        run = self._run_of(partition, decision.request)
        is_parked = run is not None and run.state == "Parked" and run.resource == event.resource
        if is_parked and event.code in ("TOO_LATE", "NOT_FOUND"):
            self._seen.broken("decision refused", f"{decision.id}: {event.code}, and {decision.request} is parked")

    def _run_of(self, partition: int, request: str) -> RunSeen | None:
        return next(
            (run for (at, _), run in self._seen.runs.items() if at == partition and request in run.members), None
        )

    def _kept(self, event: CancellationKept, partition: int) -> None:
        self._seen.cancelled[partition, event.request] = event.resource


def _canonical(request: WorkRequest) -> WorkRequest:
    return replace(request, resource=true_resource(request.resource))
