"""What can go wrong, as callers of keylane see it: six kinds of error and the one envelope around them.

Adapters' and layers' own exceptions are mapped to these at the edge of the face (`translated`); nothing else
lives here. Exit codes are the command line's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keylane.journal import errors as journal_errors
from keylane.schemas.errors import ErrorBody, KeylaneError, LeaseLost, error_body

if TYPE_CHECKING:
    from keylane.outcome import Outcome

__all__ = [
    "ConfigError",
    "ErrorBody",
    "KeylaneError",
    "LeaseLost",
    "LiveWork",
    "LockHeld",
    "Refused",
    "RunFailed",
    "Unavailable",
    "error_body",
    "refusal",
    "translated",
]


class Refused(KeylaneError):
    """The router, or the client before it, did not accept the command. `code` says why."""

    @property
    def retry_after_ms(self) -> int | None:
        """When a new request may be accepted, in milliseconds from now."""
        return self.body.retry_after_ms

    @property
    def holder(self) -> str | None:
        """Who holds the resource. Agent-written."""
        return self.body.holder

    @property
    def held_since(self) -> str | None:
        """Since when, RFC 3339."""
        return self.body.held_since

    @property
    def lease_expires_at(self) -> str | None:
        """When its lease ends unless it is renewed, RFC 3339."""
        return self.body.lease_expires_at

    @property
    def position(self) -> int | None:
        """How many would be before a new request."""
        return self.body.position

    @property
    def cycle(self) -> Sequence[str]:
        """Session, resource, session, … of a deadlock."""
        return self.body.cycle

    @property
    def conflict_id(self) -> str | None:
        """The conflict artifact that records this."""
        return self.body.conflict_id


class LockHeld(Refused):
    """Another holds the resource and the request, or the policy, was not to wait."""


class RunFailed(KeylaneError):
    """The request was accepted and ended in another way than completed: `outcome.status` says how."""

    def __init__(self, body: ErrorBody, outcome: Outcome) -> None:
        super().__init__(body)
        self.outcome = outcome


class Unavailable(KeylaneError):
    """No journal, or no router answered.

    What was asked may be done all the same: ask for its status, or repeat it under its own id.
    """

    def __init__(self, message: str) -> None:
        super().__init__(error_body("UNAVAILABLE", message))


class ConfigError(KeylaneError):
    """The configuration, or the journal's URL, cannot be used as it is: rights at the journal are of it too."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorBody(code="CONFIG", message=message, suggestion="Correct it as the message says."))


class LiveWork(KeylaneError):
    """What would be changed is in use. Nothing was changed; the message says what is not at rest."""

    def __init__(self, message: str) -> None:
        said = "Wait until all of it has ended and try again; limits end with their until action."
        super().__init__(ErrorBody(code="LIVE_WORK", message=message, suggestion=said))


def refusal(body: ErrorBody) -> Refused:
    """The exception that says `body`."""
    return LockHeld(body) if body.code == "LOCK_HELD" else Refused(body)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the journal's errors as those of the face."""
    try:
        yield
    except (journal_errors.BadUrl, journal_errors.TopicMismatch, journal_errors.AccessDenied) as error:
        raise ConfigError(str(error)) from error
    except journal_errors.TooLarge as error:
        raise refusal(error_body("TOO_LARGE", str(error))) from error
    except journal_errors.JournalError as error:
        raise Unavailable(str(error)) from error
