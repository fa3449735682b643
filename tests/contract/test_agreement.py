"""What the adapters without a broker share, without any of them: the agreement of groups, the split of a poll."""

from hypothesis import given
from hypothesis import strategies as st

from keylane.journal import Assignment
from keylane.journal.groups import GroupView, Member, Move
from keylane.journal.memory import MemoryGroup
from keylane.journal.rules import poll_limit

PARTITIONS = 5


class Crowd:
    """Members of one group, each with what its owner was told last."""

    def __init__(self) -> None:
        self.group = MemoryGroup()
        self.members: list[Member] = []
        self.told: list[Assignment] = []

    def join(self) -> None:
        self.members.append(Member(self.group.join()))
        self.told.append(Assignment(0, frozenset()))

    def ask(self, index: int) -> bool:
        """One member's owner asks what changed; whether anything came of it."""
        move = self.members[index].next_move(GroupView(self.group.generation, dict(self.group.agreed), PARTITIONS))
        if isinstance(move, Assignment):
            self.told[index] = move
        elif move is Move.JOIN:
            self.members[index] = Member(self.group.join())
        elif move is Move.AGREE:
            self.group.agreed[self.members[index].number] = self.group.generation
        return move is not Move.WAIT

    def holdings(self) -> list[frozenset[int]]:
        """What the members hold that their group has not given up."""
        return [
            told.partitions
            for member, told in zip(self.members, self.told, strict=True)
            if member.number in self.group.agreed
        ]


steps = st.lists(st.tuples(st.sampled_from(["join", "lapse", "ask", "ask", "ask"]), st.integers(0, 5)))


@given(steps)
def test_no_order_of_events_puts_a_partition_in_two_hands_and_in_the_end_all_are_owned(
    steps: list[tuple[str, int]],
) -> None:
    crowd = Crowd()
    crowd.join()
    for step, number in steps:
        index = number % len(crowd.members)
        if step == "join" and len(crowd.members) < 6:
            crowd.join()
        elif step == "lapse":
            crowd.group.drop(crowd.members[index].number)
        else:
            before = crowd.told[index]
            crowd.ask(index)
            assert crowd.told[index].generation >= before.generation
        held = crowd.holdings()
        assert sum(map(len, held)) == len(frozenset().union(*held))
    while any([crowd.ask(index) for index in range(len(crowd.members))]):
        pass
    held = crowd.holdings()
    assert sorted(partition for some in held for partition in some) == list(range(PARTITIONS))
    assert max(map(len, held)) - min(map(len, held)) <= 1


@given(st.integers(1, 1000), st.lists(st.integers(0, 2000), min_size=1, max_size=4))
def test_a_poll_is_bounded_and_leaves_something_for_every_input(limit: int, waiting: list[int]) -> None:
    found: list[int] = []
    for count in waiting:
        found.append(min(count, poll_limit(limit, found, len(waiting))))
    assert sum(found) <= max(limit, len(waiting))
    assert all(got > 0 for got, count in zip(found, waiting, strict=True) if count)
    if sum(waiting[1:]) == 0:
        assert found[0] >= min(waiting[0], limit - len(waiting) * max(1, limit // 8))
