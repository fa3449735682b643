"""How one request stands, learnt event by event. Sans-I/O; answers to other commands are in `command_answers`.

A machine is fed the events of its lane in order and says what they mean for its sender. Waiting, reading and
deadlines live in `receipts` and `client`.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec.structs import replace

from keylane.errors import ErrorBody, error_body
from keylane.naming import names
from keylane.outcome import Outcome, OutcomeStatus, ReviewState, Status
from keylane.schemas.base import ErrorDetail
from keylane.schemas.events import (
    AnyEvent,
    ApprovalVoided,
    AttemptFailed,
    Coalesced,
    DeadLettered,
    Decided,
    Delayed,
    Ended,
    Granted,
    Lost,
    Parked,
    Progressed,
    Queued,
    Refused,
    SentOn,
    Withdrawn,
)
from keylane.schemas.times import rfc3339

REFUSALS_WITH_ARTIFACT = frozenset(
    {"STALE_VERSION", "IDEMPOTENCY_MISMATCH", "ORDER_VIOLATION", "LIMIT_REACHED", "DEADLOCK", "LOCK_HELD"}
)
STATUSES_WITH_ARTIFACT = frozenset({"superseded", "expired", "refused"})
STATUS_CODES = {"superseded": "SUPERSEDED", "rejected": "REJECTED", "expired": "EXPIRED"}


def failure(status: OutcomeStatus, detail: ErrorDetail | None, superseded_by: str | None) -> ErrorBody | None:
    """Why a run that ended so did not complete; None when it did, or nothing is to be said."""
    if status == "completed":
        return None
    if detail is not None:
        return error_body(detail.code, detail.message)
    message = f"replaced by {superseded_by}" if superseded_by else f"the run ended {status}"
    return error_body(STATUS_CODES.get(status, status.upper()), message)


def refused_body(event: Refused, partition: int) -> ErrorBody:
    """A refusal as an error."""
    recorded = event.code in REFUSALS_WITH_ARTIFACT and not event.repeat
    if event.code == "LOCK_HELD" and event.command == "LockRequest":
        recorded = False  # of locks nothing clashed: one was asked for, and is had already
    return _in_the_way(event, error_body(event.code, event.message), f"{partition}-{event.seq}" if recorded else None)


def ended_body(event: Ended, partition: int) -> ErrorBody | None:
    """Why a lock that was accepted was not had; None where it was given back."""
    body = failure(event.status, event.error, event.superseded_by)
    if body is None:
        return None
    recorded = body.code == "DEADLOCK" and not event.repeat
    return _in_the_way(event, body, f"{partition}-{event.seq}" if recorded else None)


def _in_the_way(event: Refused | Ended, body: ErrorBody, conflict_id: str | None) -> ErrorBody:
    """With who is in the way. The lease's end is turned to wall time here: it is for people."""
    expires_at = None
    if event.lease_expires_in_ms is not None:
        expires_at = rfc3339(datetime.fromisoformat(event.time).timestamp() + event.lease_expires_in_ms / 1_000)
    return replace(
        body,
        retry_after_ms=event.retry_after_ms,
        holder=event.holder,
        held_since=event.held_since,
        lease_expires_at=expires_at,
        position=event.position,
        cycle=event.cycle,
        conflict_id=conflict_id,
    )


class TicketMachine:
    """One request from its publish to its end.

    `status` is None until an event names the request: that is its acceptance, or its refusal. `moved_to` is
    the partition that it was sent on to, whose events this machine does not see.
    """

    def __init__(self, request_id: str, resource: str, action: str, partition: int) -> None:
        self.request_id = request_id
        self.resource = resource
        self.action = action
        self.partition = partition
        self.status: Status | None = None
        self.moved_to: int | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, once it has."""
        return self.status.outcome if self.status else None

    @property
    def settled(self) -> bool:
        """Whether nothing more can come."""
        return self.outcome is not None or self.moved_to is not None

    def feed(self, event: AnyEvent) -> None:
        """Take the next event that names the request, its run or its record. After the end nothing counts."""
        if self.settled:
            return
        match event:
            case Queued() | Coalesced() if event.request == self.request_id:
                self._accept(event)
            case Parked() | ApprovalVoided() if self._mine(event.run) or self.request_id in names(event):
                self._ask(event)
            case Granted() | Progressed() | AttemptFailed() | Lost() | Delayed() | Decided() if self._mine(event.run):
                self._follow(event)
            case Refused(request=self.request_id, command="WorkRequest"):
                self._refuse(refused_body(event, self.partition), event.repeat)
            case DeadLettered():
                # Only the own record's dead letter is fed: an id reused for other work ends so.
                conflict_id = f"{self.partition}-{event.seq}" if event.code == "ID_REUSED" else None
                self._refuse(replace(error_body(event.code, event.reason), conflict_id=conflict_id), False)
            case Withdrawn(request=self.request_id):
                recorded = event.status == "expired" and not event.repeat
                error = failure(event.status, None, None)
                conflict_id = f"{self.partition}-{event.seq}" if recorded else None
                self._end(event.run, event.status, event.repeat, error=error, conflict_id=conflict_id)
            case Ended() if self.request_id in event.requests:
                self._complete(event)
            case SentOn(request=self.request_id):
                self.moved_to = event.to_partition

    def _mine(self, run: str) -> bool:
        return self.status is not None and self.status.run == run

    def _known(self, run: str, repeated: bool) -> Status:
        """The status so far, or the first one: what comes first decides whether the answer is a repeat."""
        return self.status or Status(
            request_id=self.request_id,
            run=run,
            resource=self.resource,
            action=self.action,
            state="accepted",
            coalesced=run not in ("", self.request_id),
            repeated=repeated,
        )

    def _ask(self, event: Parked | ApprovalVoided) -> None:
        """A person is asked. A repeat says it again, without the artifact of then."""
        repeat = isinstance(event, Parked) and event.repeat
        review: ReviewState = "approval_voided" if isinstance(event, ApprovalVoided) else "needs_decision"
        if repeat and self.status is not None:
            return
        self.status = replace(
            self._known(event.run, repeat),
            state="parked",
            position=None,
            holder=None,
            blocked=None,
            ready_in_ms=None,
            review=review,
            decided_by=None,
            conflict_id=None if repeat else f"{self.partition}-{event.seq}",
        )

    def _accept(self, event: Queued | Coalesced) -> None:
        if self.status is not None:
            return  # the answer to a copy of the same record, published when the first was in doubt
        self.status = self._known(event.run, event.repeat)
        if isinstance(event, Queued):
            self.status = replace(
                self.status,
                state="waiting",
                position=event.position,
                holder=event.holder or None,
                unserved=event.unserved,
                ready_in_ms=event.ready_in_ms,
            )
        elif event.parked:
            self.status = replace(self.status, state="parked", review="needs_decision")

    def _follow(self, event: Granted | Progressed | AttemptFailed | Lost | Delayed | Decided) -> None:
        assert self.status is not None
        match event:
            case Granted():
                self.status = replace(
                    self.status,
                    state="held",
                    position=None,
                    holder=event.holder,
                    token=event.token,
                    attempt=event.attempt,
                    blocked=None,
                    unserved=False,
                    ready_in_ms=None,
                )
            case Delayed():
                self.status = replace(self.status, state="waiting", ready_in_ms=event.ready_in_ms)
            case Decided(verdict="approve"):
                self.status = replace(
                    self.status, state="waiting", review="approved", decided_by=event.by, conflict_id=None
                )
            case Decided():
                self.status = replace(self.status, decided_by=event.by)  # its end follows
            case Progressed():
                self.status = replace(self.status, blocked=event.blocked)
            case _:
                self.status = replace(self.status, state="waiting", holder=None, blocked=None)

    def _refuse(self, body: ErrorBody, repeat: bool) -> None:
        self._end("", "refused", repeat, error=body, conflict_id=body.conflict_id)

    def _complete(self, event: Ended) -> None:
        said_again = event.repeat or event.coalesced
        inconsistent = None not in (event.version, event.observed_version) and event.version != event.observed_version
        recorded = event.status in STATUSES_WITH_ARTIFACT or (event.status == "completed" and inconsistent)
        self._end(
            event.run,
            event.status,
            event.repeat,
            result=msgspec.json.decode(event.result),
            version=event.version,
            error=failure(event.status, event.error, event.superseded_by),
            superseded_since=event.superseded_since,
            conflict_id=f"{self.partition}-{event.seq}" if recorded and not said_again else None,
        )

    def _end(
        self,
        run: str,
        status: OutcomeStatus,
        repeat: bool,
        *,
        result: object = None,
        version: str | None = None,
        superseded_since: str | None = None,
        error: ErrorBody | None = None,
        conflict_id: str | None = None,
    ) -> None:
        known = self._known(run, repeat)
        outcome = Outcome(
            request_id=self.request_id,
            run=run,
            status=status,
            result=result,
            version=version,
            superseded_since=superseded_since,
            coalesced=run not in ("", self.request_id),
            repeated=known.repeated,
            conflict_id=conflict_id,
            error=error,
        )
        self.status = replace(known, state="done", position=None, holder=None, ready_in_ms=None, outcome=outcome)
