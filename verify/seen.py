"""What the fold knows of runs, locks, request ids and worker sessions: how events tell them. `…_at` are offsets in
`events`. Values that `fold` alone changes; nothing is decided here."""

from __future__ import annotations

from typing import Any

from keylane.schemas.events import Parked, Queued, WorkerOpened


class LockSeen:
    """What a run that is a lock is beyond that. Its lease is the run's: `renewed_ms` and `lease_ms`."""

    __slots__ = ("ended_by", "hold_until_ms", "input", "ttl_ms", "unclaimed")

    def __init__(self, input: str) -> None:
        self.input = input
        """The place of its LockRequest."""
        self.ttl_ms = 0
        """Of its lease, as its grant says."""
        self.unclaimed = False
        self.hold_until_ms: int | None = None
        """As a lease that was cut short to it shows. None: none was."""
        self.ended_by = ""
        """The input of its end."""


class RunSeen:
    """A run as its events tell it."""

    __slots__ = (
        "accepted_at", "accepted_ms", "action", "attempt", "changed_at", "changed_seq", "ended_at", "ended_ms",
        "final_at", "granted_at", "granted_ms", "id", "lease_ms", "lock", "members", "order", "outcome", "owner",
        "ready_ms", "renewed_at", "renewed_ms", "requests", "resource", "session", "state", "status", "token",
    )  # fmt: skip

    def __init__(self, event: Queued | Parked, at: int) -> None:
        self.id = event.run
        self.owner = event.owner
        self.resource = event.resource
        self.action = event.action
        self.order = self.changed_seq = event.seq
        self.accepted_at = self.changed_at = at
        self.accepted_ms = event.clock_ms
        self.state = "Waiting"
        self.members: dict[str, int] = {event.request: at}
        self.requests = 1
        self.ready_ms: int | None = None
        """Waiting for its next attempt: not ready before. None: ready, as far as backoff goes."""
        self.attempt = 0
        self.token: int | None = None
        self.session = ""
        self.granted_at = self.renewed_at = -1
        self.granted_ms = self.renewed_ms = self.lease_ms = 0
        self.final_at: int | None = None
        self.ended_at: int | None = None
        self.ended_ms = 0
        self.status = ""
        self.outcome = 0
        self.lock: LockSeen | None = None


class IdSeen:
    """A request id and how far it has come."""

    __slots__ = ("accepted_at", "accepted_ms", "code", "done_at", "done_ms", "input", "run", "seq")

    def __init__(self, event: Any, run: str, accepted_at: int) -> None:
        self.seq: int = event.seq
        self.accepted_ms: int = event.clock_ms
        self.input: str = event.input
        self.run = run
        self.accepted_at = accepted_at
        self.done_at: int | None = None
        self.done_ms = 0
        self.code = ""


class SessionSeen:
    """A worker session that was opened. `input` is the place of its join."""

    __slots__ = ("actions", "at", "input", "opened_ms", "pool", "seq")

    def __init__(self, event: WorkerOpened, at: int) -> None:
        self.pool = event.pool
        self.actions = event.actions
        self.at = at
        self.seq = event.seq
        self.opened_ms = event.clock_ms
        self.input = event.input
