"""How the lanes stand, read from `state` and the inputs: who holds what, and what is not applied yet.

As of each lane's last commit: lanes answer no queries. Works while no router is there, which is when it matters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from keylane.journal.errors import PositionLost
from keylane.journal.port import Journal, Place, Stored
from keylane.schemas import topics
from keylane.schemas.codec import decode_state
from keylane.schemas.state import LANE_KEY, LaneRecord
from keylane.schemas.times import rfc3339
from keylane.views import fold, read_all

INPUTS = (topics.REQUESTS, topics.RESULTS)
TAIL_RECORDS = 1_000
TAIL_GROWTH = 16


class LeaseShown(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is held. `lease_left_ms` is as of `as_of`, the lane's last commit; while a router is there that is at
    most five seconds ago, and while none is the lease does not run."""

    partition: int
    resource: str
    owner: str
    action: str
    run: str
    requests: int
    holder: str
    token: int
    attempt: int
    since: str
    lease_left_ms: int
    as_of: str
    blocked: str | None = None
    stopping: bool = False
    claimed: bool = False
    """A lock whose turn has come after a wait: its requester has so long to say that it is still there."""


class LaneLag(msgspec.Struct, frozen=True, kw_only=True):
    """What a lane has not applied: records of each input, and the age of the oldest of them by its own time.

    `committed` is when the lane last wrote anything, None where it never did."""

    partition: int
    requests: int
    results: int
    oldest_s: float | None
    committed: str | None
    claim: int
    """How often the lane was taken over."""


async def leases(journal: Journal, partition: int, read: Callable[[int], None]) -> list[LeaseShown]:
    """What is held on one lane. `read` is told how many records were read."""
    view = fold(await read_all(journal, Place(topics.STATE, partition), read), partition)
    wanted: dict[str, int] = {}
    for member in view.members.values():
        if member.left is None:
            wanted[member.run] = wanted.get(member.run, 0) + 1
    return [
        LeaseShown(
            partition=partition,
            resource=run.resource,
            owner=run.owner,
            action=run.action,
            run=run.id,
            requests=wanted.get(run.id, 0),
            holder=run.holder,
            token=run.token or 0,
            attempt=run.attempt,
            since=run.since,
            lease_left_ms=max(0, (run.lease_until_ms or 0) - view.clock_ms),
            as_of=rfc3339(view.wall_ms / 1_000),
            blocked=run.blocked,
            stopping=run.stop is not None,
            claimed=run.unclaimed,
        )
        for run in view.runs.values()
        if run.state == "Held"
    ]


class LaneHealth(NamedTuple):
    """How a lane stands beyond its lag. `oldest_ms` is the age of what each input has not had applied."""

    lag: LaneLag
    token: int
    committed_ms: int | None
    """Wall time of the last commit."""
    oldest_ms: Mapping[str, int]
    lost: str | None
    """What will halt it: input that it can never read."""


async def lag(journal: Journal, partition: int) -> LaneLag:
    """What one lane has not applied."""
    return (await health(journal, partition)).lag


async def health(journal: Journal, partition: int) -> LaneHealth:
    """How one lane stands, as its own record and its inputs say it."""
    found = await _lane_record(journal, Place(topics.STATE, partition))
    lane, committed_ms = (None, None) if found is None else (found[0], found[1].timestamp_ms)
    positions = {} if lane is None else lane.positions
    places = [Place(topic, partition) for topic in INPUTS]
    ends = await journal.end_positions(places)
    behind = dict.fromkeys(INPUTS, 0)
    oldest_ms: dict[str, int] = {}
    lost: str | None = None
    for place in places:
        at = positions.get(place.topic)
        if at is not None and at > ends[place]:
            lost = f"{place.topic} ends at {ends[place]}, and position {at} was applied: the store was set back"
        oldest, removed = await _first_from(journal, place, at, ends[place])
        if removed is not None:
            lost = f"input was removed before it was read: {removed}"
        if oldest is not None:
            behind[place.topic] = ends[place] - oldest.offset
            oldest_ms[place.topic] = max(0, time.time_ns() // 1_000_000 - oldest.timestamp_ms)
    lag = LaneLag(
        partition=partition,
        requests=behind[topics.REQUESTS],
        results=behind[topics.RESULTS],
        oldest_s=max(oldest_ms.values()) / 1_000 if oldest_ms else None,
        committed=None if committed_ms is None else rfc3339(committed_ms / 1_000),
        claim=0 if lane is None else lane.claim,
    )
    return LaneHealth(lag, 0 if lane is None else lane.token, committed_ms, oldest_ms, lost)


async def _lane_record(journal: Journal, place: Place) -> tuple[LaneRecord, Stored] | None:
    """The newest record of the lane itself. Every commit writes it, so it is near the end: the rest is not read."""
    end = (await journal.end_positions([place]))[place]
    tail = TAIL_RECORDS
    while True:
        start = max(0, end - tail)
        reader = await journal.reader({place: start or None})
        newest: Stored | None = None
        try:
            while reader.positions()[place] < end:
                for stored in await reader.poll(TAIL_RECORDS, 1.0):
                    newest = stored if stored.key == LANE_KEY else newest
        finally:
            await reader.close()
        if newest is not None:
            record = decode_state(newest.value)
            return (record, newest) if isinstance(record, LaneRecord) else None
        if not start:
            return None
        tail *= TAIL_GROWTH


async def _first_from(
    journal: Journal, place: Place, at: int | None, end: int
) -> tuple[Stored | None, PositionLost | None]:
    """The first record that is not applied; None where all are. What retention has taken is passed over, and told."""
    if at is not None and at >= end:
        return None, None
    try:
        return await _first(journal, place, at, end), None
    except PositionLost as lost:
        return await _first(journal, place, None, end), lost


async def _first(journal: Journal, place: Place, at: int | None, end: int) -> Stored | None:
    reader = await journal.reader({place: at})
    try:
        while reader.positions()[place] < end:
            if found := await reader.poll(1, 1.0):
                return found[0]
        return None
    finally:
        await reader.close()
