"""The commands of locks without a service: what is a mistake, and what is printed of locks and of their log."""

import io
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_cli_render import EVIL, hidden, shown

from keylane import cli
from keylane.cli_answers import LockAcquired, LockReleased, LockRenewed, SessionOver
from keylane.cli_context import NotRun, UsageError
from keylane.cli_exits import failure_of
from keylane.cli_locks import seconds
from keylane.history import EventShown
from keylane.locks import LockInfo
from keylane.render import text_of
from keylane.render_locks import LOCK_TEXTS, lock_word
from keylane.schemas import events
from keylane.schemas.base import ErrorDetail

KEY = "deploy://api"
ANSWERS = [
    LockAcquired(resource=EVIL, run=EVIL, token=5, session=EVIL, expires=EVIL),
    LockRenewed(resource=EVIL, run=EVIL, token=5, session=EVIL, expires=EVIL, blocked=EVIL),
    LockReleased(resource=EVIL, run=EVIL, token=5, session=EVIL),
    SessionOver(session=EVIL, runs=(EVIL,)),
    LockInfo(
        resource=EVIL, owner=EVIL, run=EVIL, session=EVIL, hold=EVIL, actor=EVIL, holder=EVIL, state="blocked",
        token=5, since=EVIL, lease_ends=EVIL, blocked=EVIL,
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("KEYLANE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KEYLANE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def ran(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return cli.run(arguments, out, err, io.BytesIO()), out.getvalue(), err.getvalue()


def test_there_is_a_sample_of_everything_that_has_a_text() -> None:
    assert {type(answer) for answer in ANSWERS} == set(LOCK_TEXTS)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_shows_what_agents_hid_and_is_itself_as_json(answer: msgspec.Struct) -> None:
    assert shown(answer, "text").strip() and not hidden(shown(answer, "text"))
    text = shown(answer, "json")
    assert text.count("\n") == 1 and not hidden(text) and msgspec.json.decode(text, type=type(answer)) == answer


def test_a_lock_that_is_waited_for_says_who_is_before_it() -> None:
    info = LockInfo(
        resource=KEY, owner=KEY, run="r", session="s", hold="", actor="bob", holder="alice", state="waiting",
        since="10:00", position=2,
    )  # fmt: skip
    assert shown(info, "text") == "deploy://api; waits, 2 before it; held by alice; session s; since 10:00\n"
    first = msgspec.structs.replace(info, position=0, holder=None)
    assert "next; held by nobody now" in shown(first, "text")
    assert "withdrawn" in shown(LockReleased(resource=KEY, run="r", token=None, session="s"), "text")


COMMON: dict[str, Any] = {"seq": 1, "clock_ms": 1, "time": "10:00", "run": "r", "resource": KEY}
LOCK: dict[str, Any] = COMMON | {"action": "lock"}
HELD = {"token": 5, "session": "s", "holder": "alice"}


@pytest.mark.parametrize(
    ("event", "word", "says"),
    [
        (events.Queued(request="r", owner=KEY, holder="bob", position=1, **LOCK), "waits", ["holder=bob"]),
        (
            events.Granted(owner=KEY, attempt=1, lease_ms=9, requests=("r",), **HELD, **LOCK),
            "acquired",
            ["holder=alice", "session=s", "token=5", "lease_ms=9"],
        ),
        (
            events.Granted(owner=KEY, attempt=1, lease_ms=9, claim_ms=30, waited_ms=7, requests=("r",), **HELD, **LOCK),
            "handed over, to be claimed",
            ["waited_ms=7", "claim_ms=30"],
        ),
        (events.Renewed(token=5, renewal="n", lease_ms=9, claimed=True, **LOCK), "claimed", ["lease_ms=9"]),
        (events.Renewed(token=5, renewal="n", lease_ms=9, **COMMON), "renewed", ["token=5"]),
        (events.Renewed(token=5, renewal="n", blocked=EVIL, **LOCK), "blocked", ["blocked=\\x1b"]),
        (events.Coalesced(request="r2", token=5, lease_ms=9, **LOCK), "acquired again", ["request=r2"]),
        (events.StopAsked(token=5, status="cancelled", by="carol", **LOCK), "asked for back", ["by=carol"]),
        (
            events.Lost(reason="lease_expired", attempt=1, spent=True, final=True, **HELD, **LOCK),
            "expired",
            ["holder=alice", "token=5"],
        ),
        (events.Lost(reason="unclaimed", attempt=1, spent=True, final=True, **HELD, **LOCK), "not claimed", []),
        (
            events.Lost(reason="session_ended", attempt=1, spent=True, final=True, **HELD, **LOCK),
            "its session ended",
            ["session=s"],
        ),
        (events.Fenced(report="Renewal", report_id="n", token=4, session="s", **COMMON), "late renewal", ["token=4"]),
        (events.Fenced(report="Release", report_id="n", token=4, session="s", **LOCK), "late release", ["token=4"]),
        (events.Ended(owner=KEY, status="completed", requests=("r",), held_ms=8, **LOCK), "released", ["held_ms=8"]),
        (
            events.Ended(
                owner=KEY, status="refused", requests=("r",), error=ErrorDetail(code="DEADLOCK", message=EVIL),
                cycle=("one", KEY, "two", "deploy://b"), **LOCK,
            ),
            "refused",
            ["error=DEADLOCK: \\x1b", f"cycle=one,{KEY},two,deploy://b"],
        ),
        (
            events.Refused(
                seq=1, clock_ms=1, time="10:00", request="r", resource=KEY, code="LOCK_HELD", message="no",
                command="LockRequest", holder="alice", held_since="09:00", lease_expires_in_ms=3, retry_after_ms=2,
            ),
            "refused",
            ["code=LOCK_HELD", "holder=alice", "held_since=09:00", "lease_expires_in_ms=3", "retry_after_ms=2"],
        ),
        (
            events.AgentSessionEnded(seq=1, clock_ms=1, time="10:00", ended="e", session="s", runs=("r", "r2")),
            "session ended",
            ["session=s", "runs=r,r2"],
        ),
    ],
)  # fmt: skip
@pytest.mark.requirement("S4.1")
def test_the_lock_log_says_what_each_event_is_to_the_lock(event: Any, word: str, says: list[str]) -> None:
    assert lock_word(event) == word
    row = EventShown(partition=1, offset=2, event=event)
    ((text, _),) = text_of(row)
    assert text.startswith(f"10:00 1/2 {type(event).__name__} ({word}) ")
    assert not hidden(text) and "\n" not in text
    assert [part for part in says if part not in text] == []
    in_json = json.loads(shown(row, "json"))["event"]
    assert in_json["type"] == type(event).__name__ and msgspec.convert(in_json, type(event)) == event


def test_what_is_no_lock_has_no_word() -> None:
    work = COMMON | {"action": "restart"}
    for event in (
        events.Queued(request="r", owner=KEY, **work),
        events.Ended(owner=KEY, status="completed", requests=("r",), **work),
        events.Fenced(report="Completed", token=4, session="s", **work),
        events.Refused(seq=1, clock_ms=1, time="", request="r", resource=KEY, code="LOCK_HELD", message="no"),
    ):
        assert lock_word(event) is None


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["lock", "acquire"], 2, "RESOURCE"),
        (["lock", "acquire", "no-uri"], 2, "BAD_KEY"),
        (["lock", "acquire", KEY, "--wait", "soon"], 2, "--wait: 'soon' is no duration"),
        (["lock", "acquire", KEY, "--ttl", "-3s"], 2, "--ttl"),
        (["lock", "acquire", KEY, "--session-id", ""], 2, "empty"),
        (["lock", "acquire", KEY, "--session-id", "\udcff"], 2, "UTF-8"),
        (["lock", "acquire", KEY], 69, "no router has set up this journal"),
        (["lock", "renew", KEY], 69, "no router has set up this journal"),
        (["lock", "release", KEY], 69, "no router has set up this journal"),
        (["lock", "list"], 69, "no router has set up this journal"),
        (["session", "end"], 2, "name the session"),
        (["session", "end", "s"], 3, "no session s is kept here"),
        (["hold"], 2, "name what is to be held"),
        (["hold", KEY], 2, "there is no command"),
        (["hold", KEY, "--"], 2, "there is no command"),
        (["hold", "--", "true"], 2, "name what is to be held"),
        (["hold", "no-uri", "--", "true"], 2, "BAD_KEY"),
        (["hold", KEY, "--max", "x", "--", "true"], 2, "--max"),
        (["hold", KEY, "--kill-after", "x", "--", "true"], 2, "--kill-after"),
        (["hold", KEY, "--", "no-such-program"], 127, "no-such-program: No such file"),
        (["hold", KEY, "--", "./no-such-program"], 127, "No such file"),
        (["hold", KEY, "--", "/etc/passwd"], 126, "Permission denied"),
    ],
)
def test_a_mistake_says_what_it_is_and_leaves_nothing(
    arguments: list[str], code: int, says: str, empty_folder: Path
) -> None:
    ended, out, err = ran(*arguments)
    assert (ended, out) == (code, "") and says in err
    assert not (empty_folder / "state").exists()


def test_the_words_of_a_program_are_its_own() -> None:
    part = cli._parted
    assert part(("hold", "k", "--wait", "1", "--", "cmd", "--url", "x", "--", "y")) == (
        ("hold", "k", "--wait", "1"),
        ("cmd", "--url", "x", "--", "y"),
    )
    assert part(("hold", "k")) == (("hold", "k"), ())
    assert part(("worker", "exec", "--", "cmd")) == (("worker", "exec", "--", "cmd"), ())


def test_durations_of_flags() -> None:
    assert [seconds("--x", given) for given in ("0", "10", "1.5", "10s", "2h", "250ms")] == [
        0,
        10,
        1.5,
        10,
        7_200,
        0.25,
    ]
    for given in ("", "-1", "1e3", "s", "nan", "inf", "10 s", "²"):
        with pytest.raises(UsageError, match="--x"):
            seconds("--x", given)


def test_a_program_that_cannot_be_run_ends_as_a_shell_has_it() -> None:
    failure = failure_of(NotRun("it: No such file or directory", 127))
    assert failure.exit_code == 127 and failure.body is not None and failure.body["code"] == "USAGE"
