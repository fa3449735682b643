"""A router that would order otherwise than what is pinned does not start, and leaves nothing behind: real processes."""

import json
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import anyio.to_thread
import pytest
from e2e.processes import ended
from faults.fleet import PARTITIONS, Fleet, Load, assert_nothing_lost_or_doubled

from keylane.journal import Journal, Place, Record, TopicSpec, connect
from keylane.router.setup import topic_specs
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.metadata import METADATA_KEY, Metadata, ScopeRule

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SEED = 6
OTHER = PARTITIONS + 2
NAMES = [spec.name for spec in topic_specs(PARTITIONS, ("default", "other"))]


def config_of_another(folder: Path) -> Path:
    """One that would also have a topic more."""
    file = folder / "other.toml"
    file.write_text(f'partitions = {OTHER}\npools = ["other"]\n')
    return file


async def start(url: str, cwd: Path, *flags: str) -> CompletedProcess[bytes]:
    return await anyio.to_thread.run_sync(
        lambda: ended("router", *flags, "--output", "json", url=url, cwd=cwd),
    )


def refusal(done: CompletedProcess[bytes]) -> str:
    """What a router that ended said about it."""
    assert done.returncode == 78, done
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "CONFIG"
    return str(error["message"])


async def layout(journal: Journal) -> dict[str, int | None]:
    """How many partitions each topic has that a router could have made."""
    return {name: await journal.partitions(name) for name in NAMES}


async def pinned_records(journal: Journal) -> int:
    place = Place(topics.METADATA, 0)
    return (await journal.end_positions([place]))[place]


async def test_a_router_with_another_number_of_partitions_ends_and_the_fleet_goes_on(
    journal_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        fleet = Fleet(journal_url, tmp_path, stack)
        processes = [await fleet.router(), await fleet.worker()]
        load = Load(journal_url, SEED)
        journal = await connect(journal_url)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(load.run)
                await anyio.sleep(1)  # a lane says that it was claimed when it first commits
                before = await layout(journal), await pinned_records(journal), await fleet.claims()
                said = refusal(await start(journal_url, tmp_path, "--config", str(config_of_another(tmp_path))))
                acknowledged = len(load.acknowledged)
                await anyio.sleep(1)
                load.stop()
            after = await layout(journal), await pinned_records(journal), await fleet.claims()
        finally:
            await journal.close()
        assert f"pinned to {PARTITIONS} partitions" in said and f"this router has {OTHER}," in said
        assert "set the same or use another journal" in said
        assert after == before and before[0]["items.other"] is None, "it made, pinned and claimed nothing"
        assert len(load.acknowledged) > acknowledged
        await assert_nothing_lost_or_doubled(fleet, load)
        assert all(process.poll() is None for process in processes)


@pytest.mark.parametrize(
    ("pinned", "says"),
    [
        (Metadata(partitions=PARTITIONS, hash="crc32"), ("hash crc32", f"has {PARTITIONS}, murmur2")),
        (
            Metadata(partitions=PARTITIONS, scopes=(ScopeRule(match="k8s://*/pods/*", owner="k8s://*"),)),
            ("scope rules: 1", "and 0: set the same"),
        ),
    ],
    ids=["hash", "scope rule"],
)
async def test_a_router_that_would_place_keys_otherwise_creates_nothing(
    journal_url: str, tmp_path: Path, pinned: Metadata, says: tuple[str, str]
) -> None:
    """No command pins another hash: the record is written as a later keylane would."""
    journal = await connect(journal_url)
    try:
        await journal.create_topics([TopicSpec(topics.METADATA, 1, compacted=True)])
        await journal.append([Record(topics.METADATA, 0, METADATA_KEY, encode(pinned))])
        said = refusal(await start(journal_url, tmp_path, "--partitions", str(PARTITIONS)))
        made = {name: count for name, count in (await layout(journal)).items() if count is not None}
        assert made == {topics.METADATA: 1} and await pinned_records(journal) == 1
    finally:
        await journal.close()
    assert all(text in said for text in says), said
    assert "set the same or use another journal" in said
