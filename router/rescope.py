"""Other scope rules for a journal that is in use: `keylane config apply`. No key ever has two owners at once.

The metadata is marked as changing and every lane is claimed, which ends what its router may do; then what the lanes
hold decides, and one record makes the new rules hold. Mark and record are commits of lane 0, so of several who do this
only the last to claim it can finish. Why these things stand in the way: `docs/decisions/scope-rules.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import anyio
from msgspec.structs import replace

from keylane.journal.errors import JournalError, LaneLost, Unavailable
from keylane.journal.port import Journal, LaneSession, Record, Stored
from keylane.router.config import BadConfig, Config
from keylane.router.setup import read_metadata
from keylane.router.turn import INPUTS
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_state, encode
from keylane.schemas.keys import BadKey
from keylane.schemas.metadata import METADATA_KEY, Metadata
from keylane.schemas.scopes import BadScope, Scopes
from keylane.schemas.state import CountedGrant, KeptCancellation, LaneRecord, Run

TRIES = 5
TRY_AGAIN_S = 0.5
RESTORE_S = 10.0
SHOWN_S = 10.0
LOOK_AGAIN_S = 0.02
NAMED_MAX = 10
"""Keys that a refusal names; it counts the others."""
KEY_CHARACTERS_MAX = 128


class Standing(NamedTuple):
    """What stands in the way of giving a key another owner."""

    resource: str
    why: str


class LiveWork(Exception):
    """Keys whose owner would change are not at rest. The message names them; the metadata is as it was."""


class Rescoped(NamedTuple):
    """How many rules there were and are. `changed`: they are others, or a change that was cut off was finished."""

    before: int
    after: int
    changed: bool


class Surveyed(NamedTuple):
    """What one lane's state says: what stands in the way, and its highest token."""

    standing: list[Standing]
    token: int


async def rescope(journal: Journal, config: Config, looked: Callable[[int], None]) -> Rescoped:
    """Let the scope rules of `config` hold from now on; `looked` is told how many more lanes were looked at.

    Raises `LiveWork`; `BadConfig` where more than the rules differs, or nothing is pinned; `journal.JournalError`. A
    change that was cut off is finished, or undone, by doing this again.
    """
    before: int | None = None
    for left in range(TRIES - 1, -1, -1):
        pinned = await _pinned(journal, config)
        if pinned.scopes == config.scopes and not pinned.changing:
            after = len(pinned.scopes)
            return Rescoped(after if before is None else before, after, before is not None)
        before = len(pinned.scopes) if before is None else before
        try:
            return Rescoped(before, await _changed(journal, config, looked), True)
        except LaneLost as error:
            if not left:
                raise Unavailable(f"lanes are claimed by others again and again: {error}. Run it again") from error
            await anyio.sleep(TRY_AGAIN_S)  # a router that claimed a lane just now sees the mark and waits
    raise AssertionError("the last try returns or raises")


async def _pinned(journal: Journal, config: Config) -> Metadata:
    """Raises `BadConfig` where rules are not all that differs."""
    if await journal.partitions(topics.METADATA) is None or (pinned := await read_metadata(journal)) is None:
        raise BadConfig("nothing is pinned yet: keylane topics apply, or the first router, pins these rules")
    wanted = Metadata(partitions=config.partitions)
    if (pinned.partitions, pinned.hash) != (wanted.partitions, wanted.hash):
        raise BadConfig(
            f"this journal is pinned to {pinned.partitions} partitions, hash {pinned.hash}; this configuration has "
            f"{wanted.partitions}, {wanted.hash}: set the same. Scope rules can be changed, and nothing else"
        )
    try:
        Scopes(pinned.scopes)
    except BadScope as error:
        raise BadConfig(f"the pinned rules cannot be followed: {error}. Use the keylane that wrote them") from None
    return pinned


async def _changed(journal: Journal, config: Config, looked: Callable[[int], None]) -> int:
    """One try. Raises `LaneLost` where another claims lane 0 meanwhile."""
    first = await journal.claim(0, INPUTS, topics.STATE)
    try:
        pinned = await _pinned(journal, config)  # whoever finished before the claim is seen here
        await _write(first, replace(pinned, changing=True))
        at_rest = replace(pinned, changing=False)
        try:
            await _shown(journal)
            found = [
                await _surveyed(journal, first, number, pinned, config, looked) for number in range(pinned.partitions)
            ]
            if standing := [each for lane in found for each in lane.standing]:
                raise LiveWork(_told(standing))
        except BaseException as error:
            await _restore(first, at_rest, error)
            raise
        after = at_rest
        if config.scopes != pinned.scopes:  # else a change that was cut off is undone
            # Tokens of a key go on rising in its new lane. Lanes also know by it that they have to forget.
            floor = max([pinned.token_floor, *(lane.token + 1 for lane in found)])
            after = replace(at_rest, scopes=config.scopes, token_floor=floor)
        await _write(first, after)
    finally:
        with anyio.CancelScope(shield=True):
            await first.close()
    return len(config.scopes)


async def _write(first: LaneSession, metadata: Metadata) -> None:
    await first.commit([Record(topics.METADATA, 0, METADATA_KEY, encode(metadata))])


async def _shown(journal: Journal) -> None:
    """Wait until the mark can be read. Raises `Unavailable` where that takes too long.

    Kafka acknowledges a commit before it shows. A router that claimed its lane anew in between would find the old
    rules, and go on by them when others hold.
    """
    give_up_s = anyio.current_time() + SHOWN_S
    while True:
        pinned = await read_metadata(journal)
        if pinned is not None and pinned.changing:
            return
        if anyio.current_time() > give_up_s:
            raise Unavailable(f"the mark on the metadata did not show within {SHOWN_S:g} s")
        await anyio.sleep(LOOK_AGAIN_S)


async def _restore(first: LaneSession, metadata: Metadata, error: BaseException) -> None:
    """Put it back as it was. Where that cannot be done, the mark stays, and the error says what to do.

    After `LaneLost` another has taken over, and goes by what it finds.
    """
    if isinstance(error, LaneLost):
        return
    with anyio.CancelScope(shield=True), anyio.move_on_after(RESTORE_S):
        try:
            await _write(first, metadata)
            return
        except LaneLost:
            if isinstance(error, LiveWork):
                raise
        except JournalError:
            pass
    if isinstance(error, Exception):
        raise Unavailable(
            f"{error}. The metadata is left marked as being changed, and lanes wait: run keylane config apply again"
        ) from error


async def _surveyed(
    journal: Journal,
    first: LaneSession,
    partition: int,
    pinned: Metadata,
    config: Config,
    looked: Callable[[int], None],
) -> Surveyed:
    """Claim a lane and look at what it holds. Its router can do nothing from the claim on: to claim it anew it has to
    read the mark."""
    session = first if partition == 0 else await journal.claim(partition, INPUTS, topics.STATE)
    try:
        stored = await session.load()
    finally:
        if session is not first:
            with anyio.CancelScope(shield=True):
                await session.close()
    looked(1)
    return survey(stored, Scopes(pinned.scopes), Scopes(config.scopes), config.policy.crowded_retention_ms)


def survey(stored: Iterable[Stored], before: Scopes, after: Scopes, remembered_ms: int) -> Surveyed:
    """What of a lane's state stands in the way. `remembered_ms`: for how long every outcome is remembered at least."""
    own = LaneRecord(positions={})
    found: list[tuple[str, str, str, int | None]] = []
    for each in stored:
        record = decode_state(each.value)
        match record:
            case Undecodable():
                place = f"{each.topic}/{each.partition}/{each.offset}"
                raise BadConfig(f"{place} cannot be read: {record.reason}. Use the keylane that wrote it")
            case LaneRecord():
                own = record
            case Run():
                found.append((record.resource, record.owner, *_of_run(record)))
            case CountedGrant():
                why = f"a limit on {record.action} counts {record.run}"
                found.append((record.resource, record.owner, why, None))
            case KeptCancellation():
                why = f"a cancellation waits for {record.request}"
                found.append((record.resource, before.owner_of(record.resource), why, None))
            case _:
                pass
    standing = [
        Standing(resource, why)
        for resource, owner, why, ended_ms in found
        if (ended_ms is None or own.clock_ms - ended_ms < remembered_ms) and _moves(resource, owner, after)
    ]
    return Surveyed(standing, own.token)


def _of_run(run: Run) -> tuple[str, int | None]:
    """Why a run stands in the way; and since when it does so no longer than outcomes are remembered, if that is so."""
    if run.state != "Done":
        return f"{run.id} is {run.state.lower()}", None
    if run.keyed:
        return f"the idempotency key of {run.id} is remembered", None
    return f"{run.id} has only just ended", run.ended_ms


def _moves(resource: str, owner: str, after: Scopes) -> bool:
    try:
        return after.owner_of(resource) != owner
    except BadKey:  # the new rules make no key of it, so it would be refused from now on
        return True


def _told(standing: list[Standing]) -> str:
    why: dict[str, str] = {}
    for resource, each in sorted(standing):
        why.setdefault(resource, each)
    named = [f"{key[:KEY_CHARACTERS_MAX]} ({why[key]})" for key in list(why)[:NAMED_MAX]]
    more = f", and {len(why) - NAMED_MAX} more" if len(why) > NAMED_MAX else ""
    count = "1 key" if len(why) == 1 else f"{len(why)} keys"
    verb = "is" if len(why) == 1 else "are"
    return f"{count} would get another owner and {verb} not at rest: {', '.join(named)}{more}"
