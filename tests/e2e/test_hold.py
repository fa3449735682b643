"""`keylane hold` on both backends: what its command gets, what it ends with, and that the command never outlives the
lease, whatever is done to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.processes import running, stop, wait_for_text
from e2e.shell import Shell, is_running, started, until

CONFIG = 'partitions = 2\nretention = "10m"\n'
ROUTER = ("router", "--output", "json")
KEY, OTHER, THIRD = "deploy://api-prod", "github://acme/app/issues/42", "deploy://web"
FOR_EVER = "sleep 600 & echo $! > pids; wait; exit 9"


@pytest.fixture
def shell(journal_url: str, tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "keylane.toml").write_text(CONFIG)
    with running(*ROUTER, says='"url"', url=journal_url, cwd=tmp_path):
        yield Shell(journal_url, tmp_path)


@pytest.fixture
def alone(journal_url: str, tmp_path: Path) -> Shell:
    """Without a router: the test starts its own."""
    (tmp_path / "keylane.toml").write_text(CONFIG)
    return Shell(journal_url, tmp_path)


def free(shell: Shell) -> bool:
    return shell.locks() == []


def said(shell: Shell, name: str) -> str:
    path = shell.cwd / name
    return path.read_text() if path.exists() else ""


def gone(shell: Shell) -> bool:
    """The script, and what it has started."""
    return not any(is_running(int(pid)) for pid in [*said(shell, "pids").split(), str(shell.child())])


@pytest.mark.requirement("S2.2")
@pytest.mark.requirement("S3.3")
def test_what_a_command_gets_and_what_hold_ends_with(shell: Shell) -> None:
    script = 'read line; echo "$line"; env; exit 7'
    command = ["hold", OTHER, KEY, THIRD, KEY, "--actor", "alice", "--", "sh", "-c", script]
    inherited = shell.environ | {"KEYLANE_TOKEN": "1", "KEYLANE_RESOURCE": "x", "OTHERS": "stay"}
    ran = subprocess.run(
        [sys.executable, "-m", "keylane.cli", *command],
        cwd=shell.cwd, env=inherited, input="from above\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (7, "")
    first, *lines = ran.stdout.splitlines()
    environ = dict(line.split("=", 1) for line in lines if "=" in line)
    tokens = json.loads(environ["KEYLANE_TOKENS"])
    assert first == "from above" and environ["OTHERS"] == "stay"
    assert set(tokens) == {KEY, OTHER, THIRD} == set(json.loads(environ["KEYLANE_RESOURCES"]))
    assert "KEYLANE_TOKEN" not in environ and "KEYLANE_RESOURCE" not in environ, "that of another hold is not its own"
    assert free(shell) and shell.kept() == []

    ran = shell.run("keylane", "hold", KEY, "--", "sh", "-c", 'echo "$KEYLANE_RESOURCE $KEYLANE_TOKEN"')
    assert ran.returncode == 0 and ran.stdout == f"{KEY} {max(map(int, ran.stdout.split()[1:]))}\n"
    assert int(ran.stdout.split()[1]) > tokens[KEY]
    for command_line, code in (
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "exit 75"], 75),
        (["no-such-program-here"], 127),
        ([str(shell.cwd / "keylane.toml")], 126),
        (["--", "x"], 127),
    ):
        assert shell.run("keylane", "hold", KEY, "--", *command_line).returncode == code, command_line
    broken = shell.cwd / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    assert shell.run("keylane", "hold", KEY, "--", str(broken)).returncode == 127
    broken.write_bytes(b"\x7fELF nonsense")
    assert shell.run("keylane", "hold", KEY, "--", str(broken)).returncode == 126
    assert free(shell) and shell.kept() == []

    shell.done("rlock", KEY, "--actor", "bob")
    before = len(shell.log(OTHER))
    error = shell.refused(75, "keylane", "hold", KEY, OTHER, THIRD, "--", "touch", "ran")
    assert (error["code"], error["holder"]) == ("LOCK_HELD", "bob") and not (shell.cwd / "ran").exists()
    assert [lock["resource"] for lock in shell.locks()] == [KEY], "all or none"
    assert len(shell.log(OTHER)) >= before
    shell.done("runlock", KEY)


@pytest.mark.requirement("S2.2")
def test_signals_are_the_commands_and_what_it_makes_of_them_counts(shell: Shell) -> None:
    for number, code in ((signal.SIGTERM, 3), (signal.SIGINT, 4), (signal.SIGHUP, 5)):
        name = number.name.removeprefix("SIG")
        script = f"trap 'echo {name} >> got; sleep 0.2; exit {code}' {name}; while :; do sleep 0.02; done"
        with shell.holding(KEY, script=script) as hold:
            hold.send_signal(number)
            assert hold.wait(30) == code
        assert said(shell, "got").split()[-1:] == [name]
        assert free(shell), f"after {name} it is given back"
    with shell.holding(KEY, script="sleep 600") as hold:  # one that does not heed it ends by it
        hold.send_signal(signal.SIGTERM)
        assert hold.wait(30) == 128 + signal.SIGTERM
    # What it leaves running would act without a lease; and who reads its output waits for nobody.
    with shell.holding(KEY, script="sleep 600 & echo $! > pids; exit 0") as hold:
        _out, _ = hold.communicate(timeout=30)
        assert hold.returncode == 0 and gone(shell)
    # Nobody reads what it says.
    hold = shell.start("keylane", "hold", KEY, "--", "sh", "-c", "exec yes")
    assert hold.stdout is not None and hold.stdout.readline() == "y\n"
    hold.stdout.close()
    assert hold.wait(30) == 128 + signal.SIGPIPE
    assert hold.stderr is not None
    hold.stderr.close()
    assert free(shell) and shell.kept() == []


@pytest.mark.requirement("S2.2")
def test_signals_while_it_waits_end_the_wait(shell: Shell) -> None:
    shell.done("rlock", KEY)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        hold = shell.start("keylane", "hold", OTHER, KEY, "--wait", "60s", "--", "touch", "ran")
        until(lambda: "waiting" in [lock["state"] for lock in shell.locks(KEY)])
        hold.send_signal(number)
        assert hold.wait(30) == 128 + number
        hold.communicate()
        until(lambda: [lock["resource"] for lock in shell.locks()] == [KEY], "it waits no more, and holds nothing")
        assert len(shell.secrets()) == 1, "and nothing of it is kept"
    hold = shell.start("keylane", "hold", KEY, "--wait", "60s", "--", "sh", "-c", "echo $KEYLANE_TOKEN")
    until(lambda: len(shell.locks(KEY)) == 2)
    token = shell.done("runlock", KEY)["token"]
    out, _ = hold.communicate(timeout=60)
    assert hold.returncode == 0 and int(out) > token
    assert not (shell.cwd / "ran").exists() and free(shell)


@pytest.mark.requirement("S2.2")
def test_after_kill_9_of_hold_nothing_of_its_command_goes_on(shell: Shell) -> None:
    with shell.holding(KEY, "--ttl", "60s", script=FOR_EVER) as hold:
        until(lambda: said(shell, "pids"))
        assert not gone(shell)
        assert shell.refused(3, "runlock", KEY)["message"].endswith("has it in a process that runs")
        (secret,) = shell.secrets()
        for place in ("environ", "cmdline"):
            for pid in (hold.pid, shell.child()):
                assert secret.encode() not in Path(f"/proc/{pid}/{place}").read_bytes()
        hold.kill()
        until(lambda: gone(shell), "its guard has ended all of its group")
    # The lease has a minute yet: its user gives it back by what is on disk.
    assert shell.refused(75, "rlock", KEY)["code"] == "LOCK_HELD"
    shell.done("runlock", KEY)
    assert free(shell) and shell.kept() == []
    with shell.holding(KEY, "--ttl", "2s", "--kill-after", "0.3", script="trap '' TERM; " + FOR_EVER) as hold:
        until(lambda: said(shell, "pids"))
        hold.kill()
        until(lambda: gone(shell), "one that does not heed SIGTERM is killed")
    until(lambda: free(shell), "the lock ended with its lease")
    log = shell.log(KEY)
    assert [event["reason"] for event in log if event["type"] == "Lost"] == ["lease_expired"]


def test_killed_with_its_guard_its_command_dies_with_them(shell: Shell) -> None:
    """As `pkill -9 -f 'keylane hold'` does it: on Linux the command itself does not outlive them."""
    with shell.holding(KEY, "--ttl", "60s", script="exec sleep 600") as hold:
        child, guard = shell.child(), parent_of(shell.child())
        assert parent_of(guard) == hold.pid
        os.kill(hold.pid, signal.SIGSTOP)  # neither sees the other go
        os.kill(guard, signal.SIGSTOP)
        hold.kill()
        os.kill(guard, signal.SIGKILL)
        until(lambda: not is_running(child))
    shell.done("runlock", KEY)
    with shell.holding(KEY, script="exec sleep 600") as hold:  # the guard alone: what is not guarded does not run
        os.kill(parent_of(shell.child()), signal.SIGKILL)
        assert hold.wait(30) == 128 + signal.SIGKILL
        assert not is_running(shell.child())
    assert free(shell)


def parent_of(pid: int) -> int:
    """As the kernel has it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_one_that_is_paused_beyond_its_lease_does_not_leave_its_command_running(shell: Shell) -> None:
    with shell.holding(KEY, "--ttl", "2s", script=FOR_EVER) as hold:
        until(lambda: said(shell, "pids"))
        began_s = time.monotonic()
        hold.send_signal(signal.SIGSTOP)
        until(lambda: gone(shell))
        assert time.monotonic() - began_s < 10
        hold.send_signal(signal.SIGCONT)
        assert hold.wait(30) == 4
        assert hold.stderr is not None and "FENCED" in hold.stderr.read()
    assert free(shell)


@pytest.mark.requirement("S2.2")
def test_it_stops_when_it_is_asked_for_back_or_its_time_is_over(shell: Shell) -> None:
    script = "trap 'echo stopped > got; exit 0' TERM; while :; do sleep 0.02; done"
    with shell.holding(KEY, script=script) as hold:
        (lock,) = shell.locks(KEY)
        answer = shell.done("keylane", "cancel", KEY, lock["run"], "--actor", "carol")
        assert answer["answer"] == "stop_asked"
        assert hold.wait(30) == 4
        assert hold.stderr is not None and "carol" in hold.stderr.read()
    assert said(shell, "got") == "stopped\n" and free(shell)
    assert shell.log(KEY)[-1]["status"] == "cancelled"
    (shell.cwd / "got").unlink()
    with shell.holding(KEY, "--max", "1s", script=script) as hold:
        assert hold.wait(30) == 4
        assert hold.stderr is not None
        told = hold.stderr.read()
        assert "--max" in told and "half done" in told and "taken over" not in told
    assert said(shell, "got") == "stopped\n" and free(shell)
    assert shell.log(KEY)[-1]["status"] == "completed", "it was given back"
    with shell.holding(KEY, "--session-id", "s", script=FOR_EVER) as hold:
        until(lambda: said(shell, "pids"))
        shell.done("keylane", "session", "end", "s")
        assert hold.wait(30) == 4 and gone(shell)
    with shell.holding(KEY, "--kill-after", "0.3", "--max", "1s", script="trap '' TERM; " + FOR_EVER) as hold:
        assert hold.wait(30) == 4 and gone(shell)


@pytest.mark.requirement("S2.3")
@pytest.mark.requirement("S3.3")
def test_what_runs_in_a_named_session_has_its_locks_and_its_folder(shell: Shell) -> None:
    inner = f"rlock {OTHER} >/dev/null && rlock {OTHER} >/dev/null && echo x > $KEYLANE_SESSION_TMP/mine && "
    inner += "echo $KEYLANE_SESSION_ID $KEYLANE_SESSION_TMP"
    shell.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{shell.environ['PATH']}"
    ran = shell.run("keylane", "hold", KEY, "--session-id", "s 1", "--", "sh", "-c", inner)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"s 1 {shell.state}/sessions/")
    folder = Path(ran.stdout.split(" ", 2)[2].strip())
    assert (folder / "mine").exists() and folder.stat().st_mode & 0o777 == 0o700
    assert [lock["session"] for lock in shell.locks()] == ["s 1"]
    other = shell.run("keylane", "hold", KEY, "--", "sh", "-c", "echo $KEYLANE_SESSION_TMP; ls $KEYLANE_SESSION_TMP")
    assert other.stdout.splitlines()[0] != str(folder) and len(other.stdout.splitlines()) == 1
    shell.done("keylane", "session", "end", "s 1")
    assert free(shell) and not folder.exists() and shell.kept() == []


def test_no_command_of_its_session_takes_from_hold_what_it_holds(shell: Shell) -> None:
    shell.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{shell.environ['PATH']}"
    inner = f"for each in runlock rlock-heartbeat; do $each {KEY} 2>>said; echo $? >>codes; done; exit 7"
    ran = shell.run("keylane", "hold", KEY, "--session-id", "s", "--", "sh", "-c", inner)
    assert said(shell, "codes").split() == ["3", "3"], said(shell, "said")
    assert said(shell, "said").count("has it in a process that runs") == 2
    assert ran.returncode == 7, ran.stderr


def test_without_a_router_the_lease_is_over_by_the_holders_own_clock(alone: Shell, tmp_path: Path) -> None:
    with running(*ROUTER, says='"url"', url=alone.url, cwd=tmp_path) as router:
        with alone.holding(KEY, "--ttl", "3s", script=FOR_EVER) as hold:
            until(lambda: said(alone, "pids"))
            router.send_signal(signal.SIGSTOP)
            assert hold.wait(30) == 4
            assert gone(alone)
            router.send_signal(signal.SIGCONT)
        until(lambda: free(alone))


def test_a_router_that_is_killed_and_started_again_costs_no_lock(alone: Shell, tmp_path: Path) -> None:
    script = "echo $KEYLANE_TOKEN > token; while ! test -e go; do sleep 0.05; done; exit 6"
    log = tmp_path / "first.log"
    first = started(ROUTER, log, alone.url, tmp_path)
    second: Any = None
    try:
        wait_for_text(log, '"url"', first)
        with alone.holding(KEY, "--ttl", "30s", script=script) as hold:
            until(lambda: said(alone, "token"))
            first.kill()
            first.wait()
            log = tmp_path / "second.log"
            second = started(ROUTER, log, alone.url, tmp_path)
            wait_for_text(log, '"url"', second)
            # A renewal that the new router answers: the lease is known to it.
            until(lambda: "Renewed" in [event["type"] for event in alone.log(KEY)], "it was renewed")
            assert hold.poll() is None
            (tmp_path / "go").touch()
            assert hold.wait(60) == 6
        (granted,) = [event for event in alone.log(KEY) if event["type"] == "Granted"]
        assert granted["token"] == int(said(alone, "token"))
        until(lambda: free(alone))
    finally:
        for router in (first, second):
            if router is not None:
                stop(router)
