"""What commands about locks say, as much of it as rules ask for. Secrets are kept as digests."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, SessionEnded

HIDDEN = "hmac-sha256:"
"""How a value begins that was redacted (`lines`)."""


class Said(NamedTuple):
    """A LockRequest, Renewal, Release, SessionEnded or Cancellation."""

    kind: str
    id: str
    resource: str
    secret: str
    """SHA-256, hexadecimal; of a redacted history, of what stands for it. Empty: none was given."""
    about: str = ""
    """The run of a Renewal or Release; the request of a Cancellation."""
    token: int = 0
    session: str = ""
    hold: str = ""
    wait_ms: int = 0
    ttl_ms: int | None = None
    explicit: bool = False
    blocked: bool = False
    hidden: bool = False
    """Its secret was redacted."""


def said_by(record: Any) -> Said | None:
    """What a decoded command says; None where it is about no lock."""
    kind = type(record)
    if kind not in KINDS:
        return None
    secret = record.secret
    digest = "" if secret is None else hashlib.sha256(secret.encode()).hexdigest()
    resource = "" if kind is SessionEnded else record.resource
    common = Said(kind.__name__, record.id, resource, digest, hidden=(secret or "").startswith(HIDDEN))
    if kind is LockRequest:
        return common._replace(
            session=record.session,
            hold=record.hold,
            wait_ms=record.wait_ms,
            ttl_ms=record.ttl_ms,
            explicit=record.explicit,
        )
    if kind is Cancellation:
        return common._replace(about=record.request)
    if kind is SessionEnded:
        return common._replace(session=record.session)
    # A redacted reason hides whether it was empty, which says that there is none.
    reason = getattr(record, "blocked", None) or ""
    blocked = bool(reason) and not reason.startswith(HIDDEN)
    return common._replace(about=record.run, token=record.token, blocked=blocked)


KINDS = frozenset((LockRequest, Renewal, Release, SessionEnded, Cancellation))
