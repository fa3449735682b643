"""What lanes put on record, read as anybody can read it: the topics `events` and `conflicts`, from now on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus

from keylane.journal import Journal, Place
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_conflict, decode_event
from keylane.schemas.conflicts import ConflictArtifact, ConflictRecord
from keylane.schemas.event_parts import Event
from keylane.schemas.events import AnyEvent, WorkerClosed, WorkerOpened

T = TypeVar("T")
E = TypeVar("E", bound=Event)

WITHIN_S = 30.0


class Record:
    """Everything since `follow` began, in order within a lane, with its partition."""

    def __init__(self) -> None:
        self.events: list[tuple[int, AnyEvent]] = []
        self.conflicts: list[tuple[int, ConflictRecord]] = []
        self.sessions: dict[str, tuple[int, str, str]] = {}
        """The live worker sessions: their partition, the worker's name, its pool."""
        self._grown = anyio.Event()

    async def follow(self, journal: Journal, partitions: int, *, task_status: TaskStatus[None]) -> None:
        places = [Place(topic, number) for topic in (topics.EVENTS, topics.CONFLICTS) for number in range(partitions)]
        reader = await journal.reader(await journal.end_positions(places))
        task_status.started()
        try:
            while True:
                for stored in await reader.poll(500, 0.5):
                    if stored.topic == topics.CONFLICTS:
                        conflict = decode_conflict(stored.value)
                        assert not isinstance(conflict, Undecodable), conflict
                        self.conflicts.append((stored.partition, conflict))
                    else:
                        event = decode_event(stored.value)
                        assert not isinstance(event, Undecodable), event
                        self._take(stored.partition, event)
                self._grown.set()
                self._grown = anyio.Event()
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()

    def _take(self, partition: int, event: AnyEvent) -> None:
        self.events.append((partition, event))
        if isinstance(event, WorkerOpened):
            self.sessions[event.session] = (partition, event.name, event.pool)
        elif isinstance(event, WorkerClosed):
            self.sessions.pop(event.session, None)

    def all(self, resource: str) -> list[AnyEvent]:
        return [event for _, event in self.events if getattr(event, "resource", None) == resource]

    def of(self, kind: type[E], resource: str) -> list[E]:
        return [event for event in self.all(resource) if isinstance(event, kind)]

    def artifacts(self, resource: str) -> list[ConflictArtifact]:
        return [each for _, each in self.conflicts if isinstance(each, ConflictArtifact) and each.resource == resource]

    async def until(self, what: str, found: Callable[[], T | None]) -> T:
        """What `found` finds, as soon as it does."""
        with anyio.move_on_after(WITHIN_S):
            while (thing := found()) is None:
                await self._grown.wait()
            return thing
        raise AssertionError(f"not on record within {WITHIN_S:.0f} s: {what}")

    async def nth(self, kind: type[E], resource: str, n: int = 1) -> E:
        """The `n`-th event of that kind on the resource, from 1."""

        def found() -> E | None:
            seen = self.of(kind, resource)
            return seen[n - 1] if len(seen) >= n else None

        return await self.until(f"{kind.__name__} {n} on {resource}", found)

    async def artifact(self, resource: str, kind: str, n: int = 1) -> ConflictArtifact:
        """The `n`-th artifact of that kind on the resource, from 1."""

        def found() -> ConflictArtifact | None:
            seen = [each for each in self.artifacts(resource) if each.kind == kind]
            return seen[n - 1] if len(seen) >= n else None

        return await self.until(f"artifact {kind} {n} on {resource}", found)
