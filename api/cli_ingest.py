"""`keylane ingest github`: webhook deliveries, one a line, are published. What each becomes is in `ingest`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_answers import Ingested
from keylane.cli_context import CommandContext, Context, UsageError
from keylane.progress import progress

if TYPE_CHECKING:
    from keylane.changes import ChangeTicket
    from keylane.client import Client
    from keylane.schemas.requests import ResourceChange, WorkRequest
    from keylane.waiting import Ticket

BATCH = 100


async def github(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    salt: str = "",
    wait: Annotated[bool, Parameter(negative="")] = False,
    as_requests: Annotated[bool, Parameter(negative="")] = False,
    context: Context,
) -> msgspec.Struct:
    """Publish each GitHub webhook delivery of a file: as a change that was made
    outside where a person did it, as a work request where a program did.

    Each line is {"event": NAME, "payload": BODY}. Ids are made of the lines, so
    that a file taken in again changes nothing. A delivery that names no resource
    is told on standard error and is no fault. A line that is no delivery is told
    too, and ends the command with 2; the others are published all the same.

    Parameters
    ----------
    file:
        The file, or - for standard input.
    salt:
        Makes other ids, to take in copies on purpose.
    wait:
        Wait for every outcome, and for what became of each change, and count them.
    as_requests:
        Take what people did as work requests, too: for workers that answer them.
    """
    from keylane.changes import ChangeTicket
    from keylane.client import Client
    from keylane.waiting import Ticket

    lines = _lines(file, context)
    commands: list[WorkRequest | ResourceChange] = []
    unmapped = malformed = 0
    for number, command, reason, is_delivery in _mapped(lines, salt, as_requests):
        if command is not None:
            commands.append(command)
            continue
        context.warn(f"line {number}: {reason}")
        unmapped += is_delivery
        malformed += not is_delivery
    async with Client(context.url) as client:
        with progress(context, "published", len(commands)) as advance:
            published = await _publish(client, commands, advance)
        tickets = [ticket for ticket in published if isinstance(ticket, Ticket)]
        changes = [ticket for ticket in published if isinstance(ticket, ChangeTicket)]
        done = Ingested(
            source=str(file),
            lines=len(lines),
            published=len(published),
            requests=len(tickets),
            changes=len(changes),
            unmapped=unmapped,
            malformed=malformed,
        )
        return await _waited(done, tickets, changes, context) if wait else done


def _lines(file: Path, context: CommandContext) -> list[bytes]:
    """All lines that hold anything. Read whole: what cannot be read is told before anything is published."""
    try:
        data = context.stdin.read() if str(file) == "-" else (context.directory / file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    return data.splitlines()


def _mapped(
    lines: Sequence[bytes], salt: str, as_requests: bool
) -> Iterator[tuple[int, WorkRequest | ResourceChange | None, str, bool]]:
    """Line number, the command or the reason for none, and whether the line is a delivery at all."""
    from keylane.ingest import Unmapped, command_from_github

    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        mapped = command_from_github(line, salt=salt, as_requests=as_requests)
        if isinstance(mapped, Unmapped):
            named = f"{mapped.event}: {mapped.reason}" if mapped.event else mapped.reason
            yield number, None, named, bool(mapped.event)
        else:
            yield number, mapped, "", True


async def _publish(
    client: Client, commands: Sequence[WorkRequest | ResourceChange], advance: Callable[[int], None]
) -> list[Ticket | ChangeTicket]:
    tickets: list[Ticket | ChangeTicket] = []
    waiting = iter(commands)
    while batch := list(islice(waiting, BATCH)):
        tickets += await client.publish_all(batch)
        advance(len(batch))
    return tickets


async def _waited(
    done: Ingested, tickets: Sequence[Ticket], changes: Sequence[ChangeTicket], context: CommandContext
) -> Ingested:
    """The same with what became of all that was published."""
    with progress(context, "ended", done.published) as advance:
        effects = await _effects(changes, advance)
        outcomes, coalesced = await _outcomes(tickets, advance)
    return msgspec.structs.replace(done, outcomes=outcomes, coalesced=coalesced, effects=effects)


async def _effects(changes: Sequence[ChangeTicket], advance: Callable[[int], None]) -> dict[str, int]:
    """What the changes came to. A refused one counts by its code."""
    from keylane.errors import Refused

    counts: Counter[str] = Counter()
    for change in changes:
        try:
            counts[await change.recorded()] += 1
        except Refused as refused:
            counts[refused.code] += 1
        advance(1)
    return dict(counts)


async def _outcomes(tickets: Sequence[Ticket], advance: Callable[[int], None]) -> tuple[dict[str, int], int]:
    counts: Counter[str] = Counter()
    coalesced = 0
    for ticket in tickets:
        outcome = await ticket.outcome()
        counts[outcome.status] += 1
        coalesced += outcome.coalesced
        advance(1)
    return dict(counts), coalesced
