"""`rlock`, `runlock`, `rlock-heartbeat` and their like on both backends, as the programs that they are."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e.processes import running
from e2e.shell import Shell, until

CONFIG = 'partitions = 2\nretention = "10m"\n'
KEY, OTHER = "github://acme/app/issues/42", "deploy://api-prod"
PARALLEL = 8


@pytest.fixture
def shell(journal_url: str, tmp_path: Path) -> Any:
    (tmp_path / "keylane.toml").write_text(CONFIG)
    with running("router", "--output", "json", says='"url"', url=journal_url, cwd=tmp_path):
        yield Shell(journal_url, tmp_path)


def kinds(shell: Shell, resource: str) -> list[str]:
    return [event["type"] for event in shell.log(resource)]


@pytest.mark.requirement("S3.1")
@pytest.mark.requirement("S3.2")
@pytest.mark.requirement("S3.4")
@pytest.mark.requirement("S4.1")
def test_the_life_of_a_lock(shell: Shell) -> None:
    held = shell.done("rlock", KEY, "--actor", "alice")
    assert held["resource"] == KEY and held["token"] > 0 and held["expires"].endswith("Z")
    error = shell.refused(75, "rlock", KEY, "--actor", "bob")
    assert (error["code"], error["holder"]) == ("LOCK_HELD", "alice")
    assert error["held_since"] and error["lease_expires_at"] and error["retry_after_ms"] > 0 and error["suggestion"]
    assert "force" not in json.dumps(error)
    (listed,) = shell.locks(KEY)
    assert (listed["token"], listed["session"], listed["state"]) == (held["token"], held["session"], "held")

    renewed = shell.done("rlock-heartbeat", KEY)
    assert (renewed["token"], renewed.get("blocked")) == (held["token"], None)
    assert renewed["expires"] > held["expires"], "a heartbeat resets the time"
    shell.done("rlock-heartbeat", KEY, "--blocked", "waits for\x1b[2J review")
    assert shell.locks(KEY)[0]["state"] == "blocked"
    text = shell.run("keylane", "lock", "list").stdout
    assert "waits for\\x1b[2J review" in text and "\x1b" not in text

    (secret,) = shell.secrets()
    assert shell.done("runlock", KEY)["token"] == held["token"]
    assert shell.locks() == [] and shell.kept() == [], "a session of its own is over with its lock"
    assert shell.refused(3, "runlock", KEY)["code"] == "NOT_FOUND"
    shell.done("rlock", KEY, "--actor", "bob")
    assert shell.done("runlock", KEY)["token"] > held["token"]

    log = shell.run("keylane", "events", KEY).stdout
    for word in ("(acquired)", "(refused)", "(renewed)", "(blocked)", "(released)"):
        assert word in log, log
    assert secret not in log + json.dumps(shell.log(KEY))


@pytest.mark.requirement("S3.2")
@pytest.mark.requirement("S3.4")
def test_one_that_expired_is_neither_renewed_nor_given_back(shell: Shell) -> None:
    first = shell.done("rlock", KEY, "--ttl", "1s", "--actor", "alice")
    until(lambda: "Lost" in kinds(shell, KEY))
    assert shell.refused(4, "rlock-heartbeat", KEY)["code"] == "FENCED"
    second = shell.done("rlock", KEY, "--actor", "bob")
    assert second["token"] > first["token"]
    # Two are kept now. One is over, which the lane says: that is no question to ask the user.
    assert shell.done("runlock", KEY)["token"] == second["token"]
    assert shell.kept() == []
    shell.done("rlock", KEY, "--ttl", "1s", "--session-id", "s")
    until(lambda: kinds(shell, KEY).count("Lost") == 2)
    assert shell.refused(4, "runlock", KEY)["code"] == "FENCED"
    assert [path.name for path in shell.kept()] == ["session.json"], "its credential is gone, its session is not"
    assert "(expired)" in shell.run("keylane", "events", KEY).stdout


@pytest.mark.requirement("S3.1")
@pytest.mark.requirement("S3.3")
def test_a_session_that_is_named_has_its_locks_together(shell: Shell) -> None:
    first = shell.done("rlock", KEY, "--session-id", "../agent 7")
    assert first["session"] == "../agent 7"
    again = shell.done("rlock", KEY, "--session-id", "../agent 7")
    assert again["token"] == first["token"] and again["run"] == first["run"]
    named = Shell(shell.url, shell.cwd, KEYLANE_SESSION_ID="../agent 7")
    assert named.done("rlock", OTHER)["session"] == "../agent 7"
    assert shell.refused(75, "rlock", OTHER, "--session-id", "another")["code"] == "LOCK_HELD"
    assert len(shell.secrets()) == 2, "one secret a session"
    assert {lock["resource"] for lock in shell.locks("--session-id", "../agent 7")} == {KEY, OTHER}

    over = named.done("keylane", "session", "end")
    assert len(over["runs"]) == 2 and shell.locks() == []
    assert shell.refused(3, "keylane", "session", "end", "../agent 7")["code"] == "NOT_FOUND"
    assert shell.refused(3, "runlock", KEY, "--session-id", "../agent 7")["code"] == "NOT_FOUND"
    assert "(its session ended)" in shell.run("keylane", "events", KEY).stdout
    shell.done("rlock", KEY, "--session-id", "../agent 7")
    shell.done("runlock", KEY, "--session-id", "../agent 7")


@pytest.mark.requirement("S2.3")
@pytest.mark.requirement("S3.1")
def test_of_eight_at_once_in_one_session_each_has_it(shell: Shell) -> None:
    children = [shell.start("rlock", KEY, "--session-id", "one", "--output", "json") for _ in range(PARALLEL)]
    ended = [(child.communicate(timeout=60), child.returncode) for child in children]
    assert {code for _, code in ended} == {0}, ended
    assert len({json.loads(out)["token"] for (out, _), _ in ended}) == 1
    shell.done("runlock", KEY)


@pytest.mark.requirement("S0.3")
@pytest.mark.requirement("S2.2")
def test_who_waits_gets_it_and_who_stops_waiting_leaves_nothing(shell: Shell) -> None:
    shell.done("rlock", KEY, "--actor", "alice")
    patient = shell.start("rlock", KEY, "--wait", "60s", "--actor", "bob", "--output", "json")
    until(lambda: len(shell.locks(KEY)) == 2)
    stopped = [shell.start("rlock", KEY, "--wait", "60s", "--output", "json") for _ in range(3)]
    until(lambda: len(shell.locks(KEY)) == 5)
    assert [lock["state"] for lock in shell.locks(KEY)] == ["held"] + ["waiting"] * 4
    for child, number in zip(stopped, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), strict=True):
        child.send_signal(number)
        assert child.wait(30) == 128 + number
        child.communicate()
    until(lambda: len(shell.locks(KEY)) == 2)
    assert len(shell.secrets()) == 2, "of those that stopped nothing is kept"
    error = shell.refused(75, "rlock", KEY, "--wait", "1s")
    assert error["holder"] == "alice"
    shell.done("runlock", KEY)
    assert json.loads(patient.communicate(timeout=60)[0])["token"] and patient.returncode == 0
    (lock,) = shell.locks(KEY)
    assert (lock["state"], lock["actor"]) == ("held", "bob")
    log = shell.run("keylane", "events", KEY).stdout
    assert "(handed over, to be claimed)" in log and "(claimed)" in log and "(cancelled)" in log
    shell.done("runlock", KEY)


def patched_rlock(shell: Shell, keep: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`rlock` in which writing the credential is `keep` instead."""
    text = f"""
import os, signal, sys
from keylane import cli
from keylane.credentials import Credentials
from keylane.errors import ConfigError
def keep(self, credential):
    {keep}
Credentials.keep = keep
sys.exit(cli.run(["lock", "acquire", *sys.argv[1:]], sys.stdout, sys.stderr, sys.stdin.buffer))
"""
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        cwd=shell.cwd, env=shell.environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_after_kill_9_between_acquiring_and_its_credential_runlock_gives_it_back(shell: Shell) -> None:
    """The process is killed when the lock is its own and nothing but the session is on disk."""
    for session in ([], ["--session-id", "named"]):
        child = patched_rlock(shell, "os.kill(os.getpid(), signal.SIGKILL)", KEY, *session)
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert len(shell.secrets()) == 1 and [lock["state"] for lock in shell.locks(KEY)] == ["held"]
        assert shell.refused(75, "rlock", KEY)["code"] == "LOCK_HELD"
        assert shell.done("rlock-heartbeat", KEY)["token"] > 0
        shell.done("runlock", KEY)
        assert shell.locks(KEY) == []


@pytest.mark.requirement("S2.2")
def test_one_whose_credential_cannot_be_written_is_given_back(shell: Shell) -> None:
    child = patched_rlock(shell, "raise ConfigError('no space left')", KEY)
    assert child.returncode == 78 and "no space left" in child.stderr
    assert shell.locks() == []
    assert [event["type"] for event in shell.log(KEY)][-1] == "Ended"


@pytest.mark.requirement("S3.3")
def test_a_circle_of_waits_is_told_with_its_path(shell: Shell) -> None:
    shell.done("rlock", KEY, "--session-id", "one")
    shell.done("rlock", OTHER, "--session-id", "two")
    waits = shell.start("rlock", OTHER, "--session-id", "one", "--wait", "60s", "--output", "json")
    until(lambda: len(shell.locks(OTHER)) == 2)
    error = shell.refused(5, "rlock", KEY, "--session-id", "two", "--wait", "30s")
    assert error["code"] == "DEADLOCK"
    assert error["cycle"] == ["two", KEY, "one", OTHER]
    text = shell.run("rlock", KEY, "--session-id", "two", "--wait", "30s")
    assert text.returncode == 5 and f"cycle: two → {KEY} → one → {OTHER}" in text.stderr
    shell.done("runlock", OTHER, "--session-id", "two")
    assert waits.communicate(timeout=60)[0] and waits.returncode == 0
    shell.done("keylane", "session", "end", "one")


@pytest.mark.requirement("S3.4")
def test_mistakes_have_their_codes(shell: Shell) -> None:
    assert shell.refused(2, "rlock", "no-uri")["code"] == "BAD_KEY"
    assert shell.refused(2, "rlock", KEY, "--wait", "soon")["code"] == "USAGE"
    assert shell.refused(2, "rlock", KEY, "--ttl", "1ms")["code"] == "BAD_RECORD"
    assert shell.refused(2, "rlock", KEY, "--session-id", "")["code"] == "USAGE"
    assert shell.kept() == []
    for session in ("one", "two"):  # a scope rule's keys, or a second user of the folder, can bring it about
        (shell.state / "sessions").exists()
        shell.run("rlock", KEY, "--session-id", session)
    (shell.state / "sessions").chmod(0o755)
    assert shell.refused(78, "rlock", OTHER)["code"] == "CONFIG"
    nobody = Shell(f"sqlite://{shell.cwd}/nothing.db", shell.cwd)
    assert nobody.refused(69, "rlock", KEY)["code"] == "UNAVAILABLE"
