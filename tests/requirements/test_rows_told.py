"""Rows S4.1 (locks) and S4.3: the lock log as a command prints it, and the three signals with their alerts.

Each test runs on SQLite and on Kafka, by the fixture `fleet`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from requirements.commands import WITHIN_S, shell
from requirements.fleet import OUTCOME_S, PARTITIONS, Fleet
from ruamel.yaml import YAML

from keylane import Client, Item, LockHeld, Refused, Session
from keylane.journal.partitioner import partition_of
from keylane.schemas.events import Ended, Granted, Lost, Queued

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement

WORK_LEASE_MS = 5 * 60_000
TTL_MS = 1_500
RULES = Path(__file__).resolve().parents[2] / "compose" / "prometheus" / "rules" / "keylane.yml"
FAILURES = "keylane_lock_acquisition_failures_total"
EXPIRATIONS = "keylane_lease_expirations_total"
INCONSISTENT = "keylane_inconsistent_states_total"


# -- S4.1 -----------------------------------------------------------------------------------------------------


@row("S4.1")
async def test_the_lock_log_of_an_arn_has_every_acquire_and_every_release(fleet: Fleet) -> None:
    """A lock that is had, renewed, refused to another, handed over and lost; then work, under its five minutes."""
    key = f"arn:aws:ec2:eu-west-1:123456789012:instance/i-{fleet.key().rpartition('-')[2]:0>8}"
    ann, ben = shell(fleet, "ann"), shell(fleet, "ben")
    assert (await ann.run("rlock", key)).code == 0
    assert (await ann.run("rlock-heartbeat", key)).code == 0
    assert (await ben.run("rlock", key)).code == 75
    async with ben.started("rlock", key, "--wait", "60s", "--ttl", f"{TTL_MS}ms") as waiting:
        await fleet.record.nth(Queued, key, 2)
        assert (await ann.run("runlock", key)).code == 0
        with anyio.fail_after(WITHIN_S):
            assert await waiting.wait() == 0
    await fleet.record.nth(Lost, key)
    assert (await fleet.alice.run(key, "restart", timeout_s=OUTCOME_S)).status == "completed"
    await fleet.record.nth(Ended, key, 3)

    first, second, work = tokens = [event.token for event in fleet.record.of(Granted, key)]
    assert tokens == sorted(set(tokens))
    printed = [json.loads(line)["event"] for line in (await ann.run("keylane", "events", key)).out.splitlines()]
    assert [as_told(event) for event in printed if event["type"] != "Queued"] == [
        ("Granted", first, "ann", ""),
        ("Renewed", first, "", ""),
        ("Refused", None, "ann", "LOCK_HELD"),
        ("Ended", first, "", "completed"),
        ("Granted", second, "ben", ""),
        ("Renewed", second, "", ""),
        ("Lost", second, "ben", "lease_expired"),
        ("Ended", second, "", "failed"),
        ("Granted", work, printed[-2]["holder"], ""),
        ("Ended", work, "", "completed"),
    ]
    assert printed[-2]["lease_ms"] == WORK_LEASE_MS, "of work, where nothing is configured"
    assert printed[-2]["holder"] in ("worker-1", "worker-2")
    assert all(event["time"] and event["resource"] == key for event in printed)
    async with ann.started("keylane", "events", key) as process:
        assert process.stdout is not None
        text = "".join([part.decode() async for part in process.stdout])
    assert re.findall(r"^\S+ \S+ \w+ \(([^)]*)\)", text, re.MULTILINE) == [
        "waits", "acquired", "renewed", "refused", "waits", "released", "handed over, to be claimed", "claimed",
        "expired", "over",
    ]  # fmt: skip
    assert len(text.splitlines()) == len(printed)


def as_told(event: Mapping[str, Any]) -> tuple[str, int | None, str, str]:
    """What it is, under which token, whose, and how it went."""
    how = event.get("status") or event.get("code") or event.get("reason") or ""
    return event["type"], event.get("token"), event.get("holder") or "", how


# -- S4.3 -----------------------------------------------------------------------------------------------------


class Signals:
    """The three signals as the router's `/metrics` has them, by their labels, against what they were."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._before: dict[str, float] = {}

    async def now(self) -> dict[str, float]:
        """What each counts up to now, and of that what the tests cause."""
        samples = await self._fleet.samples()

        def count(series: str, **labels: str) -> float:
            return sum(each.value for each in samples if each.name == series and labels.items() <= each.labels.items())

        return {
            "failures": count(FAILURES),
            "failures_of_locks": count(FAILURES, action="lock"),
            "expirations": count(EXPIRATIONS),
            "expired_locks": count(EXPIRATIONS, action="lock", reason="lease_expired"),
            "locks_of_ended_sessions": count(EXPIRATIONS, action="lock", reason="session_ended"),
            "expired_work": count(EXPIRATIONS, action="migrate", reason="lease_expired"),
            "inconsistent": count(INCONSISTENT),
        }

    async def begin(self) -> None:
        self._before = await self.now()

    async def rose_by(self, **by: int) -> None:
        """Wait until they have risen by at least so much, and see that it is exactly so much. A turn is counted after
        it is on record, in order: what is asked for last of all has been counted when all before it has."""
        assert by.keys() <= self._before.keys()
        expected = {name: before + by.get(name, 0) for name, before in self._before.items()}
        with anyio.fail_after(WITHIN_S):
            found = await self.now()
            while any(found[name] < expected[name] for name in expected):
                found = await self.now()
        assert found == expected


@row("S4.3")
async def test_failed_acquisitions_are_counted_of_work_and_of_locks(fleet: Fleet) -> None:
    """Refused at once, after a wait, as a deadlock; and work that is refused where its policy says so. Not the ones
    that are had, nor what is refused for another reason."""
    signals, (one, two) = Signals(fleet), apart(fleet)
    await signals.begin()
    sessions = [Session.new(id) for id in ("a", "b")]
    had = [await fleet.alice.acquire(key, session=each) for key, each in zip((one, two), sessions, strict=True)]
    for wait_s in (0, 0.2):
        with pytest.raises(LockHeld):
            await fleet.bob.acquire(one, wait_s=wait_s)
    with pytest.raises(Refused):
        await fleet.bob.acquire("not a key")
    async with anyio.create_task_group() as tasks:

        async def wait(client: Client) -> None:
            await client.acquire(two, session=sessions[0], wait_s=WITHIN_S)

        tasks.start_soon(wait, fleet.alice)
        await fleet.record.nth(Queued, two, 2)
        with pytest.raises(Refused) as refused:
            await fleet.bob.acquire(one, session=sessions[1], wait_s=WITHIN_S)
        assert refused.value.code == "DEADLOCK"
        await fleet.bob.release(had[1])
    with pytest.raises(LockHeld):
        await fleet.bob.run(one, "urgent", timeout_s=OUTCOME_S)
    await fleet.alice.end_session(sessions[0])
    await signals.rose_by(failures_of_locks=3, failures=4, locks_of_ended_sessions=2, expirations=2)


@row("S4.3")
async def test_expirations_are_counted_of_work_and_of_locks(fleet: Fleet) -> None:
    signals, locked, other, worked = Signals(fleet), fleet.key(), fleet.key(), fleet.key("db")
    await signals.begin()

    async def migrate(item: Item[Any]) -> object:
        if item.attempt == 1:
            await anyio.sleep_forever()
        return None

    fleet.does(worked, migrate)
    ticket = await fleet.alice.submit(worked, "migrate")
    session = Session.new("deploy-7")
    await fleet.alice.acquire(other, session=session)
    await fleet.alice.end_session(session)
    await fleet.alice.acquire(locked, ttl_s=1)
    async with fleet.alice.lock(fleet.key()):  # given back: none
        pass
    assert (await fleet.record.nth(Lost, locked)).reason == "lease_expired"
    assert (await ticket.outcome(OUTCOME_S)).status == "completed"
    await signals.rose_by(expired_locks=1, locks_of_ended_sessions=1, expired_work=1, expirations=3)


@row("S4.3")
async def test_states_that_are_not_what_was_made_are_counted(fleet: Fleet) -> None:
    signals, wrong, right = Signals(fleet), fleet.key(), fleet.key()
    await signals.begin()
    for key, observed in ((wrong, "v1"), (right, "v2")):
        fleet.gate(key, version="v2", observed=observed).let()
        await fleet.alice.run(key, "configure", timeout_s=OUTCOME_S)
    await fleet.record.artifact(wrong, "inconsistent_state")
    await signals.rose_by(inconsistent=1)


@row("S4.3")
async def test_each_of_the_signals_has_an_alert(fleet: Fleet) -> None:
    """On the series that this router serves, by the labels that they have there. That each fires when it should, and
    only then, is tested with `promtool` in `tests/compose`."""
    groups = YAML(typ="safe").load(RULES)["groups"]
    alerts = [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"] if "alert" in rule]
    labels = {sample.name: sample.labels.keys() for sample in await fleet.samples()}
    for series in (FAILURES, EXPIRATIONS, INCONSISTENT):
        (alert,) = [(name, expr) for name, expr in alerts if series in expr]
        assert re.search(r"(increase|rate)\(" + series, alert[1]), alert
        by = re.search(r"sum by \(([^)]*)\)", alert[1])
        assert by is not None and {label.strip() for label in by[1].split(",")} <= labels[series]


def apart(fleet: Fleet) -> tuple[str, str]:
    """Two keys of two partitions."""
    one = fleet.key()
    while partition_of((two := fleet.key()).encode(), PARTITIONS) == partition_of(one.encode(), PARTITIONS):
        pass
    return one, two
