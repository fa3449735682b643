"""What a plan says of what was found, and that taking its steps makes it empty."""

import pytest

from keylane.journal.memory import MemoryJournal, MemoryLog
from keylane.journal.port import TopicSpec
from keylane.journal.upkeep import Difference, TopicState
from keylane.router.config import BadConfig, Config, load_config
from keylane.router.plan import Step, apply, plan, steps
from keylane.router.setup import prepare, topic_specs, wanted_topics
from keylane.schemas.metadata import Metadata

pytestmark = pytest.mark.anyio

CONFIG = load_config(None, {}, {"partitions": 2})
FINE = [TopicState(spec.name, spec.partitions) for spec in wanted_topics(CONFIG)]
NAMES = [state.name for state in FINE]
PINNED = Metadata(partitions=2)


def journal() -> MemoryJournal:
    return MemoryJournal(MemoryLog())


def with_difference(difference: Difference) -> list[TopicState]:
    return [state._replace(differences=(difference,)) if state.name == "events" else state for state in FINE]


async def do(on: MemoryJournal, config: Config = CONFIG, *, reset: bool = False) -> list[Step]:
    taken: list[Step] = []
    await apply(on, config, await plan(on, config, reset=reset), taken.append)
    return taken


async def test_a_new_journal_is_set_up_once_and_a_router_then_changes_nothing() -> None:
    on = journal()
    taken = await do(on)
    assert [step.what for step in taken] == ["create"] * len(NAMES) + ["pin"]
    assert await plan(on, CONFIG, reset=True) == []
    end = on.log.at("metadata", 0).end
    assert await prepare(on, CONFIG) == PINNED
    assert on.log.at("metadata", 0).end == end, "routers need no right to write it"
    assert await do(on) == []


async def test_a_plan_changes_nothing() -> None:
    on = journal()
    assert await plan(on, CONFIG, reset=False)
    assert await on.topic_names() == []


async def test_another_number_of_lanes_is_in_the_way_of_everything() -> None:
    on = journal()
    await do(on)
    other = load_config(None, {}, {"partitions": 3})
    planned = await plan(on, other, reset=True)
    assert {step.what for step in planned} == {"blocked"} and planned[0].topic == "metadata"
    with pytest.raises(BadConfig, match="nothing was changed"):
        await do(on, other)


async def test_what_is_in_the_way_stops_also_what_could_be_done() -> None:
    on = journal()
    await on.create_topics([TopicSpec("events", 5)])
    with pytest.raises(BadConfig, match=r"events: partitions is 5, should be 2; keys would move"):
        await do(on)
    assert await on.topic_names() == ["events"]


async def test_an_operators_retention_stays_until_told_and_a_size_that_is_too_small_does_not() -> None:
    on = journal()
    made = {spec.name: spec for spec in topic_specs(2, ("default",))}
    await on.create_topics([made["events"]._replace(retention_ms=1_000), made["state"]._replace(max_record_bytes=9)])
    taken = await do(on)
    assert [step.setting for step in taken if step.what == "change"] == ["max_record_bytes"]
    (kept,) = await plan(on, CONFIG, reset=False)
    assert kept[:5] == ("kept", "events", "retention_ms", "1000", str(made["events"].retention_ms))
    assert [step.what for step in await do(on, reset=True)] == ["change"]
    assert await plan(on, CONFIG, reset=False) == []


async def test_topics_that_nothing_needs_are_named_and_left() -> None:
    on = journal()
    await do(on, load_config(None, {}, {"partitions": 2}))
    await on.create_topics([TopicSpec("items.gone", 2), TopicSpec("notes", 1)])
    extra = await plan(on, CONFIG, reset=True)
    assert [(step.what, step.topic) for step in extra] == [("extra", "items.gone"), ("extra", "notes")]
    assert "pool" in extra[0].why and "keylane" in extra[1].why
    assert await do(on, reset=True) == []
    assert {"items.gone", "notes"} <= set(await on.topic_names())


@pytest.mark.parametrize(
    ("difference", "reset", "what"),
    [
        (Difference("compression.type", "zstd", "uncompressed", "refused"), False, "change"),
        (Difference("segment.bytes", "9", "1", "harmful"), False, "change"),
        (Difference("min.insync.replicas", "1", "2", "risky"), False, "kept"),
        (Difference("min.insync.replicas", "1", "2", "risky"), True, "change"),
        (Difference("retention.ms", "1", "2", "chosen"), False, "kept"),
        (Difference("retention.ms", "1", "2", "chosen"), True, "change"),
        (Difference("partitions", "1", "2", "refused", changeable=False), True, "blocked"),
        (Difference("replication factor", "1", "3", "risky", changeable=False), True, "kept"),
    ],
)
def test_each_difference_is_one_kind_of_step(difference: Difference, reset: bool, what: str) -> None:
    (step,) = steps(CONFIG, with_difference(difference), NAMES, PINNED, reset=reset)
    assert step[:5] == (what, "events", *difference[:3]) and step.why


def test_metadata_that_is_being_changed_is_in_the_way() -> None:
    (step,) = steps(CONFIG, FINE, NAMES, Metadata(partitions=2, changing=True), reset=False)
    assert (step.what, step.topic) == ("blocked", "metadata") and "changing" in step.why


def test_replicas_come_from_the_configuration_and_must_be_possible() -> None:
    config = load_config(None, {"KEYLANE_REPLICATION_FACTOR": "3"}, {"min_insync_replicas": 2})
    assert {(spec.replicas, spec.min_in_sync) for spec in wanted_topics(config)} == {(3, 2)}
    for wrong in ({"replication_factor": 0}, {"replication_factor": 1, "min_insync_replicas": 2}):
        with pytest.raises(BadConfig, match=r"replication_factor|min_insync_replicas"):
            load_config(None, {}, wrong)
