"""What the `state` and `metadata` topics say: reading them whole, and the newest record of each key.

Lanes answer no queries (design section 3), so all of it is as of a lane's last commit, and its times are lane time
put beside the wall time of that commit: about right. What follows from it for a resource lives in `ownership` and
`waits`, for a request in `request_status`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import anyio

from keylane.journal.errors import Unavailable
from keylane.journal.port import Journal, Place, Stored
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_metadata, decode_state
from keylane.schemas.metadata import METADATA_KEY, Metadata
from keylane.schemas.state import (
    KEYS,
    LaneRecord,
    Member,
    RefusedRequest,
    Resource,
    Run,
    UnservedAction,
    WorkerSession,
    first_member,
)
from keylane.schemas.times import rfc3339

READ_S = 30.0
POLL_RECORDS = 10_000


class LaneView(NamedTuple):
    """One lane as of its last commit. `wall_ms` is wall time of that commit; 0: it never did."""

    partition: int
    runs: dict[str, Run]
    members: dict[str, Member]
    refused: dict[str, RefusedRequest]
    unserved: dict[str, UnservedAction]
    sessions: dict[str, WorkerSession]
    resources: dict[str, Resource]
    clock_ms: int
    wall_ms: int


async def read_all(journal: Journal, place: Place, read: Callable[[int], None] | None = None) -> list[Stored]:
    """What a partition holds now, from its start; `read` is told how many more were read.

    Raises `Unavailable` when that takes over `READ_S`.
    """
    end = (await journal.end_positions([place]))[place]
    found: list[Stored] = []
    reader = await journal.reader({place: None})
    try:
        with anyio.fail_after(READ_S):
            while reader.positions()[place] < end:
                batch = await reader.poll(POLL_RECORDS, 1.0)
                found += batch
                if read is not None:
                    read(len(batch))
    except TimeoutError as error:
        raise Unavailable(f"{place.topic} {place.partition} could not be read in {READ_S:g} s") from error
    finally:
        with anyio.CancelScope(shield=True):
            await reader.close()
    return found


async def read_metadata(journal: Journal) -> Metadata:
    """What orders, as pinned by the first router. Raises `Unavailable` where no router has been yet."""
    missing = "no router has set up this journal yet: start one (`keylane up`, or `keylane router`)"
    if await journal.partitions(topics.METADATA) is None:
        raise Unavailable(missing)
    values = [
        record.value for record in await read_all(journal, Place(topics.METADATA, 0)) if record.key == METADATA_KEY
    ]
    if not values:
        raise Unavailable(missing)
    metadata = decode_metadata(values[-1])
    if isinstance(metadata, Undecodable):
        raise Unavailable(f"the journal's metadata cannot be read: {metadata.reason}; upgrade keylane")
    if metadata.changing:
        raise Unavailable(
            "the journal's scope rules are being changed (keylane config apply); try again when that is done"
        )
    return metadata


async def pinned_end(journal: Journal) -> int:
    """Where the metadata ends: as long as it stays there, what was read of it holds. -1: there is none."""
    if await journal.partitions(topics.METADATA) is None:
        return -1
    place = Place(topics.METADATA, 0)
    return (await journal.end_positions([place]))[place]


async def read_state(journal: Journal, partition: int) -> LaneView:
    """One lane's state as committed."""
    return fold(await read_all(journal, Place(topics.STATE, partition)), partition)


def fold(records: Iterable[Stored], partition: int) -> LaneView:
    """The newest record of every key, put where it belongs. What is not understood is left out."""
    newest: dict[bytes | None, Stored] = {record.key: record for record in records}
    view = LaneView(partition, {}, {}, {}, {}, {}, {}, 0, 0)
    places: dict[type, dict[str, Any]] = {
        Run: view.runs,
        Member: view.members,
        RefusedRequest: view.refused,
        UnservedAction: view.unserved,
        WorkerSession: view.sessions,
        Resource: view.resources,
    }
    for stored in newest.values():
        record = None if stored.value is None else decode_state(stored.value)
        if isinstance(record, LaneRecord):
            view = view._replace(clock_ms=record.clock_ms, wall_ms=stored.timestamp_ms)
        elif (place := places.get(type(record))) is not None:
            place[KEYS[type(record)][1](record)] = record
    for run in view.runs.values():
        first = first_member(run)
        if first is not None:
            view.members.setdefault(run.id, first)
    return view


def wall(view: LaneView, lane_ms: int) -> str:
    """Lane time as wall time, RFC 3339: as far from the lane's last commit as it is from the lane's clock then."""
    return rfc3339((view.wall_ms - (view.clock_ms - lane_ms)) / 1_000)
