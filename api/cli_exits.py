"""Exit codes and the error envelope of the command line (design section 9). Nothing is printed here.

0 done, 1 the run failed or a promise was broken, 2 usage (also a key, record or line that cannot be), 3 not found
(also what a promise could be judged by), 4 fenced or lost, 5 conflict or refused, 69 no journal or no router
answered, 70 a fault in keylane, 75 `LOCK_HELD`, 78 configuration, 130 interrupted, 141 nobody reads the output. A
refusal is never 0. `hold` ends with its command's own exit code: 126 and 127 where that cannot be run, 128 and the
signal that ended it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from keylane.cli_answers import Diagnosed, Ingested, Judged, Planned, ReplayDone
from keylane.cli_context import ClaimBroken, NotRun, UsageError
from keylane.cli_text import line
from keylane.errors import KeylaneError
from keylane.journal.errors import AccessDenied, BadUrl, JournalError, TooLarge, TopicMismatch
from keylane.outcome import Outcome
from keylane.schemas.keys import BadKey
from keylane.schemas.refusals import REFUSALS
from keylane.telemetry.address import BadAddress

DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
LOST = 4
CONFLICT = 5
UNREACHABLE = 69
FAULT = 70
LOCK_HELD = 75
CONFIGURATION = 78
INTERRUPTED = 130
BROKEN_PIPE = 141

BY_CODE = {
    "BAD_RECORD": USAGE,
    "BAD_KEY": USAGE,
    "TOO_LARGE": USAGE,
    "USAGE": USAGE,
    "NOT_FOUND": NOT_FOUND,
    "FENCED": LOST,
    "LOCK_HELD": LOCK_HELD,
    "UNAVAILABLE": UNREACHABLE,
    "INTERNAL": FAULT,
    "CONFIG": CONFIGURATION,
    "DEMO": FAILED,
}
"""Every other code of the closed set is a conflict of intentions: 5."""


class Failure(NamedTuple):
    """An error as it is shown: the envelope's body (None: say nothing), and what the process ends with."""

    body: dict[str, object] | None
    exit_code: int
    is_fault: bool = False
    """It should not have happened: `KEYLANE_DEBUG` shows where."""


def exit_of_code(code: str) -> int:
    """What a refusal with this code ends with; never 0."""
    return BY_CODE.get(code, CONFLICT)


def exit_of_answer(answer: msgspec.Struct) -> int:
    """What an answer that was printed ends with: an outcome by its status, all else 0.

    Lines that were no deliveries make an ingestion a usage error, although the others were published: the
    file is not what it was said to be, and a pipeline has to notice. A judgement is 1 where a promise was broken, and
    3 where what would show it was not found. A plan is 0 whatever it
    holds, unless it was to check: then 1 when changes are pending, as diff(1) has it.
    """
    match answer:
        case Outcome(status="completed"):
            return DONE
        case Outcome(status="failed"):
            return FAILED
        case Outcome():
            return CONFLICT
        case Ingested(malformed=malformed) if malformed:
            return USAGE
        case ReplayDone(refused=refused) if refused:
            return USAGE
        case Judged(found=found, undecided=undecided) if found or undecided:
            return FAILED if found else NOT_FOUND
        case Planned(checked=True, blocked=blocked) if blocked:
            return CONFIGURATION
        case Planned(checked=True, pending=pending) if pending:
            return FAILED
        case Diagnosed(faults=faults, unreachable=unreachable) if faults:
            return UNREACHABLE if unreachable else CONFIGURATION
    return DONE


def _innermost(error: BaseException) -> BaseException:
    """Task groups wrap; what they wrapped is what happened."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def failure_of(error: BaseException) -> Failure:
    """How an exception is told, and what it ends with. Total: what is not known is a fault."""
    error = _innermost(error)
    match error:
        case KeyboardInterrupt():
            return Failure(None, INTERRUPTED)
        case BrokenPipeError():
            return Failure(None, BROKEN_PIPE)
        case SystemExit(code=int(status)):
            return Failure(None, status)
        case NotRun(exit_code=status):
            body: dict[str, object] = {"code": "USAGE", "message": str(error), "suggestion": "Correct the command."}
            return Failure(body, status)
        case KeylaneError():
            return Failure(error.to_envelope()["error"], exit_of_code(error.code))
    for kind, code, suggestion in KNOWN:
        if isinstance(error, kind):
            body = {"code": code, "message": str(error), "suggestion": suggestion}
            return Failure(body, exit_of_code(code))
    told = f"{type(error).__name__}: {line(str(error))}"
    return Failure({"code": "INTERNAL", "message": told, "suggestion": REPORT_IT}, FAULT, is_fault=True)


REPORT_IT = "Set KEYLANE_DEBUG=1 to see where; report it unless it is in your own code."

KNOWN: tuple[tuple[type[Exception], str, str], ...] = (
    (UsageError, "USAGE", "See keylane --help."),
    (ClaimBroken, "DEMO", "Report it with the lines above."),
    (BadKey, "BAD_KEY", REFUSALS["BAD_KEY"].suggestion),
    (BadUrl, "CONFIG", "Correct the URL."),
    (AccessDenied, "CONFIG", "Correct the URL, the password or the rights."),
    (BadAddress, "CONFIG", "Correct the address."),
    (TopicMismatch, "CONFIG", "Correct the configuration or use another journal."),
    (TooLarge, "TOO_LARGE", REFUSALS["TOO_LARGE"].suggestion),
    (JournalError, "UNAVAILABLE", REFUSALS["UNAVAILABLE"].suggestion),
)
"""Exceptions that reach a command from below the client; the first that fits. Codes beyond the routers' closed
set are the command line's own."""
