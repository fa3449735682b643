"""The one background reader of a client: follows the lanes where answers are awaited, and deals events out.

Here live reading positions and dispatch. What an event means to the one who waits is `ticket`'s; what is
published is `client`'s.
"""

from __future__ import annotations

import logging
from typing import Any

import anyio

from keylane.journal.errors import PositionLost
from keylane.journal.errors import Unavailable as JournalUnavailable
from keylane.journal.port import Journal, Place, Reader, Stored
from keylane.naming import dead_letter_name, names
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event
from keylane.schemas.events import AnyEvent, Coalesced, DeadLettered, Parked, Queued, SentOn
from keylane.waiting import Watch

log = logging.getLogger(__name__)

POLL_RECORDS = 1000
POLL_TIMEOUT_S = 1.0
IDLE_S = 30.0
"""How long lanes are followed after the last answer. A warm position saves the next request a round trip."""
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
DEAD_LETTERS_KEPT = 256


class Receipts:
    """Deals the events of followed lanes out to watches. `run` is its one task."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._cursors: dict[Place, int] = {}
        self._watches: dict[tuple[int, str], list[Watch[Any]]] = {}
        self._dead_letters: dict[tuple[int, str], DeadLettered] = {}
        self._wanted = anyio.Event()
        self._polling: anyio.CancelScope | None = None
        self.trouble: str | None = None
        """Why events cannot be read at the moment."""
        self.sent_on = False
        """A record that is watched was sent on: it was published to where its resource does not lie any more."""

    async def follow(self, partition: int) -> None:
        """Follow a lane from its end as it is now, unless it is followed already.

        Everything that answers a record published after this returns will be seen. So that the lane is not
        let go in between, the watch is to be registered first.
        """
        place = Place(topics.EVENTS, partition)
        if place in self._cursors:
            return
        ends = await self._journal.end_positions([place])
        if place in self._cursors:
            # Another has begun to follow it meanwhile, from an end noted before this one's publish too. Its poll
            # must not be cut off: what a cut poll may have taken is read again only by a new reader.
            return
        self._cursors[place] = ends[place]
        self._wanted.set()
        if self._polling is not None:
            self._polling.cancel()

    def watch(self, watch: Watch[Any], name: str) -> None:
        """Feed events that name `name` in the machine's lane to `watch`, until it is settled or dropped."""
        if name not in watch.names:
            watch.names.add(name)
            self._watches.setdefault((watch.machine.partition, name), []).append(watch)

    def published(self, watch: Watch[Any], offset: int) -> None:
        """The record that `watch` waits for lies at `offset`: its dead letter, if it becomes one, counts."""
        if watch.machine.settled:
            return  # the answer was faster than the acknowledgement
        name = dead_letter_name(topics.REQUESTS, offset)
        self.watch(watch, name)
        overtaken = self._dead_letters.get((watch.machine.partition, name))
        if overtaken is not None:
            self._feed(watch, overtaken)

    def drop(self, watch: Watch[Any]) -> None:
        """Nobody waits for it any more."""
        for name in watch.names:
            at = (watch.machine.partition, name)
            self._watches[at].remove(watch)
            if not self._watches[at]:
                del self._watches[at]
        watch.names.clear()

    async def run(self) -> None:
        """Read until cancelled. Trouble with the journal is waited out: tickets have their own deadlines."""
        pause_s = RETRY_FIRST_S
        while True:
            await self._wanted.wait()
            try:
                await self._read()
                pause_s = RETRY_FIRST_S
            except PositionLost as error:
                self.fail(f"events were removed before they were read: {error}")
                self._forget()
            except JournalUnavailable as error:
                if self.trouble is None:
                    log.warning("events cannot be read at the moment: %s", error)
                self.trouble = str(error)
                await anyio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)

    def fail(self, reason: str) -> None:
        """Tell everybody who waits that no answer can come."""
        for watch in {id(each): each for found in self._watches.values() for each in found}.values():
            watch.failure = reason
            self.drop(watch)
            watch.wake()

    async def _read(self) -> None:
        """Read the followed lanes until another one is to be followed, or nobody has waited for a while."""
        places = set(self._cursors)
        reader = await self._journal.reader(dict(self._cursors))
        idle_since_s = anyio.current_time()
        try:
            while self._cursors.keys() == places:
                for record in await self._poll(reader):
                    self._dispatch(record)
                if self._watches:
                    idle_since_s = anyio.current_time()
                elif anyio.current_time() - idle_since_s > IDLE_S:
                    self._forget()
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()

    async def _poll(self, reader: Reader) -> list[Stored]:
        """New events; [] when there are none, or `follow` wants another lane. Cursors are as of the return:
        what a cancelled poll may have taken is read again."""
        with anyio.CancelScope() as self._polling:
            records = await reader.poll(POLL_RECORDS, POLL_TIMEOUT_S)
            self._cursors.update(reader.positions())
            self.trouble = None
            return records
        return []

    def _forget(self) -> None:
        """Follow no lane any more."""
        self._cursors.clear()
        self._dead_letters.clear()
        self._wanted = anyio.Event()

    def _dispatch(self, record: Stored) -> None:
        event = decode_event(record.value)
        if isinstance(event, Undecodable):
            # A newer router may say things that this client has no word for.
            log.debug("event %s of lane %s not understood: %s", record.offset, record.partition, event.reason)
            return
        if isinstance(event, DeadLettered):
            self._remember(record.partition, event)
        # Names can grow while they are dealt out, so what is found is copied first; one that goes by several
        # of the names is fed once.
        found = {id(watch): watch for name in names(event) for watch in self._watches.get((record.partition, name), ())}
        for watch in found.values():
            self._feed(watch, event)

    def _feed(self, watch: Watch[Any], event: AnyEvent) -> None:
        watch.machine.feed(event)
        if watch.machine.settled:
            self.drop(watch)
            self.sent_on |= isinstance(event, SentOn)
        elif isinstance(event, Queued | Coalesced | Parked):
            self.watch(watch, event.run)  # from now on its run's events are its own
        watch.wake()

    def _remember(self, partition: int, event: DeadLettered) -> None:
        """A dead letter can be read before its publisher has heard the offset."""
        (name,) = names(event)
        self._dead_letters[partition, name] = event
        if len(self._dead_letters) > DEAD_LETTERS_KEPT:
            del self._dead_letters[next(iter(self._dead_letters))]
