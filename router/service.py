"""The router process: a member of the routers' group, with one task for each lane that the group gave it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import anyio
from anyio.abc import TaskGroup

from keylane.journal.errors import AccessDenied, JournalError, Unavailable
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Assignment, Journal, Membership
from keylane.router.clock import REAL, Clocks
from keylane.router.config import Config
from keylane.router.lane_task import LaneTask
from keylane.router.meter import LaneMeter
from keylane.router.metrics import RouterMetrics
from keylane.router.setup import check_agreed, prepare
from keylane.router.turn import INPUTS
from keylane.router.waits_task import WaitsTask
from keylane.schemas import topics
from keylane.schemas.metadata import Metadata
from keylane.schemas.scopes import Scopes
from keylane.telemetry.build import process_registry
from keylane.telemetry.listener import listening
from keylane.telemetry.pulse import Pulse

log = logging.getLogger("keylane.router")

GROUP = "routers"
MEMBERSHIP_POLL_S = 0.5
JOIN_AGAIN_S = 1.0
STOP_S = 10.0
LAG_POLL_S = 2.0
"""How often the ends of the inputs are asked for: off the turns' path, and cheap beside them."""


async def serve(journal: Journal, config: Config, *, journal_scheme: str, ready: Callable[[str | None], None]) -> None:
    """Run a router until cancelled; then finish the turns under way, leave the group and return.

    `ready` is called once, when the first assignment has been taken up: every lane of it is loaded or halted. It is
    given the URL at which metrics and health are served, if they are. Raises `BadConfig` where this router differs
    from what is pinned, `telemetry.BadAddress`, `journal.JournalError` where it cannot begin.
    """
    registry, pulse = process_registry(journal_scheme), Pulse()
    readiness = Readiness()
    with ExitStack() as stack:
        shown: str | None = None
        if config.metrics is not None:
            shown = stack.enter_context(
                listening(
                    config.metrics,
                    exposed=config.metrics_exposed,
                    registry=registry,
                    is_alive=pulse.is_alive,
                    why_unready=readiness.why_not,
                )
            )
        metadata = await prepare(journal, config)
        metrics = RouterMetrics(registry, config.policy, metadata.partitions)
        membership = await journal.join(GROUP, topics.REQUESTS)
        router = Router(journal, membership, config, metadata, metrics, lambda: ready(shown))
        readiness.router = router
        metrics.wait_edges.set_function(router.waits.edges)
        try:
            async with anyio.create_task_group() as tasks:
                for task in (pulse.beat, router.run, router.watch_lag, router.waits.run):
                    tasks.start_soon(task)
                try:
                    await anyio.sleep_forever()
                finally:
                    router.stop()
        finally:
            await router.leave()


class Readiness:
    """What `/readyz` says. It is asked from another thread, and before there is a router."""

    def __init__(self) -> None:
        self.router: Router | None = None

    def why_not(self) -> Sequence[str]:
        """Nothing where every lane that this router was given turns; standing by without any is ready too."""
        return ["starting"] if self.router is None else self.router.why_unready()


class Router:
    """Holds lane tasks against the group's assignments. A partition that was lost is let go before any is taken."""

    def __init__(
        self,
        journal: Journal,
        membership: Membership,
        config: Config,
        metadata: Metadata,
        metrics: RouterMetrics,
        ready: Callable[[], None],
        clocks: Clocks = REAL,
    ) -> None:
        self._journal = journal
        self._membership = membership
        self._config = config
        self._metadata = metadata
        self._owner_of = Scopes(metadata.scopes).owner_of if metadata.scopes else str
        self._metrics = metrics
        self._ready: Callable[[], None] | None = ready
        self._clocks = clocks
        self.waits = WaitsTask(journal)
        """To be run beside `run`: who waits for whom, over all lanes."""
        self._lanes: dict[int, LaneTask] = {}
        self._loading: set[int] = set()
        self._apart: str | None = None
        """Why it is not in its group; None until that happens, and again with the next assignment."""
        self._stopping = anyio.Event()

    def stop(self) -> None:
        """End after the turns under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the group until stopped. Not cancelled from outside: a commit under way is finished."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                while not self._stopping.is_set():
                    try:
                        assignment = await self._membership.changed(MEMBERSHIP_POLL_S)
                    except Unavailable as error:
                        if isinstance(error, AccessDenied) and self._ready is not None and not self._lanes:
                            raise  # nothing has begun, and whoever started this is to hear it
                        log.warning("the group is unavailable, joining it anew: %s", error)
                        self._apart = str(error)
                        await self._let_go(set(self._lanes))
                        await self._join_anew()
                        continue
                    if assignment is not None:
                        await self._take_up(assignment, tasks)
                await self._let_go(set(self._lanes))

    async def watch_lag(self) -> None:
        """Ask where the inputs end, until cancelled. Not the lanes' own work: one that is stuck must be seen to lag."""
        while True:
            meters = [lane.meter for lane in self._lanes.values()]
            try:
                with anyio.move_on_after(LAG_POLL_S):
                    ends = await self._journal.end_positions([place for meter in meters for place in meter.places()])
                    for meter in meters:
                        meter.ends_seen(ends)
            except JournalError as error:
                log.debug("the ends of the inputs are not known now: %s", error)
            await anyio.sleep(LAG_POLL_S)

    def why_unready(self) -> list[str]:
        """What keeps this router from turning every lane that it was given. Also asked from other threads."""
        if self._stopping.is_set():
            return ["stopping"]
        why = ["no partitions assigned yet"] if self._ready is not None and not self._lanes else []
        if self._apart is not None:
            why.append(f"not in the group: {self._apart}")
        for partition, lane in sorted(self._lanes.copy().items()):
            if lane.halted is not None:
                why.append(f"lane {partition} halted: {lane.halted}")
            elif not lane.turning:
                why.append(f"lane {partition} is loading{f' again: {lane.trouble}' if lane.trouble else ''}")
        return why

    async def leave(self) -> None:
        """Out of the group, so that others get the partitions at once. Where it does not answer, the session lapses."""
        with anyio.move_on_after(STOP_S, shield=True):
            try:
                await self._membership.leave()
            except Unavailable as error:
                log.warning("could not leave the group: %s", error)

    async def _join_anew(self) -> None:
        await self.leave()
        while not self._stopping.is_set():
            with anyio.move_on_after(JOIN_AGAIN_S):
                await self._stopping.wait()
                return
            try:
                self._membership = await self._journal.join(GROUP, topics.REQUESTS)
                return
            except Unavailable as error:
                log.warning("the group cannot be joined yet: %s", error)

    async def _take_up(self, assignment: Assignment, tasks: TaskGroup) -> None:
        self._apart = None
        log.info("generation %d: partitions %s", assignment.generation, sorted(assignment.partitions))
        await self._let_go(set(self._lanes) - assignment.partitions)
        gained = sorted(assignment.partitions - set(self._lanes))
        self._loading = (self._loading | set(gained)) & assignment.partitions
        for partition in gained:
            lane = LaneTask(
                partition,
                self._journal,
                self._membership,
                self._config.policy,
                partial(_place, self._metadata.partitions),
                self._metadata.token_floor,
                self._loaded,
                LaneMeter(self._metrics, partition, INPUTS),
                partial(check_agreed, self._journal, self._metadata),
                self.waits,
                self._clocks,
                self._owner_of,
            )
            self._lanes[partition] = lane
            tasks.start_soon(lane.run, name=f"lane {partition}")
        self._say_ready()  # a router that is given nothing stands by, and is ready for that

    async def _let_go(self, partitions: set[int]) -> None:
        for partition in partitions:
            self._lanes[partition].stop()
        with anyio.move_on_after(STOP_S):
            for partition in partitions:
                await self._lanes[partition].finished.wait()
        for partition in partitions:
            self._lanes.pop(partition).meter.close()

    def _loaded(self, partition: int) -> None:
        self._loading.discard(partition)
        self._say_ready()

    def _say_ready(self) -> None:
        if not self._loading and self._ready is not None:
            self._ready()
            self._ready = None


def _place(partitions: int, owner: str) -> int:
    return partition_of(owner.encode(), partitions)
