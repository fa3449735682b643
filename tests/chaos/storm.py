"""Everything at random: kills, stops, graceful ends, on Kafka also a broker that is paused and requests that are held,
delayed and cut between routers and broker. In parts of about a minute that are each judged whole.

It must have shown what it is for: a zombie that was fenced, a lease that expired, on Kafka a commit whose outcome was
unknown to the router that made it.
"""

import os
import random
import signal
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
from chaos.children import Child
from chaos.evidence import Part
from chaos.faults import BITE_S, KILLS, zombie_router, zombie_worker
from chaos.fleet import START_S, Fleet, running
from chaos.modes import PAUSE_S, Finished, Run, laid_out, note, workplace
from kafka import proxy as kinds
from kafka.proxy import Proxy

STORM_PART_S = 60.0
BROKER_PAUSE_S = (1.0, 8.0)
HOLD_S = (0.05, 8.0)
"""From a hiccup to beyond every timeout."""
REQUESTS = {
    "EndTxn": kinds.END_TXN,
    "AddPartitionsToTxn": kinds.ADD_PARTITIONS_TO_TXN,
    "InitProducerId": kinds.INIT_PRODUCER_ID,
    "Produce": kinds.PRODUCE,
    "Fetch": kinds.FETCH,
    "Heartbeat": kinds.HEARTBEAT,
    "JoinGroup": kinds.JOIN_GROUP,
    "ListOffsets": kinds.LIST_OFFSETS,
}
WAYS = ("held", "cut", "answer lost")
FENCED = ("routers fenced", "workers refused", "workers fenced")
AGAIN_MAX = 6
UNKNOWN = "outcome of a commit is unknown"


class Storm:
    """One part: a fleet, and what is done to it."""

    def __init__(self, run: Run, fleet: Fleet, part: Part) -> None:
        self._run = run
        self._fleet = fleet
        self._part = part
        self._chance = random.Random(part.seed)
        self._pause_s = PAUSE_S[run.backend]

    async def blow(self, cycles: int) -> int:
        """One fault after the other, until the part's time is over; returns how many. Then those again that have not
        bitten, for a while."""
        done = await self._blow(cycles)
        for _ in range(AGAIN_MAX):
            if not self._fleet.unchecking.count("late"):
                await self._zombie_worker()
            elif not any(self._part.seen[f"zombie {met}"] for met in FENCED):
                await self._zombie_router()
            elif self._part.done["kill router"] and not self._part.bitten["kill router"]:
                await self._kill("router")
            elif self._part.done["kill worker"] and not self._part.bitten["kill worker"]:
                await self._kill("worker")
            else:
                break
        return done

    async def _blow(self, cycles: int) -> int:
        faults: dict[Callable[[], Awaitable[None]], int] = {
            self._kill: 6,
            self._end: 3,
            self._zombie_router: 2,
            self._zombie_worker: 2,
        }
        if self._run.own_broker:
            faults[self._pause_broker] = 1
        end_s = anyio.current_time() + STORM_PART_S
        # Each kind once to begin with, so that even a short run can show all of them.
        todo = self._chance.sample(list(faults), len(faults))
        for number in range(cycles):
            if anyio.current_time() > min(end_s, self._run.deadline_s) and not todo:
                return number
            await anyio.sleep(self._chance.uniform(0.1, 1.0))
            await (todo.pop() if todo else self._chance.choices(list(faults), list(faults.values()))[0])()
        return cycles

    async def meddle(self, proxy: Proxy) -> None:
        """Requests between routers and broker, one after the other, until cancelled."""
        chance = random.Random(f"{self._part.seed}/requests")
        while True:
            name, way = chance.choice(list(REQUESTS)), chance.choice(WAYS)
            for_s = HOLD_S[0] * (HOLD_S[1] / HOLD_S[0]) ** chance.random()
            held = proxy.hold(REQUESTS[name], cut=way == "cut", swallow=way == "answer lost")
            came = False
            try:
                with anyio.move_on_after(BITE_S):
                    await held.arrived.wait()
                    came = True
                    await anyio.sleep(for_s if way == "held" else 0)
            finally:
                proxy.forget(held)
            self._part.did(f"request {way}", came)
            self._part.seen[f"{name} {way}"] += came
            await anyio.sleep(chance.uniform(0.2, 1.5))

    def _victim(self, role: str) -> Child:
        """One that has something to lose, if there is any."""
        processes = self._fleet.processes(role)
        owners = [each for each in processes if role != "router" or self._fleet.lanes(each)]
        return self._chance.choice(owners or processes)

    def _say(self, what: str, victim: str) -> None:
        self._run.say(f"{what} {victim}")

    async def _kill(self, role: str | None = None) -> None:
        role = role or self._chance.choices(["router", "worker", "publisher"], [4, 4, 1])[0]
        victim = self._victim(role)
        self._say("kill -9", victim.name)
        self._part.did(f"kill {role}", await KILLS[role](self._fleet, victim))

    async def _end(self) -> None:
        """SIGTERM: it has let go and ends by itself."""
        victim = self._victim(self._chance.choice(["router", "worker"]))
        self._say("SIGTERM", victim.name)
        victim.signal(signal.SIGTERM)
        ended = await anyio.to_thread.run_sync(victim.ended, START_S)
        self._part.did(f"end {victim.role}", ended)
        victim.kill()
        self._fleet.replace(victim)

    async def _zombie_router(self) -> None:
        victim = self._victim("router")
        self._say(f"SIGSTOP for {self._pause_s:g} s", victim.name)
        met = await zombie_router(self._fleet, victim, self._pause_s)
        self._part.did("zombie router", met is not None)
        self._part.seen[f"zombie routers {met or 'with nothing to lose'}"] += 1

    async def _zombie_worker(self) -> None:
        victim = self._victim("worker")
        self._say(f"SIGSTOP for {self._pause_s:g} s", victim.name)
        met = await zombie_worker(self._fleet, victim, self._pause_s)
        self._part.did("zombie worker", met is not None)
        self._part.seen[f"zombie workers {met or 'with nothing to lose'}"] += 1

    async def _pause_broker(self) -> None:
        """Bitten: nothing was decided meanwhile, and something was again afterwards."""
        assert self._run.broker is not None
        for_s, history, pid = self._chance.uniform(*BROKER_PAUSE_S), self._fleet.history, self._run.broker.pid
        self._say(f"SIGSTOP for {for_s:.1f} s", "broker")
        os.kill(pid, signal.SIGSTOP)
        try:
            await anyio.sleep(0.5)  # what was under way to us
            before = history.events
            await anyio.sleep(for_s)
            stood = history.events == before
        finally:
            os.kill(pid, signal.SIGCONT)
        self._part.did("pause broker", stood and await history.until(lambda: history.events > before, START_S))


def show(fleet: Fleet, part: Part, backend: str) -> None:
    """What a storm is for."""
    part.did("shown: a lease expired", bool(part.seen["leases_lost"]))
    fenced = (
        part.seen["zombie routers fenced"] + part.seen["zombie workers refused"] + part.seen["zombie workers fenced"]
    )
    part.did("shown: a zombie was fenced", bool(fenced))
    part.did("shown: the sink without checks took a late write", bool(part.seen["unchecked_violations"]))
    if backend == "kafka":
        part.seen["unknown commits"] = fleet.logged(UNKNOWN)
        part.did("shown: a commit of unknown outcome", bool(part.seen["unknown commits"]))


async def storm(run: Run, finished: Finished) -> None:
    """Until the time is over or the cycles are done; stops after a part with violations."""
    left, seed = run.cycles, run.seed
    while left > 0 and anyio.current_time() < run.deadline_s:
        part = Part("storm", run.backend, seed)
        with workplace(run, part) as folder:
            async with (
                laid_out(run, folder, part.mode, seed) as (shape, proxy),
                running(shape, folder, seed, proxy) as fleet,
            ):
                blowing = Storm(run, fleet, part)
                async with anyio.create_task_group() as tasks:
                    if proxy is not None:
                        tasks.start_soon(blowing.meddle, proxy)
                    left -= await blowing.blow(left)
                    tasks.cancel_scope.cancel()
                part.violations += await fleet.rest()
                note(fleet, part)
                show(fleet, part, run.backend)
        finished(part)
        if part.violations:
            return
        seed += 1
