"""Journals that a router is writing to are judged as they are, again and again, and never called wrong."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from e2e.history import endings, read_events

import keylane
from keylane.embedded import load as load_service
from keylane.embedded import router_running
from keylane.journal import Journal, Record, connect
from keylane.progress import unseen
from keylane.recording import history_of
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.requests import WorkRequest
from keylane.verify import Report, Verifier

pytestmark = pytest.mark.anyio

PARTITIONS = 3
REQUESTS = 200
DEADLINE_S = 60.0
CONFIG = f"""
partitions = {PARTITIONS}
session_lapse = "2s"
[defaults]
lease = "10s"
backoff = "10ms"
coalesce = "50ms"
"""


async def judged(journal: Journal, *, drained: bool = False) -> Report:
    verifier = Verifier()
    async for line in history_of(journal, PARTITIONS, unseen):
        verifier.take(line)
    return verifier.close(drained=drained)


def worker_that_stumbles(url: str) -> keylane.Worker:
    worker = keylane.Worker(url)

    @worker.handler("restart")
    async def restart(item: keylane.Item) -> dict[str, object]:
        await item.progress({"at": item.attempt})
        if item.attempt == 1 and item.token % 3 == 0:
            raise keylane.Retry()
        return {"token": item.token}

    return worker


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_journal_is_judged_while_work_goes_on_and_when_it_has_come_to_rest(kind: str, tmp_path: Path) -> None:
    (tmp_path / "keylane.toml").write_text(CONFIG)
    url = f"memory://{tmp_path.name}" if kind == "memory" else f"sqlite://{tmp_path}/journal.db"
    journal = await connect(url)
    reports: list[Report] = []
    with anyio.fail_after(DEADLINE_S):
        async with router_running(load_service(tmp_path / "keylane.toml", {}, {"url": url})):
            async with anyio.create_task_group() as group:
                group.start_soon(worker_that_stumbles(url).serve)
                reports += await _worked_on(url, journal)
                group.cancel_scope.cancel()
        reports.append(await judged(journal, drained=True))
        await journal.close()
    for report in reports:
        assert not report.violations, report.violations
        assert set(report.undecided) <= {9}, report.undecided
    assert len(reports) > 2 and not reports[-1].undecided
    assert reports[-1].records[topics.REQUESTS] > REQUESTS


async def _worked_on(url: str, journal: Journal) -> list[Report]:
    """What is judged while requests are submitted, some of them to partitions that they are not of."""
    reports, strays = [], set()
    async with keylane.Client(url) as client:
        tickets = []
        for number in range(REQUESTS):
            resource = f"deploy://api-{number % 7}"
            tickets.append(await client.submit(resource, "restart", number % 4))
            if number % 40 == 0:
                stray = WorkRequest(id=f"stray-{number}", resource=resource, action="restart")
                await journal.append([Record(topics.REQUESTS, each, b"k", encode(stray)) for each in range(PARTITIONS)])
                strays.add(stray.id)
                reports.append(await judged(journal))
        for ticket in tickets:
            await ticket.outcome(DEADLINE_S)
    while not strays <= endings(await read_events(journal, PARTITIONS)).keys():  # noqa: ASYNC110
        await anyio.sleep(0.05)  # between looks at the record: nobody has a ticket for them
    return reports
