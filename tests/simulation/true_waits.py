"""Who waits for whom, told again: the links that lanes keep, the fold of `waits`, and cycles that nobody has broken.

What counts in `waits` is told plainly, over the records in their order as they are written: no bounds, no graph that
is kept, no code of the router's. Design section 4, deadlock; promise 10.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulation.findings import Findings
from simulation.true_lock_runs import LockSeen, held
from simulation.true_runs import RulesSeen

from keylane.journal.port import Stored
from keylane.schemas.codec import decode_wait
from keylane.schemas.events import Ended
from keylane.schemas.state import WaitLink
from keylane.schemas.waits import LaneLoaded, WaitEdge

STANDS_US = 1_500_000
"""So long a deadlock may stand where nothing goes wrong, and a link be without its edge."""

Step = tuple[str, str, str]
"""A session, what it waits for, and the session that holds that."""


class TrueWaits:
    """Links by lane and request; edges by the keys under which they were written."""

    def __init__(self, findings: Findings, seen: RulesSeen) -> None:
        self._world = findings.world
        self._broken = findings.broken
        self._seen = seen
        self.links: dict[tuple[int, str], WaitLink] = {}
        self._written: list[Stored] = []
        self._edges: dict[bytes, WaitEdge] = {}
        """That count now."""
        self._said: set[tuple[str, str]] = set()
        """Each request with the holders that an edge of it has named."""
        self._since_us: dict[object, int] = {}

    # -- the fold ---------------------------------------------------------------------------------------------

    def written(self, stored: Stored) -> None:
        """A record of `waits`."""
        self._written.append(stored)
        self._edges = self._folded(stored.offset)
        self._said |= {(edge.request, edge.holder) for edge in self._edges.values()}

    def _folded(self, position: int) -> dict[bytes, WaitEdge]:
        """The edges that count there: the newest record of each key, under the newest claim of its lane."""
        newest: dict[bytes, WaitEdge | None] = {}
        claims: dict[int, int] = {}
        for stored in self._written:
            if stored.offset > position:
                break
            record = None if stored.value is None else decode_wait(stored.value)
            if isinstance(record, WaitEdge | LaneLoaded):
                claims[record.partition] = max(record.claim, claims.get(record.partition, 0))
            if (stored.key or b"").startswith(b"edge/"):
                newest.pop(stored.key or b"", None)  # in the order of what is newest
                newest[stored.key or b""] = record if isinstance(record, WaitEdge) else None
        found = {key: edge for key, edge in newest.items() if edge is not None}
        return {key: edge for key, edge in found.items() if edge.claim == claims[edge.partition]}

    def has_come_back(self, lock: LockSeen) -> bool:
        """Whether its edge to whoever holds the key now has been in `waits`."""
        holder = held(self._seen, lock.owner)
        return isinstance(holder, LockSeen) and (lock.id, holder.terms.session) in self._said

    def is_deadlock(self, event: Ended, lock: LockSeen, partition: int) -> bool:
        """Whether the refusal names a cycle of edges that count at its position, where its own lies (promise 10)."""
        position, path, holder = event.waits_position, event.cycle, held(self._seen, lock.owner)
        if position is None or not isinstance(holder, LockSeen) or len(path) < 4 or len(path) % 2:
            return False
        own = next((decode_wait(each.value) for each in self._written if each.offset == position), None)
        if not isinstance(own, WaitEdge) or (own.request, own.partition) != (lock.id, partition):
            return False
        steps = [(path[at], path[at + 1], path[(at + 2) % len(path)]) for at in range(0, len(path), 2)]
        mine = (lock.terms.session, lock.resource, holder.terms.session)
        if steps[0] != mine or mine not in map(_step, self._folded(position).values()):
            return False
        # It was left out there, or later when another edge was gone: by edges that were in the graph then.
        ends = [each.offset for each in self._written if each.offset >= position]
        return any(_graph(self._folded(end)).issuperset(steps[1:]) for end in ends)

    # -- links ------------------------------------------------------------------------------------------------

    def link(self, partition: int, request: str, link: WaitLink | None) -> None:
        """A lane keeps a link, or forgets it."""
        if link is None:
            self.links.pop((partition, request), None)
        else:
            self.links[partition, request] = link

    def committed(self, partition: int) -> None:
        """A lane's links are those of who waits in it now, and of who was refused a while ago."""
        true = {lock.id: holder for at, lock, holder in self._waiting() if at == partition}
        for (at, request), link in self.links.items():
            if at != partition:
                continue
            holder, lock = true.pop(request, None), self._seen.locks.get((at, request))
            if link.until_ms is not None:
                if lock is not None and (lock.state != "Done" or lock.status != "refused" or lock.terms.wait_ms):
                    self._broken("wrong link", f"{request} counts as refused, and it is {lock.state} {lock.status}")
            elif holder is None:
                self._broken("link left", f"of {request}, which waits for no other session now")
            elif (link.holder, link.waiter) != (holder, lock.terms.session):  # type: ignore[union-attr]
                self._broken("wrong link", f"{request} waits for {holder}, and its link says {link.holder}")
        for request, holder in true.items():
            self._broken("no link", f"of {request}, which waits for {holder}")

    def _waiting(self) -> Iterator[tuple[int, LockSeen, str]]:
        """Explicit locks that wait for one of another session, with that session."""
        for (partition, _), lock in self._seen.open_locks.items():
            if lock.state != "Waiting" or not lock.terms.explicit:
                continue
            holder = held(self._seen, lock.owner)
            if isinstance(holder, LockSeen) and holder.terms.session != lock.terms.session:
                yield partition, lock, holder.terms.session

    # -- what may not last ------------------------------------------------------------------------------------

    def look(self) -> None:
        """Some time after healing: no deadlock stands, and each link has its edge."""
        stands: dict[object, str] = {}
        waits = {lock.id: (lock.terms.session, holder) for _, lock, holder in self._waiting() if lock.terms.wait_ms}
        for session in {waiter for waiter, _ in waits.values()}:
            cycle = _cycle(session, list(waits.values()))
            if cycle:
                stands[cycle] = f"a deadlock of {sorted(cycle)} that nobody was told of"
        for (_, request), link in self.links.items():
            said = (request, link.waiter, link.holder, link.resource)
            edges = self._edges.values()
            if all((edge.request, edge.waiter, edge.holder, edge.resource) != said for edge in edges):
                stands[request, link.holder] = f"{link.waiter} waits for {link.holder} ({request}), and no edge says so"
        now_us = self._world.now_us
        self._since_us = {what: self._since_us.get(what, now_us) for what in stands}
        for what, since_us in list(self._since_us.items()):
            if now_us - since_us > STANDS_US:
                self._broken("deadlock stands" if isinstance(what, frozenset) else "edge missing", stands[what])
                self._since_us[what] = 2**62

    def is_quiet(self) -> bool:
        """Whether nobody waits, as far as `waits` says."""
        return not (self._edges or self.links)


def _step(edge: WaitEdge) -> Step:
    return edge.waiter, edge.resource, edge.holder


def _graph(edges: dict[bytes, WaitEdge]) -> set[Step]:
    """The oldest first, each but where it closes a cycle with those before."""
    found: set[Step] = set()
    for edge in edges.values():
        if edge.waiter not in _reached(edge.holder, [(waiter, holder) for waiter, _, holder in found]):
            found.add(_step(edge))
    return found


def _reached(start: str, pairs: list[tuple[str, str]]) -> set[str]:
    """Where the pairs lead from there."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        at = ahead.pop()
        following = {to for of, to in pairs if of == at} - found
        found |= following
        ahead += sorted(following)
    return found


def _cycle(session: str, waits: list[tuple[str, str]]) -> frozenset[str]:
    """The sessions from which `session` is reached, and which it reaches: none where it waits in no cycle."""
    forth = _reached(session, waits)
    return frozenset(forth & _reached(session, [(to, of) for of, to in waits])) if session in forth else frozenset()
