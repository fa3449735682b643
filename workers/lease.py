"""The holder's own clock for what it holds (design section 4, leases). Plain arithmetic on milliseconds; no I/O.

The lane counts a lease from when it *applied* a heartbeat or a renewal, the holder from when it *sent* it, which is
earlier, and less a margin: so the holder stops first. Times are of a clock that counts suspend.
"""

from __future__ import annotations

from dataclasses import dataclass

from keylane.schemas.items import WorkItem

MARGIN_MS_MAX = 1_000


def usable_ms(lease_ms: int) -> int:
    """How much of a lease its holder uses: less a tenth, at most a second, for clocks that differ in rate and
    for what it takes to stop."""
    return lease_ms - min(MARGIN_MS_MAX, lease_ms // 10)


@dataclass
class Held:
    """One item that the session holds: from its grant until its report is acknowledged or it is lost."""

    item: WorkItem
    traceparent: str | None
    granted_ms: int
    """When that was sent from which the whole holding counts; renewals do not move it."""
    renewed_ms: int
    """When that was sent from which the item's own lease counts."""
    blocked: bool = False
    stop: str | None = None
    """Why the lane asked to stop, if it did."""
    reporting: bool = False
    """Its handler has finished; only the report is still to be acknowledged."""
    warned: bool = False

    def ends_ms(self) -> int:
        """When the item's own lease ends; its session's may end earlier."""
        return min(self.renewed_ms + usable_ms(self.item.lease_ms), self.granted_ms + usable_ms(self.item.hold_ms))

    def warn_ms(self) -> int | None:
        """When a silent handler is to be warned of: at two thirds of the lease. None: there is nothing to warn of."""
        if self.warned or self.reporting:
            return None
        return self.renewed_ms + self.item.lease_ms * 2 // 3
