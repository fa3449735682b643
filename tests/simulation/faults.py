"""Faults, and their end: what befalls a process or the journal at its time, and the healing of everything.

Each fault undoes itself after its time; `heal` undoes what is left, so that a run can come to rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from simulation.log_model import ABORTED, OPEN, Log, Transaction
from simulation.process import Process
from simulation.scenario import Fault, Scenario
from simulation.wire import QUIET, Site
from simulation.world import World

from keylane.journal.port import Place, Record
from keylane.schemas import topics
from keylane.schemas.codec import decode_state, encode
from keylane.schemas.results import WorkerLeft

MS_US = 1_000
DAY_US = 86_400 * 1_000_000


class Role(Protocol):
    """A process that is started again after its end."""

    process: Process
    stopped: bool
    """Was asked to end."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Faults:
    """Lets the faults of a scenario happen."""

    def __init__(self, world: World, site: Site, log: Log, roles: dict[str, Role], scenario: Scenario) -> None:
        self._world = world
        self._site = site
        self._log = log
        self._roles = roles
        self._scenario = scenario
        self._dice = random.Random(f"faults/{scenario.seed}")
        self._healed = False
        self._hidden: list[Transaction] = []
        self._asleep: set[str] = set()
        for fault in scenario.faults:
            world.at(fault.at_ms * MS_US, self._happen, fault)

    def _happen(self, fault: Fault) -> None:
        getattr(self, f"_{fault.what}")(fault, self._roles.get(fault.whom))

    def _later(self, fault: Fault, undo: Callable[[], None]) -> None:
        def unless_healed() -> None:
            if not self._healed:
                undo()

        self._world.after(fault.for_ms * MS_US, unless_healed)

    def heal(self) -> None:
        """Everything goes on, nothing is lost on the way any more, and what has ended is started again."""
        self._healed = True
        self._site.net, self._site.down = QUIET, False
        self._site.cut.clear()
        self._site.stalls.clear()
        for transaction in self._hidden:
            self._abort(transaction)
        for role in self._roles.values():
            if role.stopped:
                role.process.crash()
            if role.process.dead:
                role.start()
            else:
                while role.process.paused:
                    role.process.resume()

    def _pause(self, fault: Fault, role: Role) -> None:
        process = role.process
        process.pause()
        self._later(fault, process.resume)

    def _stall(self, fault: Fault, role: Role) -> None:
        """It is stopped in the middle of its next report, or commit: a zombie's, when it goes on."""
        self._site.stalls[role.process.name] = fault.for_ms * MS_US

    def _suspend(self, fault: Fault, role: Role) -> None:
        """The machine sleeps: monotonic time rests with it. It wakes when everything is healed at the latest."""
        process = role.process
        if process.name in self._asleep:
            return
        self._asleep.add(process.name)
        began_us = self._world.now_us
        process.pause()

        def wake() -> None:
            self._asleep.discard(process.name)
            process.clock.suspended(began_us, self._world.now_us)
            process.resume()

        self._world.after(min(fault.for_ms, self._scenario.chaos_ms - fault.at_ms - 1) * MS_US, wake)

    def _crash(self, fault: Fault, role: Role) -> None:
        role.process.crash()
        self._later(fault, lambda: role.start() if role.process.dead else None)

    def _stop(self, fault: Fault, role: Role) -> None:
        """SIGTERM; whoever does not end in time is killed."""
        role.stop()
        self._later(fault, lambda: self._crash(fault, role))

    def _cut(self, fault: Fault, role: Role) -> None:
        name = role.process.name
        self._site.cut.add(name)
        self._later(fault, lambda: self._site.cut.discard(name))

    def _down(self, fault: Fault, role: Role) -> None:
        self._site.down = True

        def up() -> None:
            self._site.down = False

        self._later(fault, up)

    def _jump(self, fault: Fault, role: Role) -> None:
        """Somebody sets the wall clock."""
        role.process.clock.wall_ahead_us = self._dice.randint(-DAY_US, DAY_US)

    def _hide(self, fault: Fault, role: Role) -> None:
        """Kafka: a stranger opens a transaction on an input and dies, which hides all behind it from some readers."""
        if self._scenario.character != "kafka":
            return
        transaction = Transaction("stranger")
        topic = self._dice.choice([topics.RESULTS, topics.RESULTS, topics.REQUESTS])
        left = encode(WorkerLeft(session="stranger", pool="default"))
        records = [Record(topic, partition, b"s", left) for partition in range(self._scenario.partitions)]
        self._log.add(records, "stranger", transaction)
        self._hidden.append(transaction)
        self._later(fault, lambda: self._abort(transaction))

    def _abort(self, transaction: Transaction) -> None:
        if transaction.state is OPEN:
            self._log.decide(transaction, ABORTED)

    def _truncate(self, fault: Fault, role: Role) -> None:
        """Retention: what was applied goes from the inputs, and all that there is from what is read by others; and what
        is not the newest from `waits`."""
        for place, partition in self._log.partitions.items():
            if place.topic in (topics.REQUESTS, topics.RESULTS):
                lane = self._log.at(Place(topics.STATE, place.partition)).newest.get(b"lane")
                if lane is not None:
                    partition.truncate(decode_state(lane.value).positions.get(place.topic, 0))  # type: ignore[union-attr]
            elif place.topic in (topics.EVENTS, topics.items("default")):
                partition.truncate(partition.end)
            elif place.topic == topics.WAITS:
                partition.compact()
