"""`keylane conflicts` and `conflict`: the artifacts of intentions that clash, all, by kind or one; and closing one."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_context import Context, UsageError
from keylane.cli_journal import opened

Flag = Parameter(negative="")


async def conflicts(
    resource: str | None = None,
    /,
    *,
    follow: Annotated[bool, Flag] = False,
    group: Annotated[bool, Flag] = False,
    context: Context,
) -> msgspec.Struct | None:
    """Show conflicts, oldest first: who clashed with whom over what, and the safest next step.

    Parameters
    ----------
    resource:
        Only those of this resource. Else of all.
    follow:
        Go on with new ones as they come, until interrupted.
    group:
        One line a kind instead, with how many there are and how many of them are open; the most frequent first.
    """
    from keylane.conflicts import grouped, read_conflicts
    from keylane.schemas.conflicts import ConflictRecord
    from keylane.schemas.keys import canonical_key

    if group and follow:
        raise UsageError("--group counts what is there: it cannot follow")
    key = None if resource is None else canonical_key(resource)
    found: list[ConflictRecord] = []
    async with (
        opened(context) as whole,
        aclosing(read_conflicts(whole.journal, whole.layout.chosen(key), follow=follow)) as read,
    ):
        async for partition, offset, record, why in read:
            if record is None:
                context.warn(f"conflicts/{partition}/{offset}: {why}")
            elif not whole.layout.concerns(record, key):
                continue
            elif group:
                found.append(record)
            else:
                context.show(record)
    for each in grouped(found):
        context.show(each)
    return None


async def show(conflict: str, /, *, context: Context) -> msgspec.Struct:
    """Show a conflict whole: its parties and their versions, since when it stands, the safest next step, whether it is
    settled, and how to settle it. Where a request waits for a person: what approving it will do.

    Parameters
    ----------
    conflict:
        Its id, as keylane conflicts says it.
    """
    from keylane.conflicts import show_conflict

    async with opened(context) as whole:
        return await show_conflict(whole.journal, whole.partitions, conflict)


async def resolve(conflict: str, /, *, note: str, by: str | None = None, context: Context) -> msgspec.Struct:
    """Close a conflict that no decision settles. One that is closed already stays as it is, and is shown.

    Parameters
    ----------
    conflict:
        Its id, as keylane conflicts says it.
    note:
        What was done about it.
    by:
        Who closes it. Else KEYLANE_ACTOR, else you at this host.
    """
    from keylane.client import Client

    async with Client(context.url, actor=by) as client:
        return await client.resolve(conflict, note=note)
