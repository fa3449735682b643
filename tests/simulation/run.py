"""One run: a world is made from a scenario, lives through its faults, is healed, comes to rest, and is judged."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from simulation.agent_actor import AgentActor
from simulation.clocks import MachineClock
from simulation.coverage import Coverage
from simulation.environment import simulated
from simulation.faults import Faults
from simulation.findings import Violation
from simulation.group_model import Coordinator
from simulation.journal_model import Character, ModelJournal
from simulation.judge import judged
from simulation.kafka_model import KafkaModel
from simulation.log_model import Log
from simulation.process import Process
from simulation.router_actor import RouterActor
from simulation.scenario import Scenario
from simulation.sqlite_model import SqliteModel
from simulation.truth import Truth
from simulation.wire import Site
from simulation.worker_actor import WorkerActor
from simulation.world import Endless, World

from keylane.journal.port import Journal, Record
from keylane.router.setup import topic_specs
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.metadata import METADATA_KEY, Metadata

MS_US = 1_000
LOOK_US = 500 * MS_US
REST_US = 150_000 * MS_US
"""After healing everything comes to rest within this, or never (promise 13): the sum of a run's longest waits."""

Actor = RouterActor | WorkerActor | AgentActor


class Result(NamedTuple):
    """What a run was like. `digest`, where it is asked for, is of every record and all else that was seen, in order."""

    digest: str
    violations: list[Violation]
    core_events: int
    happened: int
    cells: frozenset[str]
    reloads_compared: int
    overlaps: int


class ProcessRole:
    """A process and those that come after it: `worker1`, then `worker1.2`."""

    def __init__(self, play: Play, name: str, act: Callable[[Process, Journal], Actor]) -> None:
        self._play = play
        self._name = name
        self._act = act
        self._lives = 0
        self.process: Process
        self.actor: Actor
        self.start()

    def start(self) -> None:
        self._lives += 1
        self.stopped = False
        name = self._name if self._lives == 1 else f"{self._name}.{self._lives}"
        self.process = self._play.process(name)
        self.actor = self._act(self.process, self._play.journals[name])

    def stop(self) -> None:
        self.stopped = True
        self.actor.stop()


class Play:
    """A scenario's world, with all that lives in it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed)
        self.log = Log(topic_specs(scenario.partitions, scenario.policy.pools), lambda: self.world.now_us)
        self.truth = Truth(self.world, self.log, scenario)
        self.log.heard = self.truth.heard
        self.site = Site(self.world, scenario.net, scenario.seed)
        model = KafkaModel if scenario.character == "kafka" else SqliteModel
        self.character: Character = model(self.log, self.site)
        self.character.on_astray = self.truth.lanes.ended_another
        self.journals: dict[str, Journal] = {}
        self._groups: dict[str, Coordinator] = {}
        pinned = encode(Metadata(partitions=scenario.partitions, scopes=scenario.scopes))
        self.log.add([Record(topics.METADATA, 0, METADATA_KEY, pinned)], "operator")

    def process(self, name: str) -> Process:
        """A process on a machine of its own."""
        scenario = self.scenario
        dice = random.Random(f"clock/{scenario.seed}/{name}")
        rate_ppm = dice.randint(-scenario.skew_ppm, scenario.skew_ppm)
        clock = MachineClock(rate_ppm, dice.randint(-10_000_000, 10_000_000), dice.randrange(10**12))
        process = self.world.process(name, clock)
        self.journals[name] = ModelJournal(self.character, self._group, process, self.truth.lanes)
        return process

    def _group(self, name: str) -> Coordinator:
        return self._groups.setdefault(name, Coordinator(self.world))

    def live(self) -> None:
        """From the first process to rest."""
        scenario, truth, world = self.scenario, self.truth, self.world
        roles: dict[str, ProcessRole] = {}
        for number in range(scenario.routers):
            roles[f"router{number}"] = ProcessRole(
                self, f"router{number}", lambda process, journal: RouterActor(scenario, process, journal, truth)
            )
        for number, hand in enumerate(scenario.workers):
            roles[f"worker{number}"] = ProcessRole(
                self,
                f"worker{number}",
                lambda process, journal, hand=hand: WorkerActor(scenario, hand, process, journal, truth),  # type: ignore[misc]
            )
        for number in range(scenario.agents):
            acts = [act for act in scenario.acts if act.agent == number]
            plans = [plan for plan in scenario.locks if plan.agent == number]
            roles[f"agent{number}"] = ProcessRole(
                self,
                f"agent{number}",
                lambda process, journal, acts=acts, plans=plans: AgentActor(  # type: ignore[misc]
                    scenario, process, journal, truth, acts, plans
                ),
            )
        faults = Faults(world, self.site, self.log, roles, scenario)  # type: ignore[arg-type]
        try:
            while world.now_us < scenario.chaos_ms * MS_US:
                world.run_until(min(world.now_us + LOOK_US, scenario.chaos_ms * MS_US))
                truth.rules.look()
            faults.heal()
            self._rest([role for role in roles.values() if isinstance(role.actor, AgentActor)])
        except Endless:
            truth.findings.broken("no rest", "it goes on without end (promise 13)")
        finally:
            for process in world.processes.values():
                process.crash()
        truth.requests.close()
        for name, error in world.uncaught:
            truth.findings.broken("uncaught", f"{name}: {error!r}")

    def _rest(self, agents: Sequence[ProcessRole]) -> None:
        until_us = self.world.now_us + REST_US
        while self.world.now_us < until_us:
            self.world.run_until(self.world.now_us + LOOK_US)
            self.truth.rules.look()
            is_waiting = any(role.actor.pending for role in agents if isinstance(role.actor, AgentActor))
            if not is_waiting and self.truth.is_quiet():
                return
        open_runs = {partition: sorted(runs) for partition, runs in self.truth.requests.open.items() if runs}
        self.truth.findings.broken("no rest", f"after healing these runs did not end: {open_runs} (promise 13)")

    def digest(self) -> str:
        """Of every slot of the log, and of what was seen beside it."""
        whole = hashlib.sha256()
        for place in sorted(self.log.partitions):
            for stored, transaction in self.log.partitions[place].slots:
                state = "" if transaction is None else transaction.state
                whole.update(repr((place, None if stored is None else tuple(stored), state)).encode())
        whole.update(repr((self.world.now_us, self.world.happened, self.truth.grants.effects)).encode())
        whole.update(repr((self.truth.findings.violations, self.truth.grants.overlaps)).encode())
        return whole.hexdigest()


def run(scenario: Scenario, *, digest: bool = False) -> Result:
    """Live through a scenario and judge it."""
    play, cells = Play(scenario), Coverage()
    with simulated(play.journals) as told, cells.watching():
        play.live()
    violations = play.truth.findings.violations + judged(play)
    violations += [Violation("error", error) for error in told.errors if not play.truth.lanes.halted]
    return Result(
        play.digest() if digest else "",
        violations,
        cells.core_events,
        play.world.happened,
        frozenset(cells.met),
        play.truth.lanes.compared,
        play.truth.grants.overlaps,
    )
