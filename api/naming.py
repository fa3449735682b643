"""By which names an event finds those who wait for it: requests, commands, runs, and places of records. Pure."""

from __future__ import annotations

from keylane.schemas.events import (
    AgentSessionEnded,
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
    Resolved,
    SentOn,
    StopAsked,
    Withdrawn,
)

COMMANDS: dict[type, str] = {
    Refused: "request",
    SentOn: "request",
    CancellationKept: "cancellation",
    Changed: "change",
    Resolved: "resolution",
    AgentSessionEnded: "ended",
}
"""Where an event that is about one command alone says its id."""


def dead_letter_name(topic: str, offset: int) -> str:
    """The name under which a record that became a dead letter is known. No id holds a line feed."""
    return f"{topic}\n{offset}"


def names(event: AnyEvent) -> tuple[str, ...]:
    """The requests, commands, runs and records that `event` is about."""
    if (said := COMMANDS.get(type(event))) is not None:
        return (getattr(event, said),)
    match event:
        case Queued() | Coalesced() | Parked() | Withdrawn():
            return (event.request, event.run) if event.request != event.run else (event.run,)
        case Granted() | Ended():
            return tuple(dict.fromkeys((*event.requests, event.run)))
        case Decided():
            return tuple(dict.fromkeys((event.decision, event.request, event.run)))
        case (
            Renewed() | Progressed() | StopAsked() | AttemptFailed() | Lost() | Fenced() | Delayed() | ApprovalVoided()
        ):
            return (event.run,)
        case DeadLettered():
            return (dead_letter_name(event.topic, event.offset),)
    return ()
