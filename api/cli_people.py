"""The commands of people beside agents: `change` tells of what was done outside keylane, `decide` answers a review."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_context import CommandContext, Context, UsageError
from keylane.schemas.event_parts import Verdict

if TYPE_CHECKING:
    from keylane.reviews import Review

Flag = Parameter(negative="")
SHORT_DIGEST = 12


async def change(
    resource: str,
    version: str,
    /,
    *,
    by: str | None = None,
    what: str,
    source: str = "",
    sequence: int | None = None,
    at: str | None = None,
    context: Context,
) -> msgspec.Struct:
    """Tell of a change that was made outside keylane: its holder hears of it, approvals given before are void.

    Parameters
    ----------
    resource:
        What was changed: a URI or an ARN.
    version:
        The version that it has now. Empty ('') where nobody knows.
    by:
        Who changed it. Else KEYLANE_ACTOR, else you at this host.
    what:
        What was done, in a word: edit, undrain.
    source:
        What tells of it, where it numbers what it tells.
    sequence:
        Its number there: a lower one than was told before is put on record, and changes nothing.
    at:
        When, RFC 3339.
    """
    from keylane.client import Client
    from keylane.commands import default_actor

    async with Client(context.url) as client:
        return await client.changed(
            resource,
            version,
            by=by or default_actor(context.environ),
            what=what,
            at=at,
            source=source,
            sequence=sequence,
        )


def decide(
    resource: str,
    request_id: str,
    verdict: Verdict,
    /,
    *,
    note: str,
    by: str | None = None,
    version_seen: str | None = None,
    conflict: str | None = None,
    yes: Annotated[bool, Flag] = False,
    context: Context,
) -> Coroutine[None, None, msgspec.Struct]:
    """Approve or reject a request that waits for a person, for everybody who was merged into its run.

    Parameters
    ----------
    resource:
        The resource that it named.
    request_id:
        Its id.
    verdict:
        approve: it waits for its turn, and goes ahead unless the resource changes before. reject: it ends.
    note:
        Why. Whoever asked can read it.
    by:
        Who decides. Else KEYLANE_ACTOR, else you at this host.
    version_seen:
        The version of the resource that you decided on; refused where that is superseded. '' where none is known.
        Without it, the version that is known now: it is said on standard error, and on a terminal you are asked.
    conflict:
        The conflict by which you were asked, as keylane conflict show said it; refused where it is another now. Without
        it, the one that asks now.
    yes:
        Do not ask.
    """
    import anyio
    from msgspec.structs import replace

    seen = anyio.run(_review, context, resource, request_id)
    if seen is not None and conflict is not None:
        seen = replace(seen, conflict_id=conflict)
    if seen is not None and version_seen is None:
        version_seen = seen.version_seen
        _say(context, seen, verdict)
        if context.watched and context.stdin.isatty() and not yes:
            _ask(context, f"{verdict} it?")
    return _decided(context, resource, request_id, verdict, version_seen or "", note, by, seen)


async def _review(context: CommandContext, resource: str, request_id: str) -> Review | None:
    from keylane.client import Client
    from keylane.errors import Refused

    async with Client(context.url) as client:
        try:
            return await client.review(resource, request_id)
        except Refused as refused:
            if refused.code != "NOT_FOUND":
                raise
            return None  # the router says why there is nothing to decide


async def _decided(
    context: CommandContext,
    resource: str,
    request_id: str,
    verdict: Verdict,
    version_seen: str,
    note: str,
    by: str | None,
    seen: Review | None,
) -> msgspec.Struct:
    from keylane.client import Client

    async with Client(context.url, actor=by) as client:
        return await client.decide(resource, request_id, verdict, version_seen=version_seen, note=note, seen=seen)


def _say(context: CommandContext, seen: Review, verdict: Verdict) -> None:
    """What the decision is bound to, to everybody; what it does, to who watches."""
    from keylane.render import text_of

    for text, _ in text_of(seen):
        context.note(text)
    version = f"version {seen.version_seen}" if seen.version_seen else "no version is known"
    context.warn(f"{verdict} as it is now: {version}, payload {seen.digest[:SHORT_DIGEST]}")


def _ask(context: CommandContext, question: str) -> None:
    """Before anything is published. No answer is no."""
    context.note(f"{question} [y/N]")
    if context.stdin.readline().strip().lower() not in (b"y", b"yes"):
        raise UsageError("nothing was decided")
