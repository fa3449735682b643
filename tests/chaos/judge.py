"""The verdict on a run's whole history, read from the journal anew, with what the sink that checks tokens has taken.

The promises are `keylane.verify`'s. What is added is what this load asks for: that every request ends as asked.
"""

from collections.abc import Iterable, Set

from e2e.history import endings, read_events
from kafka.running import settled

from keylane.journal import Journal, Place, connect
from keylane.journal.kafka import KafkaJournal
from keylane.progress import unseen
from keylane.recording import history_of
from keylane.schemas import topics
from keylane.schemas.events import AnyEvent, Ended, Lost
from keylane.verify import Acknowledged, Effect, Verifier


async def violations(url: str, partitions: int, acknowledged: Set[str], effects: Iterable[Effect]) -> list[str]:
    """What breaks a promise in a history that has come to rest, or could not be decided."""
    journal = await connect(url)
    try:
        if isinstance(journal, KafkaJournal):
            for number in range(partitions):
                await settled(journal, Place(topics.EVENTS, number))
        found = await _promises(journal, partitions, acknowledged, effects)
        return [*found, *_otherwise(await read_events(journal, partitions), acknowledged)]
    finally:
        await journal.close()


async def _promises(journal: Journal, partitions: int, acknowledged: Set[str], effects: Iterable[Effect]) -> list[str]:
    verifier = Verifier()
    async for line in history_of(journal, partitions, unseen):
        verifier.take(line)
    for id in acknowledged:
        verifier.take(Acknowledged(id=id))
    for effect in effects:
        verifier.take(effect)
    # Not `drained`: sessions of workers that were killed at the very end are still open.
    report = verifier.close(drained=False)
    found = [f"promise {each.promise}: {each.message} ({', '.join(each.places)})" for each in report.violations]
    found += [f"promise {promise} is undecided: {why}" for promise, why in report.undecided.items()]
    if left := report.open.get("requests without their end"):
        found.append(f"{left} requests have not ended")
    return found


def _otherwise(events: list[tuple[int, AnyEvent]], acknowledged: Set[str]) -> list[str]:
    """What was acknowledged must have completed. Only forward: a run that lost its holder does not go on once other
    work has completed on its resource, and is superseded then."""
    lost = {event.run for _, event in events if isinstance(event, Lost)}
    ended, found = endings(events), []
    for id in sorted(acknowledged):
        ending = ended[id][0] if id in ended else None
        superseded = isinstance(ending, Ended) and ending.status == "superseded" and ending.run in lost
        if not (superseded or (isinstance(ending, Ended) and ending.status == "completed")):
            found.append(f"{id} ended otherwise than asked: {ending}")
    return found
