"""The disk of a SQLite journal is full under load: it is told so, reads go on, and with room again work goes on."""

import json
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from subprocess import CompletedProcess, Popen
from urllib.error import HTTPError

import anyio
import anyio.to_thread
import apsw
import pytest
from e2e.processes import ended
from faults.conftest import SESSION_TIMEOUT_MS
from faults.disks import ROOM_BYTES, can_mount, filled, limited, small_file_system
from faults.fleet import Fleet, Load, assert_nothing_lost_or_doubled
from kafka.running import free_ports

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SEED = 5
DEADLINE_S = 60.0
LARGE_BYTES = ROOM_BYTES * 3 // 2

Full = Callable[[Path, Sequence[Popen[bytes]]], AbstractContextManager[None]]


@pytest.fixture(params=["file size limit", *(["small file system"] if can_mount() else [])])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Full]]:
    """A folder for the journal, and what fills its disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "file size limit":
        yield folder, limited
        return
    with small_file_system(folder):
        yield folder, filled


def readiness(port: int) -> tuple[int, str]:
    """What `/readyz` says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return 200, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


async def test_a_full_disk_stops_writers_only_and_only_while_it_is_full(
    disk: tuple[Path, Full], tmp_path: Path
) -> None:
    folder, full = disk
    file = folder / "journal.db"
    url = f"sqlite://{file}?session_timeout_ms={SESSION_TIMEOUT_MS}"
    (port,) = free_ports(1)

    async def ask(*words: str) -> CompletedProcess[bytes]:
        return await anyio.to_thread.run_sync(lambda: ended(*words, "--output", "json", url=url, cwd=tmp_path))

    async def until_ready(status: int) -> str:
        with anyio.fail_after(DEADLINE_S):
            while (found := await anyio.to_thread.run_sync(readiness, port))[0] != status:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        return found[1]

    with ExitStack() as stack:
        fleet = Fleet(url, tmp_path, stack)
        processes = [await fleet.router("--metrics", f"127.0.0.1:{port}"), await fleet.worker()]
        load = Load(url, SEED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            await anyio.sleep(2)
            with full(file, processes):
                why = await until_ready(503)
                assert "is loading again" in why and f"{file}: " in why and "the disk is full" in why
                # Small writes may find room for a while; this one is larger than what is left.
                refused = await ask("submit", "deploy://late", "restart", "--data", json.dumps("x" * LARGE_BYTES))
                error = json.loads(refused.stderr.splitlines()[-1])["error"]
                assert (refused.returncode, error["code"]) == (69, "UNAVAILABLE")
                assert f"{file}: " in error["message"] and "the disk is full" in error["message"]
                for words in (("who", "deploy://api-1"), ("leases",), ("lag",), ("events", "--last", "1")):
                    assert (await ask(*words)).returncode == 0, words
                assert (await ask("request", "deploy://api-1", "r-none")).returncode == 3
                published = len(load.acknowledged)
                assert all(process.poll() is None for process in processes)
            await until_ready(200)
            assert (await ask("submit", "deploy://late", "restart", "--wait")).returncode == 0
            load.stop()
        assert len(load.acknowledged) > published, "and the load went on"
        await assert_nothing_lost_or_doubled(fleet, load)
        assert all(process.poll() is None for process in processes)
    with apsw.Connection(str(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
