"""`keylane conflicts`: the artifacts of intentions that clash, as they lie in the topic `conflicts`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_context import Context
from keylane.cli_journal import opened

BATCH = 500
FOLLOW_POLL_S = 1.0


async def conflicts(
    resource: str | None = None,
    /,
    *,
    follow: Annotated[bool, Parameter(negative="")] = False,
    context: Context,
) -> msgspec.Struct | None:
    """Show conflicts, oldest first: who clashed with whom over what, and the safest next step.

    Parameters
    ----------
    resource:
        Only those of this resource. Else of all.
    follow:
        Go on with new ones as they come, until interrupted.
    """
    from keylane.journal.port import Place
    from keylane.schemas.codec import Undecodable, decode_conflict
    from keylane.schemas.keys import canonical_key
    from keylane.schemas.topics import CONFLICTS

    key = None if resource is None else canonical_key(resource)
    async with opened(context) as whole:
        places = [Place(CONFLICTS, partition) for partition in whole.layout.chosen(key)]
        ends = await whole.journal.end_positions(places)
        reader = await whole.journal.reader(dict.fromkeys(places))
        try:
            while follow or any(at < ends[place] for place, at in reader.positions().items()):
                for stored in await reader.poll(BATCH, FOLLOW_POLL_S):
                    record = decode_conflict(stored.value)
                    if isinstance(record, Undecodable):
                        context.warn(f"conflicts/{stored.partition}/{stored.offset}: {record.reason}")
                    elif whole.layout.concerns(record, key):
                        context.show(record)
        finally:
            await reader.close()
    return None
