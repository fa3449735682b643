"""A saved history says the same as the one that it was saved from, redacted or not."""

from __future__ import annotations

import json

import pytest
from core.bench import work
from hypothesis import given
from hypothesis import strategies as st
from verify.recording import Recorder, judged, told
from verify.stories import story

from keylane.schemas.codec import encode
from keylane.verify import (
    Acknowledged,
    BadLine,
    Configured,
    Effect,
    Entry,
    Line,
    Span,
    decode_lines,
    encode_line,
    redacted,
)

SALT = b"salt"
FACTS: list[Line] = [
    Acknowledged(id="r1", partition=0, offset=5),
    Configured(retention_ms=5),
    Effect(resource="deploy://api", run="r1", token=7),
    Span(topic="events", partition=3, end=9, moving=True),
]


def test_every_line_comes_back_as_it_was() -> None:
    lines = [*story(), *FACTS]
    written = [encode_line(line) for line in lines]
    assert all(b"\n" not in line and json.loads(line) for line in written)
    assert list(decode_lines(written)) == lines


@given(key=st.none() | st.binary(), value=st.none() | st.binary() | st.text().map(str.encode))
def test_any_bytes_come_back_as_they_were(key: bytes | None, value: bytes | None) -> None:
    entry = Entry("requests", 1, 2, key, value or None, 3)
    assert list(decode_lines([encode_line(entry)])) == [entry]


@pytest.mark.parametrize("value", [b' {"a":1}', b'{"a":1}\n', b'{"a":\n1}', b"null", b'"x"', b"\xff"])
def test_values_keep_their_spelling(value: bytes) -> None:
    entry = Entry("requests", 0, 0, b"k", value)
    assert list(decode_lines([encode_line(entry)])) == [entry]


def test_lines_of_newer_kinds_are_passed_over_and_bad_ones_named() -> None:
    good = encode_line(story()[0])
    assert list(decode_lines([good, b'{"type":"Weather","sunny":true}', b"", good])) == [story()[0]] * 2
    with pytest.raises(BadLine, match="line 2"):
        list(decode_lines([good, b'{"type":"Entry","topic":7}']))
    with pytest.raises(BadLine, match="line 1"):
        list(decode_lines([b"{"]))


def test_a_redacted_history_is_judged_alike() -> None:
    report = judged(redacted(entry, SALT) for entry in story())
    assert not report.violations and not report.undecided and not report.open, told(report)


def test_nothing_that_agents_wrote_is_left_in_a_redacted_history() -> None:
    secret = "hunter2"
    bench = Recorder()
    bench.join("w", "restart", slots=2)
    bench.feed(work("r1", payload=f'{{"password": "{secret}"}}'))
    bench.progress("r1", checkpoint=b'"%s"' % secret.encode(), evidence=b'["%s"]' % secret.encode())
    bench.progress("r1", open_questions=(secret,), blocked=secret)
    bench.fail("r1", retry_after_ms=0)
    bench.complete("r1", result=f'"{secret}"')
    plain = json.loads(encode(work("r2")))
    more = [
        Entry("requests", 0, 50, None, json.dumps(plain | {"unknown": secret}).encode()),
        Entry("requests", 0, 51, None, f"{secret} is no record".encode()),
        Entry("deadletters", 0, 0, None, json.dumps({"type": "DeadLetter", "excerpt": secret}).encode()),
    ]
    entries = [*bench.entries, *more]
    assert sum(secret.encode() in (entry.value or b"") for entry in entries) > 5
    written = [encode_line(redacted(entry, SALT)) for entry in entries]
    assert not [line for line in written if secret.encode() in line]
    assert [redacted(entry, b"other") for entry in entries] != [redacted(entry, SALT) for entry in entries]
