"""Exit codes: each kind of end has its own, and nothing but success is 0."""

from typing import get_args

import msgspec
import pytest

from keylane.cli_answers import Ingested
from keylane.cli_context import ClaimBroken, UsageError
from keylane.cli_exits import exit_of_answer, exit_of_code, failure_of
from keylane.errors import ConfigError, LockHeld, Refused, Unavailable, error_body
from keylane.journal.errors import AccessDenied, BadUrl, LaneLost, TopicMismatch
from keylane.journal.errors import Unavailable as JournalUnavailable
from keylane.outcome import Outcome, OutcomeStatus
from keylane.schemas.keys import BadKey
from keylane.schemas.refusals import Code


@pytest.mark.parametrize("code", get_args(Code))
def test_no_refusal_is_success(code: str) -> None:
    assert exit_of_code(code) not in (0, 1)


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (UsageError("no"), "USAGE", 2),
        (BadKey("no"), "BAD_KEY", 2),
        (Refused(error_body("BAD_KEY", "no")), "BAD_KEY", 2),
        (Refused(error_body("NOT_FOUND", "no")), "NOT_FOUND", 3),
        (Refused(error_body("FENCED", "no")), "FENCED", 4),
        (Refused(error_body("TOO_LATE", "no")), "TOO_LATE", 5),
        (Refused(error_body("STALE_VERSION", "no")), "STALE_VERSION", 5),
        (Unavailable("no router answered"), "UNAVAILABLE", 69),
        (JournalUnavailable("no broker"), "UNAVAILABLE", 69),
        (LaneLost("gone", fenced=True), "UNAVAILABLE", 69),
        (LockHeld(error_body("LOCK_HELD", "no")), "LOCK_HELD", 75),
        (ConfigError("no"), "CONFIG", 78),
        (BadUrl("no"), "CONFIG", 78),
        (TopicMismatch("no"), "CONFIG", 78),
        (AccessDenied("no"), "CONFIG", 78),
        (ClaimBroken("it holds"), "DEMO", 1),
        (ZeroDivisionError("a fault"), "INTERNAL", 70),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [Unavailable("no")])]), "UNAVAILABLE", 69),
    ],
)
def test_an_error_has_its_code_and_exit(error: Exception, code: str, exit_code: int) -> None:
    failure = failure_of(error)
    assert failure.exit_code == exit_code
    assert failure.is_fault == (code == "INTERNAL")
    assert failure.body is not None
    assert failure.body["code"] == code
    assert failure.body["message"] and failure.body["suggestion"]


@pytest.mark.parametrize(("error", "exit_code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_an_interruption_says_nothing(error: BaseException, exit_code: int) -> None:
    assert failure_of(error)[:2] == (None, exit_code)
    assert failure_of(BaseExceptionGroup("tasks", [error]))[:2] == (None, exit_code)


@pytest.mark.parametrize("status", get_args(OutcomeStatus))
def test_an_outcome_is_graded_by_its_status(status: OutcomeStatus) -> None:
    expected = {"completed": 0, "failed": 1}.get(status, 5)
    assert exit_of_answer(Outcome(request_id="r", run="r", status=status)) == expected


def test_an_ingestion_with_malformed_lines_is_a_usage_error() -> None:
    done = Ingested(source="-", lines=3, published=2, requests=2, changes=0, unmapped=1, malformed=0)
    assert exit_of_answer(done) == 0
    assert exit_of_answer(msgspec.structs.replace(done, malformed=1)) == 2
