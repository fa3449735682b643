"""Topics `items.<pool>`: what a lane tells the workers of a pool. Written in the lane's transactions only.

Records to one session are numbered without gaps. A worker obeys only the next number; on a gap it joins anew.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Raw

from keylane.schemas.base import NULL, Schema

NoticeKind = Literal["stop", "changed", "lost"]


class Checkpoint(Schema, frozen=True, kw_only=True):
    """What the last holder saved for the next one. All of it is written by agents."""

    data: Raw = NULL
    evidence: Raw = NULL
    open_questions: tuple[str, ...] = ()


class SessionOpened(Schema, frozen=True, kw_only=True):
    """Answers a join. The session lapses when no heartbeat is applied for `lapse_ms` of lane time."""

    session: str
    number: int
    lapse_ms: int


class SessionClosed(Schema, frozen=True, kw_only=True):
    """The lane knows no such session (any more): its owner lets everything of it go and joins anew."""

    session: str
    reason: str


class WorkItem(Schema, frozen=True, kw_only=True):
    """A grant: the session holds `owner` under `token` until its lease or the session ends."""

    session: str
    number: int
    heartbeat: int
    """The session's newest heartbeat when the lease was granted (0: its join): the holder counts from
    when it *sent* that, on its own monotonic clock."""
    run: str
    resource: str
    owner: str
    """The owning key, which the lease is on."""
    action: str
    payload: Raw = NULL
    merged: tuple[Raw, ...] = ()
    """Distinct payloads of merged requests, oldest first, without the leading one."""
    requests: tuple[str, ...] = ()
    actor: str = ""
    token: int
    attempt: int
    lease_ms: int
    hold_ms: int = 86_400_000
    """No renewal reaches further than this after the grant."""
    expected_version: str | None = None
    checkpoint: Checkpoint | None = None
    previous_end: str | None = None
    """How the last attempt ended, where there was one."""


class Notice(Schema, frozen=True, kw_only=True):
    """Something that the holder of `run` should know. `lost`: its lease is over, and nothing it says counts."""

    session: str
    number: int
    kind: NoticeKind
    run: str
    token: int
    reason: str


ItemRecord = SessionOpened | SessionClosed | WorkItem | Notice
