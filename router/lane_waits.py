"""What one life of a lane says on `waits`, and what it hears from there. No I/O: `turn` writes, `waits_task` reads.

What is said follows from the lane's `WaitLink`s, and only after the commit that has them. The first commit of a life
is the first that has its claim number, and no other life can have the same one after it: so nothing is said under a
claim before that. Then it says that it was loaded, with all its links anew; and so it does after trouble with `waits`,
which is no trouble of the lane: what waits for an answer is answered without one after a second.
"""

from __future__ import annotations

from keylane.journal.port import Record
from keylane.router.core.lane import Lane
from keylane.router.core.records import WaitChecked
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.state import WaitLink
from keylane.schemas.waits import LaneLoaded, WaitEdge, edge_key, lane_key

ANSWER_MS = 2_000
"""For so long an answer is looked out for. Whoever waits for one has been told by then that there is none."""
AGAIN_MS = 5_000
"""After trouble nothing is said for so long: each attempt may hold up a turn."""
LINK = b"link/"


class LaneWaits:
    """Of the lane `partition` under `claim`. A lane without links that has said so pays a look at two dicts a turn."""

    def __init__(self, partition: int, claim: int) -> None:
        self.partition = partition
        self.claim = claim
        self.is_loaded = False
        """It has said that it was loaded, what it said under lower claims does not count any more, and nothing of what
        it said since is open."""
        self._again_ms = 0
        self._said: dict[str, WaitEdge] = {}
        self._saying: dict[str, WaitEdge | None] = {}
        self._awaited: dict[str, str] = {}  # by request: the holder that its newest edge names
        self._said_ms = 0
        self._answers: dict[str, WaitChecked] = {}

    # -- the turn's side ------------------------------------------------------------------------------------

    def is_urgent(self, lane: Lane) -> bool:
        """Whether what a commit would let it say should not wait until the lane commits for other reasons."""
        if not self.is_loaded:
            return bool(lane.links) and not self._again_ms
        return bool(lane.links or self._said) and any(key.startswith(LINK) for key in lane.changed)

    def news(self, lane: Lane, now_ms: int) -> list[Record]:
        """What is to be said now that the changes of this turn are committed. Then comes `said`, or `failed`."""
        self._saying = {}
        if not self.is_loaded:
            if now_ms < self._again_ms:
                return []
            self._saying = dict.fromkeys(self._said.keys() - lane.links.keys())
            self._saying |= {request: self._edge(link) for request, link in lane.links.items()}
            loaded = LaneLoaded(partition=self.partition, claim=self.claim)
            first = Record(topics.WAITS, 0, lane_key(self.partition), encode(loaded))
            return [first, *(self._record(request, edge) for request, edge in self._saying.items())]
        if not lane.links and not self._said:
            return []
        for key in lane.changed:
            if key.startswith(LINK):
                request = key[len(LINK) :].decode()
                link = lane.links.get(request)
                edge = None if link is None else self._edge(link)
                if edge != self._said.get(request):
                    self._saying[request] = edge
        return [self._record(request, edge) for request, edge in self._saying.items()]

    def failed(self, now_ms: int) -> None:
        """They may have been written or not: all is to be said anew, a while later."""
        self.is_loaded = False
        self._again_ms = now_ms + AGAIN_MS
        self._said |= {request: edge for request, edge in self._saying.items() if edge is not None}

    def said(self, now_ms: int) -> None:
        """All the news were written."""
        self.is_loaded = True
        self._again_ms = 0
        for request, edge in self._saying.items():
            if edge is None:
                self._said.pop(request, None)
                self._awaited.pop(request, None)
            else:
                self._said[request] = edge
                self._awaited[request] = edge.holder
                self._said_ms = now_ms

    def is_waiting(self, now_ms: int) -> bool:
        """Whether an answer may come at any moment, or is there."""
        return bool(self._answers) or (bool(self._awaited) and now_ms - self._said_ms < ANSWER_MS)

    def answers(self, most: int) -> list[WaitChecked]:
        """Takes what has been heard of its edges, oldest first."""
        if not self._answers:
            return []
        found = list(self._answers.values())[:most]
        for checked in found:
            del self._answers[checked.request]
            if self._awaited.get(checked.request) == checked.holder:
                del self._awaited[checked.request]
        return found

    def _record(self, request: str, edge: WaitEdge | None) -> Record:
        return Record(
            topics.WAITS, 0, edge_key(self.partition, self.claim, request), None if edge is None else encode(edge)
        )

    def _edge(self, link: WaitLink) -> WaitEdge:
        return WaitEdge(
            request=link.request,
            waiter=link.waiter,
            holder=link.holder,
            resource=link.resource,
            partition=self.partition,
            claim=self.claim,
        )

    # -- the reader's side ----------------------------------------------------------------------------------

    def heard(self, checked: WaitChecked) -> None:
        """What the graph makes of an edge of this lane; the newest counts."""
        self._answers.pop(checked.request, None)
        self._answers[checked.request] = checked
