"""The contract of the log itself: topics, plain writes, readers, end positions."""

import anyio
import pytest
from contract.children import DEADLINE_S
from contract.sites import EVENTS_RETENTION_MS, INPUT_MAX_BYTES, PARTITIONS, Site, values

from keylane.journal import Place, PositionLost, Record, TooLarge, TopicMismatch, TopicSpec

pytestmark = pytest.mark.anyio


async def test_topics_are_as_they_were_asked_for(site: Site) -> None:
    events = await site.adapter.settings(site.journal, site.events)
    state = await site.adapter.settings(site.journal, site.state)
    requests = await site.adapter.settings(site.journal, site.requests)
    assert (events.retention_ms, events.compacted) == (EVENTS_RETENTION_MS, False)
    assert state.compacted
    assert requests.retention_ms is None
    assert await site.journal.partitions(site.state) == PARTITIONS
    assert await site.journal.partitions(f"{site.name}.none") is None


async def test_creating_topics_again_changes_nothing(site: Site) -> None:
    await site.append(site.requests, b"one")
    await site.journal.create_topics(site.specs)
    assert values(await site.committed(site.requests)) == [b"one"]


@pytest.mark.parametrize("change", [{"partitions": PARTITIONS + 1}, {"compacted": True}])
async def test_a_topic_with_other_settings_is_refused(site: Site, change: dict[str, int]) -> None:
    with pytest.raises(TopicMismatch):
        await site.journal.create_topics([TopicSpec(site.requests, PARTITIONS)._replace(**change)])


async def test_order_and_offsets_within_a_partition(site: Site) -> None:
    first = await site.append(site.requests, *(b"%d" % n for n in range(50)))
    second = await site.append(site.requests, *(b"%d" % n for n in range(50, 100)))
    records = await site.committed(site.requests)
    assert values(records) == [b"%d" % n for n in range(100)]
    assert [record.offset for record in records] == first + second == sorted(set(first + second))


async def test_appends_of_many_tasks_are_all_kept_and_each_learns_its_offset(site: Site) -> None:
    offsets: dict[bytes, int] = {}

    async def append(value: bytes) -> None:
        [offsets[value]] = await site.append(site.requests, value)

    async with anyio.create_task_group() as tasks:
        for n in range(200):
            tasks.start_soon(append, b"%d" % n)
    records = await site.committed(site.requests)
    assert {record.value: record.offset for record in records} == offsets
    assert len(records) == 200


async def test_keys_values_and_headers_come_back_as_they_were(site: Site) -> None:
    headers = (("ce_id", b"1"), ("ce_id", b"2"), ("unicode-\u00e9", b"\x00\xff"), ("empty", b""))
    written = [
        Record(site.requests, 1, None, b"no key"),
        Record(site.requests, 1, b"", b""),
        Record(site.requests, 1, b"\x00\xff", b"\xff" * 1000, headers),
    ]
    await site.journal.append(written)
    read = await site.committed(site.requests, 1)
    assert [(r.topic, r.partition, r.key, r.value, r.headers) for r in read] == [tuple(r) for r in written]
    assert all(record.timestamp_ms > 1_700_000_000_000 for record in read)


async def test_reading_begins_where_it_is_told_to(site: Site) -> None:
    offsets = await site.append(site.requests, b"a", b"b", b"c")
    place = Place(site.requests, 0)
    reader = await site.reader({place: offsets[1], Place(site.requests, 1): None})
    with anyio.fail_after(DEADLINE_S):
        records = await reader.poll(1, 5)
        assert reader.positions()[place] == offsets[1] + 1
        records += await reader.poll(10, 5)
    assert values(records) == [b"b", b"c"]
    assert await reader.poll(10, 0.01) == []


async def test_a_reader_serves_every_partition_under_load(site: Site) -> None:
    for partition in range(PARTITIONS):
        await site.append(site.requests, *(b"%d" % n for n in range(300)), partition=partition)
    reader = await site.reader({Place(site.requests, p): None for p in range(PARTITIONS)})
    seen: set[int] = set()
    polled = 0
    with anyio.fail_after(DEADLINE_S):
        while polled < 400:
            records = await reader.poll(100, 5)
            polled += len(records)
            seen |= {record.partition for record in records}
    assert seen == set(range(PARTITIONS)), "one partition can keep the others waiting"


async def test_end_positions_follow_what_is_committed(site: Site) -> None:
    places = [Place(site.requests, 0), Place(site.requests, 1)]
    before = await site.journal.end_positions(places)
    [offset] = await site.append(site.requests, b"a", partition=1)
    assert await site.journal.end_positions(places) == {**before, places[1]: offset + 1}


async def test_a_record_that_is_too_large_is_refused_with_its_company(site: Site) -> None:
    with pytest.raises(TooLarge):
        await site.append(site.requests, b"small", b"x" * (2 * INPUT_MAX_BYTES))
    await site.append(site.requests, b"x" * (INPUT_MAX_BYTES // 4))
    [kept] = await site.committed(site.requests)
    assert len(kept.value or b"") == INPUT_MAX_BYTES // 4


async def test_what_retention_took_is_position_lost_and_not_skipped(site: Site) -> None:
    offsets = await site.append(site.requests, b"a", b"b", b"c")
    place = Place(site.requests, 0)
    reader = await site.reader({place: offsets[0]})
    await site.adapter.forget(site.journal, place, offsets[2])
    with pytest.raises(PositionLost), anyio.fail_after(DEADLINE_S):
        await reader.poll(10, 5)
    from_start = await site.reader({place: None})
    assert values(await from_start.poll(10, 5)) == [b"c"]
    assert await site.append(site.requests, b"d") == [offsets[2] + 1]


async def test_a_waiting_reader_is_woken_by_an_append_of_another_party(site: Site) -> None:
    other = await site.open()
    reader = await site.reader({Place(site.requests, 0): None})
    found: list[bytes | None] = []

    async def wait() -> None:
        found.extend(values(await reader.poll(10, DEADLINE_S)))

    # The poll itself would wait for DEADLINE_S; that it returns much sooner shows that it was woken.
    with anyio.fail_after(DEADLINE_S / 3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await other.append([Record(site.requests, 0, b"k", b"v")])
    assert found == [b"v"]
