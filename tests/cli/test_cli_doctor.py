"""Plans and findings in lines, and what they end with."""

import io
import json
from pathlib import Path
from unicodedata import category

import msgspec
import pytest

from keylane import cli
from keylane.cli_answers import Applied, Check, Diagnosed, Planned, RulesApplied, TopicStep
from keylane.cli_exits import exit_of_answer
from keylane.render import Renderer

EVIL = "\x1b[31m\u202eevil\n"
ANSWERS = [
    TopicStep(what="change", topic=EVIL, setting=EVIL, found=EVIL, wanted=EVIL, why=EVIL),
    TopicStep(what="create", topic=EVIL, wanted=EVIL),
    TopicStep(what="extra", topic=EVIL, why=EVIL),
    Check(check=EVIL, level="fault", said=EVIL, advice=EVIL),
    Planned(pending=0, blocked=0, kept=0, extra=0),
    Planned(pending=1, blocked=1, kept=0, extra=0),
    Applied(taken=1),
    RulesApplied(before=0, rules=1, changed=True),
    RulesApplied(before=1, rules=1, changed=False),
    Diagnosed(ok=1, warnings=1, faults=1, unreachable=False),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_as_text_hides_nothing_and_as_json_is_itself(answer: msgspec.Struct) -> None:
    text, whole = io.StringIO(), io.StringIO()
    Renderer("text", text, io.StringIO()).show(answer)
    Renderer("json", whole, io.StringIO()).show(answer)
    assert text.getvalue().strip() and not [c for c in text.getvalue() if c != "\n" and category(c) in ("Cc", "Cf")]
    assert msgspec.json.decode(whole.getvalue(), type=type(answer)) == answer


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Planned(pending=3, blocked=1, kept=0, extra=0), 0),
        (Planned(pending=0, blocked=0, kept=1, extra=1, checked=True), 0),
        (Planned(pending=3, blocked=0, kept=0, extra=0, checked=True), 1),
        (Planned(pending=3, blocked=1, kept=0, extra=0, checked=True), 78),
        (Diagnosed(ok=1, warnings=9, faults=0, unreachable=False), 0),
        (Diagnosed(ok=1, warnings=0, faults=1, unreachable=False), 78),
        (Diagnosed(ok=1, warnings=0, faults=1, unreachable=True), 69),
    ],
)
def test_what_is_found_decides_the_exit_code(answer: msgspec.Struct, code: int) -> None:
    assert exit_of_answer(answer) == code


class Ran:
    def __init__(self, *arguments: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        self.code = cli.run([*arguments, "--output", "json"], out, err, io.BytesIO())
        self.lines = [json.loads(line) for line in out.getvalue().splitlines()]
        self.err = err.getvalue()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEYLANE_URL", raising=False)
    return tmp_path


def test_where_there_is_no_journal_a_plan_is_all_of_it_and_nothing_is_made(empty_folder: Path) -> None:
    ran = Ran("topics", "plan", "--check", "--partitions", "2")
    assert ran.code == 1 and ran.lines[-1]["pending"] == len(ran.lines) - 1 > 8
    ran = Ran("doctor")
    assert ran.code == 69 and [line["level"] for line in ran.lines[:-1]] == ["fault"]
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(("url", "code"), [("kafka://127.0.0.1:1", 69), ("redis://x", 78), ("memory://doctor", 0)])
def test_a_journal_that_does_not_answer_is_one_finding(url: str, code: int) -> None:
    ran = Ran("doctor", "--url", url)
    assert ran.code == code
    assert ran.lines[0]["check"] == "journal" and ran.lines[0]["level"] == ("fault" if code else "ok")
    assert bool(ran.lines[0]["advice"]) == bool(code)


def test_a_configuration_that_cannot_be_is_78(empty_folder: Path) -> None:
    (empty_folder / "keylane.toml").write_text("replication_factor = 0\n")
    for command in (["doctor"], ["topics", "plan"], ["topics", "apply"]):
        ran = Ran(*command)
        assert ran.code == 78 and "replication_factor" in ran.err
    assert not (empty_folder / ".keylane").exists()
