"""Kafka's `EndTxn` held back between a router and its broker, and each time a proof of what became of the commit.

A marker is published to a lane, and the `EndTxn` is held that follows the `Produce` with the marker's `Queued` in it:
it ends that very transaction. While it is held nobody can see the marker. Then, as chance has it:

- `late`: it goes on within the transaction's time. The broker says that it committed, and the marker is there.
- `cut`: its client is cut off. The router claims the lane anew, which ends the transaction uncommitted, and applies the
  marker again. Then the late `EndTxn` is let go while the successor's next transaction is open: the broker refuses
  it, and what is open stays unseen until its own end.
- `timed out`: as `cut`, but the client is left to give up by itself, after 6 s.
- `unknown`: it goes on, and the client is cut off before it hears the answer. The commit has happened: the router finds
  that when it loads the lane, and does not apply the marker again.

In the end each marker was accepted exactly once, which is for the judge to say as well.
"""

import random

import anyio
from chaos.evidence import Part
from chaos.fleet import PARTITIONS, Fleet
from chaos.modes import Finished, Run, in_parts
from kafka.proxy import END_TXN, Held, Proxy, end_txn_error

from keylane.journal import Journal, Record, connect
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.requests import WorkRequest

HELD_PART = 60
WAIT_S = 30.0
KINDS = {"late": 4, "cut": 4, "unknown": 4, "timed out": 1}
"""With their weights: the last takes the longest."""
LATE_S = (0.1, 2.0)
"""Within the transaction's 3 s."""


class Lane:
    """One lane whose `EndTxn`s are held, one after the other."""

    def __init__(self, number: int, fleet: Fleet, journal: Journal, proxy: Proxy, transactional_id: bytes) -> None:
        self.number = number
        self._history = fleet.history
        self._journal = journal
        self._proxy = proxy
        self._id = transactional_id
        self._markers = 0

    def marker(self) -> str:
        """The id of a request whose resource is of its own, in this lane."""
        while True:
            self._markers += 1
            id = f"marker-{self.number}-{self._markers}-"
            if partition_of(f"deploy://{id}".encode(), PARTITIONS) == self.number:
                return id

    def hold(self, marker: str, **how: bool) -> Held:
        return self._proxy.hold(END_TXN, names=self._id, after=marker.encode(), **how)

    def forget(self, held: Held) -> None:
        self._proxy.forget(held)

    async def publish(self, marker: str) -> None:
        key = f"deploy://{marker}"
        value = encode(WorkRequest(id=marker, resource=key, action="restart"))
        await self._journal.append([Record(topics.REQUESTS, self.number, key.encode(), value)])

    async def until_seen(self, marker: str) -> bool:
        return await self._history.until(lambda: marker in self._history.queued, WAIT_S)

    async def until_ended(self, marker: str) -> bool:
        return await self._history.until(lambda: marker in self._history.ended, WAIT_S)

    def is_seen(self, marker: str) -> bool:
        return marker in self._history.queued

    async def claimed_since(self, claim: int) -> bool:
        return await self._history.until(lambda: self._history.claims[self.number] > claim, WAIT_S)

    def claim(self) -> int:
        return self._history.claims[self.number]


async def suffer(lane: Lane, kind: str, chance: random.Random) -> str | None:
    """Hold one `EndTxn` and find out what became of the commit: `committed` or `aborted`; None where that is not
    proven. Raises TimeoutError where something does not come."""
    marker = lane.marker()
    held = lane.hold(marker, cut=kind == "cut", swallow=kind == "unknown")
    try:
        with anyio.fail_after(WAIT_S):
            return await _what_became(lane, kind, marker, held, chance.uniform(*LATE_S))
    finally:
        lane.forget(held)


async def _what_became(lane: Lane, kind: str, marker: str, held: Held, late_s: float) -> str | None:
    claim = lane.claim()
    await lane.publish(marker)
    await held.arrived.wait()
    if kind == "unknown":
        await held.answered.wait()
        proven = end_txn_error(held) == 0 and await lane.until_seen(marker)
        # And the router, which does not know, claims the lane again and goes on after it.
        proven = proven and await lane.claimed_since(claim) and await lane.until_ended(marker)
        return "committed" if proven else None
    await anyio.sleep(late_s if kind == "late" else 0)
    if lane.is_seen(marker):
        return None
    if kind == "late":
        held.release()
        await held.answered.wait()
        proven = end_txn_error(held) == 0 and await lane.until_seen(marker) and lane.claim() == claim
        return "committed" if proven and await lane.until_ended(marker) else None
    proven = await lane.until_seen(marker) and await lane.claimed_since(claim) and await lane.until_ended(marker)
    return "aborted" if proven and await _is_refused_while_another_is_open(lane, held) else None


async def _is_refused_while_another_is_open(lane: Lane, late: Held) -> bool:
    marker = lane.marker()
    open_ = lane.hold(marker)
    try:
        await lane.publish(marker)
        await open_.arrived.wait()
        late.release()
        await late.answered.wait()
        still_open = not lane.is_seen(marker)
    finally:
        open_.release()
    return end_txn_error(late) != 0 and still_open and await lane.until_ended(marker)


async def held_endtxn(run: Run, finished: Finished) -> None:
    """All lanes at once, each with one `EndTxn` held at a time."""
    assert run.broker is not None

    async def suffer(fleet: Fleet, part: Part, _: random.Random, cycles: int) -> None:
        assert fleet.proxy is not None
        await _hold(run, fleet, fleet.proxy, part, cycles)

    await in_parts(run, "held-endtxn", HELD_PART, finished, suffer, routers=1, workers=1)


async def _hold(run: Run, fleet: Fleet, proxy: Proxy, part: Part, cycles: int) -> None:
    history = fleet.history
    fleet.publishers.pop().kill()
    await history.until(lambda: fleet.acknowledged() <= history.ended and not history.live, WAIT_S)
    journal = await connect(fleet.shape.url)
    numbers = iter(range(cycles))

    async def hold_on(number: int) -> None:
        chance = random.Random(f"{part.seed}/{number}")
        lane = Lane(number, fleet, journal, proxy, fleet.transactional_id(number))
        for cycle in numbers:
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            run.say(f"{cycle + 1}/{cycles}: EndTxn of lane {number}, {kind}")
            try:
                became = await suffer(lane, kind, chance)
            except TimeoutError:
                became = None
            part.did("held EndTxn", became is not None)
            part.seen[f"EndTxn {kind}: {became or 'not proven'}"] += 1

    try:
        async with anyio.create_task_group() as tasks:
            for number in range(PARTITIONS):
                tasks.start_soon(hold_on, number)
        twice = [request for request, count in history.queued.items() if count > 1]
        part.violations += [f"{request} was accepted more than once" for request in twice]
    finally:
        await journal.close()
