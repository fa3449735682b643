"""Ordered times: deadlines by key or as records say them, and since when things wait. No rules, and no records."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

STALE_ENTRIES_MIN = 1_024


class Timers:
    """At most one deadline a key. Equal deadlines come in key order, so that two lanes fire alike."""

    def __init__(self) -> None:
        self.due_ms: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []

    def set(self, key: bytes, due_ms: int | None) -> None:
        """Replace the key's deadline; None removes it."""
        if self.due_ms.get(key) == due_ms:
            return
        if due_ms is None:
            del self.due_ms[key]
            return
        self.due_ms[key] = due_ms
        heappush(self._heap, (due_ms, key))
        # Replaced entries stay in the heap until they surface. A 300 s lease that ends after 10 ms would leave
        # its entry for 300 s, so the heap is built anew when most of it is stale.
        if len(self._heap) > 2 * len(self.due_ms) + STALE_ENTRIES_MIN:
            self._heap = [(due, key) for key, due in self.due_ms.items()]
            heapify(self._heap)

    def next_ms(self) -> int | None:
        """The earliest deadline."""
        while self._heap:
            due_ms, key = self._heap[0]
            if self.due_ms.get(key) == due_ms:
                return due_ms
            heappop(self._heap)
        return None

    def first(self) -> bytes:
        """The key whose deadline is the earliest. Asked after `next_ms`, which has found that there is one."""
        return self._heap[0][1]

    def __len__(self) -> int:
        return len(self.due_ms)


class Reminders:
    """Deadlines that records have in themselves: each is asked for its own, and no second one is kept of it.

    For what is only remembered, of which there are a hundred times as many as of what is live: with `Timers` that was a
    sixth of a lane's memory. Equal deadlines come in order of ids.
    """

    def __init__(self, prefix: bytes, due_ms: Callable[[str], int | None]) -> None:
        self._prefix = prefix
        self.due_ms = due_ms
        """By id: when it is due; None: it is not to be reminded of."""
        self._count = 0
        self._heap: list[tuple[int, str]] = []

    def move(self, id: str, old_ms: int | None, new_ms: int | None) -> None:
        """The record under the id says `new_ms` from now on, and said `old_ms`; None: nothing."""
        if old_ms == new_ms:
            return
        self._count += (new_ms is not None) - (old_ms is not None)
        if new_ms is None:
            return
        heappush(self._heap, (new_ms, id))
        if len(self._heap) > 2 * self._count + STALE_ENTRIES_MIN:
            self._heap = [entry for entry in set(self._heap) if self.due_ms(entry[1]) == entry[0]]
            heapify(self._heap)

    def next_ms(self) -> int | None:
        """The earliest deadline."""
        while self._heap:
            due_ms, id = self._heap[0]
            if self.due_ms(id) == due_ms:
                return due_ms
            heappop(self._heap)
        return None

    def first(self) -> bytes:
        """The state key of the record whose deadline is the earliest. Asked after `next_ms`, which has found one."""
        return self._prefix + self._heap[0][1].encode()

    def __len__(self) -> int:
        return self._count


class Waits:
    """How many wait, and since when the first of them does. Who still waits is asked, not kept a second time."""

    def __init__(self, is_waiting: Callable[[str], bool]) -> None:
        self._is_waiting = is_waiting
        self._count = 0
        self._heap: list[tuple[int, str]] = []

    def enter(self, since_ms: int, id: str) -> None:
        """One more waits. Once it has left it may enter again."""
        self._count += 1
        heappush(self._heap, (since_ms, id))
        if len(self._heap) > 2 * self._count + STALE_ENTRIES_MIN:
            self._heap = [entry for entry in set(self._heap) if self._is_waiting(entry[1])]
            heapify(self._heap)

    def leave(self) -> None:
        """One of those that entered waits no longer."""
        self._count -= 1

    def first_ms(self) -> int | None:
        """Since when whoever waits longest does."""
        while self._heap and not self._is_waiting(self._heap[0][1]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return self._count
