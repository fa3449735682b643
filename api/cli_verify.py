"""`keylane verify`: judges what is on record by the promises, and keeps it as a file that can be passed on."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
from cyclopts import Parameter

from keylane.cli_answers import Judged
from keylane.cli_context import CommandContext, Context, UsageError
from keylane.cli_journal import opened
from keylane.cli_services import COLLECTOR_THRESHOLDS
from keylane.progress import Advance, growing

if TYPE_CHECKING:
    from keylane.verify import Line

Flag = Parameter(negative="")
BATCH = 1_000
BATCH_BYTES = 256 * 1024
SALT_BYTES = 32


async def verify(
    file: Path | None = None,
    /,
    *,
    promise: Annotated[tuple[int, ...], Flag] = (),
    drained: Annotated[bool, Flag] = False,
    save: Path | None = None,
    redact: Annotated[bool, Flag] = False,
    stdin: Annotated[bool, Parameter(name="-", negative="")] = False,  # as a file it would swallow every option
    context: Context,
) -> msgspec.Struct:
    """Judge what is on record by what is promised, and show what breaks it.

    Ends with 0 where every promise was kept, with 1 where one was broken, and
    with 3 where that could not be decided, for instance since retention has
    taken what would show it.

    Parameters
    ----------
    file:
        A history that was saved. Else the journal.
    stdin:
        The history on standard input.
    promise:
        Only this one; may be given several times. See README, Guaranteed.
    drained:
        Everything has come to rest: what is still open is broken, too.
    save:
        Keep the history in this new file, as JSON lines.
    redact:
        With --save: digests instead of payloads, results and other text of agents,
        and of the secrets of their locks, which are in the file without it.
    """
    from keylane.verify import PROMISES, Verifier

    if unknown := sorted(set(promise) - set(PROMISES)):
        raise UsageError(f"--promise {unknown[0]}: there are {PROMISES[0]} to {PROMISES[-1]}")
    if redact and save is None:
        raise UsageError("--redact: give --save FILE, too; what is judged needs no redaction")
    if stdin and file is not None:
        raise UsageError(f"{file} and -: give one of them")
    # As in a router: many small objects that live long and make no cycles.
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    verifier = Verifier(promise or None)
    async with AsyncExitStack() as stack:
        bar = stack.enter_context(growing(context, "judging"))
        keep = _keeping(stack, context, save, redact)
        read = Path("-") if stdin else file
        lines = _from_journal(context, *bar) if read is None else _from_file(context, read, *bar)
        async with aclosing(lines):
            async for line in lines:
                verifier.take(line)
                keep(line)
    return msgspec.convert(verifier.close(drained=drained), Judged, from_attributes=True)


async def _from_journal(context: CommandContext, found: Advance, advance: Advance) -> AsyncGenerator[Line, None]:
    from keylane.recording import history_of

    count = 0
    async with opened(context) as whole, aclosing(history_of(whole.journal, whole.partitions, found)) as lines:
        async for line in lines:
            yield line
            count += 1
            if count % BATCH == 0:
                advance(BATCH)


async def _from_file(
    context: CommandContext, file: Path, found: Advance, advance: Advance
) -> AsyncGenerator[Line, None]:
    from keylane.verify import BadLine, decode_lines

    path = context.directory / file
    try:
        with nullcontext(context.stdin) if str(file) == "-" else path.open("rb") as lines:
            if str(file) != "-":
                found(path.stat().st_size)
            for line in decode_lines(_counted(lines, advance)):
                yield line
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except BadLine as error:
        raise UsageError(f"{file}, {error}") from error


def _counted(lines: Iterable[bytes], advance: Advance) -> Iterator[bytes]:
    """The same lines; how many bytes they were is said now and then."""
    size = 0
    for text in lines:
        yield text
        size += len(text)
        if size > BATCH_BYTES:
            advance(size)
            size = 0


def _keeping(stack: AsyncExitStack, context: CommandContext, save: Path | None, redact: bool) -> Callable[[Line], None]:
    """What is done with each line beside judging it. A file that is there is not written over."""
    if save is None:
        return lambda line: None
    import os
    import secrets

    from keylane.verify import Entry, encode_line, redacted

    try:
        # Nobody else's: payloads may be secret.
        descriptor = os.open(context.directory / save, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(f"{save}: {error.strerror}") from error
    out: BinaryIO = stack.enter_context(os.fdopen(descriptor, "wb"))
    salt = secrets.token_bytes(SALT_BYTES)

    def keep(line: Line) -> None:
        said = redacted(line, salt) if redact and isinstance(line, Entry) else line
        out.write(encode_line(said) + b"\n")

    return keep
