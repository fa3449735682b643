"""Which worker session gets new grants: an index of the lane, kept by `Lane.put` alone. No rule is decided here.

Sessions of a pool with the same actions form a group; of each group the session of the highest generation, then the
latest, is current.
"""

from __future__ import annotations

from keylane.router.core.ordered import add, remove
from keylane.router.core.standing import seat
from keylane.schemas.state import WorkerSession

Group = tuple[str, tuple[str, ...]]
"""(pool, actions): worker sessions that stand in for each other."""
Served = tuple[str, str]
"""(pool, action)."""


class Seats:
    """Groups of sessions, and by pool and action the current session of each group that handles it."""

    def __init__(self) -> None:
        self.groups: dict[Group, list[tuple[int, int, str]]] = {}
        self.serving: dict[Served, list[Group]] = {}
        # Made anew when a session comes or goes, since it is asked for at every grant.
        self.current: dict[Served, list[str]] = {}

    def change(self, old: WorkerSession | None, new: WorkerSession | None) -> None:
        """One session's seat is another now: taken, given up or moved."""
        if old is not None:
            group = (old.pool, old.actions)
            remove(self.groups, group, seat(old))
            for action in old.actions if group not in self.groups else ():
                remove(self.serving, (old.pool, action), group)
        if new is not None:
            group = (new.pool, new.actions)
            for action in new.actions if group not in self.groups else ():
                add(self.serving, (new.pool, action), group)
            add(self.groups, group, seat(new))
        for session in (old, new):
            if session is not None:
                for action in session.actions:
                    self._find_current((session.pool, action))

    def _find_current(self, served: Served) -> None:
        self.current.pop(served, None)
        if served in self.serving:
            self.current[served] = [self.groups[group][-1][2] for group in self.serving[served]]

    def current_of(self, session: WorkerSession) -> str | None:
        """The current session of the group that this one is, or was, of."""
        seats = self.groups.get((session.pool, session.actions))
        return None if seats is None else seats[-1][2]
