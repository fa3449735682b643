"""`keylane conflicts`: the artifacts of intentions that clash, as they lie in the topic `conflicts`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_context import Context

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
    from keylane.journal.connect import connect, resolve_url
    from keylane.journal.errors import Unavailable
    from keylane.journal.partitioner import partition_of
    from keylane.journal.port import Place
    from keylane.schemas.codec import Undecodable, decode_conflict
    from keylane.schemas.keys import canonical_key
    from keylane.schemas.topics import CONFLICTS

    key = None if resource is None else canonical_key(resource)
    journal = await connect(resolve_url(context.url, context.environ))
    try:
        partitions = await journal.partitions(CONFLICTS)
        if partitions is None:
            raise Unavailable("no router has set up this journal")
        chosen = range(partitions) if key is None else [partition_of(key.encode(), partitions)]
        places = [Place(CONFLICTS, partition) for partition in chosen]
        ends = await journal.end_positions(places)
        reader = await journal.reader(dict.fromkeys(places))
        try:
            while follow or any(at < ends[place] for place, at in reader.positions().items()):
                for stored in await reader.poll(BATCH, FOLLOW_POLL_S):
                    record = decode_conflict(stored.value)
                    if isinstance(record, Undecodable):
                        context.warn(f"conflicts/{stored.partition}/{stored.offset}: {record.reason}")
                    elif key is None or record.resource == key:
                        context.show(record)
        finally:
            await reader.close()
    finally:
        await journal.close()
    return None
