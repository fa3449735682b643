"""Waiting until the locks of a journal stand so: looked at again after each event, since every change is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from keylane import Client, LockInfo, Position
from keylane.schemas.events import AnyEvent

DEADLINE_S = 30
State = tuple[str, str]
"""Actor and state of a lock."""


class Looker:
    """Looks at all locks, as somebody beside those who hold them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: list[AnyEvent] = []
        self._stream = client.events(after=Position())

    async def states(self) -> list[State]:
        return [(each.actor, each.state) for each in await self.client.locks()]

    async def one(self) -> LockInfo:
        (info,) = await self.client.locks()
        return info

    async def until(self, *wanted: State) -> None:
        """Wait until these are all the locks there are, in whatever order."""
        with anyio.fail_after(DEADLINE_S):
            while sorted(await self.states()) != sorted(wanted):
                self.seen.append(await anext(self._stream))

    async def until_seen(self, count: int, wanted: Callable[[AnyEvent], bool]) -> None:
        """Wait until so many events, of all that there ever were, are as is wanted."""
        with anyio.fail_after(DEADLINE_S):
            while sum(map(wanted, self.seen)) < count:
                self.seen.append(await anext(self._stream))

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[Looker]:
    async with Client(url, actor="looker") as client:
        looker = Looker(client)
        try:
            yield looker
        finally:
            await looker.aclose()
