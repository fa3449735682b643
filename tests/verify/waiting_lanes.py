"""`waits` as the lanes of a test write it, and what the routers' graph makes of it: shared by all that know of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from keylane.router.core.waiting import WaitGraph
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.state import WaitLink
from keylane.schemas.waits import LaneLoaded, WaitEdge, WaitRecord, edge_key, lane_key
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
        self.graph = WaitGraph()
        self.said: dict[bytes, WaitEdge] = {}
        self.answers: dict[str, Answer] = {}

    def _write(self, key: bytes, record: WaitRecord | None) -> None:
        self.entries.append(Entry(topics.WAITS, 0, self.end, key, None if record is None else encode(record)))
        for each in self.graph.apply(self.end, key, record):
            self.answers[each.edge.request] = Answer(each.edge.holder, each.position, each.cycle)
        self.end += 1

    def load(self, partition: int, claim: int, links: Iterable[WaitLink]) -> None:
        """A lane was loaded: what it said before no longer counts, and it says it again."""
        self._write(lane_key(partition), LaneLoaded(partition=partition, claim=claim))
        for link in links:
            self.say(partition, claim, link.request, link)
        for key in self.graph.left_over(partition, claim):
            self._write(key, None)

    def say(self, partition: int, claim: int, request: str, link: WaitLink | None) -> None:
        """A lane's link is another now; None: it is gone."""
        key = edge_key(partition, claim, request)
        edge = None
        if link is not None:
            edge = WaitEdge(
                request=request, waiter=link.waiter, holder=link.holder, resource=link.resource, partition=partition,
                claim=claim,
            )  # fmt: skip
        if edge == self.said.get(key):
            return
        if edge is None:
            del self.said[key]
        else:
            self.said[key] = edge
        self._write(key, edge)
