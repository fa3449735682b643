"""The contract of groups: members share all partitions, none is in two hands, generations grow."""

import time
from collections.abc import Mapping

import anyio
import anyio.abc
import pytest
from contract.children import DEADLINE_S
from contract.sites import PARTITIONS, Site

from keylane.journal import Membership

pytestmark = pytest.mark.anyio

ALL = frozenset(range(PARTITIONS))


class Owners:
    """The members' owners: each lets go and takes over as it is told, and all look whether they may."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.held: dict[str, frozenset[int]] = {}
        self.generations: dict[str, list[int]] = {}
        self._tasks = tasks
        self._changed = anyio.Event()

    async def own(self, name: str, membership: Membership) -> anyio.CancelScope:
        """Follow a member's assignments until the scope is cancelled."""
        self.generations[name] = []
        scope = anyio.CancelScope()

        async def follow() -> None:
            with scope:
                while True:
                    assignment = await membership.changed(DEADLINE_S)
                    assert assignment is not None
                    others = frozenset[int]().union(*(self.held[other] for other in self.held if other != name))
                    assert not assignment.partitions & others, "a partition in two hands"
                    self.held[name] = assignment.partitions
                    self.generations[name].append(assignment.generation)
                    self._changed.set()

        self._tasks.start_soon(follow)
        return scope

    async def until(self, shares: Mapping[str, int]) -> int:
        """Wait until the members hold so many partitions each, and all together; the highest generation."""
        with anyio.fail_after(DEADLINE_S):
            while {name: len(held) for name, held in self.held.items()} != shares or (
                frozenset[int]().union(*self.held.values()) != ALL
            ):
                self._changed = anyio.Event()
                await self._changed.wait()
        return max(self.generations[name][-1] for name in shares)


async def settled(membership: Membership) -> frozenset[int]:
    """The first assignment that gives anything."""
    with anyio.fail_after(DEADLINE_S):
        while (assignment := await membership.changed(1)) is None or not assignment.partitions:
            pass
    return assignment.partitions


async def test_one_member_gets_everything_and_hears_it_once(site: Site) -> None:
    member = await site.join()
    assert await settled(member) == ALL
    assert await member.changed(0.01) is None
    await member.leave()


async def test_joining_and_leaving_move_partitions_and_raise_the_generation(site: Site) -> None:
    first, other = await site.join(), await site.open()
    async with anyio.create_task_group() as tasks:
        owners = Owners(tasks)
        await owners.own("first", first)
        alone = await owners.until({"first": PARTITIONS})
        second = await site.join(other)
        following = await owners.own("second", second)
        together = await owners.until({"first": 1, "second": 1})
        following.cancel()
        del owners.held["second"]
        await second.leave()
        alone_again = await owners.until({"first": PARTITIONS})
        tasks.cancel_scope.cancel()
    assert alone < together < alone_again
    assert owners.generations["first"] == sorted(owners.generations["first"])
    await first.leave()


async def test_more_members_than_partitions_leave_some_without(site: Site) -> None:
    members = [await site.join(await site.open()) for _ in range(PARTITIONS + 1)]
    async with anyio.create_task_group() as tasks:
        owners = Owners(tasks)
        for number, member in enumerate(members):
            await owners.own(str(number), member)
        with anyio.fail_after(DEADLINE_S):
            while len(owners.held) <= PARTITIONS or frozenset[int]().union(*owners.held.values()) != ALL:
                await anyio.wait_all_tasks_blocked()
        assert sorted(map(len, owners.held.values())) == [0] + [1] * PARTITIONS
        tasks.cancel_scope.cancel()
    for member in members:
        await member.leave()


async def test_a_crashed_members_partitions_go_to_the_others(site: Site) -> None:
    doomed = await site.adapter.doomed(f"{site.name}.group", site.requests)
    while await doomed.holds() != ALL:
        pass
    await doomed.crash()
    survivor = await site.join()
    assert await settled(survivor) == ALL
    await survivor.leave()


async def test_a_heartbeat_confirms_only_what_was_before_it(site: Site) -> None:
    member = await site.join()
    await settled(member)
    fenced_s = time.monotonic()
    with anyio.fail_after(DEADLINE_S):
        while not member.confirmed_since(fenced_s):
            await member.changed(0.05)
    assert not member.confirmed_since(time.monotonic() + 3600)
    await member.leave()


async def test_groups_do_not_share_with_each_other(site: Site) -> None:
    other = await site.journal.join(f"{site.name}.other", site.requests)
    member = await site.join()
    assert await settled(member) == await settled(other) == ALL
    await member.leave()
    await other.leave()
