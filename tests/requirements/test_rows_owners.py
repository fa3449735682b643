"""Rows S1.2 to S1.6 and S1.9: narrow locks, what a lease says and how it ends, repeats, and artifacts that help.

Each test runs on SQLite and on Kafka, by the fixture `fleet`. S1.1, S1.7 and S1.8 need commands of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from requirements.fleet import LEASE_MS, OUTCOME_S, RUNBOOK, Fleet

from keylane import Fail, Item, Refused
from keylane.schemas import topics
from keylane.schemas.conflicts import ConflictArtifact, ConflictResolved
from keylane.schemas.events import Ended, Fenced, Granted, Lost, Parked, Progressed, WorkerOpened

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement
FRAIL_WORKER = Path(__file__).with_name("frail_worker.py")


@row("S1.2")
async def test_a_lock_stops_nothing_but_what_is_done_to_that_one_resource(fleet: Fleet) -> None:
    """Sixteen issues of one repository, so several in each lane, are all held at once; so is the repository."""
    repository = fleet.key("github", "acme/app")
    keys = [repository, *(f"{repository}/issues/{n}" for n in range(16))]
    gates = {key: fleet.gate(key) for key in keys}
    tickets = [await fleet.alice.submit(key, "configure") for key in keys]
    for gate in gates.values():
        await gate.begun()
    for gate in gates.values():
        gate.let()
    assert {(await ticket.outcome(OUTCOME_S)).status for ticket in tickets} == {"completed"}


@row("S0.2")
@row("S1.2")
async def test_over_all_pools_a_resource_has_one_owner_and_pools_hold_up_nobody_else(fleet: Fleet) -> None:
    """A deploy is another pool's than a restart: they exclude each other on one service, and on no other."""
    one, two = fleet.key(), fleet.key()
    gates = [fleet.gate(one), fleet.gate(two)]
    deploy = await fleet.alice.submit(one, "deploy")
    await gates[0].begun()
    restart = await fleet.bob.submit(one, "restart")
    elsewhere = await fleet.bob.submit(two, "restart")
    await gates[1].begun()
    assert (await restart.accepted()).state == "waiting"
    assert [item.action for item in gates[0].items] == ["deploy"]
    for gate in gates:
        gate.let()
    assert {(await ticket.outcome(OUTCOME_S)).status for ticket in (deploy, restart, elsewhere)} == {"completed"}
    first, second = [await fleet.record.nth(Granted, one, n) for n in (1, 2)]
    assert first.holder == "deployer-1" and second.holder in ("worker-1", "worker-2")
    assert (await fleet.record.nth(Ended, one)).seq < second.seq


@row("S1.3")
async def test_a_lease_names_actor_start_and_expiry_and_only_progress_renews_it(fleet: Fleet) -> None:
    """The worker lives all the time. Silent for longer than its lease it loses the item; before, it kept it."""
    key = fleet.key("db", "orders")

    async def migrate(item: Item[Any]) -> object:
        if item.attempt == 1:
            began_s = anyio.current_time()
            while anyio.current_time() < began_s + 1.1 * LEASE_MS / 1_000:
                await anyio.sleep(0.2)
                await item.progress({"copied": "a page more"})
            await anyio.sleep_forever()
        return item.previous_end

    fleet.does(key, migrate)
    ticket = await fleet.alice.submit(key, "migrate")
    granted = await fleet.record.nth(Granted, key)
    held = (await fleet.alice.who(key)).held
    assert held is not None
    assert (held.holder, held.since, held.blocked, held.attempt) == (granted.holder, granted.time, None, 1)
    assert 0 < held.lease_left_ms <= granted.lease_ms == LEASE_MS
    lost = await fleet.record.nth(Lost, key)
    progressed = fleet.record.of(Progressed, key)[-1]
    assert progressed.clock_ms - granted.clock_ms > granted.lease_ms, "it outlived its first deadline"
    assert (lost.reason, lost.spent, lost.final) == ("lease_expired", True, False)
    assert lost.clock_ms - progressed.clock_ms >= granted.lease_ms, "never earlier"
    assert (await ticket.outcome(OUTCOME_S)).result == "lease_expired"
    artifact = await fleet.record.artifact(key, "lease_expired")
    assert (artifact.next_step, artifact.parties[0].token) == ("resume_from_checkpoint", granted.token)
    await fleet.record.nth(Ended, key)
    assert [event.session for event in fleet.record.of(Granted, key)] == [granted.session] * 2, "its session lived on"


@row("S1.3")
async def test_blocked_is_a_state_of_its_own_and_does_not_renew(fleet: Fleet) -> None:
    key = fleet.key("db", "orders")

    async def migrate(item: Item[Any]) -> object:
        if item.attempt > 1:
            return "went on"
        while True:
            await item.progress(blocked="waits for the backup")
            await anyio.sleep(0.2)

    fleet.does(key, migrate)
    ticket = await fleet.alice.submit(key, "migrate")
    blocked = await fleet.record.nth(Progressed, key)
    assert blocked.blocked == "waits for the backup"
    held = (await fleet.alice.who(key)).held
    status = await fleet.alice.status(key, ticket.request_id)
    assert held is not None and (held.state, held.blocked) == ("blocked", "waits for the backup")
    assert (held.renewed_by, held.on_loss) == ("progress", "retry")
    assert (status.state, status.blocked) == ("held", "waits for the backup")
    lost, granted = await fleet.record.nth(Lost, key), await fleet.record.nth(Granted, key)
    assert lost.reason == "lease_expired"
    since_last_ms = lost.clock_ms - fleet.record.of(Progressed, key)[-1].clock_ms
    assert since_last_ms < granted.lease_ms <= lost.clock_ms - granted.clock_ms, "however often it says so"
    assert (await ticket.outcome(OUTCOME_S)).result == "went on"


@row("S1.4")
async def test_after_a_lease_has_expired_the_next_holder_gets_what_was_saved(fleet: Fleet) -> None:
    key = fleet.key("db", "orders")
    given: list[Item[Any]] = []

    async def migrate(item: Item[Any]) -> object:
        given.append(item)
        if item.attempt == 1:
            await item.progress({"done": ["a"]}, evidence="replaced with its checkpoint")
            await item.progress({"done": ["a", "b"]}, evidence=["b: 7 rows"])
            await item.progress(open_questions=["may c be dropped?"])  # without a checkpoint: added to the last one
            await item.progress()
            await anyio.sleep_forever()
        return item.attempt

    fleet.does(key, migrate)
    assert (await fleet.alice.run(key, "migrate", timeout_s=OUTCOME_S)).result == 2
    before, after = given
    assert after.checkpoint is not None
    assert after.checkpoint.data == {"done": ["a", "b"]}
    assert (after.checkpoint.evidence, after.checkpoint.open_questions) == (["b: 7 rows"], ("may c be dropped?",))
    assert (after.previous_end, after.token > before.token) == ("lease_expired", True)


@asynccontextmanager
async def frail(fleet: Fleet, name: str) -> AsyncIterator[Process]:
    """A worker process that serves lanes of its own; killed at the end."""
    process = await anyio.open_process(
        [sys.executable, str(FRAIL_WORKER), name],
        env={**os.environ, "KEYLANE_URL": fleet.url},
        stdout=subprocess.DEVNULL,
    )
    try:
        await fleet.record.until(f"{name} serves", lambda: name in opened(fleet) or None)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await process.aclose()


def opened(fleet: Fleet) -> set[str]:
    return {event.name for _, event in fleet.record.events if isinstance(event, WorkerOpened)}


@row("S1.4")
async def test_after_a_kill_the_next_owner_gets_checkpoint_evidence_and_open_questions(fleet: Fleet) -> None:
    key = fleet.key("vault", "keys")
    async with frail(fleet, f"frail-1-{fleet.backend}") as first:
        ticket = await fleet.alice.submit(key, "rotate")
        await fleet.record.nth(Progressed, key)
        first.kill()
        async with frail(fleet, f"frail-2-{fleet.backend}"):
            outcome = await ticket.outcome(OUTCOME_S)
    assert outcome.result == {
        "by": f"frail-2-{fleet.backend}",
        "attempt": 2,
        "found": [{"rotated": ["db-1"]}, {"log": "db-1: ok"}, ["is db-2 in use?"]],
        "previous": (await fleet.record.nth(Lost, key)).reason,
    }
    before, after = [await fleet.record.nth(Granted, key, n) for n in (1, 2)]
    assert before.holder != after.holder and before.token < after.token


@row("S1.5")
async def test_a_repeat_gets_the_outcome_of_before_and_learns_of_what_came_since(fleet: Fleet) -> None:
    """By its id, and by its idempotency key under another id; nothing is done twice."""
    key = fleet.key()
    gate = fleet.gate(key, "done once", version="v2")
    gate.let()
    options: dict[str, Any] = {"request_id": f"r-{key}", "idempotency_key": "release-2"}
    first = await fleet.alice.run(key, "configure", 2, **options, timeout_s=OUTCOME_S)
    again = await fleet.alice.run(key, "configure", 2, **options, timeout_s=OUTCOME_S)
    assert (again.run, again.result, again.repeated, first.repeated) == (first.run, "done once", True, False)
    newer = await fleet.bob.run(key, "configure", 3, timeout_s=OUTCOME_S)
    keyed = await fleet.bob.run(key, "configure", 2, idempotency_key="release-2", timeout_s=OUTCOME_S)
    assert (keyed.run, keyed.result, keyed.superseded_since) == (first.run, "done once", newer.run)
    assert [item.payload for item in gate.items] == [2, 3]
    # Other work under that key is a mistake, and on record as a clash.
    with pytest.raises(Refused) as refused:
        await fleet.bob.run(key, "configure", 4, idempotency_key="release-2", timeout_s=OUTCOME_S)
    assert refused.value.code == "IDEMPOTENCY_MISMATCH"
    assert (await fleet.record.artifact(key, "idempotency_mismatch")).next_step == "drop_it"


@row("S1.5")
@row("M.2")
async def test_a_repeat_of_what_is_still_done_joins_it(fleet: Fleet) -> None:
    """By its idempotency key, however late, and by its own id: neither is a second piece of work."""
    key = fleet.key()
    gate = fleet.gate(key, "done once")
    options: dict[str, Any] = {"request_id": f"r-{key}", "idempotency_key": "release-2"}
    first = await fleet.alice.submit(key, "configure", 2, **options)
    await gate.begun()
    again = await fleet.alice.submit(key, "configure", 2, **options)
    keyed = await fleet.bob.submit(key, "configure", 2, idempotency_key="release-2")
    assert [(await ticket.accepted()).run for ticket in (again, keyed)] == [first.request_id] * 2
    gate.let()
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in (first, again, keyed)]
    assert {(each.status, each.run, each.result) for each in outcomes} == {("completed", first.request_id, "done once")}
    assert len(gate.items) == 1


@row("S1.5")
async def test_one_whose_target_has_changed_is_rejected_as_superseded(fleet: Fleet) -> None:
    """By the version that it names; and by newer work of its kind, while it waits."""
    key = fleet.key()
    gate = fleet.gate(key, version="v2")
    first = await fleet.alice.submit(key, "configure", expected_version="v1")
    await gate.begun()
    old = await fleet.alice.submit(key, "replace", "image-1")
    await old.accepted()
    new = await fleet.bob.submit(key, "replace", "image-2")
    assert (await old.outcome(OUTCOME_S)).status == "superseded"
    gate.let()
    for ticket in (first, new):
        assert (await ticket.outcome(OUTCOME_S)).status == "completed"
    artifact = await fleet.record.artifact(key, "superseded")
    assert {party.request for party in artifact.parties} == {old.request_id, new.request_id}
    with pytest.raises(Refused, match="superseded") as refused:
        await fleet.bob.run(key, "configure", expected_version="v1", timeout_s=OUTCOME_S)
    assert refused.value.code == "STALE_VERSION"
    assert [item.payload for item in gate.items] == [None, "image-2"]


@row("S1.5")
async def test_a_conflicting_one_is_marked_for_review_and_waits_for_a_person(fleet: Fleet) -> None:
    key = fleet.key()
    gate = fleet.gate(key)
    first = await fleet.alice.submit(key, "configure")
    await gate.begun()
    second = await fleet.bob.submit(key, "rename", "new")
    assert (await second.accepted()).state == "parked"
    artifact = await fleet.record.artifact(key, "parked")
    assert (artifact.next_step, [party.actor for party in artifact.parties]) == ("ask_a_person", ["bob", "alice"])
    gate.let()
    await first.outcome(OUTCOME_S)
    assert [each.run for each in (await fleet.alice.who(key)).waiting] == [second.request_id], "nobody has decided yet"
    await decide(fleet, key, second.request_id, "approve")
    assert (await second.outcome(OUTCOME_S)).status == "completed"
    assert await resolved(fleet, artifact) == "ann"
    assert [item.action for item in gate.items] == ["configure", "rename"]


@row("S1.5")
async def test_after_its_last_attempt_a_person_is_asked_where_the_action_says_so(fleet: Fleet) -> None:
    key = fleet.key()

    async def certify(item: Item[Any]) -> object:
        if item.attempt < 3:
            raise RuntimeError("the authority does not answer")
        return item.attempt

    fleet.does(key, certify)
    ticket = await fleet.alice.submit(key, "certify")
    parked = await fleet.record.nth(Parked, key)
    assert (parked.reason, parked.attempt) == ("attempts", 2)
    await decide(fleet, key, ticket.request_id, "approve")
    assert (await ticket.outcome(OUTCOME_S)).result == 3
    assert await resolved(fleet, await fleet.record.artifact(key, "parked")) == "ann"


async def decide(fleet: Fleet, key: str, request: str, verdict: str) -> None:
    """A person's verdict, as a plain record."""
    said = {"type": "Decision", "request": request, "verdict": verdict, "by": "ann", "version_seen": ""}
    await fleet.publish(topics.REQUESTS, key, **said)


async def resolved(fleet: Fleet, artifact: ConflictArtifact) -> str:
    """Who has settled it."""

    def by() -> str | None:
        return next(
            (
                each.by
                for _, each in fleet.record.conflicts
                if isinstance(each, ConflictResolved) and each.conflict == artifact.id
            ),
            None,
        )

    return await fleet.record.until(f"{artifact.id} is settled", by)


@row("S1.6")
async def test_what_the_handler_finds_after_acting_is_on_the_record_with_what_it_meant_to_make(fleet: Fleet) -> None:
    """A handler that verifies and finds nothing wrong says so, too; one that fails to verify fails its run."""
    key = fleet.key()

    async def act(item: Item[Any]) -> object:
        if item.payload == "unverified":
            raise Fail("made v3, found v2")
        return item.done(version="v2", observed_version="v2")

    fleet.does(key, act)
    await fleet.alice.run(key, "configure", timeout_s=OUTCOME_S)
    failed = await (await fleet.alice.submit(key, "configure", "unverified")).outcome(OUTCOME_S)
    assert failed.error is not None and (failed.status, failed.error.message) == ("failed", "made v3, found v2")
    ended = await fleet.record.nth(Ended, key)
    assert (ended.version, ended.observed_version) == ("v2", "v2")
    assert fleet.record.artifacts(key) == []


@row("S1.9")
async def test_an_artifact_says_what_clashed_since_when_and_what_to_do_and_repeats_are_counted(fleet: Fleet) -> None:
    key = fleet.key(name="counted")
    gate = fleet.gate(key, version="v2")
    gate.let()
    await fleet.alice.run(key, "configure", expected_version="v1", timeout_s=OUTCOME_S)
    for n in range(3):
        with pytest.raises(Refused):
            await fleet.bob.run(key, "restart", n, expected_version="v1", timeout_s=OUTCOME_S)
    artifacts = [await fleet.record.artifact(key, "stale_version", n) for n in (1, 2, 3)]
    first = artifacts[0]
    assert (first.resource, first.action) == (key, "restart"), "target and affected action"
    assert (first.expected_version, first.known_version) == ("v1", "v2"), "competing versions"
    assert first.detected and first.since_ms is not None and first.since_ms <= first.clock_ms, "timing"
    assert [(party.actor, party.action) for party in first.parties] == [("bob", "restart"), ("alice", "configure")]
    assert first.next_step == "read_and_resubmit"
    assert [each.recurrence for each in artifacts] == [1, 2, 3]
    assert {each.fingerprint for each in artifacts} == {first.fingerprint}
    assert {each.runbook for each in artifacts} == {RUNBOOK}


@row("M.3")
async def test_a_late_report_changes_nothing_and_is_on_record(fleet: Fleet) -> None:
    """Under the token of a run that is over, straight to the topic: a worker that looks at no lease does that."""
    key = fleet.key()
    outcome = await fleet.alice.run(key, "restart", timeout_s=OUTCOME_S)
    granted = await fleet.record.nth(Granted, key)
    said = {"type": "Completed", "session": granted.session, "pool": "default", "run": granted.run}
    await fleet.publish(topics.RESULTS, key, **said, token=granted.token - 1, result="late")
    assert (await fleet.record.nth(Fenced, key)).status == "Done"
    assert (await fleet.record.artifact(key, "fenced_report")).next_step == "drop_it"
    status = await fleet.alice.status(key, outcome.request_id)
    assert status.outcome is not None and status.outcome.result == {"did": "restart"}
