"""What people are shown before and after they decide, and when they are asked. The commands run in this process."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import msgspec
import pytest
from test_cli_render import EVIL, Terminal, hidden, shown

from keylane import Client, cli
from keylane.cli_text import HIDDEN
from keylane.conflicts import ConflictGroup, ConflictShown
from keylane.outcome import OnApprove
from keylane.render_people import PEOPLE_TEXTS
from keylane.reviews import Review
from keylane.schemas.conflicts import ConflictArtifact, ConflictResolved
from keylane.schemas.event_parts import Party
from keylane.schemas.events import Changed, Decided

ASKED = Review(
    request_id=EVIL, requests=(EVIL, "r-2"), resource=EVIL, action=EVIL, actor=EVIL, payload={EVIL: EVIL},
    digest="d" * 64, reason="on_conflict", since=EVIL, conflict_id=EVIL, expected_version=EVIL,
    version_seen=EVIL,
    on_approve=OnApprove(then="superseded", after=(EVIL,) * 7, version=EVIL, ended_by=(EVIL,) * 7, ends=(EVIL,)),
)  # fmt: skip
ARTIFACT = ConflictArtifact(
    id=EVIL, kind="parked", resource=EVIL, action=EVIL, parties=(Party(request=EVIL, version=EVIL, digest=EVIL),),
    detected=EVIL, clock_ms=1, next_step="ask_a_person", fingerprint=EVIL, recurrence=2, event_seq=1,
)  # fmt: skip
SAID = {"seq": 1, "clock_ms": 0, "time": EVIL, "resource": EVIL, "owner": EVIL, "by": EVIL}
ANSWERS = [
    ASKED,
    ConflictShown(artifact=ARTIFACT, since=EVIL, resolved=None, review=ASKED, command=EVIL),
    ConflictGroup(
        fingerprint=EVIL, kind="parked", resources=EVIL, actions=(EVIL,), count=2, open=1, first=EVIL, last=EVIL,
        newest=EVIL, runbook=EVIL,
    ),
    Changed(change=EVIL, version=EVIL, what=EVIL, effect="applied", previous=EVIL, **SAID),  # type: ignore[arg-type]
    Decided(
        decision=EVIL, request=EVIL, run=EVIL, action=EVIL, verdict="approve", version_seen=EVIL, conflict=EVIL, **SAID  # type: ignore[arg-type]
    ),
]  # fmt: skip


def test_there_is_a_sample_of_everything_that_has_a_text() -> None:
    assert {type(answer) for answer in ANSWERS} == set(PEOPLE_TEXTS)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_shows_what_agents_hid_and_its_json_is_the_struct(answer: msgspec.Struct) -> None:
    text = shown(answer, "text")
    assert text.strip() and not hidden(text)
    assert msgspec.json.decode(shown(answer, "json"), type=type(answer)) == answer


def test_what_is_settled_says_how_and_asks_for_nothing() -> None:
    resolved = ConflictResolved(id="0-9", conflict="0-1", resource="r", by="ann", note="seen to")
    text = shown(ConflictShown(artifact=ARTIFACT, since="t", resolved=resolved, review=None, command=None), "text")
    assert "resolved by ann: seen to" in text and "open:" not in text


# -- before a decision ------------------------------------------------------------------------------------------------


class Bytes(io.BytesIO):
    """Standard input of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, object]]:
    """What is decided, by a client that knows of one request that waits for a person."""
    made: list[dict[str, object]] = []

    async def entered(self: Client) -> Client:
        return self

    async def left(self: Client, *why: object) -> None:
        pass

    async def review(self: Client, resource: str, request_id: str) -> Review:
        return msgspec.structs.replace(ASKED, version_seen="v2", payload="\x1b[31mred")

    async def decide(self: Client, resource: str, request_id: str, verdict: str, **fields: object) -> Decided:
        made.append({"request_id": request_id, "verdict": verdict, **fields})
        return ANSWERS[-1]  # type: ignore[return-value]

    monkeypatch.chdir(tmp_path)
    for name, function in {"__aenter__": entered, "__aexit__": left, "review": review, "decide": decide}.items():
        monkeypatch.setattr(Client, name, function)
    return made


def run(*more: str, answer: bytes | None = None) -> tuple[int, str]:
    """`decide`, from a script or, with an answer, at a terminal: its exit code, and standard error."""
    err: io.StringIO = io.StringIO() if answer is None else Terminal()
    stdin = io.BytesIO() if answer is None else Bytes(answer)
    code = cli.run(["decide", "deploy://api", "r-1", "approve", "--note", "ok", *more], io.StringIO(), err, stdin)
    return code, err.getvalue()


@pytest.mark.requirement("S1.8")
def test_a_person_at_a_terminal_sees_what_approving_does_and_is_asked(decisions: list[dict[str, object]]) -> None:
    code, said = run(answer=b"y\n")
    assert (code, [each["version_seen"] for each in decisions]) == (0, ["v2"])
    assert "on approve: superseded if" in said and "approve it? [y/N]" in said
    plain = said.replace("\x1b[2m", "").replace("\x1b[0m", "").replace("\x1b[33m", "")  # rich's own styles
    assert not [each for each in plain if unicodedata.category(each) in HIDDEN and each != "\n"]


def test_a_decision_can_be_bound_to_the_conflict_that_was_looked_at(decisions: list[dict[str, object]]) -> None:
    assert run("--version-seen", "v2", "--conflict", "3-17")[0] == run("--version-seen", "v2")[0] == 0
    asked = [each["seen"] for each in decisions]
    assert [each.conflict_id for each in asked if isinstance(each, Review)] == ["3-17", ASKED.conflict_id]


@pytest.mark.parametrize("answer", [b"", b"\n", b"n\n", b"maybe\n"])
def test_any_other_answer_than_yes_decides_nothing(answer: bytes, decisions: list[dict[str, object]]) -> None:
    code, said = run(answer=answer)
    assert (code, decisions) == (2, []) and "nothing was decided" in said


@pytest.mark.parametrize("more", [["--yes"], ["--version-seen", "v1"]], ids=" ".join)
def test_who_says_so_is_not_asked(more: list[str], decisions: list[dict[str, object]]) -> None:
    code, said = run(*more, answer=b"")
    assert (code, len(decisions)) == (0, 1) and "[y/N]" not in said
    assert decisions[0]["version_seen"] == ("v1" if len(more) == 2 else "v2")


def test_a_script_is_not_asked_and_reads_what_was_bound(decisions: list[dict[str, object]]) -> None:
    code, said = run()
    assert (code, len(decisions)) == (0, 1)
    assert said == f"warning: approve as it is now: version v2, payload {'d' * 12}\n"
