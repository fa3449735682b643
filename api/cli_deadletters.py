"""`keylane deadletters`: what was set aside, the records that it is about, and publishing them anew."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_answers import ReplayDone
from keylane.cli_context import Context, UsageError
from keylane.cli_journal import OpenJournal, opened

if TYPE_CHECKING:
    from keylane.deadletters import Where
    from keylane.schemas.deadletters import DeadLetter

Flag = Parameter(negative="")


async def list_all(*, code: str | None = None, context: Context) -> msgspec.Struct | None:
    """Show the records that were set aside, and why.

    Parameters
    ----------
    code:
        Only those with this code: BAD_RECORD, ID_REUSED, INTERNAL.
    """
    async with opened(context) as whole:
        for letter in await _letters(whole, code):
            context.show(letter)
    return None


async def show(where: str, /, *, raw: Annotated[bool, Flag] = False, context: Context) -> msgspec.Struct | None:
    """Show a dead letter, with the record that it is about as it still lies at its place.

    Parameters
    ----------
    where:
        TOPIC/PARTITION/OFFSET, as list says it.
    raw:
        Write the record's bytes instead, all and as they are.
    """
    from keylane.deadletters import not_found, original, shown

    place = _where(where)
    async with opened(context) as whole:
        _check(place, whole)
        if not raw:
            return await shown(whole.journal, place)
        stored = await original(whole.journal, place)
    if stored is None:
        raise not_found(f"nothing lies at {where} any more: retention has taken it")
    sys.stdout.buffer.write(stored.value or b"")
    sys.stdout.buffer.flush()
    return None


async def replay(
    *where: str,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    code: str | None = None,
    salt: str = "",
    dry_run: Annotated[bool, Flag] = False,
    context: Context,
) -> msgspec.Struct | None:
    """Publish requests that were set aside again, under ids made of their places: twice is once.

    Parameters
    ----------
    where:
        TOPIC/PARTITION/OFFSET, as list says it.
    every:
        All that list shows.
    code:
        With --all: only those with this code.
    salt:
        Goes into the new ids: for doing it all over again.
    dry_run:
        Only say what would be published.
    """
    from keylane.commands import default_actor
    from keylane.deadletters import replay, where_of
    from keylane.errors import Refused
    from keylane.progress import progress

    if bool(where) == every:
        raise UsageError("name the places (deadletters list shows them), or say --all")
    if code is not None and not every:
        raise UsageError("--code chooses among --all")
    places = [_where(each) for each in where]
    actor = default_actor(context.environ)
    done = refused = 0
    async with opened(context) as whole:
        if every:
            places = list(dict.fromkeys(where_of(letter) for letter in await _letters(whole, code)))
        for place in places:
            _check(place, whole)
        with progress(context, "replaying", len(places)) as advance:
            for place in places:
                try:
                    found = await replay(whole.journal, place, whole.layout, salt=salt, actor=actor, dry_run=dry_run)
                except Refused as error:
                    if len(places) == 1:
                        raise
                    refused += 1
                    context.warn(error.body.message)
                else:
                    done += 1
                    context.show(found)
                advance(1)
    return ReplayDone(replayed=done, refused=refused)


async def _letters(whole: OpenJournal, code: str | None) -> list[DeadLetter]:
    from keylane.deadletters import letters

    found = [letter for number in range(whole.partitions) async for letter in letters(whole.journal, number)]
    return sorted((each for each in found if code is None or each.code == code), key=lambda each: each.time)


def _where(text: str) -> Where:
    from keylane.deadletters import parse_where

    try:
        return parse_where(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check(where: Where, whole: OpenJournal) -> None:
    from keylane.deadletters import not_found

    if where.partition >= whole.partitions:
        raise not_found(f"there is no {where}: partitions end at {whole.partitions - 1}")
