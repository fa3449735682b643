"""Other scope rules for a journal in use: what stands in the way, what is left when it is cut off, and who waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import pytest
from prometheus_client import CollectorRegistry
from turning import DEADLINE_S, put, said, until, work

from keylane.journal.errors import Unavailable
from keylane.journal.memory import MemoryJournal, MemoryLog, MemoryReader, MemorySession
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Journal, Place, Record, Stored
from keylane.router.config import BadConfig, Config
from keylane.router.core.lane import Lane
from keylane.router.core.policy import Policy
from keylane.router.metrics import RouterMetrics
from keylane.router.rescope import NAMED_MAX, LiveWork, Rescoped, rescope, survey
from keylane.router.service import Router
from keylane.router.setup import BEING_CHANGED, prepare, read_metadata
from keylane.router.turn import load
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.keys import BadKey
from keylane.schemas.metadata import METADATA_KEY, Metadata, ScopeRule
from keylane.schemas.scopes import Scopes
from keylane.schemas.state import (
    CountedGrant,
    KeptCancellation,
    LaneRecord,
    Resource,
    Run,
    StateRecord,
    state_key,
)

pytestmark = pytest.mark.anyio

PARTITIONS = 2
RULES = (ScopeRule(match="k8s://{c}/pods/{ns}/{app}/{pod}", owner="k8s://{c}/deployments/{ns}/{app}"),)
OTHER = (ScopeRule(match="k8s://{c}/pods/{ns}/{app}/{pod}", owner="k8s://{c}/namespaces/{ns}"),)
OWNER = "k8s://prod/deployments/shop/cart"


def pods(partition: int) -> list[str]:
    """Pods that lie in that partition while no rule holds."""
    keys = [f"k8s://prod/pods/shop/cart/{number}" for number in range(100)]
    return [key for key in keys if partition_of(key.encode(), PARTITIONS) == partition]


HOME = partition_of(OWNER.encode(), PARTITIONS)
POD = pods(1 - HOME)[0]
"""A pod that moves to another lane when the rules hold."""


def config(scopes: Sequence[ScopeRule] = (), partitions: int = PARTITIONS) -> Config:
    return Config(url="memory://x", partitions=partitions, policy=Policy(), scopes=tuple(scopes))


def unseen(_: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture
async def journal() -> MemoryJournal:
    found = MemoryJournal(MemoryLog())
    await prepare(found, config())
    return found


class Serving:
    """A router in the background, as `service.serve` has one."""

    def __init__(self, journal: Journal, metadata: Metadata, scopes: Sequence[ScopeRule] = ()) -> None:
        self.journal, self.metadata, self.config = journal, metadata, config(scopes)
        self.ready = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        metrics = RouterMetrics(CollectorRegistry(), self.config.policy, PARTITIONS)
        membership = await self.journal.join("routers", topics.REQUESTS)
        self.router = Router(self.journal, membership, self.config, self.metadata, metrics, self.ready.set)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.router.run)
            try:
                with anyio.fail_after(DEADLINE_S):
                    await self.ready.wait()
                    yield self
            finally:
                self.router.stop()
        await self.router.leave()

    async def until(self, reached: Callable[[list[str]], bool]) -> None:
        while not reached(self.router.why_unready()):
            await anyio.lowlevel.checkpoint()


async def metadata_of(journal: MemoryJournal) -> Metadata:
    found = await read_metadata(journal)
    assert found is not None
    return found


async def hold(journal: MemoryJournal, *records: StateRecord, partition: int = 0) -> None:
    await journal.append([Record(topics.STATE, partition, state_key(each), encode(each)) for each in records])


def run(id: str, resource: str = POD, state: Any = "Waiting", **fields: Any) -> Run:
    values = {"order": 1, "owner": resource, "action": "drain", "digest": "d", "accepted_ms": 0}
    return Run(id=id, resource=resource, state=state, **(values | fields))


# -- what stands in the way ---------------------------------------------------------------------------------------


REMEMBERED_MS = 120_000
COUNTED = CountedGrant(run="r1", owner=POD, resource=POD, action="drain", order=1, token=1, since_ms=0, forget_ms=9)
KEPT = KeptCancellation(request="r1", resource=POD, by="a", order=1, forget_ms=9)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (run("r1"), "r1 is waiting"),
        (run("r1", state="Parked"), "r1 is parked"),
        (run("r1", state="Held"), "r1 is held"),
        (run("r1", state="Done", ended_ms=880_001), "r1 has only just ended"),
        (run("r1", state="Done", ended_ms=880_000), None),
        (run("r1", state="Done", ended_ms=0, keyed=True), "the idempotency key of r1 is remembered"),
        (COUNTED, "a limit on drain counts r1"),
        (KEPT, "a cancellation waits for r1"),
        (run("r1", resource=OWNER), None),
        (Resource(key=POD, completed_order=1, completed_run="r", completed_action="a", forget_ms=9), None),
    ],
)
def test_only_what_an_action_could_slip_past_stands_in_the_way(record: StateRecord, why: str | None) -> None:
    lane = LaneRecord(positions={}, clock_ms=1_000_000, token=7)
    stored = [
        Stored(topics.STATE, 0, offset, state_key(each), encode(each), 0, ())
        for offset, each in enumerate((record, lane))
    ]
    found = survey(stored, Scopes(()), Scopes(RULES), REMEMBERED_MS)
    assert [each.why for each in found.standing] == ([] if why is None else [why])
    assert found.token == 7
    assert survey(stored, Scopes(()), Scopes(()), REMEMBERED_MS).standing == [], "no key moves"


async def test_live_work_on_a_key_that_moves_is_named_and_the_metadata_is_as_it_was(journal: MemoryJournal) -> None:
    before = await metadata_of(journal)
    await hold(journal, run("r1"), run("r2", "deploy://other"))
    with pytest.raises(LiveWork, match=f"^1 key would .* is not at rest: {POD} \\(r1 is waiting\\)$"):
        await rescope(journal, config(RULES), unseen)
    assert await metadata_of(journal) == before


async def test_a_refusal_names_some_and_counts_the_rest(journal: MemoryJournal) -> None:
    await hold(journal, *(run(f"r{n}", f"k8s://prod/pods/shop/cart/{n}") for n in range(NAMED_MAX + 3)))
    with pytest.raises(LiveWork, match=rf"^{NAMED_MAX + 3} keys would .*, and 3 more$") as refused:
        await rescope(journal, config(RULES), unseen)
    assert str(refused.value).count("is waiting") == NAMED_MAX


async def test_work_on_keys_that_stay_is_left_alone(journal: MemoryJournal) -> None:
    await hold(journal, run("r1", "deploy://other"), run("r2", OWNER), partition=HOME)
    assert await rescope(journal, config(RULES), unseen) == Rescoped(0, 1, True)


@pytest.mark.parametrize("other", [config(RULES, partitions=3), config(partitions=3)])
async def test_nothing_but_rules_is_changed(journal: MemoryJournal, other: Config) -> None:
    ends = journal.log.at(topics.METADATA, 0).end
    with pytest.raises(BadConfig, match=r"pinned to 2 partitions, .* has 3"):
        await rescope(journal, other, unseen)
    assert journal.log.at(topics.METADATA, 0).end == ends and journal.log.epochs == {}, "no lane was claimed"


async def test_where_nothing_is_pinned_it_says_who_pins() -> None:
    with pytest.raises(BadConfig, match="nothing is pinned yet"):
        await rescope(MemoryJournal(MemoryLog()), config(RULES), unseen)


async def test_rules_that_cannot_be_followed_are_left_to_the_keylane_that_wrote_them(journal: MemoryJournal) -> None:
    strange = Metadata(partitions=PARTITIONS, scopes=(ScopeRule(match="k8s://*/pods/{", owner="k8s://x"),))
    await journal.append([Record(topics.METADATA, 0, METADATA_KEY, encode(strange))])
    with pytest.raises(BadConfig, match="the keylane that wrote them"):
        await rescope(journal, config(RULES), unseen)
    assert (await metadata_of(journal), journal.log.epochs) == (strange, {})


async def test_rules_that_hold_already_take_no_lane(journal: MemoryJournal) -> None:
    assert await rescope(journal, config(), unseen) == Rescoped(0, 0, False)
    assert journal.log.epochs == {}


async def test_tokens_of_a_key_go_on_rising_in_its_new_lane(journal: MemoryJournal) -> None:
    ahead = 2**51
    await hold(journal, LaneRecord(positions={}, token=ahead), partition=1)
    await rescope(journal, config(RULES), unseen)
    assert await metadata_of(journal) == Metadata(partitions=PARTITIONS, scopes=RULES, token_floor=ahead + 1)


# -- cut off, and several at once -----------------------------------------------------------------------------------


class Cut(MemoryJournal):
    """Fails when lane 1 is claimed, and lets nothing be written from then on: neither forward nor back."""

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> MemorySession:
        if partition == 0:
            return CutSession(self, self.log, partition, inputs, state)
        self.gone = True
        raise Unavailable("no broker")

    gone = False


class CutSession(MemorySession):
    def __init__(self, journal: Cut, log: MemoryLog, partition: int, inputs: Sequence[str], state: str) -> None:
        log.epochs[state, partition] = log.epochs.get((state, partition), 0) + 1
        super().__init__(log, partition, inputs, state)
        self._journal = journal

    async def commit(self, records: Sequence[Record]) -> None:
        if self._journal.gone:
            raise Unavailable("no broker")
        await super().commit(records)


@pytest.mark.parametrize("again", [RULES, ()])
async def test_what_was_cut_off_is_finished_or_undone_by_doing_it_again(
    journal: MemoryJournal, again: tuple[ScopeRule, ...]
) -> None:
    with pytest.raises(Unavailable, match=r"left marked as being changed.*run keylane config apply again"):
        await rescope(Cut(journal.log), config(RULES), unseen)
    assert await metadata_of(journal) == Metadata(partitions=PARTITIONS, changing=True)
    with pytest.raises(BadConfig, match=r"pinned.*run it again"):
        await prepare(journal, config())
    assert await rescope(journal, config(again), unseen) == Rescoped(0, len(again), True)
    after = await metadata_of(journal)
    assert (after.scopes, after.changing) == (again, False)


async def test_where_only_the_survey_fails_it_is_put_back(journal: MemoryJournal) -> None:
    before = await metadata_of(journal)
    await journal.append([Record(topics.STATE, 1, b"run/x", b"{")])
    with pytest.raises(BadConfig, match="state/1/0 cannot be read"):
        await rescope(journal, config(RULES), unseen)
    assert await metadata_of(journal) == before


async def test_of_two_at_once_the_rules_of_the_last_hold_whole(journal: MemoryJournal) -> None:
    ended: list[tuple[ScopeRule, ...]] = []

    async def change(rules: tuple[ScopeRule, ...]) -> None:
        await rescope(journal, config(rules), unseen)
        ended.append(rules)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change, RULES)
            tasks.start_soon(change, OTHER)
    after = await metadata_of(journal)
    assert (after.scopes, after.changing) == (ended[-1], False) and len(ended) == 2


class Late(MemoryJournal):
    """Shows the mark a while after its commit was acknowledged, as Kafka may."""

    hidden = 3

    async def reader(self, positions: Mapping[Place, int | None]) -> MemoryReader:
        if not self.is_marked() or not self.hidden:
            return await super().reader(positions)
        self.hidden -= 1
        before = MemoryJournal(MemoryLog())
        await prepare(before, config())
        return await before.reader(positions)

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> MemorySession:
        assert not self.is_marked() or not self.hidden, f"lane {partition} was claimed before the mark showed"
        return await super().claim(partition, inputs, state)

    async def end_positions(self, places: Sequence[Place]) -> dict[Place, int]:
        ends = await super().end_positions(places)
        return {place: 1 if self.is_marked() and self.hidden else end for place, end in ends.items()}

    def is_marked(self) -> bool:
        return b'"changing":true' in self.log.at(topics.METADATA, 0).read(0, 100)[-1].value


async def test_no_lane_is_taken_from_its_router_before_the_mark_shows(journal: MemoryJournal) -> None:
    """A router that claims it anew would else not find the mark, and go on by the old rules when others hold."""
    late = Late(journal.log)
    assert await rescope(late, config(RULES), unseen) == Rescoped(0, 1, True)
    assert late.hidden == 0


# -- routers meanwhile ----------------------------------------------------------------------------------------------


async def test_a_refusal_takes_lanes_from_their_router_only_for_a_moment(journal: MemoryJournal) -> None:
    async with Serving(journal, await metadata_of(journal)).running() as serving:
        await put(journal, work("r1", resource=POD), partition=1 - HOME)
        await until(journal, "Queued r1", partition=1 - HOME)
        with pytest.raises(LiveWork, match="r1 is waiting"):
            await rescope(journal, config(RULES), unseen)
        await put(journal, work("r2", "2", resource=POD), partition=1 - HOME)
        await until(journal, "Queued r2", partition=1 - HOME)
        await serving.until(lambda why: why == [])


async def test_while_the_mark_stands_lanes_wait_and_say_why_and_go_on_when_it_is_undone(
    journal: MemoryJournal,
) -> None:
    key = pods(0)[0]
    async with Serving(journal, await metadata_of(journal)).running() as serving:
        with pytest.raises(Unavailable):
            await rescope(Cut(journal.log), config(RULES), unseen)
        await put(journal, work("r1", resource=key), partition=0)
        await serving.until(lambda why: any(BEING_CHANGED in each for each in why))
        assert said(journal, 0) == []
        await rescope(journal, config(), unseen)
        await until(journal, "Queued r1", partition=0)
        await serving.until(lambda why: why == [])


@pytest.mark.requirement("S1.2")
async def test_routers_halt_when_other_rules_hold_and_a_new_one_orders_by_them(journal: MemoryJournal) -> None:
    async with Serving(journal, await metadata_of(journal)).running() as old:
        await rescope(journal, config(RULES), unseen)
        await put(journal, work("late", resource=POD), partition=1 - HOME)
        await old.until(lambda why: len([each for each in why if "restart it with" in each]) == PARTITIONS)
    assert said(journal, 1 - HOME) == [], "the old router decided nothing by the old rules"
    async with Serving(journal, await prepare(journal, config(RULES)), RULES).running():
        await until(journal, "SentOn late", partition=1 - HOME)
        await until(journal, "Queued late", partition=HOME)


async def test_a_lane_forgets_what_others_decide_on_now() -> None:
    """Else a required step of then would count when the key comes back, whatever was done to it in between."""

    def known(key: str) -> Stored:
        record = Resource(key=key, completed_order=1, completed_run="r", completed_action="drain", forget_ms=9)
        return Stored(topics.STATE, 0, 0, state_key(record), encode(record), 0, ())

    own = LaneRecord(positions={}, token=6)
    stored = [known(POD), known(OWNER), Stored(topics.STATE, 0, 1, state_key(own), encode(own), 0, ())]
    place = {OWNER: 0, POD: 1}
    for floor, kept in ((7, {OWNER}), (6, {OWNER, POD})):
        lane = Lane(0, Policy(), place.__getitem__)
        load(lane, stored, floor, lambda: 0)
        assert lane.resources.keys() == kept, floor


async def test_a_lane_forgets_what_the_new_rules_make_no_key_of() -> None:
    """A lane that could not be loaded for it would never be loaded again."""
    long = "k8s://prod/pods/shop/" + "x" * 300
    wide = Scopes((ScopeRule(match="k8s://{c}/pods/{ns}/{app}", owner="k8s://{c}/" + "y" * 300 + "/{app}"),))
    with pytest.raises(BadKey):
        wide.owner_of(long)
    record = Resource(key=long, completed_order=1, completed_run="r", completed_action="drain", forget_ms=9)
    own = LaneRecord(positions={}, token=6)
    stored = [Stored(topics.STATE, 0, n, state_key(each), encode(each), 0, ()) for n, each in enumerate((record, own))]
    lane = Lane(0, Policy(), lambda _: 0, wide.owner_of)
    load(lane, stored, 7, lambda: 0)
    assert lane.resources == {}
