"""What the recorded history of a run says, read without the router's code; the promises are `keylane.verify`'s."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from keylane.journal import Journal, Place, Stored
from keylane.progress import unseen
from keylane.recording import history_of
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event
from keylane.schemas.events import AnyEvent, Ended, Refused, Withdrawn
from keylane.verify import Acknowledged, Verifier


async def read_all(journal: Journal, topic: str, partitions: int) -> list[Stored]:
    """Every committed record of a topic, partition by partition, in order."""
    places = [Place(topic, number) for number in range(partitions)]
    ends = await journal.end_positions(places)
    found: list[Stored] = []
    for place in places:
        reader = await journal.reader({place: None})
        try:
            while reader.positions()[place] < ends[place]:
                found += await reader.poll(10_000, 1.0)
        finally:
            await reader.close()
    return found


async def read_events(journal: Journal, partitions: int) -> list[tuple[int, AnyEvent]]:
    """Every event with its partition."""
    events = []
    for stored in await read_all(journal, topics.EVENTS, partitions):
        event = decode_event(stored.value)
        assert not isinstance(event, Undecodable), event
        events.append((stored.partition, event))
    return events


async def assert_promises(journal: Journal, partitions: int, acknowledged: Iterable[str] = ()) -> None:
    """Every promise of design section 7, over a history in which all that was asked for has ended.

    Routers and workers may still be there: their heartbeats go on.
    """
    verifier = Verifier()
    async for line in history_of(journal, partitions, unseen):
        verifier.take(line)
    for id in acknowledged:
        verifier.take(Acknowledged(id=id))
    report = verifier.close(drained=False)
    assert not report.violations, report.violations
    assert not report.undecided, report.undecided
    assert "requests without their end" not in report.open, report.open
    assert report.records[topics.EVENTS] > 0


def endings(events: Sequence[tuple[int, AnyEvent]]) -> dict[str, list[AnyEvent]]:
    """The terminal events of each request, repeats left out."""
    found: dict[str, list[AnyEvent]] = defaultdict(list)
    for _, event in events:
        match event:
            case Ended(repeat=False):
                for request in event.requests:
                    found[request].append(event)
            case Withdrawn(repeat=False) | Refused(repeat=False, command="WorkRequest"):
                found[event.request].append(event)
    return found
