"""How a serving command logs: flags over `KEYLANE_LOG_FORMAT` and `KEYLANE_LOG_LEVEL`; on standard error."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, cast, get_args

from cyclopts import Parameter

from keylane.cli_context import CommandContext, UsageError

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]


@Parameter(name="*")
@dataclass(frozen=True)
class LogFlags:
    """What is logged, and how.

    Parameters
    ----------
    log_format:
        Lines for people, or a JSON object a line. Else KEYLANE_LOG_FORMAT, else text.
    log_level:
        The least that is logged; at debug every decision is. Else KEYLANE_LOG_LEVEL, else info.
    """

    log_format: Format | None = None
    log_level: Level | None = None


AS_SET = LogFlags()


def log_to_stderr(context: CommandContext, flags: LogFlags) -> None:
    """Configure the log of this process. Raises `UsageError` for a variable that names no format or level."""
    from keylane.telemetry.logs import configure

    format = flags.log_format or _from(context, "KEYLANE_LOG_FORMAT", get_args(Format), "text")
    level = flags.log_level or _from(context, "KEYLANE_LOG_LEVEL", get_args(Level), "info")
    configure(cast("Format", format), cast("Level", level), sys.stderr)


def _from(context: CommandContext, variable: str, allowed: tuple[str, ...], default: str) -> str:
    found = context.environ.get(variable) or default
    if found not in allowed:
        raise UsageError(f"{variable} is {found!r}: it can be {', '.join(allowed)}")
    return found
