"""Agents that hold locks of a running router, by plain records alone: what a program in any language could do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import anyio

from keylane.journal import Journal, Record
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Place
from keylane.schemas import topics
from keylane.schemas.codec import decode_event, encode
from keylane.schemas.events import Ended, Granted, Refused, Renewed
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, Request, SessionEnded

numbers = count()


class Agent:
    """One session. What it does not get is None."""

    def __init__(self, journal: Journal, partitions: int, session: str) -> None:
        self._journal = journal
        self._partitions = partitions
        self.session = session
        self.secret = f"{session}-0123456789-abcdefghijklmnop"

    def _place(self, resource: str) -> Place:
        return Place(topics.EVENTS, partition_of(resource.encode(), self._partitions))

    async def _say(self, record: Request, resource: str) -> None:
        number = self._place(resource).partition
        await self._journal.append([Record(topics.REQUESTS, number, resource.encode(), encode(record))])

    async def _events(self, place: Place, after: int) -> AsyncIterator[Any]:
        reader = await self._journal.reader({place: after})
        try:
            while True:
                for stored in await reader.poll(1_000, 1.0):
                    yield decode_event(stored.value)
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()

    async def acquire(self, resource: str, wait_ms: int = 30_000, **terms: Any) -> tuple[str, int] | None:
        """The run and the token of a lock, claimed where it had to wait; None where it was refused."""
        place, id = self._place(resource), f"{self.session}-{next(numbers)}"
        after = (await self._journal.end_positions([place]))[place]
        about = {"session": self.session, "secret": self.secret, "resource": resource}
        await self._say(LockRequest(id=id, wait_ms=wait_ms, **about, **terms), resource)
        async for event in self._events(place, after):
            match event:
                case Granted(run=run, claim_ms=None) if run == id:
                    return id, event.token
                case Granted(run=run) if run == id:
                    await self.renew(resource, id, event.token)
                case Renewed(run=run) if run == id:
                    return id, event.token
                case Ended(run=run) if run == id:
                    return None
                case Refused(request=request) if request == id:
                    return None
        raise AssertionError("events end never")

    async def renew(self, resource: str, run: str, token: int, blocked: str | None = None) -> None:
        id = f"{self.session}-{next(numbers)}"
        renewal = Renewal(id=id, resource=resource, run=run, token=token, secret=self.secret, blocked=blocked)
        await self._say(renewal, resource)

    async def release(self, resource: str, run: str, token: int) -> None:
        id = f"{self.session}-{next(numbers)}"
        await self._say(Release(id=id, resource=resource, run=run, token=token, secret=self.secret), resource)

    async def cancel(self, resource: str, run: str, secret: str | None) -> None:
        id = f"{self.session}-{next(numbers)}"
        await self._say(Cancellation(id=id, resource=resource, request=run, secret=secret), resource)

    async def end(self) -> None:
        """The session, in every lane."""
        ended = encode(SessionEnded(id=f"{self.session}-{next(numbers)}", session=self.session, secret=self.secret))
        records = [Record(topics.REQUESTS, number, b"k", ended) for number in range(self._partitions)]
        await self._journal.append(records)
