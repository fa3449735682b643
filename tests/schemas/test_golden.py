"""Bytes written by any version keep decoding to the same values. `golden/` holds them; nothing rewrites a file.

`<Type>.json` has every field set, `<Type>.minimal.json` the required ones, `<Type>.defaults.json` what the others
are then: defaults are left out on the wire, so a changed default would change the meaning of old records.
REWRITE=1 adds files that are missing; where a field is newer than its type's files it adds `<Type>.2.json`.
"""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from keylane.schemas import codec
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

GOLDEN = Path(__file__).parent / "golden"
REWRITE = bool(os.environ.get("REWRITE"))
Decode = Callable[[bytes | None], object]
TOPICS: dict[str, tuple[object, Decode]] = {
    "requests": (Request, codec.decode_request),
    "results": (Result, codec.decode_result),
    "items": (ItemRecord, codec.decode_item),
    "events": (AnyEvent, codec.decode_event),
    "conflicts": (ConflictRecord, codec.decode_conflict),
    "state": (StateRecord, codec.decode_state),
    "waits": (WaitRecord, codec.decode_wait),
    "deadletters": (DeadLetter, codec.decode_dead_letter),
    "metadata": (Metadata, codec.decode_metadata),
}


def members(record_type: object) -> tuple[type[Schema], ...]:
    return typing.get_args(record_type) or (record_type,)


MEMBERS = [(topic, member) for topic, (union, _) in TOPICS.items() for member in members(union)]
NAMES = [f"{topic}-{member.__name__}" for topic, member in MEMBERS]


def sample(kind: object, name: str, *, full: bool) -> object:
    """A value of a field's type that is unlike its default and unlike its neighbours' values."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool:
        return True
    if kind is int:
        return 1000 + sum(name.encode())
    if kind is str:
        return f"{name} é"
    if kind is msgspec.Raw:
        return msgspec.Raw(json.dumps({name: [1, 2.5, None, "é", {"deep": True}]}).encode())
    if origin is typing.Literal:
        return arguments[-1]
    if origin is tuple:
        return (sample(arguments[0], name, full=full),)
    if origin is dict:
        return {name: sample(arguments[1], name, full=full)}
    if origin in (typing.Union, types.UnionType):
        return sample(arguments[0], name, full=full)
    assert isinstance(kind, type) and issubclass(kind, msgspec.Struct), kind
    return built(kind, full=full)


def built(record: type[msgspec.Struct], *, full: bool) -> msgspec.Struct:
    hints = typing.get_type_hints(record)
    fields = msgspec.structs.fields(record)
    return record(**{f.name: sample(hints[f.name], f.name, full=full) for f in fields if full or f.required})


def defaults(record: msgspec.Struct) -> dict[str, object]:
    """What fields that may be left out are worth when they are."""
    fields = [field for field in msgspec.structs.fields(record) if not field.required]
    return {field.name: json.loads(msgspec.json.encode(getattr(record, field.name))) for field in fields}


def files(topic: str, member: type[Schema]) -> Iterator[Path]:
    return (GOLDEN / topic).glob(f"{member.__name__}*.json")


def full_files(topic: str, member: type[Schema]) -> list[Path]:
    derived = (".minimal.json", ".defaults.json")
    name = member.__name__
    return [f for f in files(topic, member) if f.name.split(".")[0] == name and not f.name.endswith(derived)]


def written_fields(topic: str, member: type[Schema]) -> set[str]:
    return {field for path in full_files(topic, member) for field in json.loads(path.read_bytes())}


def add_missing(topic: str, member: type[Schema]) -> None:
    folder, name = GOLDEN / topic, member.__name__
    folder.mkdir(parents=True, exist_ok=True)
    if not set(member.__struct_fields__) <= written_fields(topic, member):
        number = len(full_files(topic, member)) + 1
        path = folder / (f"{name}.json" if number == 1 else f"{name}.{number}.json")
        path.write_bytes(codec.encode(built(member, full=True)) + b"\n")
    minimal, worth = folder / f"{name}.minimal.json", folder / f"{name}.defaults.json"
    if not minimal.exists():
        minimal.write_bytes(codec.encode(built(member, full=False)) + b"\n")
    recorded = json.loads(worth.read_bytes()) if worth.exists() else {}
    missing = {key: value for key, value in defaults(built(member, full=False)).items() if key not in recorded}
    if missing or not worth.exists():
        worth.write_text(json.dumps(recorded | missing, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(("topic", "member"), MEMBERS, ids=NAMES)
def test_every_field_of_every_record_has_golden_bytes(topic: str, member: type[Schema]) -> None:
    if REWRITE:
        add_missing(topic, member)
    name = member.__name__
    assert (GOLDEN / topic / f"{name}.minimal.json").exists(), "run once with REWRITE=1"
    assert (GOLDEN / topic / f"{name}.defaults.json").exists(), "run once with REWRITE=1"
    assert set(member.__struct_fields__) <= written_fields(topic, member), "run once with REWRITE=1"


@pytest.mark.parametrize(("topic", "member"), MEMBERS, ids=NAMES)
def test_golden_bytes_decode_to_what_they_say(topic: str, member: type[Schema]) -> None:
    """Decoded and encoded again they are the same JSON: no field was lost, renamed or read as something else."""
    decode = TOPICS[topic][1]
    for path in [*full_files(topic, member), GOLDEN / topic / f"{member.__name__}.minimal.json"]:
        record = decode(path.read_bytes())
        assert isinstance(record, member), record
        assert json.loads(codec.encode(record)) == json.loads(path.read_bytes())


@pytest.mark.parametrize(("topic", "member"), MEMBERS, ids=NAMES)
def test_fields_left_out_keep_their_meaning(topic: str, member: type[Schema]) -> None:
    record = TOPICS[topic][1]((GOLDEN / topic / f"{member.__name__}.minimal.json").read_bytes())
    assert isinstance(record, member), record
    recorded = json.loads((GOLDEN / topic / f"{member.__name__}.defaults.json").read_bytes())
    now = defaults(record)
    assert {field: now[field] for field in recorded} == recorded


def test_no_golden_file_is_without_its_record() -> None:
    known = {(topic, member.__name__) for topic, member in MEMBERS}
    assert {(path.parent.name, path.name.split(".")[0]) for path in GOLDEN.rglob("*.json")} == known
