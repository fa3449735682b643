"""What is decided, as it happens: events and the lanes' own records, followed from the journal's start.

For the faults, which have to know whether they have bitten. The verdict is not made of this but of the whole history,
read anew at the end (`judge.py`).
"""

from collections.abc import Callable

import anyio

from keylane.journal import Journal, Place, Stored, Unavailable
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event, decode_state
from keylane.schemas.events import AttemptFailed, Ended, Fenced, Granted, Lost, Queued, WorkerOpened
from keylane.schemas.state import LANE_KEY, LaneRecord

POLL_RECORDS = 5_000


class History:
    """What was seen so far. `until` waits for more."""

    def __init__(self, partitions: int) -> None:
        self.claims = dict.fromkeys(range(partitions), 0)
        self.queued: dict[str, int] = {}
        """How often each request was accepted, repeats left out."""
        self.live: dict[str, Granted] = {}
        """The live grant of each run."""
        self.lost_by: dict[str, int] = {}
        """Leases that each worker has lost."""
        self.fenced_by: dict[str, int] = {}
        """Reports that each worker sent too late."""
        self.ended: set[str] = set()
        self.events = 0
        self._workers: dict[str, str] = {}
        self._changed = anyio.Event()

    async def follow(self, journal: Journal) -> None:
        """Until cancelled; a journal that is away for a while is asked again."""
        positions: dict[Place, int | None] = {
            Place(topic, number): None for topic in (topics.EVENTS, topics.STATE) for number in self.claims
        }
        while True:
            try:
                reader = await journal.reader(positions)
                try:
                    while True:
                        for stored in await reader.poll(POLL_RECORDS, 1.0):
                            self._see(stored)
                        positions = dict(reader.positions())
                        self._changed.set()
                        self._changed = anyio.Event()
                finally:
                    with anyio.CancelScope(shield=True):
                        await reader.close()
            except Unavailable:
                await anyio.sleep(0.1)

    async def until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came to be so in time."""
        with anyio.move_on_after(timeout_s):
            while not is_so():
                await self._changed.wait()
        return is_so()

    def held_by(self, worker: str) -> list[Granted]:
        """What a worker holds, as far as is known."""
        return [granted for granted in self.live.values() if granted.holder == worker]

    def _see(self, stored: Stored) -> None:
        if stored.topic == topics.STATE:
            if stored.key == LANE_KEY and isinstance(record := decode_state(stored.value), LaneRecord):
                self.claims[stored.partition] = record.claim
            return
        event = decode_event(stored.value)
        assert not isinstance(event, Undecodable), event
        self.events += 1
        match event:
            case Queued(repeat=False):
                self.queued[event.request] = self.queued.get(event.request, 0) + 1
            case WorkerOpened():
                self._workers[event.session] = event.name
            case Granted():
                self.live[event.run] = event
            case Lost():
                self.lost_by[event.holder] = self.lost_by.get(event.holder, 0) + 1
                self.live.pop(event.run, None)
            case AttemptFailed():
                self.live.pop(event.run, None)
            case Fenced():
                name = self._workers.get(event.session, event.session)
                self.fenced_by[name] = self.fenced_by.get(name, 0) + 1
            case Ended(repeat=False):
                self.live.pop(event.run, None)
                self.ended.update(event.requests)
