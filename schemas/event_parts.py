"""What events are made of: what each carries, the sides of a clash, and the closed sets of words that they use."""

from __future__ import annotations

from typing import Literal

from keylane.schemas.base import Schema

Status = Literal["completed", "failed", "cancelled", "superseded", "rejected", "expired", "refused"]
"""`refused`: accepted, and refused when its turn came, on the state as it was then; `error` has the code."""
LostReason = Literal[
    "lease_expired", "session_lapsed", "session_left", "session_replaced", "session_ended", "unclaimed"
]
"""Of locks: `session_ended`: its agent's session is over. `unclaimed`: its turn came, and its requester did not."""
ParkReason = Literal["on_conflict", "attempts", "approval_voided"]
Verdict = Literal["approve", "reject"]
ChangeEffect = Literal["applied", "known", "older", "repeated"]
"""`known`: it is the version that the lane knows. `older`: its source has told of a later one."""


class Party(Schema, frozen=True, kw_only=True):
    """One side of a conflict. `at_ms` is lane time of its acceptance."""

    request: str
    actor: str = ""
    action: str = ""
    digest: str = ""
    version: str | None = None
    """The version of the resource that it was decided on, if it named one."""
    at_ms: int | None = None
    session: str = ""
    token: int | None = None


class Event(Schema, frozen=True, kw_only=True):
    """What each event carries. `time` is wall time (RFC 3339, UTC), for people only."""

    seq: int
    """The lane's sequence number: grows by one with each event of a partition."""
    clock_ms: int
    """The lane's clock."""
    time: str
    input: str = ""
    """The record that the lane applied when it decided this, as `topic/offset` on this partition; empty: a timer.
    All that one record or timer brought about stands together, and no record is named again later."""
