"""Bytes to records and back, and the CloudEvents headers around them. Bad bytes are a value, not an exception.

CloudEvents 1.0, Kafka protocol binding, binary content mode: attributes are headers `ce_…`, the value is the
data. `traceparent` (W3C Trace Context) is carried beside them. No rule of the router lives here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import msgspec

from keylane.schemas.base import Schema
from keylane.schemas.conflicts import ConflictRecord
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.events import AnyEvent
from keylane.schemas.items import ItemRecord
from keylane.schemas.metadata import Metadata
from keylane.schemas.requests import Request
from keylane.schemas.results import Result
from keylane.schemas.state import StateRecord
from keylane.schemas.waits import WaitRecord

Headers = Sequence[tuple[str, bytes]]
T = TypeVar("T")

CONTENT_TYPE = ("content-type", b"application/json")
SPEC_VERSION = ("ce_specversion", b"1.0")
# W3C Trace Context 3.2.2: version ff and ids of zeros alone are invalid.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
EXCERPT_CHARACTERS = 256
SECRET_VALUE = re.compile(
    r'("\w*(?:secret|password|token|authorization|api_?key)\w*"\s*:\s*)"(?:[^"\\]|\\.)*"?', re.I | re.S
)

_encoder = msgspec.json.Encoder()
encode: Callable[[Schema], bytes] = _encoder.encode


class Undecodable(NamedTuple):
    """Bytes that are no record of their topic. `id` and `resource` where they can be read all the same."""

    reason: str
    id: str | None
    resource: str | None


class _Identified(msgspec.Struct):
    """As much of a bad record as is needed to answer its sender."""

    id: str
    resource: str | None = None


def decoder(strict: msgspec.json.Decoder[T]) -> Callable[[bytes | None], T | Undecodable]:
    """A total decoder for one topic's records."""
    whole = msgspec.json.Decoder()
    lenient = msgspec.json.Decoder(_Identified)

    def decode(value: bytes | None) -> T | Undecodable:
        if value is None:
            return Undecodable("the record has no value", None, None)
        try:
            # What is handed over as raw JSON is skipped unread by the other decoder, and bad UTF-8 or a number
            # that nobody can hold (1e999) would break whoever reads it in the end.
            whole.decode(value)
            return strict.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            reason = str(error)[:EXCERPT_CHARACTERS] or type(error).__name__
        try:
            known = lenient.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return Undecodable(reason, None, None)
        return Undecodable(reason, known.id, known.resource)

    return decode


decode_request: Callable[[bytes | None], Request | Undecodable] = decoder(msgspec.json.Decoder(Request))
decode_result: Callable[[bytes | None], Result | Undecodable] = decoder(msgspec.json.Decoder(Result))
decode_item: Callable[[bytes | None], ItemRecord | Undecodable] = decoder(msgspec.json.Decoder(ItemRecord))
decode_event: Callable[[bytes | None], AnyEvent | Undecodable] = decoder(msgspec.json.Decoder(AnyEvent))
decode_conflict: Callable[[bytes | None], ConflictRecord | Undecodable] = decoder(msgspec.json.Decoder(ConflictRecord))
decode_state: Callable[[bytes | None], StateRecord | Undecodable] = decoder(msgspec.json.Decoder(StateRecord))
decode_wait: Callable[[bytes | None], WaitRecord | Undecodable] = decoder(msgspec.json.Decoder(WaitRecord))
decode_dead_letter: Callable[[bytes | None], DeadLetter | Undecodable] = decoder(msgspec.json.Decoder(DeadLetter))
decode_metadata: Callable[[bytes | None], Metadata | Undecodable] = decoder(msgspec.json.Decoder(Metadata))


@cache
def _ce_type(record_type: type) -> tuple[str, bytes]:
    return ("ce_type", b"keylane." + record_type.__name__.encode())


def headers(
    record: Schema, *, id: str, source: str, time: str, traceparent: str | None
) -> tuple[tuple[str, bytes], ...]:
    """CloudEvents headers for a record. `id` and `source` together name it once and for all; `time` is RFC 3339."""
    attributes = (
        SPEC_VERSION,
        _ce_type(type(record)),
        ("ce_source", source.encode()),
        ("ce_id", id.encode()),
        ("ce_time", time.encode()),
        CONTENT_TYPE,
    )
    return attributes if traceparent is None else (*attributes, ("traceparent", traceparent.encode()))


def traceparent_of(carried: Headers) -> str | None:
    """The trace that a record belongs to; None where there is none or it is malformed (W3C: ignore it then)."""
    for name, value in carried:
        if name == "traceparent":
            text = value.decode("ascii", "replace")
            return text if TRACEPARENT.fullmatch(text) else None
    return None


def excerpt(value: bytes | None) -> str:
    """The beginning of a bad value for people to recognise it by: capped, with what may be a secret blanked."""
    text = (value or b"")[: EXCERPT_CHARACTERS * 4].decode("utf-8", "replace")
    return SECRET_VALUE.sub(r'\1"…"', text)[:EXCERPT_CHARACTERS]
