"""What became of a command about a request, a resource or a conflict: one sans-I/O machine each, beside `ticket`.

A machine is fed the events of its lane that name it, and takes the first answer: a command is published again under
its id while its acknowledgement fails, and what a copy of it meets says nothing about the one that was applied.
"""

from __future__ import annotations

from typing import Literal

from keylane.errors import ErrorBody, KeylaneError, Unavailable, error_body, refusal
from keylane.schemas.events import (
    AnyEvent,
    CancellationKept,
    Changed,
    Coalesced,
    DeadLettered,
    Decided,
    Ended,
    Queued,
    Refused,
    Resolved,
    SentOn,
    StopAsked,
    Withdrawn,
)
from keylane.ticket import refused_body

CancelAnswer = Literal["withdrawn", "stop_asked"]
"""`withdrawn`: the request is over. `stop_asked`: it is held; its holder was asked to stop, and may not."""
Told = Changed | Decided | Resolved
"""Events that say that a command of a person was applied."""


def told_id(event: Told) -> str:
    """The id of the command that the event answers."""
    match event:
        case Changed():
            return event.change
        case Decided():
            return event.decision
        case Resolved():
            return event.resolution


class ToldMachine:
    """A person's command from its publish to its answer: `answer`, or `error` when it was refused."""

    def __init__(self, command_id: str, partition: int) -> None:
        self.command_id = command_id
        self.partition = partition
        self.answer: Told | None = None
        self.error: ErrorBody | None = None

    @property
    def settled(self) -> bool:
        """Whether the answer is known."""
        return self.answer is not None or self.error is not None

    def feed(self, event: AnyEvent) -> None:
        """Take the next event that names the command or its record. After the first answer nothing counts."""
        if self.settled:
            return
        match event:
            case Changed() | Decided() | Resolved() if told_id(event) == self.command_id:
                self.answer = event
            case _:
                self.error = refused_in(event, self.command_id, self.partition)


def refused_in(event: AnyEvent, command_id: str, partition: int) -> ErrorBody | None:
    """Why the command gets no answer, where `event` says so."""
    match event:
        case Refused() if event.request == command_id:
            return refused_body(event, partition)
        case SentOn() if event.request == command_id:
            why = "the scope rules were changed meanwhile: see what became of it"
            return error_body("UNAVAILABLE", f"sent on to partition {event.to_partition}, as {why}")
        case DeadLettered():  # only the own record's is fed
            return error_body(event.code, event.reason)
    return None


def not_told(error: ErrorBody) -> KeylaneError:
    """What to raise where a machine has `error` instead of an answer."""
    return Unavailable(error.message) if error.code == "UNAVAILABLE" else refusal(error)


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
            case CancellationKept(cancellation=self.cancellation_id):
                self.error = error_body(
                    "NOT_FOUND",
                    f"no request {self.request_id} is known; it will be cancelled if it comes yet",
                )
            case _:
                self.error = refused_in(event, self.cancellation_id, self.partition)
