"""What a run can do: kills and zombies, over parts of bounded length that are each judged whole.

`held.py` has the mode that holds Kafka's `EndTxn`, `storm.py` the one that does everything at random.
"""

import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
from chaos.children import Child
from chaos.evidence import Part
from chaos.faults import KILLS, zombie_router, zombie_worker
from chaos.fleet import Fleet, Shape, running
from kafka.proxy import Proxy, proxied
from kafka.running import Broker

KILL_PART = 100
ZOMBIE_PART = 10
ZOMBIE_TRIES = 3
KILL_AFTER_S = (0.05, 0.3)
OWNERS = 0.8
SESSION_MS = {"sqlite": 250, "kafka": 2_000}
"""Of the groups. Kafka's heartbeats come each second."""
LAPSE_MS = {"sqlite": 300, "kafka": 1_000}
GAP_S = {"sqlite": 0.008, "kafka": 0.03}
CARELESS_S = {"sqlite": 0.2, "kafka": 0.6}
PAUSE_S = {"sqlite": 2.0, "kafka": 7.0}
"""Of zombies: beyond the group's session, the worker's, and on Kafka the transaction's (3 s) and the commit's (6 s)."""


class Run(NamedTuple):
    """What one call is to do. `say` tells a person how it goes."""

    backend: str
    seed: int
    cycles: int
    broker: Broker | None
    say: Callable[[str], None]
    deadline_s: float = float("inf")
    own_broker: bool = False
    """Nobody else uses it, so it may be paused."""


Finished = Callable[[Part], None]


@contextmanager
def workplace(run: Run, part: Part) -> Iterator[Path]:
    """A folder for a fleet. Of one that broke a promise, or could not be judged, it is kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{part.mode}-{part.seed}-"))
    try:
        yield folder
    except BaseException:
        run.say(f"what is left is in {folder}")
        raise
    if part.violations:
        run.say(f"logs and journal are kept in {folder}")
    else:
        shutil.rmtree(folder)


@asynccontextmanager
async def laid_out(run: Run, folder: Path, mode: str, seed: int) -> AsyncIterator[tuple[Shape, Proxy | None]]:
    """A fleet on a journal of its own. On Kafka its routers reach the broker through a proxy; all others do not, so
    that what they are told is sure."""
    shape = Shape("", LAPSE_MS[run.backend], gap_s=GAP_S[run.backend], careless_s=CARELESS_S[run.backend])
    session_ms = SESSION_MS[run.backend]
    if run.broker is None:
        yield shape._replace(url=f"sqlite://{folder}/journal.db?session_timeout_ms={session_ms}"), None
        return
    prefix = f"{mode}-{seed}-{folder.name}."
    options = f"?prefix={prefix}&session_timeout_ms={session_ms}"
    through = f"kafka://127.0.0.1:{run.broker.proxy_port}{options}"
    async with proxied(run.broker) as proxy:
        yield shape._replace(url=run.broker.url + options, router_url=through, prefix=prefix), proxy


async def in_parts(
    run: Run,
    mode: str,
    part_size: int,
    finished: Finished,
    suffer: Callable[[Fleet, Part, random.Random, int], Awaitable[None]],
    **shaped: int,
) -> None:
    """Let fleet after fleet suffer `part_size` cycles each, and judge each; stops after one that breaks a promise.
    `shaped`: fields of `Shape` that are other than usual."""
    left, seed = run.cycles, run.seed
    while left > 0 and anyio.current_time() < run.deadline_s:
        part, cycles = Part(mode, run.backend, seed), min(left, part_size)
        with workplace(run, part) as folder:
            async with (
                laid_out(run, folder, mode, seed) as (shape, proxy),
                running(shape._replace(**shaped), folder, seed, proxy) as fleet,
            ):
                await suffer(fleet, part, random.Random(seed), cycles)
                part.violations += await fleet.rest()
                note(fleet, part)
        finished(part)
        if part.violations:
            return
        left -= cycles
        seed += 1


def note(fleet: Fleet, part: Part) -> None:
    """What the fleet went through beside the faults."""
    part.seen.update(
        requests=len(fleet.acknowledged()),
        events=fleet.history.events,
        takeovers=sum(fleet.history.claims.values()),
        leases_lost=sum(fleet.history.lost_by.values()),
        reports_fenced=sum(fleet.history.fenced_by.values()),
        writes_refused=fleet.checking.count("refused"),
        unchecked_violations=fleet.unchecking.count("late"),
    )


async def kill_sqlite(run: Run, finished: Finished) -> None:
    """kill -9 of processes picked at random, each at a random moment soon after the last. Whether each bit is found out
    meanwhile: nothing waits for one fault to be over before the next."""
    weights = {"router": 6, "worker": 3, "publisher": 1}

    async def suffer(fleet: Fleet, part: Part, chance: random.Random, cycles: int) -> None:
        async def kill(victim: Child) -> None:
            part.did(f"kill {victim.role}", await KILLS[victim.role](fleet, victim))

        async with anyio.create_task_group() as biting:
            for number in range(cycles):
                await anyio.sleep(chance.uniform(*KILL_AFTER_S))
                role = chance.choices(list(weights), list(weights.values()))[0]
                owners = [each for each in fleet.processes(role) if role != "router" or fleet.lanes(each)]
                # Mostly one that has something to lose; sometimes one that only starts.
                victim = chance.choice(owners if owners and chance.random() < OWNERS else fleet.processes(role))
                run.say(f"{number + 1}/{cycles}: kill -9 {victim.name}")
                biting.start_soon(kill, victim)
                await anyio.lowlevel.checkpoint()

    await in_parts(run, "kill-sqlite", KILL_PART, finished, suffer)


async def kafka_kills(run: Run, finished: Finished) -> None:
    """kill -9 of a router and of a worker in turn, each when the last has bitten: without waiting, where a takeover
    takes seconds, all would be dead most of the time."""

    async def suffer(fleet: Fleet, part: Part, chance: random.Random, cycles: int) -> None:
        for number in range(cycles):
            await anyio.sleep(chance.uniform(*KILL_AFTER_S))
            role = ("router", "worker")[number % 2]
            victim = chance.choice(fleet.processes(role))
            run.say(f"{number + 1}/{cycles}: kill -9 {victim.name}")
            part.did(f"kill {role}", await KILLS[role](fleet, victim))

    await in_parts(run, "kafka-kills", KILL_PART, finished, suffer)


async def zombies(run: Run, finished: Finished) -> None:
    """A router and a worker at once are stopped beyond every timeout, and go on, until `cycles` of each part are proven
    fenced. A router counts whose late commit was refused by the journal, a worker whose late write was refused by the
    sink that checks tokens; and the other sink must have taken such a write, or nothing was shown."""
    pause_s = PAUSE_S[run.backend]

    async def suffer(fleet: Fleet, part: Part, chance: random.Random, cycles: int) -> None:
        async def router_sleeps(victim: Child) -> None:
            met = await zombie_router(fleet, victim, pause_s)
            part.did("zombie router", met == "fenced")
            part.seen[f"zombie routers {met or 'with nothing to lose'}"] += 1

        async def worker_sleeps(victim: Child) -> None:
            met = await zombie_worker(fleet, victim, pause_s)
            part.did("zombie worker", met in ("refused", "fenced"))
            part.seen[f"zombie workers {met or 'with nothing to lose'}"] += 1

        for _ in range(ZOMBIE_TRIES * cycles):
            await anyio.sleep(chance.uniform(*KILL_AFTER_S))
            router, worker = chance.choice(fleet.routers), chance.choice(fleet.workers)
            proven = part.bitten.total()
            run.say(f"{proven}/{cycles} proven: {router.name} and {worker.name} are stopped for {pause_s:g} s")
            async with anyio.create_task_group() as sleeping:
                sleeping.start_soon(router_sleeps, router)
                sleeping.start_soon(worker_sleeps, worker)
            if part.bitten.total() >= cycles and all(part.bitten[fault] for fault in part.done):
                break
        late = fleet.unchecking.count("late")
        part.did("positive control: the sink without checks took a late write", late > 0)

    await in_parts(run, "zombies", ZOMBIE_PART, finished, suffer)
