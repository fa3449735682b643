"""What the `state` and `metadata` topics say: reading them whole, and the folds behind `who` and `status`.

The folds are pure functions of what was read. Lanes answer no queries (design section 3), so all of it is as
of a lane's last commit, and its times are lane time put beside the wall time of that commit: about right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import anyio
import msgspec

from keylane.errors import error_body
from keylane.journal.errors import Unavailable
from keylane.journal.port import Journal, Place, Stored
from keylane.outcome import Ended, Holding, Outcome, Ownership, Pending, PendingState, RequestState, Status
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_metadata, decode_state
from keylane.schemas.metadata import METADATA_KEY, Metadata
from keylane.schemas.refusals import REFUSALS
from keylane.schemas.state import LaneRecord, Member, RefusedRequest, Run, UnservedAction, first_member
from keylane.schemas.times import rfc3339
from keylane.ticket import failure

READ_S = 30.0
POLL_RECORDS = 10_000


class LaneView(NamedTuple):
    """One lane as of its last commit. `wall_ms` is wall time of that commit."""

    runs: dict[str, Run]
    members: dict[str, Member]
    refused: dict[str, RefusedRequest]
    unserved: dict[str, UnservedAction]
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
        raise Unavailable("the journal's configuration is being changed; try again when that is done")
    return metadata


async def read_state(journal: Journal, partition: int) -> LaneView:
    """One lane's state as committed."""
    return fold(await read_all(journal, Place(topics.STATE, partition)))


def fold(records: Iterable[Stored]) -> LaneView:
    """The newest record of every key, put where it belongs. What is not understood is left out."""
    newest: dict[bytes | None, Stored] = {record.key: record for record in records}
    view = LaneView({}, {}, {}, {}, 0, 0)
    for stored in newest.values():
        if stored.value is None:
            continue
        match decode_state(stored.value):
            case Run() as run:
                view.runs[run.id] = run
            case Member() as member:
                view.members[member.id] = member
            case RefusedRequest() as refused:
                view.refused[refused.id] = refused
            case UnservedAction() as unserved:
                view.unserved[unserved.action] = unserved
            case LaneRecord() as lane:
                view = view._replace(clock_ms=lane.clock_ms, wall_ms=stored.timestamp_ms)
    for run in view.runs.values():
        first = first_member(run)
        if first is not None:
            view.members.setdefault(run.id, first)
    return view


def request_status(view: LaneView, resource: str, request_id: str) -> Status | None:
    """How one request on `resource` stands; None where it is not known."""
    refused = view.refused.get(request_id)
    if refused is not None and refused.resource == resource:
        return _refused_status(refused)
    member = view.members.get(request_id)
    run = view.runs.get(member.run if member else request_id)
    if run is None or resource not in (run.resource, run.owner):
        return None
    if member is not None and member.left is not None:
        outcome = Outcome(
            request_id=request_id,
            run=run.id,
            status=member.left,
            coalesced=run.id != request_id,
            error=failure(member.left, None, None),
        )
        return _status(run, request_id, "done", outcome)
    if run.state == "Done":
        return _status(run, request_id, "done", _outcome(run, request_id))
    states: dict[str, RequestState] = {"Waiting": "waiting", "Parked": "parked", "Held": "held"}
    status = _status(run, request_id, states[run.state], None)
    if run.state == "Held":
        return msgspec.structs.replace(
            status, holder=run.holder, token=run.token, attempt=run.attempt, blocked=run.blocked
        )
    held = next((each for each in view.runs.values() if each.owner == run.owner and each.state == "Held"), None)
    queue = _queue(view, run.owner)
    return msgspec.structs.replace(
        status,
        position=queue.index(run),
        holder=held.holder if held else None,
        attempt=run.attempt,
        unserved=run.action in view.unserved,
    )


def ownership(view: LaneView, resource: str) -> Ownership:
    """Who holds `resource`, a requested or an owning key, who waits, and how the last run ended."""
    owner = next((run.owner for run in view.runs.values() if run.resource == resource), resource)
    runs = [run for run in view.runs.values() if run.owner == owner]
    requests = _requests(view, runs)
    held = next((run for run in runs if run.state == "Held"), None)
    done = [run for run in runs if run.state == "Done"]
    return Ownership(
        resource=resource,
        held=_holding(view, held, requests[held.id]) if held else None,
        waiting=tuple(
            _pending(view, run, requests[run.id], position) for position, run in enumerate(_queue(view, owner))
        ),
        last=_ended(view, max(done, key=lambda run: run.ended_order or 0)) if done else None,
    )


def _queue(view: LaneView, owner: str) -> list[Run]:
    """What waits for an owning key, in acceptance order."""
    waiting = [run for run in view.runs.values() if run.owner == owner and run.state in ("Waiting", "Parked")]
    return sorted(waiting, key=lambda run: run.order)


def _requests(view: LaneView, runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Who still wants each of the runs, in acceptance order."""
    wanted: dict[str, list[Member]] = {run.id: [] for run in runs}
    for member in view.members.values():
        if member.run in wanted and member.left is None:
            wanted[member.run].append(member)
    return {
        run: tuple(member.id for member in sorted(members, key=lambda member: member.order))
        for run, members in wanted.items()
    }


def _holding(view: LaneView, run: Run, requests: tuple[str, ...]) -> Holding:
    assert run.token is not None and run.lease_until_ms is not None
    return Holding(
        holder=run.holder,
        run=run.id,
        resource=run.resource,
        action=run.action,
        requests=requests,
        token=run.token,
        attempt=run.attempt,
        state="stopping" if run.stop else "blocked" if run.blocked is not None else "applying",
        blocked=run.blocked,
        since=run.since,
        lease_left_ms=max(0, run.lease_until_ms - view.clock_ms),
    )


def _pending(view: LaneView, run: Run, requests: tuple[str, ...], position: int) -> Pending:
    state: PendingState = "waiting"
    if run.state == "Parked":
        state = "needs_decision"
    elif run.action in view.unserved:
        state = "unserved"
    elif run.ready_ms is not None and run.ready_ms > view.clock_ms:
        state = "backing_off"
    return Pending(
        run=run.id,
        resource=run.resource,
        action=run.action,
        actor=run.actor,
        requests=requests,
        position=position,
        state=state,
        accepted=run.accepted,
        attempt=run.attempt,
    )


def _ended(view: LaneView, run: Run) -> Ended:
    assert run.status is not None
    return Ended(
        run=run.id,
        resource=run.resource,
        action=run.action,
        status=run.status,
        ended=_wall(view, run.ended_ms),
        version=run.version,
        error=failure(run.status, run.error, run.superseded_by),
    )


def _outcome(run: Run, request_id: str) -> Outcome:
    assert run.status is not None
    return Outcome(
        request_id=request_id,
        run=run.id,
        status=run.status,
        result=msgspec.json.decode(run.result),
        version=run.version,
        coalesced=run.id != request_id,
        error=failure(run.status, run.error, run.superseded_by),
    )


def _status(run: Run, request_id: str, state: RequestState, outcome: Outcome | None) -> Status:
    return Status(
        request_id=request_id,
        run=run.id,
        resource=run.resource,
        action=run.action,
        state=state,
        coalesced=run.id != request_id,
        outcome=outcome,
    )


def _refused_status(refused: RefusedRequest) -> Status:
    suggestion = REFUSALS[refused.code].suggestion
    error = error_body(refused.code, f"the request was refused. {suggestion}")
    outcome = Outcome(request_id=refused.id, run="", status="refused", error=error)
    return Status(request_id=refused.id, run="", resource=refused.resource, action="", state="done", outcome=outcome)


def _wall(view: LaneView, lane_ms: int) -> str:
    """Lane time as wall time, RFC 3339: how long before the lane's last commit, before when that was."""
    return rfc3339((view.wall_ms - (view.clock_ms - lane_ms)) / 1_000)
