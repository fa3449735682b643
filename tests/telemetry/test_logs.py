"""The log: one line a record whatever was logged, ids beside the message, and nothing of what agents put into work."""

import io
import json
import logging
from collections.abc import Iterator

import anyio
import pytest

import keylane
from keylane.telemetry.logs import FIELD_CHARACTERS_MAX, MESSAGE_CHARACTERS_MAX, Format, Level, configure
from keylane.testing import local

HOSTILE = "x\n2026-01-01T00:00:00.000Z ERROR keylane: forged\r\x1b[2J\u202etxt\u2028\x00\ud800"


@pytest.fixture
def restored() -> Iterator[None]:
    """The loggers as they were: `configure` is for a process of its own."""
    root, ours = logging.getLogger(), logging.getLogger("keylane")
    handlers, level, own = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = handlers, level
    ours.setLevel(own)


def logged(format: Format, level: Level = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(format, level, stream)
    return stream


@pytest.mark.usefixtures("restored")
def test_text_has_time_level_place_message_and_fields() -> None:
    stream = logged("text")
    extra = {"partition": 3, "run": "r-1", "resource": "deploy://a b", "unknown": 1}
    logging.getLogger("keylane.router").warning("lane %d lost", 3, extra=extra)
    logging.getLogger("keylane.router").debug("not now")
    when, said = stream.getvalue().split(" ", 1)
    assert when.endswith("Z") and len(when) == len("2026-11-24T12:00:00.000Z")
    assert said == 'WARNING keylane.router: lane 3 lost partition=3 run=r-1 resource="deploy://a b"\n'


@pytest.mark.usefixtures("restored")
def test_json_is_an_object_a_line() -> None:
    stream = logged("json", "debug")
    try:
        raise ValueError("it")
    except ValueError:
        logging.getLogger("keylane.workers").exception("fault", extra={"run": "r-1", "token": 7})
    logging.getLogger("keylane.workers").debug("now")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("error", "keylane.workers", "fault")
    assert (first["run"], first["token"]) == ("r-1", 7) and "ValueError: it" in first["exception"]
    assert second["message"] == "now"


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("format", ["text", "json"])
def test_hostile_text_forges_no_line_and_steers_no_terminal(format: Format) -> None:
    stream = logged(format)
    log = logging.getLogger("keylane.x")
    log.warning("said %s", HOSTILE, extra={"resource": HOSTILE, "run": "y" * 1_000_000})
    log.warning("z" * 1_000_000)
    log.warning("%d", "no number")
    written = stream.getvalue()
    assert len(written.splitlines()) == 3
    assert not set(written) & set("\x1b\r\x00\u202e\u2028")
    assert len(written) < 4 * (MESSAGE_CHARACTERS_MAX + FIELD_CHARACTERS_MAX)


@pytest.mark.usefixtures("restored")
def test_a_traceback_is_indented_under_its_line() -> None:
    stream = logged("text")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("keylane.x").exception("fault")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("fault") and others and all(line.startswith("    ") for line in others)


@pytest.mark.anyio
@pytest.mark.usefixtures("restored")
async def test_a_whole_run_is_followed_by_its_id_and_nothing_of_the_work_is_logged() -> None:
    stream = logged("json", "debug")
    async with local() as url:
        worker = keylane.Worker(url)

        @worker.handler("restart")
        async def restart(item: keylane.Item) -> dict[str, str]:
            await item.progress({"step": "SECRET-checkpoint"}, evidence="SECRET-evidence", open_questions=["SECRET?"])
            return {"done": "SECRET-result"}

        async with anyio.create_task_group() as tasks, keylane.Client(url) as client:
            tasks.start_soon(worker.serve)
            out = await client.run("deploy://api", "restart", {"why": "SECRET-payload"}, request_id="r-1", timeout_s=20)
            assert out.status == "completed"
            tasks.cancel_scope.cancel()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    said = [line["message"] for line in lines if line.get("run") == "r-1" and line["logger"].endswith("decisions")]
    assert said == ["Queued", "Granted", "Progressed", "Ended completed"]
    assert "SECRET" not in stream.getvalue()
