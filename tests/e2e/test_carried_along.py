"""What a requester asks to have carried along reaches the item and every event of its run."""

import anyio
import pytest

import keylane
from keylane.journal import Place, connect
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, decode_item, traceparent_of
from keylane.schemas.items import WorkItem
from keylane.testing import local

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RESOURCE = "deploy://traced"
PARTITIONS = 4


async def read(url: str, topic: str) -> list[tuple[dict[str, bytes], bytes | None]]:
    """Headers and value of every record in the resource's partition."""
    journal = await connect(url)
    place = Place(topic, partition_of(RESOURCE.encode(), PARTITIONS))
    end = (await journal.end_positions([place]))[place]
    reader = await journal.reader({place: None})
    found = []
    while reader.positions()[place] < end:
        found += [(dict(each.headers), each.value) for each in await reader.poll(1_000, 1.0)]
    await reader.close()
    await journal.close()
    return found


async def test_a_trace_goes_from_the_request_to_the_item_to_every_event_of_the_run() -> None:
    seen: list[str | None] = []
    async with local() as url:
        worker = keylane.Worker(url)

        @worker.handler("restart")
        async def restart(item: keylane.Item[object]) -> None:
            seen.append(item.traceparent)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.serve)
            async with keylane.Client(url) as client:
                ticket = await client.submit(RESOURCE, "restart", traceparent=TRACE)
                outcome = await ticket.outcome(20)
            assert outcome.status == "completed"
            items = await read(url, topics.items("default"))
            events = await read(url, topics.EVENTS)
            requests = await read(url, topics.REQUESTS)
            tasks.cancel_scope.cancel()

    assert seen == [TRACE]
    assert [traceparent_of(tuple(headers.items())) for headers, _ in requests] == [TRACE]
    work = [headers for headers, value in items if isinstance(decode_item(value), WorkItem)]
    assert [headers["traceparent"].decode() for headers in work] == [TRACE]
    of_the_run = {
        type(event).__name__: headers.get("traceparent")
        for headers, value in events
        if getattr(event := decode_event(value), "run", None) == ticket.request_id
    }
    assert of_the_run == {name: TRACE.encode() for name in ("Queued", "Granted", "Ended")}
    for headers, _ in (*items, *events):
        assert {"ce_id", "ce_source", "ce_type", "ce_time", "ce_specversion", "content-type"} <= headers.keys()
