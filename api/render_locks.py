"""What is said of locks in lines: those that are held, what commands did, and what events of them say. As `render`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from keylane.cli_answers import LockAcquired, LockReleased, LockRenewed, SessionOver
from keylane.cli_text import line
from keylane.locks import LockInfo
from keylane.schemas.events import (
    AgentSessionEnded,
    AnyEvent,
    Coalesced,
    Ended,
    Fenced,
    Granted,
    Lost,
    Queued,
    Refused,
    Renewed,
    StopAsked,
)
from keylane.schemas.state import LOCK_ACTION

Row = tuple[str, str]

LOSSES = {"lease_expired": "expired", "unclaimed": "not claimed", "session_ended": "its session ended"}


def _acquired_rows(lock: LockAcquired) -> Iterator[Row]:
    yield f"{line(lock.resource)} locked: token {lock.token}", "green"
    yield f"  run {line(lock.run)}; session {line(lock.session)}; until {line(lock.expires)} unless renewed", ""


def _renewed_rows(lock: LockRenewed) -> Iterator[Row]:
    if lock.blocked is None:
        yield f"{line(lock.resource)} renewed: token {lock.token}; until {line(lock.expires)}", "green"
    else:
        yield f"{line(lock.resource)} blocked, not renewed: token {lock.token}; until {line(lock.expires)}", "yellow"
        yield f"  blocked: {line(lock.blocked)}", "yellow"


def _released_rows(lock: LockReleased) -> Iterator[Row]:
    what = "withdrawn, it was waited for yet" if lock.token is None else f"released: token {lock.token}"
    yield f"{line(lock.resource)} {what}", "green"


def _over_rows(over: SessionOver) -> Iterator[Row]:
    count = len(over.runs)
    yield f"session {line(over.session)} ended, and {count} lock{'' if count == 1 else 's'} with it", "green"


def _info_rows(info: LockInfo) -> Iterator[Row]:
    words = [line(info.resource)]
    if info.state == "waiting":
        words.append("next" if not info.position else f"waits, {info.position} before it")
        words.append(f"held by {line(info.holder)}" if info.holder else "held by nobody now")
    else:
        words.append(f"{info.state}: {line(info.holder or info.actor)}, token {info.token}")
    words.append(f"session {line(info.session)}")
    words.append(f"since {line(info.since)}")
    if info.lease_ends is not None:
        words.append(f"until {line(info.lease_ends)}")
    yield "; ".join(words), "" if info.state == "held" else "yellow"
    if info.blocked is not None:
        yield f"  blocked: {line(info.blocked)}", "yellow"


def lock_word(event: AnyEvent) -> str | None:
    """What an event is to the lock that it is about, in the words of who holds it. None: it is about no lock."""
    is_lock = getattr(event, "action", None) == LOCK_ACTION or (
        isinstance(event, Refused) and event.command == "LockRequest"
    )
    if not is_lock and not isinstance(event, Renewed | Fenced | AgentSessionEnded):
        return None
    word = WORDS.get(type(event))
    return None if word is None else word(event)


def _renewal_word(event: Renewed) -> str:
    if event.claimed:
        return "claimed"
    return "renewed" if event.blocked is None else "blocked"


def _late_word(event: Fenced) -> str | None:
    return f"late {event.report.lower()}" if event.report in ("Renewal", "Release") else None


WORDS: dict[type[msgspec.Struct], Callable[[Any], str | None]] = {
    Queued: lambda event: "waits",
    Coalesced: lambda event: "acquired again",
    Granted: lambda event: "acquired" if event.claim_ms is None else "handed over, to be claimed",
    Refused: lambda event: "refused",
    Renewed: _renewal_word,
    StopAsked: lambda event: "asked for back",
    Lost: lambda event: LOSSES.get(event.reason, event.reason),
    Fenced: _late_word,
    Ended: lambda event: {"completed": "released", "failed": "over"}.get(event.status, event.status),
    AgentSessionEnded: lambda event: "session ended",
}


LOCK_TEXTS: dict[type[msgspec.Struct], Callable[[Any], Iterator[Row]]] = {
    LockAcquired: _acquired_rows,
    LockRenewed: _renewed_rows,
    LockReleased: _released_rows,
    SessionOver: _over_rows,
    LockInfo: _info_rows,
}
