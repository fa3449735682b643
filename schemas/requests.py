"""Topic `requests`: what agents ask for. Written plainly by agents and gateways, one partition per owning key.

Every command has an `id` of its own: the id under which its answer appears on `events`.
"""

from __future__ import annotations

from msgspec import Raw

from keylane.schemas.base import NULL, Schema
from keylane.schemas.event_parts import Verdict


class WorkRequest(Schema, frozen=True, kw_only=True):
    """Asks that a worker does `action` on `resource`. Equal requests are merged (design section 4, arrival)."""

    id: str
    resource: str
    action: str
    payload: Raw = NULL
    actor: str = ""
    """Who asks, for people. Agent-written."""
    idempotency_key: str | None = None
    expected_version: str | None = None
    coalesce_key: str | None = None
    requires: tuple[str, ...] = ()
    reject_if_busy: bool = False
    """Asks for `LOCK_HELD` instead of waiting, where the policy is `queue`."""
    deadline_ms: int | None = None
    """Lane time from acceptance, while not held, after which the requester no longer wants it."""
    seen: int | None = None
    """The highest lane sequence number that the sender has seen; a lane behind it was rolled back."""
    hops: int = 0
    """1 when a lane sent it on to the right partition."""


class LockRequest(Schema, frozen=True, kw_only=True):
    """Asks that its sender's session holds `resource` itself: a run whose action is `lock`."""

    id: str
    resource: str
    session: str
    secret: str
    """The session's: 256 bits, base64url. Readable by routers alone; records keep its SHA-256."""
    hold: str = ""
    """What of the session holds it: asked for again under the same one it is had at once, under the same token."""
    actor: str = ""
    wait_ms: int = 0
    """Lane time; 0: `LOCK_HELD` at once where it is not free."""
    ttl_ms: int | None = None
    """Of its lease. None: as the router has it (`resource_lock_timeout`)."""
    explicit: bool = False
    """Its session may hold or await other locks, so that waiting for this one can close a cycle."""
    seen: int | None = None
    hops: int = 0


class Renewal(Schema, frozen=True, kw_only=True):
    """Renews a lock, or claims one whose turn has come. `blocked`: says why its holder cannot go on; renews nothing."""

    id: str
    resource: str
    run: str
    token: int
    secret: str
    blocked: str | None = None
    hops: int = 0


class Release(Schema, frozen=True, kw_only=True):
    """Gives a lock back."""

    id: str
    resource: str
    run: str
    token: int
    secret: str
    hops: int = 0


class SessionEnded(Schema, frozen=True, kw_only=True):
    """An agent's session is over: everything that it holds or waits for goes. Sent to every partition."""

    id: str
    session: str
    secret: str


class Cancellation(Schema, frozen=True, kw_only=True):
    """The sender of `request` no longer wants it. May overtake its request."""

    id: str
    resource: str
    request: str
    actor: str = ""
    secret: str | None = None
    """Its session's, where it asked for a lock: who has that gives it back as well, if it is held by then."""
    hops: int = 0


class ResourceChange(Schema, frozen=True, kw_only=True):
    """A change made outside keylane."""

    id: str
    resource: str
    version: str
    by: str
    what: str
    at: str | None = None
    source: str = ""
    sequence: int | None = None
    hops: int = 0


class Decision(Schema, frozen=True, kw_only=True):
    """A person's verdict on a parked run."""

    id: str
    resource: str
    request: str
    verdict: Verdict
    by: str
    version_seen: str
    digest: str | None = None
    note: str = ""
    hops: int = 0
    conflict: str = ""
    """The artifact by which the person was asked: a run that is parked anew since is another question. Empty: any."""


class Resolution(Schema, frozen=True, kw_only=True):
    """A person closes a conflict that no decision settles. On the partition that begins the artifact's id."""

    id: str
    conflict: str
    """The artifact's id, `<partition>-<seq>`."""
    resource: str = ""
    """As the artifact names it, for readers: it need not be a key."""
    by: str
    note: str


Request = (
    WorkRequest | LockRequest | Renewal | Release | SessionEnded | Cancellation | ResourceChange | Decision | Resolution
)
