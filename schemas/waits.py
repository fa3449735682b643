"""Topic `waits`: who waits for whom, over all lanes. One partition, so that every router sees one order.

Written plainly by the router that owns the lane, after the commit that says so; only where a session that may hold
locks waits for another. A lane writes an edge under `edge_key`, and a tombstone there when the wait is over, so that a
router that lost the lane removes no edge of its successor. What the fold of these records means: `router/core/waiting`.
"""

from __future__ import annotations

from keylane.schemas.base import Schema


class WaitEdge(Schema, frozen=True, kw_only=True):
    """Session `waiter` waits for session `holder`, which holds `resource`; `request` is the LockRequest that waits."""

    request: str
    waiter: str
    holder: str
    resource: str
    partition: int
    claim: int
    """The lane's, when it wrote this."""


class LaneLoaded(Schema, frozen=True, kw_only=True):
    """A lane was loaded: what it wrote under a lower claim number no longer counts. Under `lane_key`."""

    partition: int
    claim: int


WaitRecord = WaitEdge | LaneLoaded


def edge_key(partition: int, claim: int, request: str) -> bytes:
    """The key of an edge: of one lane, under one claim."""
    return f"edge/{partition}/{claim}/{request}".encode()


def lane_key(partition: int) -> bytes:
    """The key of a lane's `LaneLoaded`."""
    return f"lane/{partition}".encode()
