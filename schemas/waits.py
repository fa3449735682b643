"""Topic `waits`: who waits for whom, over all lanes. One partition, so that every router sees one order."""

from __future__ import annotations

from keylane.schemas.base import Schema


class WaitEdge(Schema, frozen=True, kw_only=True):
    """`waiter` waits for `holder` on `resource`. Keyed by request; a tombstone removes it."""

    request: str
    waiter: str
    holder: str
    resource: str
    partition: int
    claim: int


class LaneLoaded(Schema, frozen=True, kw_only=True):
    """A lane was loaded: what it wrote under a lower claim number no longer counts."""

    partition: int
    claim: int


WaitRecord = WaitEdge | LaneLoaded
