"""A worker process: the real crew, outbox, reader and group follower; and handlers that behave as the seed says."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from simulation import tasks
from simulation.process import SECOND_US, Process
from simulation.scenario import Hand, Scenario
from simulation.truth import Truth

from keylane.journal.port import Journal
from keylane.workers.crew import Crew, Settings
from keylane.workers.item import Fail, Item, Retry
from keylane.workers.runner import Worker

IN_FLIGHT_US = 4 * SECOND_US


class NoMetrics:
    """What stands in the place of a worker's metrics."""

    def watch(self, *_: Any) -> None:
        pass

    def handled(self, *_: Any) -> None:
        pass


class WorkerActor:
    """One life of a worker process."""

    def __init__(self, scenario: Scenario, hand: Hand, process: Process, journal: Journal, truth: Truth) -> None:
        self._scenario = scenario
        self._hand = hand
        self._process = process
        self._journal = journal
        self._truth = truth
        self._draining = tasks.Event()
        self._ids = count(1)
        process.spawn(self._live)

    def stop(self) -> None:
        """SIGTERM."""
        self._draining.set()

    async def _live(self) -> None:
        hand = self._hand
        worker = Worker("memory://simulated", name=self._process.name, pool=hand.pool, slots=hand.slots, drain_s=3.0)
        for action in hand.actions:
            worker.handler(action)(self._handle)
        settings = Settings(
            hand.pool,
            self._process.name,
            hand.slots,
            worker._handlers,
            self._process.boot_ms,
            NoMetrics(),  # type: ignore[arg-type]  # as much of them as a crew asks for
            self._process.wall_s,
            lambda: f"{self._process.name}-s{next(self._ids)}",
        )
        async with tasks.TaskGroup() as group:
            crew = Crew(self._journal, settings, group)  # type: ignore[arg-type]
            await worker._work_as(self._journal, crew, self._draining, group)  # type: ignore[arg-type]

    async def _handle(self, item: Item[Any]) -> Any:
        how = self._scenario.handling
        dice = random.Random(f"handle/{self._scenario.seed}/{item.run}/{item.attempt}")
        for step in range(dice.randint(1, how.steps_max)):
            await tasks.sleep(dice.randint(1, how.step_ms_max) / 1_000)
            item.check()
            if item.version is not None and dice.random() < how.mismatches:
                item.expect(dice.choice([item.version, "v1", "v2", "v8"]))
            self._act(item, dice)
            if dice.random() < 0.4:
                blocked = "a person" if dice.random() < how.blocked else None
                await item.progress({"step": step} if dice.random() < 0.5 else None, blocked=blocked)
        if dice.random() < how.dawdles:
            # Until about the end of its lease: what it then believes is what matters.
            await tasks.sleep(self._scenario.policy.of(item.action).lease_ms * (0.85 + dice.random() * 0.4) / 1_000)
            item.check()
            self._act(item, dice)
        if dice.random() < how.fails:
            raise ValueError("it broke")
        if dice.random() < how.fails_for_good:
            raise Fail("it cannot be done")
        if dice.random() < how.retries:
            raise Retry(dice.choice([None, 0.2, 1.0]), "later")
        seen = dice.choice(["v1", "v2"]) if dice.random() < how.inconsistent else None
        made = "v1" if how.versions == 1 else dice.choice([None, *(f"v{each + 1}" for each in range(how.versions))])
        return item.done({"by": item.run}, version=made, observed_version=seen)

    def _act(self, item: Item[Any], dice: random.Random) -> None:
        """Act on the resource, at once after the look at the lease. What is sent may be long on its way."""
        self._truth.grants.acts(self._process, item.resource, item.run, item.token)
        way_us = IN_FLIGHT_US if dice.random() < 0.05 else 20_000
        world = self._process.world
        world.after(int(dice.random() * way_us), self._truth.grants.effect_arrives, item.resource, item.run, item.token)
