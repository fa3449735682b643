"""From what a caller says to the record that is published: keys, payload, size, headers. No waiting here.

What can be refused without a router is refused here, with the router's codes.
"""

from __future__ import annotations

import getpass
import importlib
import socket
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from keylane.errors import Refused, error_body
from keylane.journal.port import Record
from keylane.layout import Layout
from keylane.schemas import codec, topics
from keylane.schemas.keys import BadKey, canonical_key
from keylane.schemas.requests import (
    Cancellation,
    Decision,
    LockRequest,
    Release,
    Renewal,
    Resolution,
    ResourceChange,
    SessionEnded,
    WorkRequest,
)
from keylane.schemas.times import rfc3339

C = TypeVar("C", bound=WorkRequest | ResourceChange)
Keyed = WorkRequest | LockRequest | Renewal | Release | Cancellation | ResourceChange | Decision
"""Commands that go to the lane of their resource."""


def default_actor(environ: Mapping[str, str]) -> str:
    """Who asks, unless said otherwise: `KEYLANE_ACTOR`, else user@host."""
    if named := environ.get("KEYLANE_ACTOR"):
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def wall_ms() -> int:
    """Now, for people."""
    return int(time.time() * 1_000)


def checked_key(resource: str) -> str:
    """The canonical key. Raises `Refused` (`BAD_KEY`) with the reason."""
    try:
        return canonical_key(resource)
    except BadKey as error:
        raise Refused(error_body("BAD_KEY", str(error))) from error


def with_canonical_key(command: C) -> C:
    """The command under its canonical key. Raises `Refused` (`BAD_KEY`)."""
    key = checked_key(command.resource)
    return command if key == command.resource else replace(command, resource=key)


def encoded_payload(payload: object) -> msgspec.Raw:
    """A payload as JSON: builtins, msgspec structs, dataclasses. Raises `Refused` (`BAD_RECORD`)."""
    if isinstance(payload, msgspec.Raw):
        return payload
    try:
        return msgspec.Raw(msgspec.json.encode(payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(error_body("BAD_RECORD", f"the payload is not JSON: {error}")) from error


def milliseconds(name: str, seconds: float) -> int:
    """A time as records have it. Raises `Refused` (`BAD_RECORD`) for what is no number of seconds."""
    try:
        return round(seconds * 1000)
    except (ValueError, OverflowError) as error:  # NaN, infinity
        raise Refused(error_body("BAD_RECORD", f"{name}: {seconds} is no number of seconds")) from error


def record_of(command: Keyed, layout: Layout, source: str, traceparent: str | None) -> Record:
    """The record that carries `command` to its lane, under its owning key. Raises `Refused`: `TOO_LARGE`, `BAD_KEY`."""
    owner = layout.owner_of(command.resource)
    return record_at(command, layout.partition_of(command.resource), owner, source, traceparent)


def record_at(
    command: Keyed | Resolution | SessionEnded, partition: int, owner: str, source: str, traceparent: str | None
) -> Record:
    """As `record_of`, where lane and owning key are known."""
    key = owner.encode()
    value = codec.encode(command)
    headers = codec.headers(
        command,
        id=command.id,
        source=source,
        time=rfc3339(time.time()),
        traceparent=traceparent or current_traceparent(),
    )
    size = len(key) + len(value) + sum(len(name) + len(text) for name, text in headers)
    if size > topics.REQUEST_BYTES_MAX:
        raise Refused(
            error_body("TOO_LARGE", f"a request of {size} bytes is over the {topics.REQUEST_BYTES_MAX} allowed")
        )
    return Record(topics.REQUESTS, partition, key, value, headers)


@lru_cache(maxsize=64)
def source_of(actor: str) -> str:
    """The CloudEvents source of an actor's commands: a URI reference."""
    return f"/keylane/clients/{quote(actor, safe='@')}"


def current_traceparent() -> str | None:
    """The caller's current span, where the application uses OpenTelemetry.

    Only looked for when the application has imported it: keylane neither needs it nor loads it.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    carrier: dict[str, str] = {}
    importlib.import_module("opentelemetry.propagate").inject(carrier)
    return carrier.get("traceparent")
