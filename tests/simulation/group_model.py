"""The groups' coordinator, and a member of a group as its process sees it.

Both journals' groups are eager (`journal/groups.py`, which is the real thing here): who is silent for too long is
dropped, and a process that was stopped notices by its own clock that it can no longer be sure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from simulation.process import SECOND_US, Process
from simulation.tasks import Event, current_time, move_on_after, sleep
from simulation.world import World

from keylane.journal.errors import Unavailable
from keylane.journal.groups import GroupView, Member, Move
from keylane.journal.port import Assignment

SESSION_S = 4.0
SESSION_US = int(SESSION_S * SECOND_US)
HEARTBEAT_S = 1.0
REBALANCE_POLL_S = 0.2

Ask = Callable[[Process, Callable[[], Any]], Awaitable[Any]]


class Coordinator:
    """Who is in a group, when each was heard of last, and which generation each has agreed to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last_number = 0
        self.generation = 0
        self.agreed: dict[int, int] = {}
        self._heard_us: dict[int, int] = {}

    def join(self) -> int:
        self._last_number += 1
        number = self._last_number
        self._begin_generation()
        self.agreed[number] = self.generation
        self.hear(number)
        return number

    def hear(self, number: int) -> tuple[int, dict[int, int]]:
        """A heartbeat; how the group stands."""
        if number in self.agreed:
            if number not in self._heard_us:
                self._world.after(SESSION_US, self._lapse, number)
            self._heard_us[number] = self._world.now_us
        return self.generation, dict(self.agreed)

    def agree(self, number: int, generation: int) -> tuple[int, dict[int, int]]:
        if number in self.agreed and generation == self.generation:
            self.agreed[number] = generation
        return self.hear(number)

    def drop(self, number: int) -> None:
        if self.agreed.pop(number, None) is not None:
            del self._heard_us[number]
            self._begin_generation()

    def _begin_generation(self) -> None:
        self.generation += 1
        self._world.after(SESSION_US, self._drop_slow, self.generation)

    def _lapse(self, number: int) -> None:
        if number in self._heard_us:
            left_us = self._heard_us[number] + SESSION_US - self._world.now_us
            if left_us > 0:
                self._world.after(left_us, self._lapse, number)
            else:
                self.drop(number)

    def _drop_slow(self, generation: int) -> None:
        if generation == self.generation:
            for number in [number for number, agreed in self.agreed.items() if agreed < generation]:
                self.drop(number)


def _age(seen: tuple[int, dict[int, int]]) -> tuple[int, int]:
    """Orders what was seen of a group: who joins or goes begins a generation, and within one members only agree."""
    generation, agreed = seen
    return generation, sum(agreed.values())


class ModelMembership:
    """See `port.Membership`."""

    def __init__(self, ask: Ask, group: Coordinator, process: Process, partitions: int) -> None:
        self._ask = ask
        self._group = group
        self._process = process
        self._partitions = partitions
        self._member = Member(0)
        self._seen: tuple[int, dict[int, int]] = (0, {})
        self._sure_s = self._confirmed_s = float("-inf")
        self._news = Event()
        self._left = False
        self.on_assigned: Callable[[], None] = lambda: None

    async def enter(self) -> None:
        """Join. Raises `Unavailable`."""
        await self._join()
        self._process.spawn(self._beat)

    async def _join(self) -> None:
        self._member = Member(await self._ask(self._process, self._group.join))
        await self._look(lambda: self._group.hear(self._member.number))

    async def _agree(self, number: int, generation: int) -> None:
        await self._look(lambda: self._group.agree(number, generation))

    async def _look(self, asks: Callable[[], tuple[int, dict[int, int]]]) -> None:
        sent_s = current_time()
        seen = await self._ask(self._process, asks)
        if _age(seen) < _age(self._seen):
            return  # overtaken by a later answer, be that to an earlier question: real members see no group go back
        if self._member.number in seen[1]:
            self._sure_s = max(self._sure_s, sent_s)
            if min(seen[1].values()) == seen[0]:
                self._confirmed_s = max(self._confirmed_s, sent_s)
        self._seen = seen
        self._news.set()

    async def _beat(self) -> None:
        while not self._left:
            agreed = self._seen[1].values()
            is_settled = bool(agreed) and min(agreed) == self._seen[0]
            await sleep(HEARTBEAT_S if is_settled else REBALANCE_POLL_S)
            try:
                await self._look(lambda: self._group.hear(self._member.number))
            except Unavailable:
                self._news.set()

    def _view(self) -> GroupView:
        generation, agreed = self._seen
        if current_time() - self._sure_s >= SESSION_S:
            agreed = {number: at for number, at in agreed.items() if number != self._member.number}
        return GroupView(generation, agreed, self._partitions)

    async def changed(self, timeout_s: float) -> Assignment | None:
        deadline_s = current_time() + timeout_s
        while not self._left:
            move = self._member.next_move(self._view())
            if isinstance(move, Assignment):
                self.on_assigned()
                return move
            if move is Move.JOIN:
                await self._join()
            elif move is Move.AGREE:
                await self._agree(self._member.number, self._seen[0])
            else:
                left_s = deadline_s - current_time()
                if left_s <= 0:
                    return None
                self._news = Event()
                with move_on_after(min(left_s, SESSION_S)):
                    await self._news.wait()
        raise Unavailable("this member has left its group")

    def confirmed_since(self, since_s: float) -> bool:
        return not self._left and self._confirmed_s > since_s

    async def leave(self) -> None:
        self._left = True
        self._news.set()
        await self._ask(self._process, lambda: self._group.drop(self._member.number))
