"""`Lease`: what a holder of locks has in hand while it holds them."""

from __future__ import annotations

from collections.abc import Mapping


class Lease:
    """Locks that are held together, and renewed in the background until they are lost or given back.

    Safe to look at from any thread (`resources`, `expires_in_s`, `lost`, `stop_asked`, `check`).
    """

    @property
    def resources(self) -> Mapping[str, int]:
        """The fencing token by requested key, canonical. Keys with one owning key have one token."""
        raise NotImplementedError

    @property
    def expires_in_s(self) -> float:
        """How long it is held for certain without another renewal, by the holder's own clock and less a margin."""
        raise NotImplementedError

    @property
    def lost(self) -> str | None:
        """Why it is not held any more, once it is not: for good."""
        raise NotImplementedError

    @property
    def stop_asked(self) -> str | None:
        """Who has asked that it be given back, if somebody has. It is held all the same."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise LeaseLost when it is not held any more: before each effect."""
        raise NotImplementedError

    async def renew(self, *, blocked: str | None = None) -> None:
        """Renew now. With `blocked`, say why its holder cannot go on instead: nothing renews it from then on, until
        `renew()` says that it goes on. Raises LeaseLost, Unavailable."""
        raise NotImplementedError

    async def release(self) -> None:
        """Give all of it back before the block ends. Raises LeaseLost where it was not held any more."""
        raise NotImplementedError

    async def until_lost(self) -> str:
        """Wait until it is lost, or somebody asks that it be given back (`stop_asked`); returns why."""
        raise NotImplementedError
