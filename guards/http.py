"""The guard of HTTP: a request carries its token in a header, and a server refuses one that is lower than it has seen.

The check is here, for any server; `wsgi` and `asgi` put it before whole applications. So is what a client sends.

    412 Precondition Failed     the token is lower than one that was seen      FENCED
    428 Precondition Required   a request that changes something has none      TOKEN_REQUIRED
    400 Bad Request             the header is no token, or the name cannot be  BAD_TOKEN, BAD_RESOURCE
    503 Service Unavailable     another request on the resource does not end   UNAVAILABLE

each with keylane's envelope as its body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import NamedTuple, Protocol
from urllib.parse import quote

from keylane.guards.stores import Tokens
from keylane.guards.tokens import Unusable, check_token, parse_token
from keylane.schemas.errors import KeylaneError

HEADER = "Keylane-Token"
READING = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that need no token; one that comes with them is checked and remembered all the same (RFC 9110 9.2.1)."""
STATUS = {
    "FENCED": HTTPStatus.PRECONDITION_FAILED,
    "TOKEN_REQUIRED": HTTPStatus.PRECONDITION_REQUIRED,
    "UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
}


class Held(Protocol):
    """What has a token: an `Item` of a worker."""

    @property
    def token(self) -> int: ...


class HeldTogether(Protocol):
    """What has several: a `Lease` of locks, by resource."""

    @property
    def resources(self) -> Mapping[str, int]: ...


def token_headers(held: int | Held | HeldTogether, resource: str | None = None) -> dict[str, str]:
    """The headers to send with each request under what is held, also with those that only read before a change.

    `resource` says for which, where several are held together. Raises Unusable where nothing tells one token.
    """
    if isinstance(held, int):
        token = held
    elif hasattr(held, "resources"):
        token = _of_one(held.resources, resource)
    else:
        token = held.token
    check_token(token)
    return {HEADER: str(token)}


def _of_one(tokens: Mapping[str, int], resource: str | None) -> int:
    if resource is None and len(tokens) == 1:
        return next(iter(tokens.values()))
    if resource is None or resource not in tokens:
        raise Unusable("BAD_RESOURCE", f"say for which resource: {', '.join(tokens)}")
    return tokens[resource]


def goes_by_no_token(method: str, values: Sequence[str]) -> bool:
    """Whether the request, with these `Keylane-Token` headers, is none of the guard's: it reads, and names no token."""
    return not values and method in READING


class Answer(NamedTuple):
    """A refusal as a server sends it."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: bytes


class HttpGuard:
    """The check itself, for servers that no middleware here fits."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    @contextmanager
    def holding(self, method: str, resource: str, values: Sequence[str]) -> Iterator[None]:
        """Entered when the request may act; to be left when it has acted. Nobody else acts on `resource` meanwhile.

        `values` are the request's `Keylane-Token` headers. Raises KeylaneError, which `answer` makes a response of,
        before the body begins.
        """
        if goes_by_no_token(method, values):
            yield
            return
        if not values:
            raise Unusable("TOKEN_REQUIRED", f"{method} needs the header {HEADER}")
        token = parse_token(", ".join(values), f"the header {HEADER}")
        with self._tokens.holding(resource, token):
            yield


def answer(error: KeylaneError) -> Answer:
    """The response that says `error`."""
    body = json.dumps(error.to_envelope()).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    if error.body.retry_after_ms is not None:
        headers.append(("Retry-After", str(-(-error.body.retry_after_ms // 1_000))))
    return Answer(STATUS.get(error.code, HTTPStatus.BAD_REQUEST), headers, body)


def path_name(path: bytes) -> str:
    """A decoded path as a resource's name, the same under WSGI and ASGI."""
    return quote(path)
