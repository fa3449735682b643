"""Rows M: partitions with one owner, requests merged, conflicts on a topic of their own, agents, workers, metrics.

Each test runs on SQLite and on Kafka, by the fixture `fleet`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from typing import Any

import anyio
import msgspec
import pytest
from requirements.fleet import MIN_INTERVAL_MS, OUTCOME_S, PARTITIONS, QUIET_MS, Fleet

from keylane import Client, Fail, Item, Refused
from keylane.journal import Place
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics
from keylane.schemas.events import Coalesced, DeadLettered, Ended, Granted, Queued

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement


@row("M.1")
async def test_all_of_a_resource_lies_in_one_partition_and_one_worker_does_it(fleet: Fleet) -> None:
    """Twelve resources, four changes each, by two agents at once: no resource is worked on twice at a time."""
    at_work: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def change(item: Item[Any]) -> str:
        at_work[item.resource] += 1
        most[item.resource] = max(most[item.resource], at_work[item.resource])
        await item.progress()
        at_work[item.resource] -= 1
        return item.action

    keys = [fleet.key() for _ in range(12)]
    for key in keys:
        fleet.does(key, change)
    tickets = [
        await agent.submit(key, "configure", {"round": turn, "by": agent.actor})
        for turn in range(2)
        for key in keys
        for agent in (fleet.alice, fleet.bob)
    ]
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in tickets]
    assert {outcome.status for outcome in outcomes} == {"completed"}
    assert most == dict.fromkeys(keys, 1)

    await fleet.record.until("all ends", lambda: all(len(fleet.record.of(Ended, key)) == 4 for key in keys) or None)
    owners: dict[int, set[str]] = defaultdict(set)
    for partition, event in fleet.record.events:
        if getattr(event, "resource", None) in keys:
            assert partition == partition_of(event.resource.encode(), PARTITIONS)  # type: ignore[union-attr]
        if isinstance(event, Granted) and event.resource in keys:
            owners[partition].add(event.holder)
    assert all(len(names) == 1 for names in owners.values()), owners
    assert set().union(*owners.values()) == {"worker-1", "worker-2"}


@row("M.2")
async def test_duplicates_are_one_run_and_every_requester_learns_the_outcome(fleet: Fleet) -> None:
    """Joined while it waits, while it runs, and after it has completed; one who leaves takes nobody along."""
    key = fleet.key()
    gate = fleet.gate(key, {"pods": 3}, version="v2")
    before = await fleet.alice.submit(key, "configure")
    await gate.begun()
    waiting = [await agent.submit(key, "restart", {"why": "oom"}) for agent in (fleet.alice, fleet.bob, fleet.bob)]
    await waiting[2].accepted()
    assert await fleet.bob.cancel(key, waiting[2].request_id) == "withdrawn"
    gate.let()
    await before.outcome(OUTCOME_S)
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in waiting]
    late = await fleet.bob.run(key, "restart", {"why": "oom"}, timeout_s=OUTCOME_S)

    assert [each.status for each in outcomes] == ["completed", "completed", "cancelled"]
    assert [each.coalesced for each in (outcomes[0], outcomes[1], late)] == [False, True, True]
    assert {each.run for each in (*outcomes, late)} == {outcomes[0].run}
    assert {str(each.result) for each in (outcomes[0], outcomes[1], late)} == {"{'pods': 3}"}
    assert [item.action for item in gate.items] == ["configure", "restart"]
    # Other work is no duplicate.
    other = await fleet.bob.run(key, "restart", {"why": "new node"}, timeout_s=OUTCOME_S)
    assert not other.coalesced


@row("M.2")
async def test_every_requester_learns_of_a_failure_and_one_whose_time_is_over_of_that(fleet: Fleet) -> None:
    """Three are merged. One wants it no longer than a moment, and is told so; the others share how it ended."""
    key = fleet.key()
    gate = fleet.gate(key)
    before = await fleet.alice.submit(key, "configure")
    await gate.begun()
    tickets = [await agent.submit(key, "restart") for agent in (fleet.alice, fleet.bob)]
    hasty = await fleet.bob.submit(key, "restart", deadline_s=0.3)
    expired = await hasty.outcome(OUTCOME_S)

    async def fail(item: Item[Any]) -> object:
        raise Fail("the node is gone")

    fleet.does(key, fail)
    gate.let()
    await before.outcome(OUTCOME_S)
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in tickets]
    assert expired.status == "expired"
    assert (await fleet.record.artifact(key, "wait_expired")).id == expired.conflict_id
    assert {each.status for each in outcomes} == {"failed"}
    assert {each.error and each.error.message for each in outcomes} == {"the node is gone"}
    assert {each.run for each in outcomes} == {tickets[0].request_id}


@row("M.2")
async def test_payloads_under_one_coalesce_key_reach_the_handler_together(fleet: Fleet) -> None:
    key = fleet.key("github", "acme/app/issues/1")
    gate = fleet.gate(key)
    await fleet.alice.submit(key, "restart")
    await gate.begun()
    tickets = [await fleet.alice.submit(key, "configure", {"label": name}, coalesce_key="labels") for name in "abca"]
    await tickets[-1].accepted()
    gate.let()
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in tickets]
    assert {each.run for each in outcomes} == {tickets[0].request_id}
    (_, item) = gate.items
    assert (item.payload, list(item.merged)) == ({"label": "a"}, [{"label": "b"}, {"label": "c"}])
    assert item.requests == tuple(ticket.request_id for ticket in tickets)


@row("M.2")
async def test_a_quiet_action_begins_when_nobody_asks_any_more_or_enough_have(fleet: Fleet) -> None:
    """Debounced: everybody who asked meanwhile shares the run."""
    calm, busy = fleet.key(), fleet.key()
    tickets = [await agent.submit(calm, "index") for agent in (fleet.alice, fleet.bob)]
    tickets += [await agent.submit(busy, "index") for agent in (fleet.alice, fleet.bob, fleet.alice)]
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in tickets]
    assert {each.status for each in outcomes} == {"completed"}
    assert {each.run for each in outcomes} == {tickets[0].request_id, tickets[2].request_id}
    joined, granted = await fleet.record.nth(Coalesced, calm), await fleet.record.nth(Granted, calm)
    assert granted.clock_ms - joined.clock_ms >= QUIET_MS
    third, granted = await fleet.record.nth(Coalesced, busy, 2), await fleet.record.nth(Granted, busy)
    assert granted.clock_ms - third.clock_ms < QUIET_MS


@row("M.2")
async def test_a_throttled_action_lets_time_pass_between_two_runs(fleet: Fleet) -> None:
    """What comes meanwhile is one run, and other actions do not wait for it."""
    key = fleet.key()
    await fleet.alice.run(key, "scan", 1, timeout_s=OUTCOME_S)
    tickets = [await agent.submit(key, "scan", 2) for agent in (fleet.alice, fleet.bob)]
    await fleet.alice.run(key, "restart", timeout_s=OUTCOME_S)
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in tickets]
    assert [each.coalesced for each in outcomes] == [False, True]
    first, between, second = [await fleet.record.nth(Granted, key, n) for n in (1, 2, 3)]
    assert [each.action for each in (first, between, second)] == ["scan", "restart", "scan"]
    assert second.clock_ms - first.clock_ms >= MIN_INTERVAL_MS


@row("M.3")
async def test_conflict_artifacts_lie_on_their_own_topic_in_the_resources_partition(fleet: Fleet) -> None:
    key = fleet.key()
    gate = fleet.gate(key)
    await fleet.alice.submit(key, "configure")
    await gate.begun()
    refused = await (await fleet.bob.submit(key, "urgent")).outcome(OUTCOME_S)
    gate.let()
    artifact = await fleet.record.artifact(key, "lock_held")
    assert refused.conflict_id == artifact.id
    raw = {topic: await stored(fleet, topic, key) for topic in (topics.CONFLICTS, topics.EVENTS)}
    mine = [value for value in raw[topics.CONFLICTS] if msgspec.json.decode(value)["resource"] == key]
    assert [msgspec.json.decode(value)["type"] for value in mine] == ["ConflictArtifact"]
    assert not [value for value in raw[topics.EVENTS] if b'"ConflictArtifact"' in value]


async def stored(fleet: Fleet, topic: str, key: str) -> list[bytes]:
    """All values of a topic in the partition of that key."""
    place = Place(topic, partition_of(key.encode(), PARTITIONS))
    end = (await fleet.journal.end_positions([place]))[place]
    reader = await fleet.journal.reader({place: None})
    values: list[bytes] = []
    try:
        with anyio.fail_after(OUTCOME_S):
            while reader.positions()[place] < end:
                values += [each.value for each in await reader.poll(10_000, 1.0) if each.value is not None]
    finally:
        await reader.close()
    return values


@row("M.3")
async def test_an_id_for_other_work_is_no_answer_but_a_dead_letter_and_an_artifact(fleet: Fleet) -> None:
    key = fleet.key()
    id = f"r-{key}"
    await fleet.alice.run(key, "restart", 1, request_id=id, timeout_s=OUTCOME_S)
    # One that comes now reads on from here: another may yet have to read the first end, and would take it for its own.
    async with Client(fleet.url, actor="carol") as carol:
        with pytest.raises(Refused) as refused:
            await carol.run(key, "restart", 2, request_id=id, timeout_s=OUTCOME_S)
    artifact = await fleet.record.artifact(key, "id_reused")
    assert (refused.value.code, refused.value.conflict_id) == ("ID_REUSED", artifact.id)
    set_aside = await fleet.record.nth(DeadLettered, key)
    letters = [msgspec.json.decode(value) for value in await stored(fleet, topics.DEADLETTERS, key)]
    assert (topics.REQUESTS, set_aside.offset, "ID_REUSED") in [
        (letter["topic"], letter["offset"], letter["code"]) for letter in letters
    ]


@row("M.4")
async def test_plain_producers_ask_workers_consume_and_metrics_count(fleet: Fleet) -> None:
    """A JSON record is a request; the answer is an event; `/metrics` counts both ends of it."""
    labels = {"action": "restart"}
    before = await fleet.scraped("keylane_grants_total", **labels)
    key = fleet.key()
    id = await fleet.ask(key, "restart", payload={"why": "oom"}, actor="a shell script")
    ended = await fleet.record.nth(Ended, key)
    assert (ended.requests, ended.status) == ((id,), "completed")
    assert [type(event) for event in fleet.record.all(key)] == [Queued, Granted, Ended]
    await fleet.counted(before + 1, "keylane_grants_total", **labels)
    assert await fleet.scraped("keylane_worker_sessions_open") == 2 * PARTITIONS, "one of each pool in every lane"


@row("M.4")
async def test_a_command_asks_and_is_told_the_outcome(fleet: Fleet) -> None:
    """The door for agents that are no Python: `keylane submit --wait`."""
    key = fleet.key()
    command = ["submit", key, "restart", "--wait", "--output", "json", "--url", fleet.url]
    done = await anyio.run_process([sys.executable, "-m", "keylane.cli", *command], stderr=subprocess.PIPE)
    assert msgspec.json.decode(done.stdout)["result"] == {"did": "restart"}
