"""`keylane hold` while its broker is killed: a lease that is long enough outlives it; no command outlives its lease."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.processes import running
from e2e.shell import Shell, is_running, until
from kafka.running import Broker, own_broker, tool

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

KEY = "deploy://api-prod"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with own_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def shell(broker: Broker, tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "keylane.toml").write_text("partitions = 2\n")
    url = f"{broker.url}?prefix={tmp_path.name}.&session_timeout_ms=2000"
    with running("router", "--output", "json", says='"url"', url=url, cwd=tmp_path):
        yield Shell(url, tmp_path)


def kill(broker: Broker) -> None:
    os.kill(broker.pid, signal.SIGKILL)
    tool("down", broker)  # which now only waits for its end


def kinds(shell: Shell) -> list[str]:
    return [event["type"] for event in shell.log(KEY)]


@pytest.mark.requirement("S2.2")
def test_a_lease_that_is_longer_than_the_fault_outlives_it(broker: Broker, shell: Shell) -> None:
    script = "while ! test -e go; do sleep 0.05; done; echo $KEYLANE_TOKEN; exit 6"
    with shell.holding(KEY, "--ttl", "90s", script=script) as hold:
        kill(broker)
        tool("up", broker)
        until(lambda: "Renewed" in kinds(shell), "it is renewed as before")
        assert hold.poll() is None
        (shell.cwd / "go").touch()
        out, _ = hold.communicate(timeout=60)
        assert hold.returncode == 6
    (granted,) = [event for event in shell.log(KEY) if event["type"] == "Granted"]
    assert granted["token"] == int(out)
    assert kinds(shell)[-1] == "Ended" and shell.locks() == []


@pytest.mark.requirement("S2.2")
def test_a_fault_that_is_longer_than_the_lease_ends_the_command(broker: Broker, shell: Shell) -> None:
    with shell.holding(KEY, "--ttl", "4s", script="sleep 600") as hold:
        child = shell.child()
        kill(broker)
        until(lambda: not is_running(child), "it ended with the lease, though nobody can say so")
        _, err = hold.communicate(timeout=60)
        assert hold.returncode == 4 and "not renewed in time" in err
        tool("up", broker)
    until(lambda: shell.locks() == [])
    assert "Lost" in kinds(shell) or kinds(shell)[-1] == "Ended", "lost, or what was said on the way out was heard"
