"""The contract of a lane: exclusive claim, fencing, atomic commit, load, seek and the order of polls."""

import anyio
import pytest
from contract.children import DEADLINE_S
from contract.sites import Site, poll_for, values

from keylane.journal import LaneLost, LaneSession, Place, PositionLost, Record, TooLarge

pytestmark = pytest.mark.anyio


def lane_record(site: Site, position: int) -> Record:
    """The lane's own record: where it had read its requests to."""
    return Record(site.state, 0, b"lane", b"%d" % position)


async def test_outputs_and_positions_are_committed_together(site: Site) -> None:
    await site.append(site.requests, b"a", b"b")
    session = await site.claim()
    position = (await poll_for(session, 2))[-1].offset + 1
    headers = (("ce_type", b"Granted"),)
    await session.commit([Record(site.events, 0, b"k", b"granted", headers), lane_record(site, position)])
    [event] = await site.committed(site.events)
    assert (event.key, event.value, event.headers) == (b"k", b"granted", headers)
    after = await site.claim()
    assert values(await after.load()) == [b"%d" % position]
    await after.seek({site.requests: position})
    [next_offset] = await site.append(site.requests, b"c")
    assert [record.offset for record in await poll_for(after, 1)] == [next_offset]


async def test_a_commit_with_one_record_too_large_writes_nothing(site: Site) -> None:
    session = await site.claim()
    too_large = Record(site.events, 0, b"k", b"x" * (3 * 1024 * 1024))
    with pytest.raises(TooLarge):
        await session.commit([Record(site.events, 0, b"k", b"small"), lane_record(site, 1), too_large])
    with pytest.raises(LaneLost):
        await session.commit([Record(site.events, 0, b"k", b"after")])
    again = await site.claim()
    assert await again.load() == []
    assert await site.committed(site.events) == []


async def test_a_later_claim_fences_the_earlier_and_its_commit_writes_nothing(site: Site) -> None:
    first = await site.claim()
    await first.commit([lane_record(site, 1)])
    second = await site.claim(await site.open())
    with pytest.raises(LaneLost) as lost:
        await first.commit([Record(site.events, 0, b"k", b"zombie"), lane_record(site, 99)])
    assert lost.value.fenced
    with pytest.raises(LaneLost):
        await first.commit([Record(site.events, 0, b"k", b"zombie again")])
    await second.commit([Record(site.events, 0, b"k", b"owner")])
    assert values(await site.committed(site.events)) == [b"owner"]
    assert values(await second.load()) == [b"1"]


async def test_lanes_of_different_partitions_do_not_fence_each_other(site: Site) -> None:
    lanes = [await site.claim(partition=partition) for partition in (0, 1)]
    for lane in lanes:
        await lane.commit([Record(site.events, lane.partition, b"k", b"%d" % lane.partition)])
    assert values(await site.committed(site.events, 1)) == [b"1"]


async def test_of_racing_claimants_only_one_goes_on(site: Site) -> None:
    """Each claims and commits once; commits that succeeded are all there, and the last claimant's did."""
    journals = [site.journal, await site.open(), await site.open()]
    acknowledged: list[bytes] = []
    lanes: list[LaneSession] = []

    async def race(number: int) -> None:
        lane = await site.claim(journals[number])
        lanes.append(lane)
        for turn in range(3):
            value = b"%d-%d" % (number, turn)
            try:
                await lane.commit([Record(site.events, 0, b"k", value)])
            except LaneLost:
                return
            acknowledged.append(value)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(race, number)
    still_owning = 0
    for lane in lanes:
        try:
            await lane.commit([Record(site.events, 0, b"k", b"last")])
            still_owning += 1
        except LaneLost:
            continue
    assert still_owning == 1
    assert set(acknowledged) | {b"last"} == set(values(await site.committed(site.events)))


@pytest.mark.parametrize("written", [True, False])
async def test_an_unknown_outcome_is_learnt_by_loading_and_is_never_half(site: Site, written: bool) -> None:
    session = await site.claim()
    await session.commit([lane_record(site, 1)])
    with site.adapter.unknown_commit(session, written=written), pytest.raises(LaneLost) as lost:
        await session.commit([Record(site.events, 0, b"k", b"event"), lane_record(site, 2)])
    assert not lost.value.fenced
    with pytest.raises(LaneLost):
        await session.commit([lane_record(site, 3)])
    again = await site.claim()
    assert values(await again.load()) == [b"2" if written else b"1"]
    assert values(await site.committed(site.events)) == ([b"event"] if written else [])


async def test_load_gives_the_newest_record_of_each_live_key_in_log_order(site: Site) -> None:
    def put(key: int, value: bytes | None) -> Record:
        return Record(site.state, 0, b"key-%d" % key, value, (("h", b"%d" % key),))

    session = await site.claim()
    await session.commit([put(key, b"old") for key in range(1500)])
    await session.commit([put(key, b"new") for key in range(0, 1500, 2)])
    await session.commit([put(key, None) for key in range(0, 1500, 3)])
    await session.commit([put(0, b"back"), put(1, b"overwritten"), put(1, b"twice in a commit"), put(2, b"")])
    again = await site.claim()
    loaded = await again.load()
    expected = {b"key-%d" % key: b"old" if key % 2 else b"new" for key in range(1500) if key % 3}
    expected |= {b"key-0": b"back", b"key-1": b"twice in a commit", b"key-2": b""}
    assert {record.key: record.value for record in loaded} == expected
    assert len(loaded) == len(expected)
    assert [record.offset for record in loaded] == sorted(record.offset for record in loaded)
    assert values(loaded)[-3:] == [b"back", b"twice in a commit", b""]
    assert loaded[-1].headers == (("h", b"2"),)


async def test_another_partitions_state_is_not_loaded(site: Site) -> None:
    other = await site.claim(partition=1)
    await other.commit([Record(site.state, 1, b"lane", b"1")])
    session = await site.claim()
    assert await session.load() == []


async def test_a_reader_of_a_compacted_topic_sees_every_deletion_after_its_position(site: Site) -> None:
    """Those who fold such a topic (`waits`) would otherwise keep for ever what was deleted behind them."""
    await site.journal.append([Record(site.state, 0, b"a", b"1"), Record(site.state, 0, b"b", b"1")])
    reader = await site.reader({Place(site.state, 0): None})
    fold: dict[bytes | None, bytes | None] = {}
    with anyio.fail_after(DEADLINE_S):
        while len(fold) < 2:
            fold |= {record.key: record.value for record in await reader.poll(100, 1)}
        await site.journal.append([Record(site.state, 0, b"a", None)])
        while fold[b"a"] is not None:
            fold |= {record.key: record.value for record in await reader.poll(100, 1)}
    assert fold == {b"a": None, b"b": b"1"}


async def test_results_come_before_requests(site: Site) -> None:
    await site.append(site.requests, b"request")
    await site.append(site.results, b"result")
    session = await site.claim()
    await session.seek({})
    with anyio.fail_after(DEADLINE_S):
        first = await session.poll(100, 5)
        second = [] if len(first) == 2 else await session.poll(100, 5)
    assert values(first + second) == [b"result", b"request"]


async def test_requests_are_not_starved_by_results(site: Site) -> None:
    await site.append(site.results, *(b"%d" % n for n in range(600)))
    await site.append(site.requests, *(b"request-%d" % n for n in range(3)))
    session = await site.claim()
    read: list[bytes | None] = []
    with anyio.fail_after(DEADLINE_S):
        while b"request-2" not in read:
            read += values(await session.poll(50, 5))
    assert len(read) < 600, "results that never run dry would keep requests waiting for ever"


async def test_a_poll_is_bounded_and_goes_on_where_it_ended(site: Site) -> None:
    await site.append(site.requests, *(b"%d" % n for n in range(25)))
    session = await site.claim()
    read: list[bytes | None] = []
    with anyio.fail_after(DEADLINE_S):
        while len(read) < 25:
            records = await session.poll(10, 5)
            assert len(records) <= 10
            read += values(records)
    assert read == [b"%d" % n for n in range(25)]
    assert await session.poll(10, 0.01) == []


async def test_high_watermarks_are_those_of_now(site: Site) -> None:
    session = await site.claim()
    assert await session.high_watermarks() == {site.results: 0, site.requests: 0}
    other = await site.open()
    for count in range(1, 4):
        await other.append([Record(site.results, 0, b"k", b"v")])
        assert (await session.high_watermarks())[site.results] == count
    assert len(await poll_for(session, 3)) == 3, "what lies below a high watermark can be read"


async def test_positions_outside_the_log_are_refused(site: Site) -> None:
    offsets = await site.append(site.requests, b"a", b"b", b"c")
    await site.adapter.forget(site.journal, Place(site.requests, 0), offsets[1])
    session = await site.claim()
    for position in (offsets[0], offsets[2] + 2):
        with pytest.raises(PositionLost):
            await session.seek({site.requests: position})
    await session.seek({site.requests: offsets[2] + 1})
    assert await session.poll(10, 0.01) == []
    await session.seek({})
    assert values(await poll_for(session, 2)) == [b"b", b"c"]


async def test_input_that_retention_takes_before_it_is_read_halts_the_poll(site: Site) -> None:
    session = await site.claim()
    offsets = await site.append(site.requests, b"a", b"b")
    await site.adapter.forget(site.journal, Place(site.requests, 0), offsets[1])
    with pytest.raises(PositionLost), anyio.fail_after(DEADLINE_S):
        while True:
            assert values(await session.poll(10, 1)) == [], "lost input was passed over in silence"


async def test_a_session_may_append_to_other_partitions(site: Site) -> None:
    session = await site.claim()
    await session.append([Record(site.requests, 1, b"k", b"sent on")])
    assert values(await site.committed(site.requests, 1)) == [b"sent on"]


async def test_a_waiting_lane_is_woken_by_another_party(site: Site) -> None:
    session = await site.claim()
    assert await session.poll(10, 0.01) == []
    other = await site.open()
    found: list[bytes | None] = []

    async def wait() -> None:
        found.extend(values(await session.poll(10, DEADLINE_S)))

    with anyio.fail_after(DEADLINE_S / 3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await other.append([Record(site.requests, 0, b"k", b"v")])
    assert found == [b"v"]


async def test_a_large_commit_is_one_commit(site: Site) -> None:
    session = await site.claim()
    count = 4000
    records = [Record(site.events, 0, b"%d" % n, b"x" * 500) for n in range(count)]
    await session.commit([*records, lane_record(site, count)])
    assert len(await site.committed(site.events)) == count
    assert values(await session.load()) == [b"%d" % count]
