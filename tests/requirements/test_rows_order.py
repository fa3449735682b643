"""Rows S4.1 (work), S4.2 and S4.4: resources by ARN with a log of every lock, steps in their order, the three races.

Each test runs on SQLite and on Kafka, by the fixture `fleet`.
"""

from __future__ import annotations

import pytest
from requirements.fleet import OUTCOME_S, PARTITIONS, RUNBOOK, Fleet

from keylane import Refused
from keylane.history import ends_of, past
from keylane.layout import Layout
from keylane.schemas.events import AttemptFailed, Ended, Granted, Lost, Queued
from keylane.schemas.metadata import Metadata

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement

LEASE_MS = 5 * 60_000


def arn(fleet: Fleet) -> str:
    return f"arn:aws:ec2:eu-west-1:123456789012:instance/i-{fleet.key().rpartition('-')[2]:0>8}"


@row("S4.1")
async def test_a_resource_by_its_arn_is_leased_for_five_minutes_and_every_lock_is_in_the_log(fleet: Fleet) -> None:
    key = arn(fleet)
    gate = fleet.gate(key)
    first = await fleet.alice.submit(key, "restart", 1)
    await gate.begun()
    second = await fleet.bob.submit(key, "configure", 2)
    await second.accepted()
    held = (await fleet.alice.who(key)).held
    assert held is not None and held.lease_left_ms <= LEASE_MS
    gate.let()
    for ticket in (first, second):
        assert (await ticket.outcome(OUTCOME_S)).status == "completed"
    # The log as anybody reads it later: each acquire and each release, by whom, when, under which token.
    ends = await ends_of(fleet.journal, range(PARTITIONS))
    layout = Layout(Metadata(partitions=PARTITIONS))
    log = [shown.event async for shown in past(fleet.journal, layout, ends, key)]
    locks = [event for event in log if isinstance(event, Granted | Ended | Lost | AttemptFailed)]
    assert [(type(event), event.run, event.token) for event in locks] == [
        (kind, ticket.request_id, token)
        for ticket, token in zip((first, second), sorted({event.token or 0 for event in locks}), strict=True)
        for kind in (Granted, Ended)
    ]
    assert [event.lease_ms for event in locks if isinstance(event, Granted)] == [LEASE_MS, LEASE_MS]
    assert all(event.holder and event.time for event in locks if isinstance(event, Granted))


@row("S4.2")
async def test_terminate_is_admitted_only_right_after_drain(fleet: Fleet) -> None:
    node, other = fleet.key("k8s", "nodes"), fleet.key("k8s", "nodes")
    with pytest.raises(Refused, match="drain must come first") as refused:
        await fleet.alice.run(node, "terminate", timeout_s=OUTCOME_S)
    assert refused.value.code == "ORDER_VIOLATION"
    gate = fleet.gate(node)
    drain = await fleet.alice.submit(node, "drain")
    await gate.begun()
    with pytest.raises(Refused, match="drain must come first"):  # begun is not done
        await fleet.bob.run(node, "terminate", timeout_s=OUTCOME_S)
    gate.let()
    await drain.outcome(OUTCOME_S)
    with pytest.raises(Refused, match="drain must come first"):  # another node's drain does not count
        await fleet.bob.run(other, "terminate", timeout_s=OUTCOME_S)
    assert (await fleet.bob.run(node, "terminate", timeout_s=OUTCOME_S)).status == "completed"
    artifacts = [await fleet.record.artifact(node, "order_violation", n) for n in (1, 2)]
    assert {(each.action, each.next_step) for each in artifacts} == {("terminate", "read_and_resubmit")}
    await fleet.record.nth(Ended, node, 2)
    assert [event.action for event in fleet.record.of(Granted, node)] == ["drain", "terminate"]


@row("S4.2")
async def test_what_was_admitted_is_refused_at_its_turn_if_the_step_is_undone(fleet: Fleet) -> None:
    """A request names its step itself (`requires`), and other work comes in between."""
    node = fleet.key("k8s", "nodes")
    await fleet.alice.run(node, "drain", timeout_s=OUTCOME_S)
    gate = fleet.gate(node)
    between = await fleet.alice.submit(node, "configure")
    await gate.begun()
    restart = await fleet.bob.submit(node, "restart", requires=["drain"])
    assert (await restart.accepted()).state == "waiting"
    gate.let()
    await between.outcome(OUTCOME_S)
    outcome = await restart.outcome(OUTCOME_S)
    assert outcome.error is not None and (outcome.status, outcome.error.code) == ("refused", "ORDER_VIOLATION")
    artifact = await fleet.record.artifact(node, "order_violation")
    assert [party.action for party in artifact.parties] == ["restart", "configure"]
    await fleet.record.nth(Ended, node, 3)
    assert [event.action for event in fleet.record.of(Granted, node)] == ["drain", "configure"]


@row("S4.4")
async def test_a_double_restart_is_done_once(fleet: Fleet) -> None:
    """Two agents see the same alarm. Also who comes while it runs shares it; both are told what became of it."""
    service = fleet.key()
    gate = fleet.gate(service, {"restarted": True})
    first = await fleet.alice.submit(service, "restart", {"why": "oom"})
    await gate.begun()
    second = await fleet.bob.submit(service, "restart", {"why": "oom"})
    await second.accepted()
    gate.let()
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in (first, second)]
    assert [(each.run, each.result, each.coalesced) for each in outcomes] == [
        (first.request_id, {"restarted": True}, False),
        (first.request_id, {"restarted": True}, True),
    ]
    await fleet.record.nth(Ended, service)
    assert len(gate.items) == len(fleet.record.of(Granted, service)) == 1


@row("S4.4")
@row("S1.9")
async def test_the_later_of_a_hotfix_and_a_rollback_decided_on_one_reading_is_refused(fleet: Fleet) -> None:
    """Both must name the version that they were decided on; after the hotfix the rollback's reading is stale."""
    service = fleet.key()
    with pytest.raises(Refused) as unnamed:
        await fleet.bob.run(service, "rollback", "v6", timeout_s=OUTCOME_S)
    assert unnamed.value.code == "VERSION_REQUIRED"
    gate = fleet.gate(service, version="v8", observed="v8")
    hotfix = await fleet.alice.submit(service, "hotfix", "patch", expected_version="v7")
    await gate.begun()
    rollback = await fleet.bob.submit(service, "rollback", "v6", expected_version="v7")
    assert (await rollback.accepted()).state == "waiting"
    gate.let()
    assert (await hotfix.outcome(OUTCOME_S)).version == "v8"
    waited = await rollback.outcome(OUTCOME_S)
    late = await (await fleet.bob.submit(service, "rollback", "v6", expected_version="v7")).outcome(OUTCOME_S)
    for n, outcome in enumerate((waited, late), start=1):
        assert outcome.error is not None and (outcome.status, outcome.error.code) == ("refused", "STALE_VERSION")
        artifact = await fleet.record.artifact(service, "stale_version", n)
        assert outcome.conflict_id == artifact.id
        assert (artifact.expected_version, artifact.known_version) == ("v7", "v8")
        assert (artifact.next_step, artifact.runbook) == ("read_and_resubmit", RUNBOOK)
        assert [(party.actor, party.action, party.version) for party in artifact.parties] == [
            ("bob", "rollback", "v7"),
            ("alice", "hotfix", "v7"),
        ]
    assert [item.action for item in gate.items] == ["hotfix"]


@row("S4.4")
async def test_a_second_drain_of_one_service_is_refused_also_when_the_first_has_finished(fleet: Fleet) -> None:
    """At most one of its drains stands, until one is undone. Another service is another matter."""
    service, other = fleet.key("k8s", "deployments"), fleet.key("k8s", "deployments")
    gate = fleet.gate(service)
    first = await fleet.alice.submit(service, "drain", "pod-a")
    await gate.begun()

    async def refused() -> None:
        with pytest.raises(Refused) as error:
            await fleet.bob.run(service, "drain", "pod-b", timeout_s=OUTCOME_S)
        assert error.value.code == "LIMIT_REACHED"

    await refused()
    assert (await fleet.bob.run(other, "drain", "pod-z", timeout_s=OUTCOME_S)).status == "completed"
    gate.let()
    await first.outcome(OUTCOME_S)
    await refused()
    artifacts = [await fleet.record.artifact(service, "limit_reached", n) for n in (1, 2)]
    assert [[party.actor for party in each.parties] for each in artifacts] == [["bob", "alice"]] * 2
    assert {each.next_step for each in artifacts} == {"wait_and_retry"}
    assert [item.payload for item in gate.items] == ["pod-a"]
    await fleet.alice.run(service, "undrain", "pod-a", timeout_s=OUTCOME_S)
    assert (await fleet.bob.run(service, "drain", "pod-b", timeout_s=OUTCOME_S)).status == "completed"


@row("S4.4")
async def test_two_drains_that_wait_at_once_do_not_both_go_ahead(fleet: Fleet) -> None:
    """Neither stood when they were accepted: the limit is asked for again at each one's turn."""
    service = fleet.key("k8s", "deployments")
    gate = fleet.gate(service)
    before = await fleet.alice.submit(service, "configure")
    await gate.begun()
    drains = [await fleet.alice.submit(service, "drain", "pod-a"), await fleet.bob.submit(service, "drain", "pod-b")]
    assert [(await ticket.accepted()).state for ticket in drains] == ["waiting", "waiting"]
    gate.let()
    await before.outcome(OUTCOME_S)
    outcomes = [await ticket.outcome(OUTCOME_S) for ticket in drains]
    assert [each.status for each in outcomes] == ["completed", "refused"]
    assert outcomes[1].error is not None and outcomes[1].error.code == "LIMIT_REACHED"
    assert (await fleet.record.artifact(service, "limit_reached")).id == outcomes[1].conflict_id
    await fleet.record.nth(Ended, service, 3)
    assert len(fleet.record.of(Queued, service)) == 3 and len(gate.items) == 2
