"""How one request stands, learnt event by event; and the same for a cancellation. Sans-I/O.

A machine is fed the events of its lane in order and says what they mean for its sender. Waiting, reading and
deadlines live in `receipts` and `client`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from keylane.errors import ErrorBody, error_body
from keylane.outcome import Outcome, OutcomeStatus, Status
from keylane.schemas.base import ErrorDetail
from keylane.schemas.events import (
    AnyEvent,
    ApprovalVoided,
    AttemptFailed,
    CancellationKept,
    Changed,
    Coalesced,
    DeadLettered,
    Decided,
    Delayed,
    Ended,
    Fenced,
    Granted,
    Lost,
    Parked,
    Progressed,
    Queued,
    Refused,
    Renewed,
    SentOn,
    StopAsked,
    Withdrawn,
)
from keylane.schemas.times import rfc3339

CancelAnswer = Literal["withdrawn", "stop_asked"]
"""`withdrawn`: the request is over. `stop_asked`: it is held; its holder was asked to stop, and may not."""

REFUSALS_WITH_ARTIFACT = frozenset(
    {"STALE_VERSION", "IDEMPOTENCY_MISMATCH", "ORDER_VIOLATION", "LIMIT_REACHED", "DEADLOCK", "LOCK_HELD"}
)
STATUSES_WITH_ARTIFACT = frozenset({"superseded", "expired", "refused"})
STATUS_CODES = {"superseded": "SUPERSEDED", "rejected": "REJECTED", "expired": "EXPIRED"}


def dead_letter_name(topic: str, offset: int) -> str:
    """The name under which a record that became a dead letter is known. No id holds a line feed."""
    return f"{topic}\n{offset}"


def names(event: AnyEvent) -> tuple[str, ...]:
    """The requests, commands, runs and records that `event` is about."""
    match event:
        case Queued() | Coalesced() | Parked() | Withdrawn():
            return (event.request, event.run) if event.request != event.run else (event.run,)
        case Granted() | Ended():
            return tuple(dict.fromkeys((*event.requests, event.run)))
        case Refused() | SentOn():
            return (event.request,)
        case CancellationKept():
            return (event.cancellation,)
        case Decided():
            return tuple(dict.fromkeys((event.decision, event.request, event.run)))
        case Changed():
            return (event.change,)
        case (
            Renewed() | Progressed() | StopAsked() | AttemptFailed() | Lost() | Fenced() | Delayed() | ApprovalVoided()
        ):
            return (event.run,)
        case DeadLettered():
            return (dead_letter_name(event.topic, event.offset),)
    return ()


def failure(status: OutcomeStatus, detail: ErrorDetail | None, superseded_by: str | None) -> ErrorBody | None:
    """Why a run that ended so did not complete; None when it did, or nothing is to be said."""
    if status == "completed":
        return None
    if detail is not None:
        return error_body(detail.code, detail.message)
    message = f"replaced by {superseded_by}" if superseded_by else f"the run ended {status}"
    return error_body(STATUS_CODES.get(status, status.upper()), message)


def refused_body(event: Refused, partition: int) -> ErrorBody:
    """A refusal as an error. The lease's end is turned to wall time here: it is for people."""
    expires_at = None
    if event.lease_expires_in_ms is not None:
        expires_at = rfc3339(datetime.fromisoformat(event.time).timestamp() + event.lease_expires_in_ms / 1_000)
    recorded = event.code in REFUSALS_WITH_ARTIFACT and not event.repeat
    return replace(
        error_body(event.code, event.message),
        retry_after_ms=event.retry_after_ms,
        holder=event.holder,
        held_since=event.held_since,
        lease_expires_at=expires_at,
        position=event.position,
        cycle=event.cycle,
        conflict_id=f"{partition}-{event.seq}" if recorded else None,
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
            case Queued() | Coalesced() | Parked() if event.request == self.request_id:
                self._accept(event)
            case Granted() | Progressed() | AttemptFailed() | Lost() if self._mine(event.run):
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

    def _accept(self, event: Queued | Coalesced | Parked) -> None:
        if isinstance(event, Parked):
            self.status = replace(self._known(event.run, False), state="parked", position=None)
            return
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
            )

    def _follow(self, event: Granted | Progressed | AttemptFailed | Lost) -> None:
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
                )
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
        self.status = replace(known, state="done", position=None, holder=None, outcome=outcome)


class CancelMachine:
    """One cancellation from its publish to its answer: `answer`, or `error` when it was refused.

    The answer to the cancellation of a held run's last requester names the run alone, so the machine also
    learns which run the request is in, from events or by being told.
    """

    def __init__(self, cancellation_id: str, request_id: str, partition: int) -> None:
        self.cancellation_id = cancellation_id
        self.request_id = request_id
        self.partition = partition
        self.run = request_id
        self.answer: CancelAnswer | None = None
        self.error: ErrorBody | None = None

    @property
    def settled(self) -> bool:
        """Whether the answer is known."""
        return self.answer is not None or self.error is not None

    def feed(self, event: AnyEvent) -> None:
        """Take the next event that names the cancellation, the request, its run or the record."""
        if self.settled:
            return
        match event:
            case Queued(request=self.request_id) | Coalesced(request=self.request_id):
                self.run = event.run
            case Withdrawn(request=self.request_id):
                self.answer = "withdrawn"
            case Ended(status="cancelled") if self.request_id in event.requests:
                self.answer = "withdrawn"
            case StopAsked(status="cancelled") if event.run == self.run:
                self.answer = "stop_asked"
            case Refused(request=self.cancellation_id):
                self.error = refused_body(event, self.partition)
            case DeadLettered():
                self.error = error_body(event.code, event.reason)
            case CancellationKept(cancellation=self.cancellation_id):
                self.error = error_body(
                    "NOT_FOUND",
                    f"no request {self.request_id} is known; it will be cancelled if it comes yet",
                )
