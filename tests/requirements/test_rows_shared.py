"""Rows S0: the lock is on what is shared, from the change to its verification; who waits looks again, and goes forward.

Each test runs on SQLite and on Kafka, by the fixture `fleet`.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from requirements.fleet import OUTCOME_S, Fleet

from keylane import Item, LockHeld, Retry
from keylane.schemas.events import AttemptFailed, Ended, Granted, Queued

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement


@row("S0.1")
@row("S0.2")
async def test_another_artifact_waits_until_the_first_is_applied_and_verified(fleet: Fleet) -> None:
    """Two artifacts, so that no suppression of duplicates helps: the lock is on the cluster that both change."""
    cluster = fleet.key("k8s", "prod")
    effects: list[str] = []
    verify = anyio.Event()
    applied = anyio.Event()

    async def apply(item: Item[Any]) -> object:
        name = item.payload["artifact"]
        effects.append(f"apply {name}")
        applied.set()
        await verify.wait()
        effects.append(f"verify {name}")
        return item.done(name, version=name, observed_version=name)

    fleet.does(cluster, apply)
    first = await fleet.alice.submit(cluster, "configure", {"artifact": "ingress.yaml"})
    await applied.wait()
    second = await fleet.bob.submit(cluster, "configure", {"artifact": "quota.yaml"})
    status = await second.accepted()
    assert (status.state, status.position, status.coalesced) == ("waiting", 0, False)
    assert effects == ["apply ingress.yaml"], "changed, and not yet verified: the other has not begun"
    verify.set()
    assert [(await ticket.outcome(OUTCOME_S)).result for ticket in (first, second)] == ["ingress.yaml", "quota.yaml"]
    assert effects == ["apply ingress.yaml", "verify ingress.yaml", "apply quota.yaml", "verify quota.yaml"]
    ended, granted = await fleet.record.nth(Ended, cluster), await fleet.record.nth(Granted, cluster, 2)
    assert ended.seq < granted.seq
    assert ended.token is not None and ended.token < granted.token


@row("S0.1")
@row("S1.6")
async def test_what_is_found_to_be_otherwise_after_the_change_is_reported(fleet: Fleet) -> None:
    before = await fleet.scraped("keylane_inconsistent_states_total", action="configure")
    key = fleet.key()
    fleet.gate(key, version="v2", observed="v1").let()
    outcome = await fleet.alice.run(key, "configure", timeout_s=OUTCOME_S)
    artifact = await fleet.record.artifact(key, "inconsistent_state")
    assert (outcome.version, outcome.conflict_id) == ("v2", artifact.id), "its requester is told, too"
    assert (artifact.expected_version, artifact.known_version) == ("v2", "v1")
    assert (artifact.action, artifact.next_step) == ("configure", "ask_a_person")
    await fleet.counted(before + 1, "keylane_inconsistent_states_total", action="configure")
    # As reported, or with nothing reported that it could differ from: nothing to say.
    for version in ("v2", None):
        fine = fleet.key()
        fleet.gate(fine, version=version, observed="v2").let()
        outcome = await fleet.alice.run(fine, "configure", timeout_s=OUTCOME_S)
        await fleet.record.nth(Ended, fine)
        assert (outcome.conflict_id, fleet.record.artifacts(fine)) == (None, [])


@row("S0.2")
@row("M.3")
async def test_where_the_policy_or_the_requester_says_so_the_second_is_refused(fleet: Fleet) -> None:
    """By the action, by the action against another one, by the request: each hears who holds it, and nothing begins."""
    key = fleet.key()
    gate = fleet.gate(key)
    first = await fleet.alice.submit(key, "urgent")
    item = await gate.begun()
    for action, busy in (("urgent", False), ("rename", False), ("restart", True)):
        with pytest.raises(LockHeld) as refused:
            await fleet.bob.run(key, action, "other", reject_if_busy=busy, timeout_s=OUTCOME_S)
        error = refused.value
        assert error.holder in ("worker-1", "worker-2")
        assert error.held_since and error.lease_expires_at and error.held_since < error.lease_expires_at
        assert error.retry_after_ms is not None and error.retry_after_ms > 0
    artifacts = [await fleet.record.artifact(key, "lock_held", n) for n in (1, 2, 3)]
    assert [each.action for each in artifacts] == ["urgent", "rename", "restart"]
    assert all([party.token for party in each.parties] == [None, item.token] for each in artifacts)
    gate.let()
    await first.outcome(OUTCOME_S)
    await fleet.record.nth(Ended, key)
    assert len(gate.items) == 1 and len(fleet.record.of(Granted, key)) == 1


@row("S0.3")
async def test_the_lock_names_holder_arrival_and_target_and_wakes_one_waiter_at_a_time(fleet: Fleet) -> None:
    key = fleet.key()
    gates = [fleet.gate(key)]
    tickets = [await fleet.alice.submit(key, "configure", 0)]
    await gates[0].begun()
    tickets += [await fleet.bob.submit(key, "configure", n) for n in (1, 2)]
    await tickets[2].accepted()
    owned = await fleet.alice.who(key)
    assert owned.held is not None
    assert (owned.held.resource, owned.held.requests) == (key, (tickets[0].request_id,))
    granted = await fleet.record.nth(Granted, key)
    assert (owned.held.holder, owned.held.token) == (granted.holder, granted.token)
    assert owned.held.since == granted.time
    assert [(each.actor, each.position) for each in owned.waiting] == [("bob", 0), ("bob", 1)]
    await fleet.record.nth(Queued, key, 3)
    assert [each.accepted for each in owned.waiting] == [event.time for event in fleet.record.of(Queued, key)[1:]]

    for n in (1, 2):
        gates.append(fleet.gate(key))
        gates[n - 1].let()
        await gates[n].begun()
        # Only the next one was woken: the one after it waits for that one's end.
        await fleet.record.nth(Granted, key, n + 1)
        assert [event.requests for event in fleet.record.of(Granted, key)] == [
            (ticket.request_id,) for ticket in tickets[: n + 1]
        ]
        now = await fleet.alice.who(key)
        assert now.held is not None and now.held.run == tickets[n].request_id
        assert [each.run for each in now.waiting] == [ticket.request_id for ticket in tickets[n + 1 :]]
    gates[2].let()
    await tickets[2].outcome(OUTCOME_S)
    assert [len(gate.items) for gate in gates] == [1, 1, 1]


@row("S0.4")
async def test_who_waited_is_judged_by_what_the_resource_is_now(fleet: Fleet) -> None:
    """Two decided on v1. One makes it v2: the other is refused at its turn, and may look again and ask anew."""
    key = fleet.key()
    gate = fleet.gate(key, version="v2")
    first = await fleet.alice.submit(key, "configure", 1, expected_version="v1")
    await gate.begun()
    second = await fleet.bob.submit(key, "configure", 2, expected_version="v1")
    assert (await second.accepted()).state == "waiting"
    gate.let()
    await first.outcome(OUTCOME_S)
    refused = await second.outcome(OUTCOME_S)
    assert refused.error is not None and (refused.status, refused.error.code) == ("refused", "STALE_VERSION")
    artifact = await fleet.record.artifact(key, "stale_version")
    assert refused.conflict_id == artifact.id
    assert (artifact.expected_version, artifact.known_version) == ("v1", "v2")
    assert len(gate.items) == 1, "its worker never heard of it"
    again = await fleet.bob.run(key, "configure", 2, expected_version="v2", timeout_s=OUTCOME_S)
    assert again.status == "completed"


@row("S0.4")
async def test_a_worker_that_looks_again_refuses_what_was_decided_on_another_version(fleet: Fleet) -> None:
    """Nobody has told keylane of v9: compare-and-set at the worker finds it, and keylane knows it from then on."""
    key = fleet.key()
    began: list[str] = []

    async def deploy(item: Item[Any]) -> object:
        item.expect("v9")
        began.append(item.run)
        return None

    fleet.does(key, deploy)
    refused = await (await fleet.alice.submit(key, "hotfix", expected_version="v8")).outcome(OUTCOME_S)
    assert refused.error is not None and refused.error.code == "STALE_VERSION"
    assert (await fleet.record.artifact(key, "stale_version")).known_version == "v9"
    assert (await fleet.alice.run(key, "hotfix", expected_version="v9", timeout_s=OUTCOME_S)).status == "completed"
    assert len(began) == 1


@row("S0.4")
async def test_a_retry_goes_only_forward_and_backs_off_without_the_resource(fleet: Fleet) -> None:
    """Version 1 fails and backs off; version 2 goes ahead meanwhile; the retry would undo it, and is not done."""
    key = fleet.key()
    attempts: list[tuple[str, int]] = []

    async def deploy(item: Item[Any]) -> object:
        attempts.append((item.payload, item.attempt))
        if item.payload == "v1":
            raise Retry(1.5)
        return None

    fleet.does(key, deploy)
    first = await fleet.alice.submit(key, "configure", "v1")
    await fleet.record.nth(AttemptFailed, key)
    owned = await fleet.alice.who(key)
    assert (owned.held, [each.run for each in owned.waiting]) == (None, [first.request_id])
    second = await fleet.bob.run(key, "configure", "v2", timeout_s=OUTCOME_S)
    outcome = await first.outcome(OUTCOME_S)
    assert (second.status, outcome.status) == ("completed", "superseded")
    assert attempts == [("v1", 1), ("v2", 1)]
    artifact = await fleet.record.artifact(key, "superseded")
    assert {party.request for party in artifact.parties} == {first.request_id, second.request_id}


@row("S0.4")
async def test_while_one_backs_off_another_goes_ahead_and_then_it_is_tried_again(fleet: Fleet) -> None:
    """What changes nothing (`harmless`) supersedes nothing: the attempt that follows still goes forward."""
    key = fleet.key()

    async def deploy(item: Item[Any]) -> object:
        if (item.action, item.attempt) == ("configure", 1):
            raise RuntimeError("the registry does not answer")
        return item.attempt

    fleet.does(key, deploy)
    first = await fleet.alice.submit(key, "configure", "v1")
    failed = await fleet.record.nth(AttemptFailed, key)
    assert failed.retry_in_ms > 0
    await fleet.bob.run(key, "inspect", timeout_s=OUTCOME_S)
    outcome = await first.outcome(OUTCOME_S)
    assert (outcome.status, outcome.result) == ("completed", 2)
    await fleet.record.nth(Ended, key, 2)
    assert [event.action for event in fleet.record.of(Granted, key)] == ["configure", "inspect", "configure"]
    assert fleet.record.artifacts(key) == []
