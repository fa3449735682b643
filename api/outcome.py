"""What callers learn: the outcome and status of a request, who owns a resource, a position in the events.

Plain immutable values, which print as JSON. How they are found out lives in `ticket` and `views`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from keylane.errors import ErrorBody

Json: TypeAlias = Any
"""A JSON value in Python's builtins. Payloads may also be msgspec structs or dataclasses."""

OutcomeStatus = Literal["completed", "failed", "cancelled", "superseded", "rejected", "expired", "refused"]
PendingState = Literal["waiting", "backing_off", "unserved", "needs_decision"]
"""`backing_off`: between attempts. `unserved`: no worker handles the action now."""
RequestState = Literal["accepted", "waiting", "parked", "held", "done"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. `result` and `error.message` were written by agents: untrusted."""

    request_id: str
    run: str
    """The run that did it; the request's own id unless it was merged. Empty when refused."""
    status: OutcomeStatus
    result: Json = None
    version: str | None = None
    """The version that the action made, if its worker reported one."""
    coalesced: bool = False
    """It was merged into the run of an equal request."""
    repeated: bool = False
    """This id had been answered before; this is that answer."""
    superseded_since: str | None = None
    conflict_id: str | None = None
    error: ErrorBody | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a request stands. `accepted`: merged into a run whose own state was not told yet."""

    request_id: str
    run: str
    resource: str
    action: str
    state: RequestState
    position: int | None = None
    """Waiting: runs before it; 0 is next."""
    holder: str | None = None
    """Who holds the resource. Agent-written."""
    token: int | None = None
    attempt: int = 0
    blocked: str | None = None
    """Held: why the holder cannot go on, in its own words."""
    unserved: bool = False
    """No worker handles the action now."""
    coalesced: bool = False
    repeated: bool = False
    outcome: Outcome | None = None
    """Done: how it ended."""


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A live lease. `lease_left_ms` is lane time as of the lane's last commit, so *about* right."""

    holder: str
    run: str
    resource: str
    """The requested key; several can belong to one owning key."""
    action: str
    requests: tuple[str, ...]
    token: int
    attempt: int
    state: Literal["applying", "blocked", "stopping"]
    blocked: str | None = None
    since: str
    """Wall time, RFC 3339."""
    lease_left_ms: int


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A run that waits, in acceptance order."""

    run: str
    resource: str
    action: str
    actor: str
    requests: tuple[str, ...]
    position: int
    state: PendingState
    accepted: str
    """Wall time, RFC 3339."""
    attempt: int = 0


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The newest run that is over."""

    run: str
    resource: str
    action: str
    status: OutcomeStatus
    ended: str
    """Wall time, RFC 3339, about."""
    version: str | None = None
    error: ErrorBody | None = None


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a resource, who waits for it, and how the last run on it ended."""

    resource: str
    held: Holding | None = None
    waiting: tuple[Pending, ...] = ()
    last: Ended | None = None


class Position(msgspec.Struct, frozen=True):
    """A place in the events of all partitions. Opaque: keep it, or its text, to go on from there later.

    An empty one is the oldest event that is kept.
    """

    offsets: Mapping[int, int] = {}

    def __str__(self) -> str:
        return ",".join(f"{partition}:{offset}" for partition, offset in sorted(self.offsets.items()))

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that printed as `text`. Raises `ValueError` for any other text."""
        pairs = (part.split(":") for part in text.split(",") if part)
        try:
            return cls({int(partition): int(offset) for partition, offset in pairs})
        except ValueError as error:
            raise ValueError(f"{text!r} is no position of events") from error
