"""Histories as files: one JSON object a line, readable with any tool, exact to the byte; and without secrets.

A value that is JSON on one line stands in its line as it is, anything else as base64. Lines of kinds that this
version does not know are passed over, so that recorders may be newer.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_request, decode_result, encode

from .history import Acknowledged, Configured, Effect, Entry, Line, Span

AGENTS_OWN = frozenset((
    "payload", "merged", "result", "checkpoint", "data", "evidence", "open_questions", "message", "note", "reason",
    "blocked", "excerpt", "secret", "secret_sha256", "digest", "previous_end",
))  # fmt: skip
"""Fields whose content agents wrote, or that tell something about it."""
DECIDED = frozenset(("WorkerClosed", "Lost", "SessionClosed", "Notice"))
"""Types whose `reason` is the router's, and needed."""


NONE = Raw(b"")
"""No value in the line: there is none, or it is base64. One object, since that is how a default is known."""


class BadLine(ValueError):
    """A line that is no part of a history. `number` counts from 1."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"line {number}: {reason}")
        self.number = number


class _EntryLine(Struct, tag="Entry", omit_defaults=True, kw_only=True):
    topic: str
    partition: int
    offset: int
    key: str | None = None
    key_base64: bytes | None = None
    value: Raw = NONE
    value_base64: bytes | None = None
    timestamp_ms: int = 0


class _Kind(Struct):
    type: str


_decode = msgspec.json.Decoder(_EntryLine | Acknowledged | Configured | Effect | Span).decode
_kind = msgspec.json.Decoder(_Kind).decode
_encode = msgspec.json.Encoder().encode
_json = msgspec.json.Decoder().decode
_INPUTS = {topics.REQUESTS: decode_request, topics.RESULTS: decode_result}
KNOWN = frozenset(kind.__name__ for kind in (Entry, Acknowledged, Configured, Effect, Span))


def encode_line(line: Line) -> bytes:
    """One line, without its end."""
    if not isinstance(line, Entry):
        return _encode(line)
    text, raw_key = _key(line.key)
    value, raw_value = _value(line.value)
    return _encode(
        _EntryLine(
            topic=line.topic,
            partition=line.partition,
            offset=line.offset,
            key=text,
            key_base64=raw_key,
            value=value,
            value_base64=raw_value,
            timestamp_ms=line.timestamp_ms,
        )
    )


def _key(key: bytes | None) -> tuple[str | None, bytes | None]:
    if key is None:
        return None, None
    try:
        return key.decode(), None
    except UnicodeDecodeError:
        return None, key


def _value(value: bytes | None) -> tuple[Raw, bytes | None]:
    if value is None:
        return NONE, None
    try:
        if b"\n" in value or b"\r" in value or value != value.strip():
            return NONE, value
        _json(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return NONE, value
    return Raw(value), None


def decode_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """Each line of a file. Raises `BadLine`."""
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            found = _decode(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            if _is_newer(text):
                continue
            raise BadLine(number, str(error) or "not JSON") from error
        if isinstance(found, _EntryLine):
            key = found.key_base64 if found.key is None else found.key.encode()
            value = bytes(found.value) or found.value_base64
            yield Entry(found.topic, found.partition, found.offset, key, value, found.timestamp_ms)
        else:
            yield found


def _is_newer(text: bytes) -> bool:
    try:
        return _kind(text).type not in KNOWN
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False


def redacted(entry: Entry, salt: bytes) -> Entry:
    """The entry without what agents wrote: keyed digests in its place, equal where that was equal.

    Ids, keys, actions, actors and names stay, since the promises are about them. `salt` is to be random and
    forgotten: with a known one, short secrets could be guessed.
    """
    if entry.value is None:
        return entry
    value = entry.value
    if entry.topic in _INPUTS:
        known = _INPUTS[entry.topic](value)
        if isinstance(known, Undecodable):
            return replace(entry, value=_encode(_digest(value, salt)))  # no record of the topic, before or after
        value = encode(known)  # without fields that no record has: anybody can write those
    return replace(entry, value=_encode(_without(_json(value), salt)))


def _without(record: dict[str, Any], salt: bytes) -> dict[str, Any]:
    said: dict[str, Any] = {}
    decided = record.get("type") in DECIDED
    for name, value in record.items():
        if name not in AGENTS_OWN or value is None or (name == "reason" and decided):
            said[name] = _deeper(value, salt)
        elif name == "checkpoint" and isinstance(value, dict) and value.get("type") == "Checkpoint":
            said[name] = _without(value, salt)
        elif name == "checkpoint" and isinstance(value, bool):
            said[name] = value  # of an event: whether there was one
        elif isinstance(value, list) and name in ("merged", "open_questions"):
            said[name] = [_digest(_encode(each), salt) for each in value]
        else:
            said[name] = _digest(_encode(value), salt)
    return said


def _deeper(value: Any, salt: bytes) -> Any:
    """Records hold records: parties, errors."""
    if isinstance(value, dict):
        return _without(value, salt)
    if isinstance(value, list):
        return [_deeper(each, salt) for each in value]
    return value


def _digest(value: bytes, salt: bytes) -> str:
    return "hmac-sha256:" + hmac.digest(salt, value, hashlib.sha256).hex()[:32]
