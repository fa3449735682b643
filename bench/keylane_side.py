"""keylane's own side: routers as users run them, on a journal with a backlog, with a stand-in for the workers.

Two stretches of one run. First every item is completed at once, and outcomes are forgotten as fast as they come: full
round trips. Then nothing is completed any more, while those of before are still being forgotten: routing alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import anyio
import anyio.to_thread
from msgspec import Struct

from bench import load, processes, watch
from bench.processes import Failed
from bench.say import say
from bench.watch import Sight, look, until_written
from bench.writing import writer
from keylane.journal import connect
from keylane.journal.port import Journal, Place, Record
from keylane.router.config import load_config
from keylane.router.setup import prepare
from keylane.schemas import topics

START_S = 60.0
LOOK_S = 0.25
GROWN_MIN = 3
"""A stretch has at least so many looks at which something was new, however short it was to be."""
FILL_RECORDS = 20_000
WRITTEN = (topics.EVENTS, topics.items(load.POOL), topics.STATE)
"""The topics that every turn under load writes to."""
ANSWERS = ("keylane.Queued", "keylane.Coalesced")


class Drained(Failed):
    """All requests were done before all was measured."""

    def __init__(self) -> None:
        super().__init__("the backlog was drained before all was measured: lay a longer one (--backlog)")


class Plan(Struct, frozen=True):
    """The length of everything. A run is longer than the retention, so that forgetting is in what is measured."""

    retention_s: float
    warm_s: float
    trips_s: float
    settle_s: float
    """Between the two stretches: completions that are under way are applied."""
    routed_s: float


class Stretch(Struct, frozen=True):
    """What the routers did in one stretch. `written`: records by topic, without the marks of transactions."""

    since_s: float
    seconds: float
    answered: int
    granted: int
    ended: int
    written: dict[str, int]
    commits: int
    cpu_s: float
    waited_s: float
    """Runnable, and without a core: how much the other processes were in the way."""

    @property
    def answered_per_s(self) -> float:
        return self.answered / self.seconds

    @property
    def ended_per_s(self) -> float:
        return self.ended / self.seconds

    @property
    def cpu_us(self) -> float:
        """Of CPU a request."""
        return self.cpu_s / self.answered * 1e6

    @property
    def cores(self) -> float:
        return self.cpu_s / self.seconds

    @property
    def records_per_request(self) -> float:
        return sum(self.written.values()) / self.answered


class Run(Struct, frozen=True):
    """`trips` with items being completed, `routed` without."""

    trips: Stretch
    routed: Stretch


async def fill(url: str, requests: Sequence[Record]) -> None:
    """Make the topics as a router would, and lay the backlog."""
    journal = await connect(url)
    try:
        await prepare(journal, load_config(None, {}, {"partitions": load.PARTITIONS}))
    finally:
        await journal.close()
    async with writer(url) as write:
        await write(load.joins())
        for start in range(0, len(requests), FILL_RECORDS):
            await write(requests[start : start + FILL_RECORDS])


def router_command(url: str) -> tuple[str, ...]:
    """As a user starts it."""
    command = "up" if url.startswith("sqlite://") else "router"
    return ("keylane.cli", command, "--partitions", str(load.PARTITIONS), "--output", "json", "--log-level", "warning")


async def run(url: str, plan: Plan, routers: int = 1, around: Sequence[str] = ()) -> Run:
    """Drain a backlog that `fill` has laid. `around`: a module, with arguments, that runs the router's command line."""
    environ = {"KEYLANE_URL": url, "KEYLANE_RETENTION": f"{plan.retention_s}s"}
    module, *arguments = (*around, *router_command(url)[1:]) if around else router_command(url)
    journal = await connect(url)
    places = [Place(topic, number) for topic in WRITTEN for number in range(load.PARTITIONS)]
    with ExitStack() as stack:
        stand_in = stack.enter_context(processes.python("bench.standin", url, str(load.PARTITIONS)))
        await anyio.to_thread.run_sync(processes.said, stand_in)
        started = [stack.enter_context(processes.python(module, *arguments, environ=environ)) for _ in range(routers)]
        pids = [each.pid for each in started]
        await until_written(journal, places, START_S)
        await anyio.sleep(plan.warm_s)
        trips = await _pass(journal, places, pids, plan.trips_s)
        processes.tell(stand_in, "hold")
        await anyio.sleep(plan.settle_s)
        routed = await _pass(journal, places, pids, plan.routed_s)
    try:
        return Run(await _stretch(journal, *trips), await _stretch(journal, *routed))
    finally:
        await journal.close()


Moment = tuple[Sight, processes.Cost]


async def _pass(
    journal: Journal, places: Sequence[Place], pids: Sequence[int], seconds: float
) -> tuple[Moment, Moment]:
    """How all stands now, and after a while. Raises `Failed` where nothing is being written any more."""
    first = last = await look(journal, places)
    begin = (first, processes.cost(pids))
    grown = 0
    while last.at_s - first.at_s < seconds or grown < GROWN_MIN:
        if last.at_s - first.at_s > seconds + START_S:
            raise Drained
        await anyio.sleep(min(LOOK_S, seconds / GROWN_MIN))
        before, last = last, await look(journal, places)
        grown += before.ends != last.ends
    return begin, (last, processes.cost(pids))


async def _stretch(journal: Journal, begin: Moment, end: Moment) -> Stretch:
    (since, cost), (until, later) = begin, end
    found = await watch.read(journal, since, until, topics.EVENTS)
    answered = sum(found.by_type[answer] for answer in ANSWERS)
    if not answered:
        raise Drained
    grown = dict.fromkeys(WRITTEN, 0)
    for place, position in until.ends.items():
        grown[place.topic] += position - since.ends[place]
    # Every commit of a turn under load writes to all of these topics; on Kafka it leaves a mark in each.
    marks = grown[topics.EVENTS] - found.by_type.total()
    return Stretch(
        since_s=since.at_s,
        seconds=until.at_s - since.at_s,
        answered=answered,
        granted=found.by_type["keylane.Granted"],
        ended=found.by_type["keylane.Ended"],
        written={topic: number - marks for topic, number in grown.items()},
        commits=marks or found.commits,
        cpu_s=later.cpu_s - cost.cpu_s,
        waited_s=later.waited_s - cost.waited_s,
    )


def describe(name: str, run: Run) -> None:
    """Lines of progress."""
    for what, stretch in (("round trips", run.trips), ("routing alone", run.routed)):
        say(
            f"{name}, {what}: {stretch.answered_per_s:.0f} answered and {stretch.ended_per_s:.0f} ended a second;"
            f" {stretch.records_per_request:.1f} records and {stretch.cpu_us:.0f} us of CPU a request,"
            f" {stretch.answered / stretch.commits:.0f} a commit; {stretch.cores:.2f} cores, {stretch.waited_s:.1f} s"
            " without one"
        )
