"""`keylane verify`: on a journal, on a file, on standard input; what it saves, says, and ends with."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from verify.recording import find, without
from verify.spoiled_grants import a_token_used_again
from verify.stories import story

from keylane.cli import run
from keylane.journal import Record, connect
from keylane.router.setup import topic_specs
from keylane.schemas.codec import encode
from keylane.schemas.metadata import METADATA_KEY, Metadata
from keylane.verify import Line, encode_line


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def verified(*words: str, stdin: bytes = b"") -> Done:
    out, err = io.StringIO(), io.StringIO()
    code = run(["verify", *words], out, err, io.BytesIO(stdin))
    return Done(code, out.getvalue(), err.getvalue())


def written(lines: Sequence[Line]) -> bytes:
    return b"".join(encode_line(line) + b"\n" for line in lines)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEYLANE_URL", raising=False)
    return tmp_path


@pytest.fixture
def journal(folder: Path) -> str:
    """The good history in an embedded journal, which keeps of `state` only the newest of each key."""
    url = f"sqlite://{folder}/journal.db"

    async def fill() -> None:
        journal = await connect(url)
        try:
            await journal.create_topics(topic_specs(1, ("default",)))
            records = [Record(each.topic, each.partition, each.key, each.value) for each in story()]
            records.append(Record("metadata", 0, METADATA_KEY, encode(Metadata(partitions=1))))
            for record in records:
                await journal.append([record])
        finally:
            await journal.close()

    anyio.run(fill)
    return url


def test_a_journal_that_keeps_its_promises_is_0(journal: str) -> None:
    done = verified("--url", journal, "--drained")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("records of 8 topics: no violation\n")


def test_what_is_saved_is_judged_as_the_journal_is(journal: str, folder: Path) -> None:
    from_journal = verified("--url", journal, "--save", "saved.jsonl", "--output", "json")
    assert from_journal.code == 0, from_journal.err
    assert stat.S_IMODE((folder / "saved.jsonl").stat().st_mode) == 0o600
    assert verified("saved.jsonl", "--output", "json").answer == from_journal.answer
    saved = (folder / "saved.jsonl").read_bytes()
    assert verified("-", "--output", "json", stdin=saved).answer == from_journal.answer
    again = verified("saved.jsonl", "--save", "redacted.jsonl", "--redact", "--output", "json")
    assert again.answer == from_journal.answer
    assert verified("redacted.jsonl", "--output", "json").answer == from_journal.answer
    assert b'"payload":"hmac' in (folder / "redacted.jsonl").read_bytes()


def test_nothing_is_written_over(folder: Path) -> None:
    (folder / "saved.jsonl").write_bytes(b"mine")
    done = verified("-", "--save", "saved.jsonl", stdin=written(story()))
    assert done.code == 2 and "saved.jsonl" in done.err
    assert (folder / "saved.jsonl").read_bytes() == b"mine"


def test_a_broken_promise_is_1_and_told_with_its_places(folder: Path) -> None:
    entries, places = a_token_used_again(list(story()))
    (folder / "history.jsonl").write_bytes(written(entries))
    done = verified("history.jsonl", "--promise", "2", "--promise", "5")
    assert done.code == 1
    assert done.out.startswith("promise 2 is broken: ")
    assert all(f"  {place}\n" in done.out for place in places)
    assert verified("history.jsonl", "--promise", "5").code == 0
    answer = verified("history.jsonl", "--output", "json").answer
    assert answer["found"]["2"] == 1 and set(places) <= set(answer["violations"][0]["places"])


def test_what_cannot_be_decided_is_3_and_said(folder: Path) -> None:
    late = [entry for entry in story() if entry.topic != "events" or entry.offset >= 20]
    (folder / "history.jsonl").write_bytes(written(late))
    done = verified("history.jsonl")
    assert done.code == 3
    assert "promise 1 is not decidable in part: the history begins in the middle" in done.out


def test_what_is_open_is_said_and_with_drained_is_a_violation(folder: Path) -> None:
    entries = list(story())
    (folder / "history.jsonl").write_bytes(written(entries[: find(entries, "Ended", run="r1")]))
    done = verified("history.jsonl")
    assert done.code == 0 and "open: runs held 1, requests without their end 3, runs waiting 1" in done.out
    assert verified("history.jsonl", "--drained").code == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl"),
        (("--promise", "15", "x"), "there are 1 to 14"),
        (("x", "--redact"), "--save FILE"),
        (("x", "-"), "one of them"),
        (("bad.jsonl",), "bad.jsonl, line 2"),
    ],
)
def test_what_it_cannot_mean_is_2(folder: Path, words: tuple[str, ...], says: str) -> None:
    (folder / "bad.jsonl").write_bytes(written(story()[:1]) + b"{\n")
    done = verified(*words)
    assert done.code == 2 and says in done.err and not done.out


def test_text_of_agents_is_shown_and_not_obeyed(folder: Path) -> None:
    entries = list(story())
    index = find(entries, "WorkItem", run="r12")
    value = entries[find(entries, "Granted", run="r12")].value or b""
    evil = without(entries, index)
    spoiled = value.replace(b'"r12"', json.dumps("\x1b[31mevil").encode())
    place = find(evil, "Granted", run="r12")
    evil[place] = type(evil[place])("events", 0, evil[place].offset, None, spoiled)
    (folder / "history.jsonl").write_bytes(written(evil))
    done = verified("history.jsonl", "--drained")
    assert done.code == 1 and "evil" in done.out and "\x1b" not in done.out


def test_without_a_journal_it_says_so(folder: Path) -> None:
    done = verified("--url", f"sqlite://{folder}/none.db")
    assert done.code == 69 and "no router" in done.err
    assert os.environ.get("KEYLANE_URL") is None
