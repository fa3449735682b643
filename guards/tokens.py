"""What every guard refuses and how it says so: tokens that are too old, and what is no token or no name. No I/O."""

from __future__ import annotations

import re

from keylane.schemas.errors import ErrorBody, KeylaneError, error_body

TOKEN_MAX = 2**53 - 1
"""Tokens stay below 2^53, so that they are exact in any language's JSON."""
RESOURCE_CHARACTERS_MAX = 512
DIGITS = re.compile(r"[0-9]{1,16}")


class StaleToken(KeylaneError):
    """`token` is lower than one that was seen for `resource`: another holder has taken over. Nothing was changed.

    `highest` is the highest that was seen.
    """

    def __init__(self, resource: str, token: int, highest: int) -> None:
        super().__init__(
            error_body("FENCED", f"token {token} is too old for {resource!r}: {highest} has been seen there")
        )
        self.resource = resource
        self.token = token
        self.highest = highest


class Unusable(KeylaneError, ValueError):
    """A token that no grant has, a name that cannot be, or a target that cannot be guarded so. Nothing was changed.

    `code` is `BAD_TOKEN`, `TOKEN_REQUIRED`, `BAD_RESOURCE` or `BAD_TARGET`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(ErrorBody(code=code, message=message, suggestion=_SUGGESTIONS[code]))


_SUGGESTIONS = {
    "BAD_TOKEN": "Give the token of the grant as it is, a decimal integer.",
    "TOKEN_REQUIRED": "Send the token of the grant that you hold.",
    "BAD_RESOURCE": "Name the resource by text of 1 to 512 characters.",
    "BAD_TARGET": "Mend the target as the message says.",
}


class Busy(KeylaneError):
    """Who is in the middle of a change did not finish in time. Nothing was changed, and trying again can help."""

    def __init__(self, message: str) -> None:
        suggestion = "Check that your lease still holds, and try again."
        super().__init__(ErrorBody(code="UNAVAILABLE", message=message, suggestion=suggestion, retry_after_ms=1_000))


def check_token(token: int) -> None:
    """Raises Unusable for what is no token: they are integers from 1 to 2^53 - 1, and True is none."""
    if type(token) is not int:
        raise Unusable("BAD_TOKEN", f"a token is an integer, not {type(token).__name__}")
    if not 0 < token <= TOKEN_MAX:
        raise Unusable("BAD_TOKEN", f"a token is above 0 and below 2^53, and {token} is not")


def check_resource(resource: str) -> None:
    """Raises Unusable for a name that stores cannot keep: empty, longer than 512, with a NUL or half a surrogate pair.

    Names are compared as they are: two spellings are two resources.
    """
    if not isinstance(resource, str):
        raise Unusable("BAD_RESOURCE", f"a resource is named by text, not by {type(resource).__name__}")
    if not 0 < len(resource) <= RESOURCE_CHARACTERS_MAX:
        raise Unusable("BAD_RESOURCE", f"a resource's name has 1 to 512 characters, and this has {len(resource)}")
    if "\0" in resource or any("\ud800" <= character <= "\udfff" for character in resource):
        raise Unusable("BAD_RESOURCE", f"a resource's name is valid Unicode without NUL: {resource!r}")


def parse_token(text: str, where: str) -> int:
    """The token that `text` says in decimal digits. Raises Unusable, which names the place `where` it was read."""
    if not DIGITS.fullmatch(text):
        raise Unusable("BAD_TOKEN", f"{where} is no token: {text[:40]!r}")
    token = int(text)
    check_token(token)
    return token
