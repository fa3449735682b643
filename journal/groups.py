"""The agreement by which the members of a group share partitions, for adapters without a group coordinator.

Rebalances are eager, as with aiokafka: a change of membership starts a new generation, every member lets go
and agrees to it, and only when all have agreed does each learn its share. So no partition is in two hands
while members keep to the port, and a member that does not is dropped when its session lapses.
Sans-I/O: the store of a group and the waiting are the adapter's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from .port import Assignment

NOTHING: frozenset[int] = frozenset()


class GroupView(NamedTuple):
    """A group as its store has it now. `agreed` gives the generation that each member has agreed to."""

    generation: int
    agreed: Mapping[int, int]
    partitions: int


class Move(Enum):
    """What a member must do before there is anything to tell."""

    JOIN = "join"
    AGREE = "agree"
    WAIT = "wait"


class Member:
    """One membership's own part of the agreement: what its owner was told last."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._held = NOTHING
        self._settled_generation = 0

    def next_move(self, view: GroupView) -> Move | Assignment:
        """What to do now: a move, or the assignment to hand out.

        A member that holds partitions is told to let go before it agrees or joins anew; that it asks again
        is its word that it has let go (`Membership.changed`).
        """
        dropped = self.number not in view.agreed
        behind = dropped or view.agreed[self.number] < view.generation
        if behind and self._held:
            self._held = NOTHING
            # It may turn out that it was not dropped: then its share of that generation is still its own.
            self._settled_generation = 0
            return Assignment(view.generation, NOTHING)
        if dropped:
            return Move.JOIN
        if behind:
            return Move.AGREE
        if self._settled_generation == view.generation or min(view.agreed.values()) < view.generation:
            return Move.WAIT
        self._settled_generation = view.generation
        self._held = range_share(self.number, sorted(view.agreed), view.partitions)
        return Assignment(view.generation, self._held)


def range_share(member: int, members: list[int], partitions: int) -> frozenset[int]:
    """The range of partitions that falls to `member` of the sorted `members`, as Kafka's range assignor."""
    share, extra = divmod(partitions, len(members))
    at = members.index(member)
    first = at * share + min(at, extra)
    return frozenset(range(first, first + share + (at < extra)))
