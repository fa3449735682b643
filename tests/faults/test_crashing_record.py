"""A record at which the core fails, in real router processes under load: it is set aside, and its lane goes on."""

import json
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from e2e.processes import ended, keylane
from faults.fleet import PARTITIONS, RESOURCES, Fleet, Load, assert_nothing_lost_or_doubled

from keylane.journal import connect
from keylane.journal.partitioner import partition_of
from keylane.lanes import lag
from keylane.schemas.events import DeadLettered, Ended

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

SEED = 7
CRASHING = "deploy://crashes"
LANE = partition_of(CRASHING.encode(), PARTITIONS)
ROUTER = f'''
"""keylane, with a fault in the core: one resource makes every step fail that meets it."""
import sys
from keylane.router import turn

whole = turn.step

def step(lane, arrived, now):
    if getattr(arrived.record, "resource", "") == {CRASHING!r}:
        raise ZeroDivisionError("a fault in the core")
    whole(lane, arrived, now)

turn.step = step

from keylane.cli import main
sys.exit(main())
'''


async def test_a_record_that_crashes_the_core_is_set_aside_also_after_a_takeover(
    journal_url: str, tmp_path: Path
) -> None:
    assert LANE in {partition_of(f"deploy://api-{number}".encode(), PARTITIONS) for number in range(RESOURCES)}
    (tmp_path / "faulty.py").write_text(ROUTER)

    async def submit_crashing(id: str) -> None:
        words = ("submit", CRASHING, "restart", "--id", id, "--output", "json")
        done = await anyio.to_thread.run_sync(lambda: ended(*words, url=journal_url, cwd=tmp_path))
        error = json.loads(done.stderr.splitlines()[-1])["error"]
        assert (done.returncode, error["code"]) == (70, "INTERNAL"), done

    async def claim() -> int:
        journal = await connect(journal_url)
        try:
            return (await lag(journal, LANE)).claim
        finally:
            await journal.close()

    with ExitStack() as stack:
        fleet = Fleet(journal_url, tmp_path, stack)
        first = await fleet.router(program=["faulty.py"])
        worker = await fleet.worker()
        load = Load(journal_url, SEED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            await anyio.sleep(1)
            for number in range(2):
                await submit_crashing(f"before-{number}")
            await fleet.router(program=["faulty.py"])
            claimed = await claim()
            first.kill()
            first.wait()
            await submit_crashing("after")
            assert await claim() > claimed, "the lane was taken over"
            await anyio.sleep(1)
            load.stop()
        await assert_nothing_lost_or_doubled(fleet, load)
        said = [event for partition, event in await fleet.judged(load.acknowledged) if partition == LANE]
        assert worker.poll() is None
    letters = [
        json.loads(line)
        for line in keylane("deadletters", "list", "--output", "json", url=journal_url, cwd=tmp_path).splitlines()
    ]
    assert [(each["topic"], each["partition"], each["code"]) for each in letters] == [
        ("requests", LANE, "INTERNAL")
    ] * 3
    assert all("a fault in the core" in each["reason"] for each in letters)
    for id, letter in zip(("before-0", "before-1", "after"), letters, strict=True):
        place = f"requests/{letter['partition']}/{letter['offset']}"
        shown = keylane("deadletters", "show", "--raw", place, url=journal_url, cwd=tmp_path)
        assert json.loads(shown)["id"] == id, "it names the place of the very record"
    last = max(number for number, event in enumerate(said) if isinstance(event, DeadLettered))
    assert any(isinstance(event, Ended) for event in said[last:]), "and the same lane went on"
