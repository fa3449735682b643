"""The graph of waits: the pure fold over the records of `waits`, applied in the order of their offsets.

What holds, below the bounds: the graph is a function of the newest record of each key, and of nothing else. Of the
edges that those are (claims aside), taken oldest first, each is in the graph unless it closes a cycle with those
already in it. So compaction changes nothing, nor does it matter when a router began to read, or began anew: whoever
has read up to the same end has the same graph. The graph has no cycle; of each cycle of edges one, at least, is left
out, and told with the cycle. All edges of a cycle that is told lie at or before its position, and none has a newer
record of its key there: whoever folds up to that position finds it.

Hence an edge that was left out comes in when its cycle is gone. If it did not, two routers that had read different
remains of the log could each see the other's edge as the one that closes a cycle, and neither would refuse its own
(docs/decisions/wait-edges.md).

Beyond the bounds nothing is added and nothing refused: a deadlock that is not seen ends when somebody's wait does.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple

from keylane.schemas.codec import Undecodable
from keylane.schemas.waits import LaneLoaded, WaitEdge, WaitRecord, edge_key, lane_key

EDGES_MAX = 50_000
"""Remembered at once, in the graph or left out: some 30 MB. One lane says 10,000 at most (`bounds.wait_links`)."""
EDGES_A_SESSION_MAX = 256
"""As many as a session may have unfinished locks in a lane: one session must not fill the graph."""
LOOKS_MAX = 20_000
"""Edges that may be followed for one record, over all its searches: some milliseconds, while lanes of the process
wait for their turn."""
CYCLE_MAX = 100
"""Sessions in a cycle that is told: its path goes into an event and an artifact, and keys are up to 512 bytes long."""
NO_END = sys.maxsize


class Checked(NamedTuple):
    """What the graph makes of an edge: it is in, or not to be decided on (no cycle), or it closes this cycle."""

    edge: WaitEdge
    position: int
    """The edge's own offset."""
    cycle: tuple[str, ...] = ()
    """Session, resource, session, resource, …: the waiter, what it waits for, who holds that, what that waits for."""


class WaitGraph:
    """Who waits for whom. An edge goes from its waiter to its holder, and is named by its offset."""

    def __init__(self) -> None:
        self.claims: dict[int, int] = {}
        """By partition: the highest claim under which anything was written. What is lower does not count."""
        self.skipped = 0
        """Records that say nothing: unreadable, or under a key that is not theirs."""
        self._edges: dict[int, WaitEdge] = {}  # all that are remembered; offsets rise, so the oldest is first
        self._at: dict[bytes, int] = {}
        self._of_lane: dict[int, dict[bytes, None]] = {}
        self._of_session: dict[str, int] = {}
        self._out: dict[str, list[int]] = {}  # the graph: by waiter, oldest first
        self._aside: list[int] = []  # what is remembered and not in the graph, oldest first
        self._dead: dict[bytes, int] = {}
        self._dead_of: dict[int, dict[bytes, int]] = {}
        self._looks = 0

    def __len__(self) -> int:
        """How many edges are in the graph."""
        return len(self._edges) - len(self._aside)

    def edges(self) -> list[tuple[int, WaitEdge]]:
        """The graph: its edges with their offsets, oldest first."""
        aside = set(self._aside)
        return [(offset, edge) for offset, edge in self._edges.items() if offset not in aside]

    def apply(self, offset: int, key: bytes, record: WaitRecord | Undecodable | None) -> list[Checked]:
        """The next record. Returns what has become of its edge, and of others that come in or have to go for it."""
        self._looks = LOOKS_MAX
        told = self._drop(key)  # whatever it says, it is the newest under its key
        match record:
            case None:
                self._bury(key)
            case LaneLoaded() if key == lane_key(record.partition):
                told += self._claimed(record.partition, record.claim)
            case WaitEdge() if _is_sound(key, record):
                told += self._claimed(record.partition, record.claim)
                if record.claim < self.claims.get(record.partition, 0):
                    self._remember_dead(key, record)
                else:
                    told.append(self._added(offset, key, record))
            case _:
                self.skipped += 1
        return told

    def left_over(self, partition: int, claim: int) -> list[bytes]:
        """Takes the keys under which edges of lower claims still lie: whoever owns the lane is to remove them."""
        found = [key for key, dead in self._dead_of.get(partition, {}).items() if dead < claim]
        for key in found:
            self._bury(key)
        return found

    # -- one record -----------------------------------------------------------------------------------------

    def _claimed(self, partition: int, claim: int) -> list[Checked]:
        """Somebody wrote under this claim: what the lane wrote under a lower one does not count from here on."""
        if claim <= self.claims.get(partition, 0):  # they begin at 1
            return []
        self.claims[partition] = claim
        gone: list[int] = []
        for key in self._of_lane.pop(partition, {}):
            offset = self._at.pop(key)
            edge = self._edges.pop(offset)
            self._remember_dead(key, edge)
            if self._taken_out(offset, edge):
                gone.append(offset)
        return self._let_in(min(gone)) if gone else []

    def _added(self, offset: int, key: bytes, edge: WaitEdge) -> Checked:
        waits = self._of_session.get(edge.waiter, 0)
        if len(self._edges) >= EDGES_MAX or waits >= EDGES_A_SESSION_MAX:
            return Checked(edge, offset)
        self._edges[offset] = edge
        self._at[key] = offset
        self._of_lane.setdefault(edge.partition, {})[key] = None
        self._of_session[edge.waiter] = waits + 1
        self._looks = LOOKS_MAX
        return Checked(edge, offset, self._put(offset))

    def _drop(self, key: bytes) -> list[Checked]:
        """Forget the edge under this key, and let in what was kept out by it."""
        offset = self._at.pop(key, None)
        if offset is None:
            return []
        edge = self._edges.pop(offset)
        keys = self._of_lane[edge.partition]
        del keys[key]
        if not keys:
            del self._of_lane[edge.partition]
        return self._let_in(offset) if self._taken_out(offset, edge) else []

    def _taken_out(self, offset: int, edge: WaitEdge) -> bool:
        """Out of what is derived. Whether it was in the graph."""
        self._of_session[edge.waiter] -= 1
        if not self._of_session[edge.waiter]:
            del self._of_session[edge.waiter]
        if _removed(self._aside, offset):
            return False
        self._unlink(offset, edge)
        return True

    # -- the graph ------------------------------------------------------------------------------------------

    def _put(self, offset: int) -> tuple[str, ...]:
        """Add a remembered edge to the graph, or put it aside: the cycle that it closes with older ones."""
        path = self._path(offset, offset)
        if path == ():
            self._link(offset)
            return ()
        insort(self._aside, offset)
        return () if path is None else self._told((offset, *path))

    def _link(self, offset: int) -> None:
        insort(self._out.setdefault(self._edges[offset].waiter, []), offset)

    def _unlink(self, offset: int, edge: WaitEdge) -> None:
        out = self._out[edge.waiter]
        _removed(out, offset)
        if not out:
            del self._out[edge.waiter]

    def _let_in(self, after: int) -> list[Checked]:
        """An edge at `after` is gone: younger ones that closed a cycle with it come in, as if it had never been."""
        told: list[Checked] = []
        for offset in self._aside[bisect_left(self._aside, after) :]:
            if self._path(offset, offset) != ():
                continue
            younger = self._path(offset, NO_END)
            if younger:  # it closes a cycle with them, of which one has to go for it
                return told + self._redone(offset)
            if younger is not None:
                _removed(self._aside, offset)
                self._link(offset)
                told.append(Checked(self._edges[offset], offset))
        return told

    def _redone(self, since: int) -> list[Checked]:
        """Decide anew on each edge from `since` on, in order."""
        again = [offset for offset in self._edges if offset >= since]
        was_out = set(self._aside[bisect_left(self._aside, since) :])
        del self._aside[bisect_left(self._aside, since) :]
        for offset in again:
            if offset not in was_out:
                self._unlink(offset, self._edges[offset])
        self._looks = LOOKS_MAX
        told: list[Checked] = []
        for offset in again:
            cycle = self._put(offset)
            is_out = bool(self._aside) and self._aside[-1] == offset
            if is_out != (offset in was_out):
                told.append(Checked(self._edges[offset], offset, cycle))
        return told

    def _path(self, offset: int, before: int) -> tuple[int, ...] | None:
        """The shortest way from the edge's holder to its waiter, of edges older than `before`, and of those of one
        length the one whose edges are oldest. (): there is none. None: it was not looked for to the end."""
        edge = self._edges[offset]
        came: dict[str, int] = {}
        reached = [edge.holder]
        for session in reached:
            for each in self._out.get(session, ()):
                if each >= before:
                    break
                if not self._looks:
                    return None
                self._looks -= 1
                holder = self._edges[each].holder
                if holder in came or holder == edge.holder:
                    continue
                came[holder] = each
                if holder == edge.waiter:
                    return self._way(came, edge.holder, holder)
                reached.append(holder)
        return ()

    def _way(self, came: dict[str, int], start: str, end: str) -> tuple[int, ...] | None:
        way: list[int] = []
        while end != start:
            way.append(came[end])
            end = self._edges[came[end]].waiter
        return tuple(reversed(way)) if len(way) < CYCLE_MAX else None

    def _told(self, cycle: Iterable[int]) -> tuple[str, ...]:
        return tuple(name for offset in cycle for name in (self._edges[offset].waiter, self._edges[offset].resource))

    # -- what does not count and still lies in the topic -----------------------------------------------------

    def _remember_dead(self, key: bytes, edge: WaitEdge) -> None:
        if len(self._dead) < EDGES_MAX:
            self._dead[key] = edge.partition
            self._dead_of.setdefault(edge.partition, {})[key] = edge.claim

    def _bury(self, key: bytes) -> None:
        partition = self._dead.pop(key, None)
        if partition is not None:
            del self._dead_of[partition][key]
            if not self._dead_of[partition]:
                del self._dead_of[partition]


def _is_sound(key: bytes, edge: WaitEdge) -> bool:
    """Under its own key; and no session waits for itself, of which no lane says anything."""
    return key == edge_key(edge.partition, edge.claim, edge.request) and edge.waiter != edge.holder


def _removed(offsets: list[int], offset: int) -> bool:
    """Take `offset` out of the sorted list, if it is there."""
    place = bisect_left(offsets, offset)
    if place == len(offsets) or offsets[place] != offset:
        return False
    del offsets[place]
    return True
