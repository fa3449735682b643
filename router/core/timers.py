"""Ordered deadlines by key. Holds times, never rules, and knows no records."""

from __future__ import annotations

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
        """The key whose deadline is the earliest. There must be one."""
        assert self.next_ms() is not None
        return self._heap[0][1]

    def __len__(self) -> int:
        return len(self.due_ms)
