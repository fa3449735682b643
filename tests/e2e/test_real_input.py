"""Real input: all webhook deliveries, as work with a shuffled copy of them and two worker processes; and as changes."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from e2e.history import assert_promises, endings, read_events
from e2e.processes import keylane, running, write_worker

from keylane.ingest import Unmapped, command_from_github
from keylane.journal import connect
from keylane.schemas.events import Changed, Coalesced, Ended, Granted
from keylane.schemas.requests import ResourceChange, WorkRequest

pytestmark = pytest.mark.anyio

SHARED = Path(os.environ.get("KEYLANE_SHARED", Path(__file__).parents[3] / "shared"))
DELIVERIES = SHARED / "data" / "github-webhooks.jsonl"
PARTITIONS = 4
INGEST = ("ingest", "github")
JSON = ("--output", "json")


@pytest.mark.requirement("M.1")
@pytest.mark.requirement("M.2")
@pytest.mark.requirement("M.4")
async def test_every_delivery_and_a_shuffled_copy_end_once(journal_url: str, tmp_path: Path) -> None:
    lines = DELIVERIES.read_bytes().splitlines()
    copy = list(lines)
    random.Random(42).shuffle(copy)
    (tmp_path / "copy.jsonl").write_bytes(b"\n".join(copy))
    mapped = [command_from_github(line, as_requests=True) for line in lines]
    requests = [request for request in mapped if isinstance(request, WorkRequest)]
    unmapped = [request for request in mapped if isinstance(request, Unmapped)]
    crew = write_worker(tmp_path, sorted({request.action for request in requests}))

    options = {"url": journal_url, "cwd": tmp_path}
    with (
        running("router", "--partitions", str(PARTITIONS), "--output", "json", says='"url"', **options),
        running("worker", "run", crew, says="", **options),
        running("worker", "run", crew, says="", **options),
    ):
        answers = [
            json.loads(keylane(*INGEST, file, "--wait", "--as-requests", *JSON, *salt, **options))
            for file, salt in ((str(DELIVERIES), ()), ("copy.jsonl", ("--salt", "copy")))
        ]
        journal = await connect(journal_url)
        try:
            events = await read_events(journal, PARTITIONS)
            await assert_promises(journal, PARTITIONS)
        finally:
            await journal.close()

    for answer in answers:
        assert (answer["published"], answer["unmapped"]) == (len(requests), len(unmapped))
        assert (answer["requests"], answer["changes"]) == (len(requests), 0)
        assert answer["outcomes"] == {"completed": len(requests)}

    ended = endings(events)
    assert len(ended) == 2 * len(requests)
    assert all(isinstance(each[0], Ended) and each[0].status == "completed" for each in ended.values())
    by = Counter(event.holder for _, event in events if isinstance(event, Granted))
    assert len(by) == 2, f"both workers took part: {by}"
    runs = {event.run for _, event in events if isinstance(event, Granted)}
    joined = {event.request for _, event in events if isinstance(event, Coalesced)}
    joined |= {id for _, event in events if isinstance(event, Ended) and event.coalesced for id in event.requests}
    assert len(runs) + len(joined) == 2 * len(requests), "a request has a run of its own or shares one"


@pytest.mark.requirement("S1.7")
@pytest.mark.requirement("S1.8")
async def test_what_people_did_is_on_record_once_in_the_order_of_its_resource(journal_url: str, tmp_path: Path) -> None:
    found = [command_from_github(line) for line in DELIVERIES.read_bytes().splitlines()]
    changes = [one.id for one in found if isinstance(one, ResourceChange)]
    requests = [one for one in found if isinstance(one, WorkRequest)]
    crew = write_worker(tmp_path, sorted({request.action for request in requests}))
    options = {"url": journal_url, "cwd": tmp_path}
    with (
        running("router", "--partitions", str(PARTITIONS), "--output", "json", says='"url"', **options),
        running("worker", "run", crew, says="", **options),
    ):
        told, again = (json.loads(keylane(*INGEST, str(DELIVERIES), "--wait", *JSON, **options)) for _ in range(2))
        journal = await connect(journal_url)
        try:
            events = await read_events(journal, PARTITIONS)
            await assert_promises(journal, PARTITIONS)
        finally:
            await journal.close()
        last: dict[str, Changed] = {}
        for _, event in events:
            if isinstance(event, Changed) and event.effect == "applied":
                last[event.resource] = event
        resource, newest = next((key, each) for key, each in last.items() if each.version)
        owned = json.loads(keylane("who", resource, "--output", "json", **options))

    assert (told["changes"], told["requests"], told["unmapped"]) == (len(changes), len(requests), 2)
    assert told["outcomes"] == {"completed": len(requests)}
    recorded = [event for _, event in events if isinstance(event, Changed)]
    applied = Counter(event.change for event in recorded if event.effect == "applied")
    assert max(applied.values()) == 1, "taken in again it is not applied again"
    assert {event.change for event in recorded} == set(changes) and len(recorded) == 2 * len(changes)
    assert sum(told["effects"].values()) == sum(again["effects"].values()) == len(changes)
    assert set(again["effects"]) <= {"repeated", "older", "known"}
    sequences: dict[str, int] = {}
    for event in recorded:
        if event.effect == "applied" and event.sequence is not None:
            assert event.sequence > sequences.get(event.resource, 0)
            sequences[event.resource] = event.sequence
    touch = owned["touched"][0]
    assert (touch["kind"], touch["id"], touch["by"]) == ("change", newest.change, newest.by)
    assert owned["version"] == newest.version
