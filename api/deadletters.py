"""Dead letters and the records that they are about, which stay where they lie; and publishing one of those anew."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from keylane.commands import record_of, source_of, with_canonical_key
from keylane.errors import Refused, error_body
from keylane.journal.errors import PositionLost
from keylane.journal.port import Journal, Place, Stored
from keylane.layout import Layout
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_dead_letter, decode_request, excerpt, traceparent_of
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.requests import WorkRequest

WHERE = re.compile(r"(requests|results)/(\d{1,9})/(\d{1,18})")
POLL_S = 1.0


class Where(NamedTuple):
    """The place of a record that was set aside: `requests/3/17`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class LetterShown(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter, and the record that it is about: None where retention has taken it. `value` is its beginning, with
    what looks like a secret blanked; agent-written, as is all of it."""

    where: str
    letter: DeadLetter | None
    is_there: bool
    size_bytes: int = 0
    key: str = ""
    headers: dict[str, str] = {}
    value: str = ""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was set aside was published under a new id; in a dry run it would be."""

    where: str
    request_id: str
    resource: str
    action: str
    dry_run: bool = False


def parse_where(text: str) -> Where:
    """Raises ValueError for what is no place."""
    match = WHERE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no place of a dead letter: write it as deadletters list does, requests/3/17")
    return Where(match[1], int(match[2]), int(match[3]))


def where_of(letter: DeadLetter) -> Where:
    """Where the record lies that it is about."""
    return Where(letter.topic, letter.partition, letter.offset)


async def letters(journal: Journal, partition: int) -> AsyncIterator[DeadLetter]:
    """The dead letters of one lane, oldest first. One that this keylane cannot read is passed over."""
    place = Place(topics.DEADLETTERS, partition)
    end = (await journal.end_positions([place]))[place]
    reader = await journal.reader({place: None})
    try:
        while reader.positions()[place] < end:
            for stored in await reader.poll(1_000, POLL_S):
                letter = decode_dead_letter(stored.value)
                if not isinstance(letter, Undecodable) and stored.offset < end:
                    yield letter
    finally:
        await reader.close()


async def original(journal: Journal, where: Where) -> Stored | None:
    """The record at a place; None where nothing lies there any more."""
    place = Place(where.topic, where.partition)
    end = (await journal.end_positions([place]))[place]
    if where.offset >= end:
        return None
    try:
        reader = await journal.reader({place: where.offset})
    except PositionLost:
        return None
    try:
        while reader.positions()[place] < end:
            if found := await reader.poll(1, POLL_S):
                return found[0] if found[0].offset == where.offset else None
    except PositionLost:
        return None
    finally:
        await reader.close()
    return None


async def shown(journal: Journal, where: Where) -> LetterShown:
    """Both. Raises `Refused` (`NOT_FOUND`) where there is neither."""
    newest: DeadLetter | None = None
    async for letter in letters(journal, where.partition):
        newest = letter if where_of(letter) == where else newest
    stored = await original(journal, where)
    if newest is None:
        raise not_found(f"no dead letter is about {where}")
    if stored is None:
        return LetterShown(where=str(where), letter=newest, is_there=False)
    return LetterShown(
        where=str(where),
        letter=newest,
        is_there=True,
        size_bytes=len(stored.value or b""),
        key=(stored.key or b"").decode("utf-8", "replace"),
        headers={name: value.decode("utf-8", "replace") for name, value in stored.headers},
        value=excerpt(stored.value),
    )


async def replay(journal: Journal, where: Where, layout: Layout, *, salt: str, actor: str, dry_run: bool) -> Replayed:
    """Publish the request at a place under an id made of the place: replayed twice it is one request, unless `salt`
    differs.

    Raises `Refused`: `NOT_FOUND` where retention has taken it, `BAD_RECORD` for what is no work request.
    """
    if where.topic != topics.REQUESTS:
        raise Refused(error_body("FENCED", f"{where} is a worker's report: its token is over, so it would be fenced"))
    stored = await original(journal, where)
    if stored is None:
        raise not_found(f"nothing lies at {where} any more: retention has taken it")
    request = decode_request(stored.value)
    if isinstance(request, Undecodable):
        raise Refused(error_body("BAD_RECORD", f"{where} cannot be read ({request.reason}): publish a corrected one"))
    if not isinstance(request, WorkRequest):
        raise Refused(error_body("BAD_RECORD", f"{where} is a {type(request).__name__}: only work is replayed"))
    id = "-".join(["replay", where.topic, str(where.partition), str(where.offset), *([salt] if salt else [])])
    again = with_canonical_key(replace(request, id=id))
    if not dry_run:
        record = record_of(again, layout, source_of(actor), traceparent_of(stored.headers))
        await journal.append([record])
    return Replayed(where=str(where), request_id=id, resource=again.resource, action=again.action, dry_run=dry_run)


def not_found(message: str) -> Refused:
    """The error for what is not there."""
    return Refused(error_body("NOT_FOUND", message))
