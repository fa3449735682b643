"""The graph of waits as a test tells it: every edge of every lane in one order, and cycles found by looking everywhere.

It writes what a router would write to `waits`, and says of each edge where it lies and what cycle it closes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.state import WaitLink
from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key, lane_key
from keylane.verify import Entry


class Answer(NamedTuple):
    """What a lane hears of its own edge."""

    holder: str
    position: int
    cycle: tuple[str, ...]


class Waiting:
    """`waits`, and the graph that follows from it."""

    def __init__(self, entries: list[Entry] | None = None) -> None:
        self.entries = [] if entries is None else entries
        self.end = 0
        self.edges: dict[str, WaitEdge] = {}
        self.answers: dict[str, Answer] = {}

    def _write(self, key: bytes, value: bytes | None) -> int:
        self.entries.append(Entry(topics.WAITS, 0, self.end, key, value))
        self.end += 1
        return self.end - 1

    def load(self, partition: int, claim: int, links: Iterable[WaitLink]) -> None:
        """A lane was loaded: what it said before no longer counts, and it says it again."""
        self._write(lane_key(partition), encode(LaneLoaded(partition=partition, claim=claim)))
        self.edges = {id: edge for id, edge in self.edges.items() if edge.partition != partition or edge.claim >= claim}
        for link in links:
            self.say(partition, claim, link.request, link)

    def say(self, partition: int, claim: int, request: str, link: WaitLink | None) -> None:
        """A lane's link is another now; None: it is gone."""
        key = edge_key(partition, claim, request)
        old = self.edges.get(request)
        if link is None:
            self._write(key, None)
            if old is not None and (old.partition, old.claim) == (partition, claim):
                del self.edges[request]
            return
        if old is not None and (old.holder, old.claim) == (link.holder, claim):
            return
        edge = WaitEdge(
            request=request, waiter=link.waiter, holder=link.holder, resource=link.resource, partition=partition,
            claim=claim,
        )  # fmt: skip
        position = self._write(key, encode(edge))
        self.edges.pop(request, None)
        path = self._path(edge.holder, edge.waiter, ())
        if path is None:
            self.edges[request] = edge
        cycle = () if path is None else (edge.waiter, edge.resource, *path)
        self.answers[request] = Answer(edge.holder, position, cycle)

    def _path(self, session: str, to: str, seen: tuple[str, ...]) -> tuple[str, ...] | None:
        """From a session to another: what it waits for, who holds that, and so on."""
        for edge in sorted(self.edges.values(), key=lambda each: each.request):
            if edge.waiter != session or session in seen:
                continue
            if edge.holder == to:
                return (session, edge.resource)
            rest = self._path(edge.holder, to, (*seen, session))
            if rest is not None:
                return (session, edge.resource, *rest)
        return None
