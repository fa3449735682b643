"""A member that could not be sure of its place let go; then it was heard after all, before anybody had dropped it.

Nobody else had its partitions, and nobody gave them to it again: lanes that nobody owned (simulation, seed 553769).
"""

from keylane.journal.groups import GroupView, Member, Move
from keylane.journal.port import Assignment


def test_who_was_not_dropped_after_all_gets_its_share_again() -> None:
    member = Member(1)
    view = GroupView(generation=2, agreed={1: 2, 2: 2}, partitions=2)
    assert member.next_move(view) == Assignment(2, frozenset({0}))
    unsure = GroupView(generation=2, agreed={2: 2}, partitions=2)
    assert member.next_move(unsure) == Assignment(2, frozenset())
    assert member.next_move(view) == Assignment(2, frozenset({0}))
    assert member.next_move(view) is Move.WAIT
