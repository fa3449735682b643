"""The one envelope around everything that goes wrong, at every door (design section 9), and the exceptions that every
layer above may raise."""

from __future__ import annotations

from typing import Any

import msgspec

from keylane.schemas.refusals import REFUSALS


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why something did not succeed (design section 9). Only the fields that apply are written.

    `code` is one of `keylane.schemas.refusals.Code`, or what a handler chose. `message` and `holder` may be
    agent-written: untrusted text. Times are RFC 3339 and for people.
    """

    code: str
    message: str
    retry_after_ms: int | None = None
    holder: str | None = None
    held_since: str | None = None
    lease_expires_at: str | None = None
    position: int | None = None
    """Requests that wait before this one."""
    cycle: tuple[str, ...] = ()
    conflict_id: str | None = None
    suggestion: str = ""


class KeylaneError(Exception):
    """Base of all errors of the face. `code` tells them apart, `suggestion` says what to do about it."""

    def __init__(self, body: ErrorBody) -> None:
        super().__init__(f"{body.code}: {body.message}")
        self.body = body
        self.code = body.code
        self.message = body.message
        self.suggestion = body.suggestion

    def to_envelope(self) -> dict[str, Any]:
        """The error as JSON: `{"error": {…}}`, the same at every door."""
        return {"error": msgspec.to_builtins(self.body)}


def error_body(code: str, message: str) -> ErrorBody:
    """A body with the suggestion that belongs to `code`, where there is one."""
    known = REFUSALS.get(code)  # type: ignore[call-overload]  # handlers' codes are open
    return ErrorBody(code=code, message=message, suggestion=known.suggestion if known else "")


class LeaseLost(KeylaneError):
    """What was held is not its holder's any more: stop now, and change nothing. What it still reports is discarded."""

    def __init__(self, message: str) -> None:
        super().__init__(error_body("FENCED", message))
