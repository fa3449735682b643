"""What the recorded events of a run say about the promises (design section 7), read without the router's code."""

from collections import defaultdict
from collections.abc import Sequence

from keylane.journal import Journal, Place, Stored
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event
from keylane.schemas.events import (
    AnyEvent,
    AttemptFailed,
    Coalesced,
    Ended,
    Granted,
    Lost,
    Queued,
    Refused,
    Withdrawn,
)


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


def assert_promises(events: Sequence[tuple[int, AnyEvent]]) -> None:
    """Promises 1 to 4, over a history that has come to rest."""
    assert_gapless(events)
    assert_one_live_grant(events)
    assert_one_ending_each(events)
    assert_requesters_share_outcomes(events)


def assert_gapless(events: Sequence[tuple[int, AnyEvent]]) -> None:
    """Each partition's sequence numbers count from 1 without a gap or a repetition: nothing was written twice."""
    last: dict[int, int] = defaultdict(int)
    for partition, event in events:
        assert event.seq == last[partition] + 1, f"partition {partition}: {event.seq} after {last[partition]}"
        last[partition] = event.seq


def assert_one_live_grant(events: Sequence[tuple[int, AnyEvent]]) -> None:
    """At every position an owning key has at most one live grant, and its tokens rise."""
    live: dict[str, Granted] = {}
    owner_of: dict[str, str] = {}
    highest: dict[str, int] = defaultdict(int)
    for _, event in events:
        match event:
            case Granted():
                assert event.owner not in live, f"{event} while {live[event.owner]}"
                assert event.token > highest[event.owner], f"{event} after {highest[event.owner]}"
                live[event.owner] = event
                owner_of[event.run] = event.owner
                highest[event.owner] = event.token
            case AttemptFailed() | Lost():
                # An Ended that follows a final loss finds nothing live any more.
                assert live.pop(owner_of[event.run]).token == event.token
            case Ended(repeat=False, coalesced=False) if event.run in owner_of:
                holding = live.get(event.owner)
                if holding is not None and holding.run == event.run:
                    assert holding.token == event.token
                    del live[event.owner]
    assert not live, f"still held: {live}"


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


def assert_one_ending_each(events: Sequence[tuple[int, AnyEvent]]) -> None:
    """Each accepted request has exactly one terminal event."""
    ended = endings(events)
    accepted = {event.request for _, event in events if isinstance(event, Queued | Coalesced)}
    wrong = {request: ended.get(request, []) for request in accepted if len(ended.get(request, [])) != 1}
    assert not wrong, wrong
    assert all(len(each) == 1 for each in ended.values())


def assert_requesters_share_outcomes(events: Sequence[tuple[int, AnyEvent]]) -> None:
    """Who was merged into a run gets that run's outcome, or left by its own cancellation or deadline."""
    ended = endings(events)
    for _, event in events:
        if isinstance(event, Coalesced) and not event.repeat:
            ending = ended[event.request][0]
            assert isinstance(ending, Ended | Withdrawn)
            assert ending.run == event.run
