"""`SyncLease`: a `Lease` for code without an event loop, and how what is begun there is given up by an interrupt here.

A KeyboardInterrupt comes to the thread that waits, and not to the event loop, where the acquire would go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from threading import Event
from typing import TypeVar

from anyio.from_thread import BlockingPortal

from keylane.lease import Lease
from keylane.locking import UNDO_S

T = TypeVar("T")


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


def interruptible(
    portal: BlockingPortal, begin: Callable[[], Awaitable[T]], undo: Callable[[T], Awaitable[object]]
) -> T:
    """What `begin` returns. Where this thread is interrupted meanwhile, `begin` is cancelled, or undone where it had
    come to its end."""
    over = Event()
    had: list[T] = []

    async def run() -> None:
        try:
            had.append(await begin())
        finally:
            over.set()

    future = portal.start_task_soon(run)
    try:
        future.result()
        return had[0]
    except BaseException:
        future.cancel()
        over.wait(2 * UNDO_S)  # what `begin` does on its way out takes no longer
        for each in had:
            portal.call(undo, each)
        raise


@contextmanager
def locked(portal: BlockingPortal, locking: AbstractAsyncContextManager[Lease]) -> Iterator[SyncLease]:
    """`Client.lock`, entered and left from another thread."""

    async def leave(_: Lease) -> None:
        await locking.__aexit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    lease = interruptible(portal, locking.__aenter__, leave)
    try:
        yield SyncLease(portal, lease)
    except BaseException as error:
        portal.call(locking.__aexit__, type(error), error, error.__traceback__)
        raise
    portal.call(locking.__aexit__, None, None, None)
