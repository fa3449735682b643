"""The commands that show how things stand: `leases`, `lag`, `events`."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_context import Context, UsageError
from keylane.cli_journal import opened
from keylane.progress import progress

Flag = Parameter(negative="")


async def leases(
    resource: str | None = None, /, *, holder: str | None = None, context: Context
) -> msgspec.Struct | None:
    """Show what is held, and by whom; what ends first comes first.

    Parameters
    ----------
    resource:
        Only what is held on it. Else everywhere.
    holder:
        Only what this worker holds.
    """
    from keylane.journal.port import Place
    from keylane.lanes import leases as leases_of
    from keylane.schemas.keys import canonical_key
    from keylane.schemas.topics import STATE

    key = None if resource is None else canonical_key(resource)
    found = []
    async with opened(context) as whole:
        places = [Place(STATE, number) for number in whole.layout.chosen(key)]
        ends = await whole.journal.end_positions(places)
        with progress(context, "reading lanes", sum(ends.values())) as read:
            for place in places:
                found += await leases_of(whole.journal, place.partition, read)
    for lease in sorted(found, key=lambda each: (each.lease_left_ms, each.owner)):
        if whole.layout.concerns(lease, key) and (holder is None or holder == lease.holder):
            context.show(lease)
    return None


async def lag(*, context: Context) -> msgspec.Struct | None:
    """Show what each lane has not applied yet, also while no router is there."""
    from keylane.lanes import lag as lag_of

    async with opened(context) as whole:
        with progress(context, "asking lanes", whole.partitions) as asked:
            for number in range(whole.partitions):
                found = await lag_of(whole.journal, number)
                asked(1)
                context.show(found)
    return None


async def events(
    resource: str | None = None,
    /,
    *,
    follow: Annotated[bool, Flag] = False,
    last: int | None = None,
    context: Context,
) -> msgspec.Struct | None:
    """Show what was decided, oldest first.

    Parameters
    ----------
    resource:
        Only what was decided on it. Else everywhere.
    follow:
        Go on with new ones as they come, until interrupted.
    last:
        Only so many of those that are there; 0 for none.
    """
    from contextlib import aclosing

    from keylane.history import coming, ends_of, past
    from keylane.schemas.keys import canonical_key

    if last is not None and last < 0:
        raise UsageError("--last: how many, so not below 0")
    key = None if resource is None else canonical_key(resource)
    async with opened(context) as whole:
        ends = await ends_of(whole.journal, whole.layout.chosen(key))
        newest: deque[msgspec.Struct] = deque(maxlen=last)
        async with aclosing(past(whole.journal, whole.layout, ends, key)) as found:
            async for each in found:
                if last is None:
                    context.show(each)
                else:
                    newest.append(each)
        for kept in newest:
            context.show(kept)
        if follow:
            async with aclosing(coming(whole.journal, whole.layout, ends, key)) as found:
                async for each in found:
                    context.show(each)
    return None
