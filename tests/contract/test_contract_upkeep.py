"""The contract of what an operator asks: topics against their specification, members, checks, rights."""

import pytest
from contract.sites import EVENTS_RETENTION_MS, PARTITIONS, Site, values

from keylane.journal import TopicSpec, connect
from keylane.journal.upkeep import Need

pytestmark = pytest.mark.anyio


async def test_topics_that_are_as_specified_have_no_differences(site: Site) -> None:
    states = await site.journal.compare(site.specs)
    assert [(state.name, state.partitions) for state in states] == [(spec.name, PARTITIONS) for spec in site.specs]
    assert [state.retention_ms for state in states if state.name == site.events] == [EVENTS_RETENTION_MS]
    assert not [difference for state in states for difference in state.differences]


async def test_what_is_missing_is_said_and_is_not_made_by_the_question(site: Site) -> None:
    absent = f"{site.name}.absent"
    (state,) = await site.journal.compare([TopicSpec(absent, PARTITIONS)])
    assert state.partitions is None and not state.differences
    assert await site.journal.partitions(absent) is None
    assert absent not in await site.journal.topic_names()
    assert {spec.name for spec in site.specs} <= set(await site.journal.topic_names())


async def test_another_number_of_partitions_is_refused_and_cannot_be_changed(site: Site) -> None:
    wanted = TopicSpec(site.requests, PARTITIONS + 1, max_record_bytes=site.specs[0].max_record_bytes)
    (difference,) = (await site.journal.compare([wanted]))[0].differences
    assert difference == ("partitions", str(PARTITIONS), str(PARTITIONS + 1), "refused", False)
    await site.journal.alter(wanted, ["partitions"])
    assert await site.journal.partitions(site.requests) == PARTITIONS


async def test_records_that_would_not_fit_are_harmful_and_a_longer_retention_is_the_operators(site: Site) -> None:
    spec = site.specs[2]
    wanted = spec._replace(max_record_bytes=2 * spec.max_record_bytes, retention_ms=3_600_000)
    weights = {each.weight: each for each in (await site.journal.compare([wanted]))[0].differences}
    assert set(weights) == {"harmful", "chosen"} and all(each.changeable for each in weights.values())


async def test_only_the_named_settings_are_changed_and_records_stay(site: Site) -> None:
    await site.append(site.events, b"one")
    spec = site.specs[2]
    wanted = spec._replace(max_record_bytes=2 * spec.max_record_bytes, retention_ms=86_400_000)
    harmful, chosen = sorted(
        (await site.journal.compare([wanted]))[0].differences, key=lambda each: -ord(each.weight[0])
    )
    for _ in range(2):  # done twice it is the same
        await site.journal.alter(wanted, [harmful.setting])
        assert (await site.journal.compare([wanted]))[0].differences == (chosen,)
    await site.journal.alter(wanted, [chosen.setting])
    (state,) = await (await site.open()).compare([wanted])
    assert not state.differences and state.retention_ms == 86_400_000
    assert values(await site.committed(site.events)) == [b"one"]
    await site.append(site.events, b"x" * spec.max_record_bytes)


async def test_members_are_those_that_are_there_now(site: Site) -> None:
    group = f"{site.name}.group"
    assert await site.journal.members(group) == 0
    member = await site.join()
    assert await member.changed(10) is not None
    assert await (await site.open()).members(group) == 1
    await member.leave()
    assert await site.journal.members(group) == 0


async def test_a_store_that_is_well_says_so_without_anything_being_changed(site: Site) -> None:
    await site.append(site.requests, b"one")
    before = await site.journal.topic_names()
    done: list[int] = []
    findings = await site.journal.checks(done.append)
    assert findings and not [finding for finding in findings if finding.level != "ok" or not finding.said]
    assert sum(done) in (0, 100)
    assert await site.journal.topic_names() == before
    assert values(await site.committed(site.requests)) == [b"one"]


async def test_whoever_may_do_everything_is_told_so_while_a_lane_is_owned(site: Site) -> None:
    session = await site.claim()
    needs = [
        Need("topic", site.requests, "read"),
        Need("topic", site.events, "write"),
        Need("topic", site.state, "alter"),
        Need("topic", f"{site.name}.absent", "create"),
        Need("group", f"{site.name}.group", "read"),
        Need("lane", "0", "write"),
    ]
    assert [finding.level for finding in await site.journal.rights(needs)] == ["ok"]
    await session.commit([])  # asking has not fenced it


async def test_a_journal_that_is_there_opens_without_the_leave_to_make_one(site: Site) -> None:
    journal = await connect(site.adapter.url, create=False)
    assert await journal.partitions(site.requests) == PARTITIONS
    await journal.close()
