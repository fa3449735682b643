"""How a process reaches the journal: requests take time, and on the way they or their answers may be lost or late.

Only the way lives here; what a request does is the characters'. Chance comes from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from msgspec import Struct
from simulation.log_model import Partition
from simulation.process import SECOND_US, Process, current, park
from simulation.tasks import ask, sleep_us
from simulation.world import World

from keylane.journal.errors import JournalError, Unavailable

T = TypeVar("T")
Answered = Callable[[Any, BaseException | None], None]

ANSWER_US = SECOND_US
"""After this long without an answer a process gives a request up. A way takes less."""
LATE_US = 4 * SECOND_US
"""How much later a late request arrives at most."""


class Net(Struct, frozen=True):
    """Chances of faults, each of a request, and how long ways take."""

    lost: float = 0.0
    """The request does not arrive."""
    unanswered: float = 0.0
    """It arrives; the answer does not."""
    late: float = 0.0
    """It arrives after its sender has given it up."""
    torn: float = 0.0
    """Kafka: of a transaction's batches one fails. SQLite: the disk fails in a commit."""
    slow: float = 0.0
    """A way takes a hundred times as long."""
    way_us: int = 500
    """The longest that a way usually takes."""


QUIET = Net()


class Site:
    """Where the journal is, as all processes share it: what is cut off at the moment, and what faults are drawn."""

    def __init__(self, world: World, net: Net, seed: int) -> None:
        self.world = world
        self.net = net
        self.dice = random.Random(f"net/{seed}")
        self.down = False
        self.cut: set[str] = set()
        self.stalls: dict[str, int] = {}
        """By process: for how many microseconds it is to be stopped in its next write that matters."""

    def is_reached_by(self, process: Process) -> bool:
        return not self.down and process.name not in self.cut

    def way_us(self) -> int:
        """How long a way takes this time."""
        dice, net = self.dice, self.net
        way_us = 1 + int(dice.random() * net.way_us)
        return way_us * 100 if net.slow and dice.random() < net.slow else way_us

    def stall(self, process: Process) -> int:
        """Stop a process in what it writes now, if that is to be; returns for how long."""
        stall_us = self.stalls.pop(process.name, 0)
        if stall_us:
            process.pause()
            self.world.after(stall_us, process.resume)
        return stall_us

    def fate(self) -> Literal["", "lost", "unanswered", "late"]:
        """What becomes of a request: nothing unusual, mostly."""
        net, left = self.net, self.dice.random()
        for name, chance in (("lost", net.lost), ("unanswered", net.unanswered), ("late", net.late)):
            left -= chance
            if left < 0:
                return name  # type: ignore[return-value]
        return ""

    async def over_the_net(
        self, process: Process, apply: Callable[[], T], spoil: Callable[[], object] | None = None, stall_us: int = 0
    ) -> T:
        """Let `apply` happen at the journal and return what it returns. Raises `Unavailable` without an answer.

        `spoil` happens where a request is lost that could do half of what it was to do; `stall_us`: it is longer on
        its way.
        """
        world, fate = self.world, self.fate()
        until_us = world.now_us + ANSWER_US
        if fate == "late" and not stall_us:
            stall_us = ANSWER_US + int(self.dice.random() * LATE_US)

        def give_up(answered: Answered) -> None:
            world.at(until_us, answered, None, Unavailable("no answer in time"))

        def arrive(answered: Answered) -> None:
            if fate == "lost" or not self.is_reached_by(process):
                if fate == "lost" and spoil is not None:
                    spoil()
                give_up(answered)
                return
            value: Any = None
            error: JournalError | None = None
            try:
                value = apply()
            except JournalError as raised:
                error = raised
            if fate == "unanswered":
                give_up(answered)
            else:
                world.after(self.way_us(), answered, value, error)

        def request(answered: Answered) -> None:
            if stall_us:
                give_up(answered)
            world.after(self.way_us() + stall_us, arrive, answered)

        return await ask(request)  # type: ignore[no-any-return]

    async def in_the_process(self, process: Process, apply: Callable[[], T]) -> T:
        """The same on a disk of the process's own machine: what it does, it does itself."""
        await sleep_us(self.way_us())
        if not self.is_reached_by(process):
            raise Unavailable("the file cannot be written")
        if self.net.lost and self.dice.random() < self.net.lost:
            raise Unavailable("the file is locked")
        value = apply()
        await sleep_us(self.way_us())
        return value


async def news(partitions: Sequence[Partition], has_news: Callable[[], bool], timeout_s: float) -> list[int] | None:
    """Wait until there is something to read, or `timeout_s` has passed: None then.

    Returns the ends of the partitions as they were when the answer was sent off: to a process that was stopped
    meanwhile it is old.
    """
    if has_news():
        return [partition.end for partition in partitions]
    if timeout_s <= 0:
        return None
    task = current()
    serial, process = task.serial, task.process
    process.wake_later(process.true_us(timeout_s), task, serial)
    ends: list[int] = []

    def wake(woken: Partition) -> None:
        if task.serial != serial:
            return
        if has_news():
            ends.extend(partition.end for partition in partitions)
            process.wake(task, serial)
        else:  # of a transaction that is not decided yet, say: what decides it is news
            woken.waiting.append(partial(wake, woken))

    for partition in partitions:
        partition.waiting.append(partial(wake, partition))
    await park()
    return ends or None
