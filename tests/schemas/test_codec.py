"""Bytes to records and back: total on any bytes, the same after a round trip, CloudEvents as their own library has."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable

import msgspec
import pytest
from cloudevents.kafka import KafkaMessage, from_binary
from hypothesis import given
from hypothesis import strategies as st

from keylane.schemas import codec
from keylane.schemas.base import Schema
from keylane.schemas.codec import Undecodable
from keylane.schemas.conflicts import ConflictRecord
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.events import AnyEvent
from keylane.schemas.items import ItemRecord
from keylane.schemas.metadata import Metadata
from keylane.schemas.requests import Cancellation, Request, WorkRequest
from keylane.schemas.results import Result
from keylane.schemas.state import StateRecord
from keylane.schemas.waits import WaitRecord

Decode = Callable[[bytes | None], object]
DECODERS: dict[Decode, object] = {
    codec.decode_request: Request,
    codec.decode_result: Result,
    codec.decode_item: ItemRecord,
    codec.decode_event: AnyEvent,
    codec.decode_conflict: ConflictRecord,
    codec.decode_state: StateRecord,
    codec.decode_wait: WaitRecord,
    codec.decode_dead_letter: DeadLetter,
    codec.decode_metadata: Metadata,
}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WORK = WorkRequest(id="r1", resource="deploy://api-prod", action="restart", payload=msgspec.Raw(b'{"a":1}'))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
field_names = st.sampled_from(sorted({f for m in typing.get_args(Request) for f in m.__struct_fields__}))
type_names = st.sampled_from([member.__name__ for member in typing.get_args(Request)]) | st.text(max_size=3)
near_records = st.builds(
    lambda name, fields: json.dumps({"type": name} | fields).encode(),
    type_names,
    st.dictionaries(field_names, json_values, max_size=8),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good record with some bytes replaced by others."""
    value = bytearray(codec.encode(WORK))
    for at in draw(st.lists(st.integers(0, len(value) - 1), max_size=4)):
        value[at] = draw(st.integers(0, 255))
    return bytes(value)


def values_of(kind: object) -> st.SearchStrategy[object]:
    """Any value that a field of this type can have on the wire."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is int:
        return st.integers(-(2**63), 2**64 - 1)
    if kind is msgspec.Raw:
        return json_values.map(lambda value: msgspec.Raw(json.dumps(value).encode()))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=2)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})
    assert kind in (str, bool, type(None)), kind
    return {str: st.text(max_size=8), bool: st.booleans(), type(None): st.none()}[kind]


def plain(record: Schema) -> object:
    """Comparable: raw JSON compares by identity."""
    return json.loads(codec.encode(record))


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: str(DECODERS[decode])[:24])
@given(value=st.binary(max_size=64) | near_records | damaged())
def test_any_bytes_decode_to_a_record_or_to_a_reason(decode: Decode, value: bytes) -> None:
    found = decode(value)
    if isinstance(found, Undecodable):
        assert found.reason
    else:
        assert isinstance(found, Schema)
        assert plain(found) == plain(decode(codec.encode(found)))  # type: ignore[arg-type]


AWKWARD = {
    "no value": None,
    "nothing": b"",
    "deep array": b"[" * 200_000,
    "deep field that nobody asked for": b'{"type":"WorkRequest","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep payload": b'{"type":"WorkRequest","id":"r","resource":"a:b","action":"x","payload":'
    + b'{"a":' * 100_000
    + b"1"
    + b"}" * 100_000
    + b"}",
    "huge integer": b'{"type":"WorkRequest","id":"r","resource":"a:b","action":"x","seen":' + b"9" * 5000 + b"}",
    "text that is not UTF-8": b'{"type":"WorkRequest","id":"r","resource":"\xff","action":"x"}',
    "payload that is not UTF-8": b'{"type":"WorkRequest","id":"r","resource":"a:b","action":"x","payload":"\xff"}',
    "half a surrogate pair": b'{"type":"WorkRequest","id":"\\ud800","resource":"a:b","action":"x"}',
    "another topic's record": b'{"type":"Completed","session":"s"}',
    "no type": b'{"id":"r"}',
}


@pytest.mark.parametrize("value", AWKWARD.values(), ids=AWKWARD)
def test_awkward_bytes_decode_to_a_reason(value: bytes | None) -> None:
    found = codec.decode_request(value)
    assert isinstance(found, Undecodable)
    assert found.reason and len(found.reason) <= codec.EXCERPT_CHARACTERS


def test_the_sender_of_a_bad_record_can_be_answered_where_its_id_can_be_read() -> None:
    found = codec.decode_request(b'{"type":"WorkRequest","id":"r1","resource":"deploy://a","action":7}')
    assert isinstance(found, Undecodable)
    assert (found.id, found.resource) == ("r1", "deploy://a")


@given(data=st.data(), decode=st.sampled_from(list(DECODERS)))
def test_every_record_survives_a_round_trip(data: st.DataObject, decode: Decode) -> None:
    union = DECODERS[decode]
    record = data.draw(st.one_of(*map(values_of, typing.get_args(union) or (union,))))
    assert isinstance(record, Schema)
    found = decode(codec.encode(record))
    assert type(found) is type(record)
    assert plain(found) == plain(record)  # type: ignore[arg-type]


def test_fields_of_newer_writers_are_ignored() -> None:
    found = codec.decode_request(b'{"type":"Cancellation","id":"c","resource":"a:b","request":"r","colour":"blue"}')
    assert found == Cancellation(id="c", resource="a:b", request="r")


printable = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)


@given(id=printable, source=printable)
def test_headers_are_cloudevents_as_its_own_library_reads_them(id: str, source: str) -> None:
    """Kafka protocol binding 1.0.2, section 3.2: binary content mode."""
    headers = codec.headers(WORK, id=id, source=source, time="2026-11-22T03:43:47.123Z", traceparent=TRACE)
    event = from_binary(KafkaMessage(headers=dict(headers), key=None, value=codec.encode(WORK)))
    assert event.get_attributes() == {
        "specversion": "1.0",
        "type": "keylane.WorkRequest",
        "source": source,
        "id": id,
        "time": "2026-11-22T03:43:47.123Z",
        "datacontenttype": "application/json",
    }
    assert event.get_data() == plain(WORK)
    assert codec.traceparent_of(headers) == TRACE


def test_no_trace_no_header() -> None:
    headers = codec.headers(WORK, id="i", source="s", time="2026-11-22T03:43:47Z", traceparent=None)
    assert "traceparent" not in dict(headers)
    assert codec.traceparent_of(headers) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        TRACE.upper().encode(),
        TRACE.encode() + b"\n",
        b"ff" + TRACE[2:].encode(),
        b"00-" + b"0" * 32 + TRACE[35:].encode(),
        TRACE[:36].encode() + b"0" * 16 + b"-01",
    ],
)
def test_a_malformed_trace_is_ignored(value: bytes) -> None:
    """W3C Trace Context 3.2: lower-case hexadecimal, version not ff, neither id all zeros."""
    assert codec.traceparent_of([("traceparent", value)]) is None


@pytest.mark.parametrize("name", ["secret", "password", "token", "SECRET"])
@pytest.mark.parametrize("form", ['{{"a":1,"{}" : "{}"}}', '{{"{}":"{}', '{{"{}":"\\"{}"}}'])
def test_an_excerpt_shows_no_secret(name: str, form: str) -> None:
    assert "hunter2" not in codec.excerpt(form.format(name, "hunter2").encode())


@given(value=st.binary(max_size=2000))
def test_an_excerpt_is_short_text(value: bytes) -> None:
    text = codec.excerpt(value)
    assert len(text) <= codec.EXCERPT_CHARACTERS
    text.encode()


def test_a_secret_cut_off_by_the_cap_stays_blanked() -> None:
    value = b'{"secret":"' + b"s" * 5000
    assert "sss" not in codec.excerpt(value)
