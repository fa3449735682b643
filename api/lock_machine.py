"""What a holder learns of its locks, event by event: one sans-I/O machine for a lock from its request to its end, and
one each for a renewal or release by a credential alone and for the end of a session.

A machine is fed the events of its lane in order. Waiting and publishing are `locking`'s. Times are milliseconds of a
clock that counts suspend (`workers.clock`), on which alone the holder's own deadline is reckoned.
"""

from __future__ import annotations

from typing import Literal

from keylane.command_answers import refused_in
from keylane.errors import ErrorBody
from keylane.schemas.events import (
    AgentSessionEnded,
    AnyEvent,
    Coalesced,
    DeadLettered,
    Ended,
    Fenced,
    Granted,
    Lost,
    Queued,
    Refused,
    Renewed,
    SentOn,
    StopAsked,
    Withdrawn,
)
from keylane.ticket import ended_body
from keylane.workers.lease import usable_ms

LockStanding = Literal["asked", "waiting", "granted", "held", "over"]
"""`granted`: its turn has come after a wait, and it is to be claimed by a Renewal. `over`: see `error` and `lost`."""
UNANSWERED_MAX = 16
"""Renewals whose answer is still awaited; of more, the oldest do not count any more."""


class LockMachine:
    """One lock from its LockRequest on. `sent_ms`: when that was published first."""

    def __init__(self, request_id: str, partition: int, sent_ms: int) -> None:
        self.request_id = request_id
        self.partition = partition
        self.run = request_id
        self.standing: LockStanding = "asked"
        self.token = 0
        self.holder = ""
        self.ttl_ms = 0
        self.asked_ms = sent_ms
        """When the newest Renewal was sent, answered or not."""
        self.renewed_ms = 0
        """When that was sent from which its lease counts."""
        self.until_ms = 0
        """Until when its holder may go on: earlier than the lane's own deadline."""
        self.renewable = True
        """Not so once the longest hold is near: no renewal reaches beyond it."""
        self.blocked: str | None = None
        self.stop_by: str | None = None
        """Who asked that it be given back."""
        self.error: ErrorBody | None = None
        """Over: why it was not had; `UNAVAILABLE` where this lane does not say."""
        self.lost: str | None = None
        """Over: why it is not held any more, unless it was given back."""
        self._unanswered = {request_id: sent_ms}

    @property
    def settled(self) -> bool:
        """Whether nothing more can come."""
        return self.standing == "over"

    def sends(self, id: str, now_ms: int) -> None:
        """A Renewal or Release of this id is about to be published, for the first time."""
        self.asked_ms = self._unanswered[id] = now_ms
        if len(self._unanswered) > UNANSWERED_MAX:
            del self._unanswered[next(iter(self._unanswered))]

    def is_answered(self, id: str) -> bool:
        """Whether the lane's answer to a Renewal was read, or none will come."""
        return self.settled or id not in self._unanswered

    def feed(self, event: AnyEvent) -> None:
        """Take the next event that names the request, its run or its record. After the end nothing counts."""
        if self.settled:
            return
        if self.standing != "held":
            self._asking(event)
        match event:
            case Renewed(run=self.run, token=self.token) if event.renewal in self._unanswered:
                self._renewed(event)
            case StopAsked(run=self.run):
                self.stop_by = event.by or "somebody"
            case Lost(run=self.run):
                self._lose(event.reason)
            case Fenced(run=self.run) if event.report_id in self._unanswered:
                self._lose(f"fenced: the run is {event.status or 'Unknown'} now")
            case Ended(run=self.run):
                self._ended(event)
            case Withdrawn(request=self.request_id):
                self.standing = "over"

    def _asking(self, event: AnyEvent) -> None:
        """What is said until it is held."""
        match event:
            case Queued(request=self.request_id) if self.standing == "asked":
                self.run, self.standing = event.run, "waiting"
            case Coalesced(request=self.request_id) if event.token is not None:
                # A repeat names no token; what it repeats was read before it.
                self.run = event.run
                self._hold(event.token, self._unanswered.pop(self.request_id), event.lease_ms or 0)
            case Granted(run=self.run) if self.standing != "granted":
                self._granted(event)
            case Refused() | SentOn() | DeadLettered() if self.standing != "granted":
                self.error = refused_in(event, self.request_id, self.partition)
                self.standing = "over" if self.error is not None else self.standing

    def _granted(self, event: Granted) -> None:
        self.holder = event.holder
        if event.claim_ms is None:
            self._hold(event.token, self._unanswered.pop(self.request_id), event.lease_ms)
        else:
            self.token, self.ttl_ms, self.standing = event.token, event.lease_ms, "granted"

    def _hold(self, token: int, sent_ms: int, lease_ms: int) -> None:
        self.token, self.ttl_ms, self.standing = token, lease_ms, "held"
        self.renewed_ms, self.until_ms = sent_ms, sent_ms + usable_ms(lease_ms)

    def _renewed(self, event: Renewed) -> None:
        sent_ms = self._unanswered.pop(event.renewal)
        self.standing, self.blocked = "held", event.blocked
        if event.blocked is not None and not event.claimed:
            return  # nothing was renewed
        self.renewable = event.lease_ms >= self.ttl_ms
        self.renewed_ms = max(self.renewed_ms, sent_ms)
        # The lane's deadline never moves back, so neither does this one.
        self.until_ms = max(self.until_ms, sent_ms + usable_ms(event.lease_ms))

    def _lose(self, reason: str) -> None:
        self.lost, self.standing = reason, "over"

    def _ended(self, event: Ended) -> None:
        if self.standing != "held":
            self.error = ended_body(event, self.partition)
        elif event.status not in ("completed", "cancelled"):
            self.lost = event.status
        self.standing = "over"


class ReportMachine:
    """A Renewal, or a Release, of a lock of which only the credential is known."""

    def __init__(self, command_id: str, run: str, token: int, partition: int, *, is_release: bool) -> None:
        self.command_id = command_id
        self.run = run
        self.token = token
        self.partition = partition
        self.is_release = is_release
        self.renewed: Renewed | None = None
        self.released = False
        self.lost: str | None = None
        self.error: ErrorBody | None = None

    @property
    def settled(self) -> bool:
        """Whether the answer is known."""
        return self.released or any(each is not None for each in (self.renewed, self.lost, self.error))

    def feed(self, event: AnyEvent) -> None:
        """Take the next event that names the run, the command or its record."""
        if self.settled:
            return
        match event:
            case Renewed(renewal=self.command_id):
                self.renewed = event
            case Fenced(report_id=self.command_id):
                self.lost = f"the run is {event.status or 'Unknown'}"
            case Ended(run=self.run, token=self.token) if self.is_release:
                self.released = event.status in ("completed", "cancelled")
                self.lost = None if self.released else event.status
            case Refused() | SentOn() | DeadLettered():
                self.error = refused_in(event, self.command_id, self.partition)


class SessionMachine:
    """The end of a session in one lane: `runs` is what ends with it."""

    def __init__(self, command_id: str, partition: int) -> None:
        self.command_id = command_id
        self.partition = partition
        self.runs: tuple[str, ...] | None = None
        self.error: ErrorBody | None = None

    @property
    def settled(self) -> bool:
        """Whether the answer is known."""
        return self.runs is not None or self.error is not None

    def feed(self, event: AnyEvent) -> None:
        """Take the next event that names the command or its record."""
        if self.settled:
            return
        match event:
            case AgentSessionEnded(ended=self.command_id):
                self.runs = event.runs
            case _:
                self.error = refused_in(event, self.command_id, self.partition)
