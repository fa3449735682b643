"""Every answer has a text and an exact JSON, and nothing in an answer can style or steer the terminal."""

import io
import json
import unicodedata

import msgspec
import pytest

from keylane.cli_answers import CancelAnswered, Claim, DemoDone, Ingested, Said, Scene, Serving, Stopped
from keylane.cli_text import HIDDEN
from keylane.errors import ErrorBody
from keylane.outcome import Ended, Holding, OnApprove, Outcome, Ownership, Pending, Status, Touch, Wait
from keylane.render import TEXTS, Renderer
from keylane.schemas.conflicts import ConflictArtifact, ConflictResolved
from keylane.schemas.event_parts import Party

EVIL = "\x1b[31m\u202e[bold red]evil[/]\n\x9b2J"

OUTCOME = Outcome(
    request_id=EVIL,
    run=EVIL,
    status="failed",
    result={EVIL: EVIL},
    version=EVIL,
    coalesced=True,
    error=ErrorBody(code=EVIL, message=EVIL, holder=EVIL, cycle=(EVIL,)),
)
WAIT = Wait(reason="held", policy="on_conflict", holder=EVIL, behind=EVIL, since=EVIL, until=EVIL, expires=EVIL)
ANSWERS = [
    OUTCOME,
    Status(
        request_id=EVIL,
        run=EVIL,
        resource=EVIL,
        action=EVIL,
        state="held",
        position=2,
        holder=EVIL,
        token=5,
        blocked=EVIL,
        unserved=True,
        wait=WAIT,
        coalesced=True,
    ),
    Status(
        request_id=EVIL,
        run=EVIL,
        resource=EVIL,
        action=EVIL,
        state="parked",
        review="approval_voided",
        conflict_id=EVIL,
        ready_in_ms=700,
    ),
    Status(request_id=EVIL, run=EVIL, resource=EVIL, action=EVIL, state="waiting", review="approved", decided_by=EVIL),
    Ownership(
        resource=EVIL,
        held=Holding(
            holder=EVIL,
            run=EVIL,
            resource=EVIL,
            action=EVIL,
            requests=(EVIL,),
            token=5,
            attempt=1,
            actor=EVIL,
            state="blocked",
            blocked=EVIL,
            handed_off=True,
            previous_end=EVIL,
            since=EVIL,
            lease_left_ms=41_000,
            lease_ends=EVIL,
            on_loss="review",
        ),
        waiting=(
            Pending(
                run=EVIL,
                resource=EVIL,
                action=EVIL,
                actor=EVIL,
                requests=(EVIL,),
                position=0,
                state="waiting_on_review",
                accepted=EVIL,
                wait=WAIT,
                handed_off=True,
                previous_end=EVIL,
                approved_by=EVIL,
                conflict=EVIL,
                on_approve=OnApprove(then="superseded", after=(EVIL,), version=EVIL, ends=(EVIL,)),
            ),
        ),
        states=("blocked", "waiting_on_review"),
        version=EVIL,
        last=Ended(run=EVIL, resource=EVIL, action=EVIL, status="completed", ended=EVIL, conflict=EVIL),
        touched=(Touch(kind="change", id=EVIL, by=EVIL, actor=EVIL, what=EVIL, resource=EVIL, at=EVIL),),
        as_of=EVIL,
    ),
    ConflictArtifact(
        id=EVIL,
        kind="fenced_report",
        resource=EVIL,
        action=EVIL,
        parties=(Party(request=EVIL, actor=EVIL, action=EVIL, session=EVIL, token=5),),
        detected=EVIL,
        clock_ms=1,
        next_step="wait_and_retry",
        retry_after_ms=100,
        expected_version=EVIL,
        known_version=EVIL,
        fingerprint="f",
        runbook=EVIL,
        note=EVIL,
        event_seq=1,
    ),
    ConflictResolved(id=EVIL, conflict=EVIL, resource=EVIL, by=EVIL, note=EVIL),
    CancelAnswered(request_id=EVIL, resource=EVIL, answer="stop_asked"),
    Serving(url=EVIL, pid=1),
    Stopped(url=EVIL, signal="SIGTERM"),
    Ingested(
        source=EVIL,
        lines=3,
        published=2,
        requests=1,
        changes=1,
        unmapped=1,
        malformed=1,
        outcomes={"completed": 1},
        coalesced=0,
        effects={"applied": 1},
    ),
    Scene(number=1, title="a title"),
    Said(text=EVIL),
    Claim(text=EVIL, holds=False),
    DemoDone(claims=15, seconds=20.4),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(answer: msgspec.Struct, output: str, out: io.StringIO | None = None) -> str:
    out = out or io.StringIO()
    Renderer(output, out, io.StringIO()).show(answer)  # type: ignore[arg-type]
    return out.getvalue()


def hidden(text: str) -> list[str]:
    return [character for character in text if unicodedata.category(character) in HIDDEN and character != "\n"]


def test_there_is_a_sample_of_everything_that_has_a_text() -> None:
    assert {type(answer) for answer in ANSWERS} == set(TEXTS)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_as_text_shows_what_agents_hid(answer: msgspec.Struct) -> None:
    text = shown(answer, "text")
    assert text.strip()
    assert not hidden(text)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_as_json_is_the_struct_itself_on_one_line(answer: msgspec.Struct) -> None:
    text = shown(answer, "json")
    assert text.count("\n") == 1
    assert not hidden(text)
    assert msgspec.json.decode(text, type=type(answer)) == answer


@pytest.mark.requirement("S1.5")
def test_a_request_that_waits_for_a_person_says_so_and_where_to_look() -> None:
    parked = Status(
        request_id="r-9",
        run="r-9",
        resource="r",
        action="a",
        state="parked",
        review="needs_decision",
        conflict_id="3-17",
    )
    assert shown(parked, "text") == "r-9 parked\n  needs a decision\n  see keylane conflict show 3-17\n"
    approved = msgspec.structs.replace(parked, state="waiting", review="approved", decided_by="boss", conflict_id=None)
    assert "approved by boss" in shown(approved, "text")
    void = msgspec.structs.replace(parked, review="approval_voided")
    assert "needs a decision again" in shown(void, "text")


def test_markup_in_agents_text_is_printed_not_obeyed_on_a_terminal() -> None:
    text = shown(Said(text="[bold red]evil[/] [link=http://x]y[/link]"), "text", Terminal())
    assert "[bold red]evil[/] [link=http://x]y[/link]" in text


def test_an_error_is_the_envelope_or_says_the_same_in_lines() -> None:
    body = {"code": "LOCK_HELD", "message": EVIL, "retry_after_ms": 100, "holder": "w-1", "suggestion": "Wait."}
    out, err = io.StringIO(), io.StringIO()
    Renderer("json", out, err).fail(body)
    assert json.loads(err.getvalue()) == {"error": body}
    text = io.StringIO()
    Renderer("text", out, text).fail(body)
    assert text.getvalue().startswith("LOCK_HELD: ")
    assert "  retry after ms: 100\n  holder: w-1\n  suggestion: Wait.\n" in text.getvalue()
    assert not hidden(text.getvalue())
    assert out.getvalue() == ""


def test_an_outcome_names_its_conflict_once() -> None:
    """Also where it completed, and something else was found afterwards."""
    refusal = ErrorBody(code="STALE_VERSION", message="v7 is superseded", conflict_id="3-5")
    for status, error in (("completed", None), ("refused", refusal)):
        text = shown(Outcome(request_id="r", run="r", status=status, conflict_id="3-5", error=error), "text")
        assert text.count("conflict id: 3-5") == 1


def test_a_note_is_for_terminals_and_a_warning_for_everybody() -> None:
    log, terminal = io.StringIO(), Terminal()
    for err in (log, terminal):
        renderer = Renderer("text", io.StringIO(), err)
        renderer.note("a note")
        renderer.warn("a warning")
    assert log.getvalue() == "warning: a warning\n"
    assert "a note" in terminal.getvalue()
    in_json = io.StringIO()
    Renderer("json", io.StringIO(), in_json).warn("a warning")
    assert json.loads(in_json.getvalue()) == {"warning": "a warning"}
