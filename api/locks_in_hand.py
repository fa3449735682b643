"""Which lock a command is about: between what is kept on disk (`credentials`) and what the lanes have (`client`)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import anyio
from msgspec.structs import replace

from keylane.cli_answers import LockReleased
from keylane.cli_context import CommandContext, UsageError
from keylane.client import Client
from keylane.commands import wall_ms
from keylane.credentials import Credentials, Kept, KeptSession, state_folder
from keylane.errors import KeylaneError, LeaseLost, Refused, error_body, translated
from keylane.journal.connect import resolve_url
from keylane.locks import Credential, LockInfo
from keylane.schemas.times import rfc3339

GIVE_UP_S = 3.0
"""How long a command that was stopped waits to hear that it left nothing; else what is on disk stays for `runlock`."""
SESSIONS_SHOWN_MAX = 10
ELSEWHERE = (
    "Name the session by --session-id or KEYLANE_SESSION_ID, with KEYLANE_URL and KEYLANE_STATE_DIR as they were"
    " when it was acquired."
)


def kept_by(context: CommandContext) -> Credentials:
    """What this user keeps of the journal."""
    with translated():
        return Credentials(state_folder(context.environ), resolve_url(context.url, context.environ))


def after(ms: int) -> str:
    """Wall time so long from now, for people."""
    return rfc3339((wall_ms() + ms) / 1_000)


def not_kept(message: str) -> Refused:
    """`NOT_FOUND`: nothing on disk says that it is ours."""
    return Refused(replace(error_body("NOT_FOUND", message), suggestion=ELSEWHERE))


async def in_hand(client: Client, credentials: Credentials, key: str, named: str | None) -> Kept:
    """The one lock on `key` that is kept here, of the session that was named or of any.

    Raises `Refused` (`NOT_FOUND`), `LeaseLost` where those that are kept are all over, and `UsageError` where several
    are not.
    """
    if named is not None:
        session = credentials.known(named)
        if session is None:
            raise not_kept(f"no session {named} is kept here")
        every = [credentials.of_session(session, key) or Kept(session=session, credential=None)]
    else:
        every = credentials.of_key(key)
    idle = [kept for kept in every if not kept.asking]
    if not idle:  # what `hold` has is not to be taken from under its command
        why = f": session {every[0].session.id} has it in a process that runs" if every else ""
        raise not_kept(f"no lock on {key} is kept here{why}")
    if len(idle) == 1:
        return idle[0]
    return _the_live_one(idle, await client.locks(key), credentials, key)


def _the_live_one(several: list[Kept], locks: list[LockInfo], credentials: Credentials, key: str) -> Kept:
    live = [kept for kept in several if _of(kept, locks, key) is not None]
    for kept in several:
        if kept not in live:
            credentials.drop(kept, key)
    if not live:
        raise LeaseLost(f"{key}: none of the {len(several)} locks that were kept here is held any more")
    if len(live) > 1:
        shown = ", ".join(kept.session.id for kept in live[:SESSIONS_SHOWN_MAX])
        more = ", …" if len(live) > SESSIONS_SHOWN_MAX else ""
        raise UsageError(f"{len(live)} sessions have a lock on {key}: name one by --session-id: {shown}{more}")
    return live[0]


def _of(kept: Kept, locks: list[LockInfo], key: str) -> LockInfo | None:
    """The lock that is meant, as its lane has it. One whose credential was never written is known by its session."""
    if (credential := kept.credential) is not None:
        found = [info for info in locks if (info.run, info.token) == (credential.run, credential.token)]
    else:
        found = [info for info in locks if (info.session, info.resource) == (kept.session.id, key)]
    return found[0] if found else None


async def credential_of(client: Client, kept: Kept, key: str) -> Credential:
    """What renews the lock; read back from its lane where it was never written. Raises `LeaseLost`."""
    if kept.credential is not None:
        return kept.credential
    info = await _unwritten(client, kept, key)
    if info.token is None:
        raise LeaseLost(f"{key} is not held by session {kept.session.id}: it waits for it")
    return _credential(kept, info, info.token)


async def given_back(client: Client, kept: Kept, key: str) -> LockReleased:
    """Release the lock, or withdraw it where it waits yet. Raises `LeaseLost`."""
    credential = kept.credential
    if credential is None:
        info = await _unwritten(client, kept, key)
        if info.token is None:
            await client.cancel(info.resource, info.run)
            return LockReleased(resource=key, run=info.run, token=None, session=info.session)
        credential = _credential(kept, info, info.token)
    await client.release(credential)
    return LockReleased(resource=key, run=credential.run, token=credential.token, session=credential.session)


async def _unwritten(client: Client, kept: Kept, key: str) -> LockInfo:
    info = _of(kept, await client.locks(key, kept.session.id), key)
    if info is None:
        raise LeaseLost(f"{key} is not held by session {kept.session.id}")
    return info


def _credential(kept: Kept, info: LockInfo, token: int) -> Credential:
    return Credential(
        resource=info.resource,
        run=info.run,
        token=token,
        session=info.session,
        secret=kept.session.secret,
        hold=info.hold,
        holder=info.holder or info.actor,
        acquired=info.since,
        ttl_ms=0,
    )


async def given_up(context: CommandContext, credentials: Credentials, sessions: Iterable[KeptSession]) -> None:
    """What they asked for was withdrawn. Once every lane says that nothing is left of them, nothing is kept either.

    By a client of its own: that which asked was cancelled, and hears no more.
    """
    with anyio.move_on_after(GIVE_UP_S), suppress(KeylaneError):
        for session in sessions:
            if not session.named:
                async with Client(context.url) as client:
                    await client.end_session(session.session)
                credentials.forget(session)
