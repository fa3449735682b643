"""What every command is given: where the journal is, how to answer, and how to say things on the side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec
from cyclopts import Parameter

Output = Literal["text", "json"]


@dataclass(frozen=True)
class CommandContext:
    """One invocation. `url` is the flag as given; None leaves it to `KEYLANE_URL` and then `./.keylane`.

    `show` prints one answer of a stream; a command with a single answer returns it instead. `warn` always
    reaches standard error; `note` only a terminal, for people who watch.
    """

    url: str | None
    environ: Mapping[str, str]
    directory: Path
    stdin: BinaryIO
    watched: bool
    """Standard error is a terminal."""
    show: Callable[[msgspec.Struct], None]
    warn: Callable[[str], None]
    note: Callable[[str], None]
    program: tuple[str, ...] = ()
    """What stands after `--`, where that is a program to run."""


# `parse=False` keeps it off the command line; `cli.main` hands it over by the name of the parameter.
Context = Annotated[CommandContext, Parameter(parse=False)]


class ClaimBroken(Exception):
    """The demo: what was claimed is not what happened."""


class UsageError(Exception):
    """The command line cannot mean anything. The message says what to write instead."""


class NotRun(Exception):
    """A program that was to be run cannot be; `exit_code` is a shell's for that."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
