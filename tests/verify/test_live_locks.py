"""Journals on which agents hold locks, wait for one another and come to nothing are judged as they are, and at rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from e2e.history import read_events
from verify.live_agents import Agent

import keylane
from keylane.embedded import load as load_service
from keylane.embedded import router_running
from keylane.journal import Journal, connect
from keylane.progress import unseen
from keylane.recording import history_of
from keylane.schemas.events import AgentSessionEnded, Ended, Fenced, Lost, Renewed
from keylane.verify import Configured, Report, Verifier

pytestmark = pytest.mark.anyio

PARTITIONS = 3
ROUNDS = 12
DEADLINE_S = 120.0
LOOK_S = 0.2
KEYS = ("deploy://api", "deploy://web", "db://main", "db://other")
CONFIG = f"""
partitions = {PARTITIONS}
resource_lock_timeout = "20s"
[defaults]
max_hold = "1h"
"""


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/journal.db"
    return f"{request.getfixturevalue('kafka_broker').url}?prefix=verify-locks-{tmp_path.name}."


async def judged(journal: Journal, *, drained: bool = False) -> Report:
    verifier = Verifier()
    verifier.take(Configured(max_hold_ms=3_600_000, locks_per_session=256))
    async for line in history_of(journal, PARTITIONS, unseen):
        verifier.take(line)
    return verifier.close(drained=drained)


async def in_turn(journal: Journal, number: int) -> None:
    """Has each key again and again, with the others that want it."""
    for at in range(ROUNDS):
        agent, key = Agent(journal, PARTITIONS, f"turn-{number}-{at}"), KEYS[(number + at) % len(KEYS)]
        had = await agent.acquire(key)
        if had is not None:
            await agent.renew(key, *had, blocked="CI" if at % 3 == 0 else None)
            await agent.release(key, *had)
            await agent.release(key, *had)


async def at_odds(journal: Journal, number: int) -> None:
    """Two sessions, each of which holds what the other wants: one is refused, and lets go."""
    pair = [Agent(journal, PARTITIONS, f"odds-{number}-{side}") for side in "ab"]
    keys = (f"own://{number}/a", f"own://{number}/b")
    holds = [await agent.acquire(key, explicit=True) for agent, key in zip(pair, keys, strict=True)]

    async def want(side: int) -> None:
        held, key = holds[side], keys[1 - side]
        assert held is not None
        had = await pair[side].acquire(key, explicit=True)
        if had is not None:
            await pair[side].release(key, *had)
        await pair[side].release(keys[side], *held)

    async with anyio.create_task_group() as group:
        group.start_soon(want, 0)
        group.start_soon(want, 1)


async def gone(journal: Journal) -> None:
    """Locks that are lost, cancelled, or over with their session, and what is said of them too late."""
    silent, over, other = (Agent(journal, PARTITIONS, f"gone-{what}") for what in ("silent", "over", "other"))
    lost = await silent.acquire("gone://1", ttl_ms=1_000)
    for key in ("gone://2", "gone://3"):
        await over.acquire(key)
    assert lost is not None and await other.acquire("gone://1") is not None, "once the lease of the silent one is over"
    await silent.release("gone://1", *lost)
    await over.end()
    assert await other.acquire("gone://2") is not None
    had = await other.acquire("gone://3")
    assert had is not None
    await silent.cancel("gone://3", had[0], None)
    await other.cancel("gone://3", had[0], other.secret)
    await other.end()


async def work(url: str) -> None:
    """Workers have the same keys."""
    worker = keylane.Worker(url)

    @worker.handler("restart")
    async def restart(item: keylane.Item) -> dict[str, object]:
        return {"token": item.token}

    async with anyio.create_task_group() as group, keylane.Client(url) as client:
        group.start_soon(worker.serve)
        for number in range(2 * ROUNDS):
            ticket = await client.submit(KEYS[number % len(KEYS)], "restart", number)
            await ticket.outcome(DEADLINE_S)
        group.cancel_scope.cancel()


async def everything(url: str, journal: Journal, over: anyio.Event) -> None:
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(in_turn, journal, number)
            group.start_soon(at_odds, journal, number)
        group.start_soon(gone, journal)
        group.start_soon(work, url)
    over.set()


async def test_locks_are_judged_while_they_are_held_and_when_all_are_given_back(url: str, tmp_path: Path) -> None:
    (tmp_path / "keylane.toml").write_text(CONFIG)
    journal = await connect(url)
    reports: list[Report] = []
    with anyio.fail_after(DEADLINE_S):
        async with router_running(load_service(tmp_path / "keylane.toml", {}, {"url": url})):
            over = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(everything, url, journal, over)
                while not over.is_set():
                    with anyio.move_on_after(LOOK_S):  # on memory, judging alone would leave nobody else a turn
                        await over.wait()
                    report = await judged(journal)
                    reports.append(report)
        reports.append(await judged(journal, drained=True))
        counts = _counted([event for _, event in await read_events(journal, PARTITIONS)])
        await journal.close()
    for report in reports:
        assert not report.violations, report.violations
        assert set(report.undecided) <= {9, 10}, report.undecided  # written to meanwhile; edges of waits that are over
    assert len(reports) > 2 and set(reports[-1].undecided) <= {10} and not reports[-1].open
    assert counts["Ended DEADLOCK"] == 4 and counts["Ended completed"] > 2 * ROUNDS, counts
    assert counts["claimed"] and counts["Lost lease_expired"] == 1 and counts["Lost session_ended"] >= 2, counts
    assert counts["AgentSessionEnded"] == 2 * PARTITIONS and counts["Fenced Release"], counts


def _counted(events: list[Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for event in events:
        match event:
            case Ended(action="lock", repeat=False):
                found[f"Ended {event.status if event.error is None else event.error.code}"] += 1
            case Lost():
                found[f"Lost {event.reason}"] += 1
            case Renewed(claimed=True):
                found["claimed"] += 1
            case Fenced():
                found[f"Fenced {event.report}"] += 1
            case AgentSessionEnded():
                found["AgentSessionEnded"] += 1
    return found
