"""A router process: the real router on simulated clocks and a simulated journal, as `service.serve` runs it."""

from __future__ import annotations

from simulation import tasks
from simulation.meter import RouterNotes
from simulation.process import Process
from simulation.scenario import Scenario
from simulation.truth import Truth

from keylane.journal.errors import Unavailable
from keylane.journal.port import Journal
from keylane.router.clock import Clocks
from keylane.router.config import Config
from keylane.router.service import GROUP, Router
from keylane.schemas import topics
from keylane.schemas.metadata import Metadata

AGAIN_S = 0.5


class RouterActor:
    """One life of a router process."""

    def __init__(self, scenario: Scenario, process: Process, journal: Journal, truth: Truth) -> None:
        self._config = Config(url=None, partitions=scenario.partitions, policy=scenario.policy, scopes=scenario.scopes)
        self._metadata = Metadata(partitions=scenario.partitions, scopes=scenario.scopes)
        self._process = process
        self._journal = journal
        self._truth = truth
        self._router: Router | None = None
        process.spawn(self._live)

    def stop(self) -> None:
        """SIGTERM."""
        if self._router is not None:
            self._router.stop()

    async def _live(self) -> None:
        while True:
            try:
                membership = await self._journal.join(GROUP, topics.REQUESTS)
                break
            except Unavailable:  # the supervisor starts it again
                await tasks.sleep(AGAIN_S)
        self._router = Router(
            self._journal,
            membership,
            self._config,
            self._metadata,
            RouterNotes(self._truth, self._process),  # type: ignore[arg-type]  # handed on to its lanes' meters alone
            lambda: None,
            Clocks(self._process.monotonic_s, self._process.wall_us),
        )
        async with tasks.TaskGroup() as beside:
            beside.start_soon(self._router.waits.run)
            await self._router.run()
            beside.cancel_scope.cancel()
        await self._router.leave()
