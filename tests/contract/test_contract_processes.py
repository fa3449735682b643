"""The contract between processes, for the adapters that have several: one is stopped, sleeps and wakes up."""

import signal

import anyio
import pytest
from contract.children import DEADLINE_S, Child
from contract.sites import Site, values

from keylane.journal import Record

pytestmark = [pytest.mark.anyio, pytest.mark.several_processes]


async def test_a_claimant_that_slept_through_its_fencing_writes_nothing(site: Site) -> None:
    child = await Child.start(site.stack, "claimant", site.adapter.url, site.requests, site.state, site.events)
    assert await child.says() == "claimed"
    await child.tell("before")
    assert await child.says() == "committed"
    child.send_signal(signal.SIGSTOP)
    session = await site.claim()
    await session.commit([Record(site.events, 0, b"k", b"owner")])
    await child.tell("zombie")
    child.send_signal(signal.SIGCONT)
    assert await child.says() == "lost fenced=True"
    await session.commit([Record(site.events, 0, b"k", b"owner still")])
    assert values(await site.committed(site.events)) == [b"before", b"owner", b"owner still"]


async def test_a_member_that_was_given_up_while_stopped_lets_go_before_it_joins_anew(site: Site) -> None:
    child = await Child.start(site.stack, "member", site.adapter.url, f"{site.name}.group", site.requests)
    while await child.says() != "0 1":
        pass
    child.send_signal(signal.SIGSTOP)
    member = await site.join()
    with anyio.fail_after(DEADLINE_S):
        while (assignment := await member.changed(1)) is None or len(assignment.partitions) < 2:
            pass
    child.send_signal(signal.SIGCONT)
    assert await child.says() == "", "it must let go before anything else"
    with anyio.fail_after(DEADLINE_S):
        while (assignment := await member.changed(1)) is None or len(assignment.partitions) != 1:
            pass
    while (held := await child.says()) == "":
        pass
    assert {int(held)} | assignment.partitions == {0, 1}
    await member.leave()


async def test_two_processes_append_and_read_the_same_log(site: Site) -> None:
    child = await Child.start(site.stack, "appender", site.adapter.url, site.requests)
    acknowledged = [int(await child.says()) for _ in range(20)]
    await site.append(site.requests, *(b"own-%d" % n for n in range(20)))
    acknowledged += map(int, await child.end())
    records = await site.committed(site.requests)
    assert set(acknowledged) <= {record.offset for record in records if record.key == b"child"}
    assert [v for v in values(records) if v and v.startswith(b"own")] == [b"own-%d" % n for n in range(20)]
