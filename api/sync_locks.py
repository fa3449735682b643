"""`SyncLease`: a `Lease` for code without an event loop. Only hands calls over."""

from __future__ import annotations

from collections.abc import Mapping

from anyio.from_thread import BlockingPortal

from keylane.lease import Lease


class SyncLease:
    """Locks that are held together, and renewed in the background; see `Lease`. Safe to use from several threads."""

    def __init__(self, portal: BlockingPortal, lease: Lease) -> None:
        self._portal = portal
        self._lease = lease

    @property
    def resources(self) -> Mapping[str, int]:
        """See `Lease.resources`."""
        return self._lease.resources

    @property
    def expires_in_s(self) -> float:
        """See `Lease.expires_in_s`."""
        return self._lease.expires_in_s

    @property
    def lost(self) -> str | None:
        """See `Lease.lost`."""
        return self._lease.lost

    @property
    def stop_asked(self) -> str | None:
        """See `Lease.stop_asked`."""
        return self._lease.stop_asked

    def check(self) -> None:
        """See `Lease.check`."""
        self._lease.check()

    def renew(self, *, blocked: str | None = None) -> None:
        """See `Lease.renew`."""
        self._portal.call(lambda: self._lease.renew(blocked=blocked))

    def release(self) -> None:
        """See `Lease.release`."""
        self._portal.call(self._lease.release)

    def until_lost(self) -> str:
        """See `Lease.until_lost`."""
        return self._portal.call(self._lease.until_lost)
