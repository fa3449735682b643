"""Topic `results`: what workers report. Written plainly by workers, to the partition that they serve.

A report is believed only if its token is the live one of its run.
"""

from __future__ import annotations

from msgspec import Raw

from keylane.schemas.base import NULL, ErrorDetail, Schema


class WorkerJoined(Schema, frozen=True, kw_only=True):
    """Opens a worker session in one partition. Re-sent until `SessionOpened` comes; idempotent."""

    session: str
    pool: str
    name: str
    """The worker process's name, for people. Agent-written."""
    actions: tuple[str, ...]
    """Sorted. Workers of a pool with the same actions form one group."""
    slots: int
    generation: int
    """Of the group that gave this worker the partition."""


class WorkerHeartbeat(Schema, frozen=True, kw_only=True):
    """The session's process lives. `number` grows by one; it counts from 1 in each session."""

    session: str
    pool: str
    number: int
    slots: int
    """Items that the process takes here at once; 0 while it drains."""
    read: int
    """The number of the last item record that it read."""


class WorkerLeft(Schema, frozen=True, kw_only=True):
    """The session ends now, of its own will."""

    session: str
    pool: str


class Progress(Schema, frozen=True, kw_only=True):
    """The only renewal of an item's lease, with or without a checkpoint."""

    session: str
    pool: str
    resource: str
    run: str
    token: int
    checkpoint: Raw = NULL
    evidence: Raw = NULL
    open_questions: tuple[str, ...] = ()
    blocked: str | None = None
    """A reason stops renewal until a Progress without one."""


class Completed(Schema, frozen=True, kw_only=True):
    """The action is done and verified."""

    session: str
    pool: str
    resource: str
    run: str
    token: int
    result: Raw = NULL
    version: str | None = None
    """The version that the action made."""
    observed_version: str | None = None
    """What the worker saw when it looked afterwards."""


class Failed(Schema, frozen=True, kw_only=True):
    """This attempt did not succeed. `final` ends the run; else the policy's attempts and backoff apply."""

    session: str
    pool: str
    resource: str
    run: str
    token: int
    error: ErrorDetail
    final: bool = False
    retry_after_ms: int | None = None
    observed_version: str | None = None
    """What the worker saw, where that was not the version that was decided on (`STALE_VERSION`)."""


Result = WorkerJoined | WorkerHeartbeat | WorkerLeft | Progress | Completed | Failed
