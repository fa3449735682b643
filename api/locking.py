"""Acquiring, renewing and releasing locks: the shell over `lock_machine`, and `lease` for those that are kept."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from keylane.lease import Lease
from keylane.locks import Credential, LockInfo
from keylane.schemas.events import Renewed
from keylane.sessions import Session


class Locking:
    """One client's."""

    def lock(self, *resources: str, wait_s: float, ttl_s: float | None) -> AbstractAsyncContextManager[Lease]:
        raise NotImplementedError

    async def acquire(
        self,
        resource: str,
        *,
        session: Session | None,
        hold: str,
        wait_s: float,
        ttl_s: float | None,
        explicit: bool | None,
    ) -> Credential:
        raise NotImplementedError

    async def renew(self, credential: Credential, *, blocked: str | None) -> Renewed:
        raise NotImplementedError

    async def release(self, credential: Credential) -> None:
        raise NotImplementedError

    async def end_session(self, session: Session) -> tuple[str, ...]:
        raise NotImplementedError

    async def locks(self, resource: str | None, session_id: str | None) -> list[LockInfo]:
        raise NotImplementedError
