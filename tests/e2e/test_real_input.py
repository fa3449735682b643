"""The main job on real input: all webhook deliveries and a shuffled copy of them, while two worker processes run."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from e2e.history import assert_promises, endings, read_events
from e2e.processes import keylane, running, write_worker

from keylane.ingest import Unmapped, requests_from_github
from keylane.journal import connect
from keylane.schemas.events import Coalesced, Ended, Granted
from keylane.schemas.requests import WorkRequest

pytestmark = pytest.mark.anyio

SHARED = Path(os.environ.get("KEYLANE_SHARED", Path(__file__).parents[3] / "shared"))
DELIVERIES = SHARED / "data" / "github-webhooks.jsonl"
PARTITIONS = 4


@pytest.mark.requirement("M.1")
@pytest.mark.requirement("M.2")
@pytest.mark.requirement("M.4")
async def test_every_delivery_and_a_shuffled_copy_end_once(journal_url: str, tmp_path: Path) -> None:
    lines = DELIVERIES.read_bytes().splitlines()
    copy = list(lines)
    random.Random(42).shuffle(copy)
    (tmp_path / "copy.jsonl").write_bytes(b"\n".join(copy))
    mapped = [requests_from_github(line) for line in lines]
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
            json.loads(keylane("ingest", "github", file, "--wait", "--output", "json", *salt, **options))
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
