"""A program as a handler: what it is given, what it says, how it ends, and that nothing of it is left."""

import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from keylane.schemas.errors import LeaseLost
from keylane.testing import call
from keylane.workers.item import Done, Fail, Retry
from keylane.workers.program import NoProgram, handler_running
from keylane.workers.program_lines import (
    LINE_BYTES_MAX,
    Blocked,
    GaveUp,
    Lines,
    Progressed,
    Resulted,
    ToRetry,
    said,
)

pytestmark = pytest.mark.anyio


def shell(script: str, kill_after_s: float = 5.0) -> Any:
    return handler_running(["sh", "-c", script], kill_after_s=kill_after_s)


def python(script: str, kill_after_s: float = 5.0) -> Any:
    return handler_running([sys.executable, "-c", script], kill_after_s=kill_after_s)


def is_running(pid: int) -> bool:
    """A zombie has ended: it only waits to be reaped by whoever is its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def text_of(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def written(file: Path) -> str:
    with anyio.fail_after(10):
        while not text_of(file).endswith("\n"):  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return text_of(file).strip()


# -- the lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"progress": null}', Progressed(None)),
        (b'  {"progress": {"step": 2}, "evidence": [1], "open_questions": ["?"]}', Progressed({"step": 2}, [1], ["?"])),
        (b'{"blocked": "waits for review"}', Blocked("waits for review")),
        (b'{"result": 7, "version": "v2", "observed_version": "v3"}', Resulted(7, "v2", "v3")),
        (b'{"fail": "gone"}', GaveUp("gone")),
        (b'{"retry": "busy", "after_s": 2.5}', ToRetry("busy", 2.5)),
    ],
)
def test_a_line_for_keylane(line: bytes, told: object) -> None:
    assert said(line) == told


@pytest.mark.parametrize(
    "line",
    [b"", b"progress", b"{", b'{"other": 1}', b"{}", b"[1]", b'{"progress": ' + b"[" * 9_999, b"{\xff}", b'"progress"'],
)
def test_a_line_of_the_programs_own(line: bytes) -> None:
    assert said(line) is None
    assert said(b'{"result": "' + b"x" * LINE_BYTES_MAX + b'"}') is None


@pytest.mark.parametrize(
    "line", [b'{"progress": 1, "result": 2}', b'{"blocked": 3}', b'{"fail": "x", "more": 1}', b'{"retry": null}']
)
def test_a_line_that_is_meant_for_keylane_and_cannot_be_understood_is_no_silence(line: bytes) -> None:
    with pytest.raises(ValueError):
        said(line)


def test_lines_come_out_whole_however_they_come_in_and_memory_is_bounded() -> None:
    lines = Lines()
    found = [line for byte in b"a\nbc\n\nd" for line in lines.feed(bytes([byte]))]
    assert (found, lines.rest()) == ([b"a", b"bc", b""], b"d")
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * 100_000) == []
    assert len(lines.rest()) == LINE_BYTES_MAX + 1
    assert lines.feed(b"\nnext\n")[1:] == [b"next"]


# -- the program ------------------------------------------------------------------------------------------------


async def test_it_is_given_the_payload_and_the_item_and_gives_a_result() -> None:
    script = """
import json, os, sys
payload = json.load(sys.stdin)
saved = json.load(open(os.environ["KEYLANE_CHECKPOINT_FILE"]))
names = ["RESOURCE", "ACTION", "TOKEN", "ATTEMPT", "RUN"]
known = {name: os.environ["KEYLANE_" + name] for name in names}
print("chatter")
print(json.dumps({"result": [payload, saved["data"], known], "version": "v2", "observed_version": "v2"}))
"""
    done = await call(python(script), {"reason": "oom"}, checkpoint={"step": 3}, attempt=2)
    payload, saved, known = done.result
    assert (payload, saved, done.version, done.observed_version) == ({"reason": "oom"}, {"step": 3}, "v2", "v2")
    assert known["ATTEMPT"] == "2" and int(known["TOKEN"]) > 0 and known["RESOURCE"] and known["RUN"]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo out of disk >&2; exit 3", Retry, "exit code 3: out of disk"),
        ("kill -9 $$", Retry, "ended by signal 9"),
        ("""echo '{"fail": "no such pod"}'""", Fail, "no such pod"),
        ("""echo '{"retry": "busy", "after_s": 2}'; exit 1""", Retry, "busy"),
        ("""echo '{"result": 1}'; exit 1""", Retry, "exit code 1"),
    ],
)
async def test_how_an_attempt_fails(script: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await call(shell(script), None)


async def test_the_last_ending_that_it_said_counts() -> None:
    assert await call(shell("""echo '{"fail": "?"}'; echo '{"result": 5}'"""), None) == Done(5)


@pytest.mark.parametrize(
    "script",
    [
        "exec 0<&-; true",  # reads nothing, of a payload larger than a pipe
        "exec 1>&-; exec 2>&-; cat >/dev/null",
        "head -c 3000000 /dev/urandom",
        "head -c 3000000 /dev/urandom >&2",
        "printf 'no end of line'",
    ],
)
async def test_whatever_it_does_with_its_pipes_it_ends(script: str) -> None:
    with anyio.fail_after(20):
        assert await call(shell(script), "x" * 200_000) == Done(None)


async def test_a_last_line_without_its_end_counts() -> None:
    assert await call(shell("""printf '{"result": 6}'"""), None) == Done(6)


@pytest.mark.parametrize("command", [[], ["keylane-has-no-such-program"], [__file__]])
async def test_what_cannot_be_run_is_told_before_anything_is_taken(command: list[str]) -> None:
    with pytest.raises(NoProgram, match="no program"):
        handler_running(command, kill_after_s=1)


async def test_one_that_is_gone_later_fails_the_attempt(tmp_path: Path) -> None:
    file = tmp_path / "it"
    shutil.copy("/bin/true", file)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    handler = handler_running([str(file)], kill_after_s=1)
    file.unlink()
    with pytest.raises(Retry, match="could not be started"):
        await call(handler, None)


# -- how it is stopped ------------------------------------------------------------------------------------------


async def test_when_it_has_to_stop_its_whole_group_does(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, shell(f"sleep 600 & echo $$ $! > {pids}; wait"), None)
        leader, child = map(int, (await written(pids)).split())
        tasks.cancel_scope.cancel()
    with anyio.fail_after(10):
        while is_running(leader) or is_running(child):  # noqa: ASYNC110
            await anyio.sleep(0.01)  # the signal was sent to both; nothing tells when another's child is gone


async def test_one_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began_s = time.monotonic()
    async with anyio.create_task_group() as tasks:
        script = f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.05; done"
        tasks.start_soon(call, shell(script, kill_after_s=0.3), None)
        stubborn = int(await written(pid))
        tasks.cancel_scope.cancel()
    assert not is_running(stubborn)
    assert time.monotonic() - began_s < 15


async def test_what_it_leaves_running_in_its_group_ends_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"""sleep 600 & echo $! > {pid}; echo '{{"result": 1}}'"""
    assert await call(shell(script), None) == Done(1)
    assert not is_running(int(pid.read_text()))


async def test_a_child_that_left_the_group_and_keeps_the_pipe_does_not_keep_the_item(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with anyio.fail_after(15):
        assert await call(
            shell(f"setsid sh -c 'echo $$ > {pid}; exec sleep 30' & while ! test -s {pid}; do :; done"), None
        ) == Done(None)
    os.kill(int(await written(pid)), 9)


async def test_a_progress_that_is_not_taken_any_more_stops_it(tmp_path: Path) -> None:
    from keylane.schemas.items import WorkItem
    from keylane.workers.item import Item, Saved

    class Lost:
        async def progress(self, saved: Saved) -> None:
            raise LeaseLost("another holds it")

        def check(self) -> None: ...

    pid = tmp_path / "pid"
    record = WorkItem(
        session="s", number=1, run="r", resource="deploy://x", owner="deploy://x", action="a", token=1, attempt=1,
        heartbeat=1, lease_ms=1, hold_ms=1, requests=("r",),
    )  # fmt: skip
    item: Item[Any] = Item(record, None, (), Lost())
    with pytest.raises(LeaseLost):
        await shell(f"""echo $$ > {pid}; echo '{{"progress": 1}}'; sleep 600""")(item)
    assert not is_running(int(pid.read_text()))
