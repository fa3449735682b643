"""The commands of locks: `lock acquire|renew|release|list` (also `rlock`, `rlock-heartbeat`, `runlock`), `session end`.

What they hold between one command and the next is on disk (`credentials`); what locks are is the client's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from cyclopts import Parameter

from keylane.cli_answers import LockAcquired, LockRenewed, SessionOver
from keylane.cli_context import CommandContext, Context, UsageError
from keylane.schemas.durations import milliseconds

if TYPE_CHECKING:
    from keylane.credentials import KeptSession
    from keylane.locks import Credential


@Parameter(name="*")
@dataclass(frozen=True)
class SessionFlags:
    """Whose lock it is.

    Parameters
    ----------
    session_id:
        The session that has it, whose locks go together when it ends. Else KEYLANE_SESSION_ID, else its own.
    """

    session_id: str | None = None

    def named(self, context: CommandContext) -> str | None:
        """The session that was named, if one was."""
        named = context.environ.get("KEYLANE_SESSION_ID") or None if self.session_id is None else self.session_id
        return None if named is None else checked_name(named)


NO_SESSION = SessionFlags()


@Parameter(name="*")
@dataclass(frozen=True)
class AcquireFlags:
    """How a lock is acquired.

    Parameters
    ----------
    wait:
        How long to wait where another holds it: 10s, 5m. Else not at all.
    ttl:
        How long its lease is from each renewal on. Else as the router has it (resource_lock_timeout).
    actor:
        Who holds it, for people. Else KEYLANE_ACTOR, else you at this host.
    """

    wait: str = "0"
    ttl: str | None = None
    actor: str | None = None

    @property
    def wait_s(self) -> float:
        """Raises `UsageError`."""
        return seconds("--wait", self.wait)

    @property
    def ttl_s(self) -> float | None:
        """Raises `UsageError`."""
        return None if self.ttl is None else seconds("--ttl", self.ttl)


AS_IT_IS = AcquireFlags()


async def acquire(
    resource: str,
    /,
    *,
    how: AcquireFlags = AS_IT_IS,
    whose: SessionFlags = NO_SESSION,
    context: Context,
) -> msgspec.Struct:
    """Acquire a lock, and leave its credential on disk for renew and release. Exit code 75 where another holds it.

    Asked for again by the session that holds it, it is had again, under the same token.

    Parameters
    ----------
    resource:
        What is locked: a URI or an ARN.
    """
    from keylane.cli_signals import unless_stopped
    from keylane.client import Client
    from keylane.commands import checked_key
    from keylane.errors import ConfigError
    from keylane.locks_in_hand import after, given_up, kept_by

    named, key = whose.named(context), checked_key(resource)
    wait_s, ttl_s = how.wait_s, how.ttl_s
    credentials = kept_by(context)
    asked: list[KeptSession] = []

    async def acquired() -> Credential:
        async with Client(context.url, actor=how.actor) as client:
            # Once there is somebody to ask: what is on disk from here on says that it may be held.
            session = credentials.session(named)
            with credentials.asking(session, key):
                asked.append(session)
                credential = await client.acquire(
                    key, session=session.session, wait_s=wait_s, ttl_s=ttl_s, explicit=session.named
                )
                try:
                    credentials.keep(credential)
                except ConfigError:
                    await client.release(credential)
                    raise
        return credential

    try:
        credential = await unless_stopped(acquired)
    except SystemExit:
        await given_up(context, credentials, asked)
        raise
    return LockAcquired(
        resource=credential.resource,
        run=credential.run,
        token=credential.token,
        session=credential.session,
        expires=after(credential.ttl_ms),
    )


async def renew(
    resource: str,
    /,
    *,
    blocked: str | None = None,
    whose: SessionFlags = NO_SESSION,
    context: Context,
) -> msgspec.Struct:
    """Let the lease of a lock run anew. Exit code 4 where it is not held any more.

    Parameters
    ----------
    resource:
        What is locked.
    blocked:
        Say instead why you cannot go on. Shown to others; the lease is not renewed until you renew without it.
    """
    from keylane.client import Client
    from keylane.commands import checked_key
    from keylane.locks_in_hand import after, credential_of, in_hand, kept_by

    named, key = whose.named(context), checked_key(resource)
    credentials = kept_by(context)
    async with Client(context.url) as client:
        kept = await in_hand(client, credentials, key, named)
        credential = await credential_of(client, kept, key)
        renewed = await client.renew(credential, blocked=blocked)
    if kept.credential is None:
        credentials.keep(credential)
    credentials.touch(kept.session)
    return LockRenewed(
        resource=key,
        run=credential.run,
        token=credential.token,
        session=credential.session,
        expires=after(renewed.lease_ms),
        blocked=renewed.blocked,
    )


async def release(resource: str, /, *, whose: SessionFlags = NO_SESSION, context: Context) -> msgspec.Struct:
    """Give a lock back, and forget its credential. Exit code 4 where it was not held any more.

    Parameters
    ----------
    resource:
        What is locked.
    """
    from keylane.client import Client
    from keylane.commands import checked_key
    from keylane.errors import LeaseLost
    from keylane.locks_in_hand import given_back, in_hand, kept_by

    named, key = whose.named(context), checked_key(resource)
    credentials = kept_by(context)
    async with Client(context.url) as client:
        kept = await in_hand(client, credentials, key, named)
        try:
            answer = await given_back(client, kept, key)
        except LeaseLost:
            credentials.drop(kept, key)
            raise
    credentials.drop(kept, key)
    return answer


async def list_all(
    resource: str | None = None, /, *, session_id: str | None = None, context: Context
) -> msgspec.Struct | None:
    """Show the locks that are held or waited for.

    Parameters
    ----------
    resource:
        Only those on it. Else everywhere.
    session_id:
        Only those of this session.
    """
    from keylane.client import Client

    async with Client(context.url) as client:
        for info in await client.locks(resource, session_id):
            context.show(info)
    return None


async def end_session(session_id: str | None = None, /, *, context: Context) -> msgspec.Struct:
    """End a session: all locks that it holds or waits for go, and its files here.

    Parameters
    ----------
    session_id:
        Its id, as rlock printed it. Else KEYLANE_SESSION_ID.
    """
    from keylane.client import Client
    from keylane.locks_in_hand import kept_by, not_kept

    named = SessionFlags(session_id).named(context)
    if named is None:
        raise UsageError("name the session, or set KEYLANE_SESSION_ID")
    credentials = kept_by(context)
    session = credentials.known(named)
    if session is None:
        raise not_kept(f"no session {named} is kept here")
    async with Client(context.url) as client:
        runs = await client.end_session(session.session)
    credentials.forget(session)
    return SessionOver(session=session.id, runs=runs)


def checked_name(session_id: str) -> str:
    """A session's id as it was given. Raises `UsageError` for one that no record can hold."""
    try:
        session_id.encode()
    except UnicodeEncodeError:
        raise UsageError("the session's id is not UTF-8") from None
    if not session_id:
        raise UsageError("the session's id is empty")
    return session_id


def seconds(flag: str, given: str) -> float:
    """A duration as people write it; a bare number is seconds. Raises `UsageError`."""
    try:
        return milliseconds(flag, f"{given}s" if given.replace(".", "", 1).isdecimal() else given) / 1_000
    except ValueError as error:
        raise UsageError(str(error)) from None
