"""A member of a Kafka consumer group, for membership only: who has which partition, and since when surely.

It fetches nothing and commits no offsets. Rebalance callbacks only set fields (exceptions in them are
swallowed by aiokafka, and every other member waits for them).
"""

from __future__ import annotations

import time
from collections.abc import Collection

import anyio

from . import _kafka_vendor as vendor
from ._kafka_access import begin
from ._kafka_connection import Cluster
from .port import Assignment, Place

# A member hears of a rebalance in the answer to its next heartbeat, so this is how long a change takes.
HEARTBEAT_MS = 1_000


class KafkaMember:
    """See the port's `Membership`.

    A member is sure of its partitions until `session_timeout_ms` after it sent the last heartbeat that was
    answered well: only then may the broker give them to another. A process that was stopped and wakes up
    notices by the same rule.
    """

    def __init__(self, consumer: vendor.Consumer, session_timeout_ms: int) -> None:
        self._consumer = consumer
        self._session_s = session_timeout_ms / 1000
        self._given = Assignment(0, frozenset())
        self._told = self._given
        self._sure_s = self._confirmed_s = float("-inf")
        self._news = anyio.Event()
        self.closed = False

    async def start(self, cluster: Cluster, topic: str) -> None:
        with vendor.asking("joining a group"):
            await begin(cluster, self._consumer.start())
        self._watch_heartbeats(vendor.coordinator(self._consumer))
        vendor.subscribe(self._consumer, topic, self._revoked, self._assigned)

    async def changed(self, timeout_s: float) -> Assignment | None:
        deadline_s = time.monotonic() + timeout_s
        while not self.closed:
            with vendor.asking("group membership"):
                vendor.coordinator(self._consumer).check_errors()
            self._news = anyio.Event()
            now_s = time.monotonic()
            current = self._current(now_s)
            if current != self._told:
                self._told = current
                return current
            if now_s >= deadline_s:
                return None
            lapse_s = self._sure_s + self._session_s
            with anyio.move_on_after(min(deadline_s, lapse_s if lapse_s > now_s else deadline_s) - now_s):
                await self._news.wait()
        return None

    def confirmed_since(self, since_s: float) -> bool:
        return not self.closed and self._confirmed_s > since_s

    async def leave(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._news.set()
        await vendor.stop(self._consumer)

    async def close(self) -> None:
        """To a journal that closes, a member is one more thing that it opened."""
        await self.leave()

    def _revoked(self) -> None:
        self._given = Assignment(self._given.generation, frozenset())
        self._news.set()

    def _assigned(self, assigned: Collection[Place]) -> None:
        self._consumer.pause(*assigned)
        generation = vendor.coordinator(self._consumer).generation
        self._given = Assignment(generation, frozenset(place.partition for place in assigned))
        self._sure_s = time.monotonic()
        self._news.set()

    def _current(self, now_s: float) -> Assignment:
        if now_s - self._sure_s < self._session_s:
            return self._given
        return Assignment(self._given.generation, frozenset())

    def _watch_heartbeats(self, coordinator: vendor.Coordinator) -> None:
        """Note when each heartbeat that succeeded was sent; aiokafka keeps that to itself."""
        beat = coordinator._do_heartbeat

        async def watched() -> bool:
            sent_s = time.monotonic()
            succeeded = await beat()
            # aiokafka counts "a rebalance is in progress" as success; it says nothing about who owns what.
            if succeeded and not coordinator._rejoin_needed_fut.done():
                self._sure_s = self._confirmed_s = sent_s
                self._news.set()
            return succeeded

        coordinator._do_heartbeat = watched  # type: ignore[method-assign]
