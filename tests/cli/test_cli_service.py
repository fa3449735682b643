"""The commands against a real service: a router and a worker as processes, on the embedded journal."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from e2e.processes import running

CONFIG = 'unserved_after = "1h"\n[defaults]\ncoalesce = "0s"\n'


class Service(NamedTuple):
    folder: Path
    url: str

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "keylane.cli", *arguments],
            cwd=self.folder,
            env=self.environ(),
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "keylane.cli", *arguments],
            cwd=self.folder,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def environ(self) -> dict[str, str]:
        return os.environ | {"KEYLANE_URL": self.url, "PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "keylane.toml").write_text(CONFIG)
    url = f"sqlite://{folder}/.keylane/journal.db"
    with running("up", url=url, cwd=folder, says="serving"):
        yield Service(folder, url)


@pytest.fixture(scope="module")
def worked(service: Service) -> Iterator[Service]:
    """The service with a worker that serves every lane."""
    worker = service.start("worker", "run", "cli_worker:worker")
    try:
        for number in range(8):  # one of them in each of many lanes: done means that its lane is served
            done = service.run("submit", f"test://warm-{number}", "echo", "--wait")
            assert done.returncode == 0, done.stderr
        yield service
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        worker.communicate()


def error_of(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    """The envelope: the last line on standard error, nothing on standard output."""
    assert done.stdout == b""
    body: dict[str, object] = json.loads(done.stderr.splitlines()[-1])["error"]
    return body


def test_the_data_folder_is_private(service: Service) -> None:
    assert stat.S_IMODE((service.folder / ".keylane").stat().st_mode) == 0o700


def test_a_completed_outcome_is_0_and_its_result_printed(worked: Service) -> None:
    done = worked.run("submit", "test://a", "echo", "--data", "-", "--wait", "--output", "json", stdin=b'{"n": 1.50}')
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["status"], outcome["result"]) == ("completed", {"n": 1.5})


def test_data_comes_from_a_file(worked: Service) -> None:
    (worked.folder / "data.json").write_text('["from a file"]')
    done = worked.run("submit", "test://b", "echo", "--data", "@data.json", "--wait")
    assert done.returncode == 0, done.stderr
    assert b"from a file" in done.stdout


def test_a_failed_run_is_1_and_says_why_harmlessly(worked: Service) -> None:
    done = worked.run("submit", "test://c", "fail", "--wait")
    assert done.returncode == 1
    assert b"it \\x1b[31mcannot be" in done.stdout


def test_without_waiting_the_request_id_is_printed_and_can_be_asked_about(worked: Service) -> None:
    done = worked.run("submit", "test://d", "echo", "--id", "d-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"d-1 ")
    again = worked.run("submit", "test://d", "echo", "--id", "d-1", "--wait", "--output", "json")
    assert json.loads(again.stdout)["status"] == "completed"
    asked = worked.run("request", "test://d", "d-1", "--output", "json")
    assert json.loads(asked.stdout)["state"] == "done"


def test_an_action_that_nobody_handles_is_warned_of_at_once(service: Service) -> None:
    done = service.run("submit", "test://unserved", "no-such-action", "--id", "u-1")
    assert done.returncode == 0
    assert b"warning: no worker handles 'no-such-action' now" in done.stderr
    assert done.stdout.startswith(b"u-1 waiting")


def test_busy_is_75_with_when_to_try_again_and_leaves_an_artifact(service: Service) -> None:
    service.run("submit", "test://busy", "no-such-action", "--id", "busy-1")
    done = service.run("submit", "test://busy", "other", "--reject-if-busy", "--id", "busy-2", "--output", "json")
    assert done.returncode == 75
    error = error_of(done)
    assert error["code"] == "LOCK_HELD"
    assert isinstance(error["retry_after_ms"], int)
    shown = service.run("conflicts", "test://busy", "--output", "json")
    assert shown.returncode == 0
    (artifact,) = [json.loads(text) for text in shown.stdout.splitlines()]
    assert (artifact["kind"], artifact["id"]) == ("lock_held", error["conflict_id"])
    owned = service.run("who", "test://busy", "--output", "json")
    assert [pending["run"] for pending in json.loads(owned.stdout)["waiting"]] == ["busy-1"]


def test_a_cancelled_request_is_over_and_cannot_be_cancelled_again(service: Service) -> None:
    service.run("submit", "test://cancel", "no-such-action", "--id", "cancel-1")
    done = service.run("cancel", "test://cancel", "cancel-1", "--output", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "withdrawn"
    again = service.run("cancel", "test://cancel", "cancel-1", "--output", "json")
    assert (again.returncode, error_of(again)["code"]) == (5, "TOO_LATE")
    waited = service.run("submit", "test://cancel", "no-such-action", "--id", "cancel-1", "--wait")
    assert waited.returncode == 5


@pytest.mark.parametrize("command", ["request", "cancel"])
def test_an_unknown_request_is_3(service: Service, command: str) -> None:
    done = service.run(command, "test://nothing", f"nobody-{command}", "--output", "json")
    assert (done.returncode, error_of(done)["code"]) == (3, "NOT_FOUND")


def test_a_key_that_cannot_be_is_2(service: Service) -> None:
    done = service.run("submit", "not a key", "echo", "--output", "json")
    assert (done.returncode, error_of(done)["code"]) == (2, "BAD_KEY")


def test_ingest_publishes_what_it_can_and_reports_every_other_line(service: Service) -> None:
    good = {"event": "watch", "payload": {"action": "started", "repository": {"full_name": "acme/app"}}}
    nothing = {"event": "security_advisory", "payload": {"action": "published"}}
    lines = [json.dumps(good), "no delivery", "", json.dumps(nothing)]
    done = service.run("ingest", "github", "-", "--output", "json", stdin="\n".join(lines).encode())
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stdout)
    assert (told["published"], told["malformed"], told["unmapped"]) == (1, 1, 1)
    assert (told["requests"], told["changes"]) == (1, 0), "nobody is named who did it"
    warnings = [json.loads(text)["warning"] for text in done.stderr.splitlines()]
    assert [text.split(":")[0] for text in warnings] == ["line 2", "line 4"]
    owned = service.run("who", "github://acme/app", "--output", "json")
    assert [pending["action"] for pending in json.loads(owned.stdout)["waiting"]] == ["watch.started"]


def test_output_that_nobody_reads_ends_quietly(service: Service) -> None:
    service.run("submit", "test://pipe", "no-such-action")
    service.run("submit", "test://pipe", "other", "--reject-if-busy")
    process = service.start("conflicts", "test://pipe", "--output", "json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_an_interrupted_stream_is_130_and_quiet(service: Service) -> None:
    service.run("submit", "test://follow", "no-such-action")
    service.run("submit", "test://follow", "other", "--reject-if-busy")
    with service.start("conflicts", "test://follow", "--follow", "--output", "json") as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["kind"] == "lock_held"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_stops_gracefully(tmp_path: Path, number: signal.Signals) -> None:
    service = Service(tmp_path, f"sqlite://{tmp_path}/.keylane/journal.db")
    with service.start("up", "--output", "json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["url"] == service.url
        process.send_signal(number)
        assert json.loads(process.stdout.readline())["signal"] == number.name
        assert process.wait(30) == 0


def test_no_router_answers_is_69_and_the_request_stays_on_record(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/.keylane/journal.db"
    with running("up", url=url, cwd=tmp_path, says="serving"):
        pass
    done = Service(tmp_path, url).run("submit", "test://x", "echo", "--output", "json")
    assert done.returncode == 69
    error = error_of(done)
    assert error["code"] == "UNAVAILABLE"
    assert "no router answered" in str(error["message"])
