"""What tests of `who` build on: a lane that the core has brought about, and what is said of its last commit."""

from __future__ import annotations

from typing import Any

from core.bench import API, Bench, policy
from msgspec import Raw

from keylane.journal.port import Stored
from keylane.outcome import Ownership, Wait
from keylane.ownership import ownership
from keylane.render import text_of
from keylane.router.core.policy import ActionPolicy
from keylane.schemas import topics
from keylane.schemas.times import rfc3339
from keylane.views import LaneView, fold

BEGIN_MS = 1_790_000_000_000
"""Wall time when the lane's clock was 0."""
SAVED = Raw(b'{"drained":true}')
ASKS = ActionPolicy(on_conflict="review", coalesce_ms=0)


def seen(bench: Bench) -> LaneView:
    """What of the lane is on record. Its newest record is the lane's own, written at each commit."""
    wall_ms = BEGIN_MS + bench.clock_ms
    stored = enumerate(bench.stored.items())
    return fold([Stored(topics.STATE, 0, offset, key, value, (), wall_ms) for offset, (key, value) in stored], 0)


def who(bench: Bench, resource: str = API, later_ms: int = 0) -> Ownership:
    view = seen(bench)
    return ownership(view, resource, bench.lane.owner_of(resource), BEGIN_MS + bench.clock_ms + later_ms)


def at(lane_ms: int) -> str:
    return rfc3339((BEGIN_MS + lane_ms) / 1_000)


def waits(bench: Bench, run: str) -> Wait:
    (wait,) = [each.wait for each in who(bench).waiting if each.run == run]
    return wait


def text(owned: Ownership) -> str:
    return "\n".join(row for row, _ in text_of(owned))


def worked(read: int | None = None, **fields: Any) -> Bench:
    """One worker with one slot, and r1 granted to it."""
    bench = Bench(policy(**{"backoff_ms": 1_000, "coalesce_ms": 0} | fields))
    bench.join("w", "restart", "rollback", "scale")
    bench.request("r1", actor="ann")
    bench.beat("w", read=read)
    return bench
