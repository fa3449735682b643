"""An agent that holds locks: a client of the simulation's own, which does right and wrong as a `LockPlan` says.

It counts its leases as a client is to: from when it sent what the lane answers, on a clock that counts suspend, and
less a margin. While it believes to hold a lock it acts on the resource.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from typing import Any

from msgspec.structs import replace
from simulation import tasks
from simulation.findings import true_owner
from simulation.lock_events import LockEvents
from simulation.lock_secrets import secret_of
from simulation.lock_user import LockUser
from simulation.process import Process
from simulation.scenario import LockPlan, Scenario
from simulation.truth import Truth

from keylane.journal.errors import Unavailable
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Journal, Record
from keylane.schemas import topics
from keylane.schemas.base import Schema
from keylane.schemas.codec import encode
from keylane.schemas.events import Coalesced, Ended, Fenced, Granted, Lost, Refused, Renewed, StopAsked
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, SessionEnded
from keylane.workers.lease import usable_ms

ANSWER_S = 12.0
STEP_MS = 250
OBEYS_S = 6.0
SENDS = 3
AGAIN_S = 0.3


class HeldLock:
    """What a holder believes. `over`: it has let go, or knows that it has lost it."""

    def __init__(self, plan: LockPlan, resource: str, request: str, run: str, token: int) -> None:
        self.plan = plan
        self.resource = resource
        self.request = request
        self.run = run
        self.token = token
        self.sent_ms = self.lease_ms = 0
        self.over = False

    def counts(self, sent_ms: int, lease_ms: int) -> None:
        """The lane has answered what was sent then."""
        if sent_ms + lease_ms > self.sent_ms + self.lease_ms:
            self.sent_ms, self.lease_ms = sent_ms, lease_ms

    def is_held(self, now_ms: int) -> bool:
        return not self.over and now_ms < self.sent_ms + usable_ms(self.lease_ms)


class LockHand:
    """The plans of one life of an agent process."""

    def __init__(self, scenario: Scenario, process: Process, journal: Journal, truth: Truth) -> None:
        self._scenario = scenario
        self._process = process
        self._journal = journal
        self._truth = truth
        self._heard = LockEvents(journal, scenario.partitions)
        self._count = count(1)
        self._dice = random.Random(f"hand/{scenario.seed}/{process.name}")

    async def live(self, plans: Sequence[tuple[LockPlan, int]], done: Any) -> None:
        """Perform each plan after so many milliseconds; `done` is called for each."""
        while True:
            try:
                positions = await self._heard.begin()
                break
            except Unavailable:
                await tasks.sleep(AGAIN_S)
        async with tasks.TaskGroup() as group:
            group.start_soon(self._heard.run, positions)
            async with tasks.TaskGroup() as hands:
                for plan, wait_ms in plans:
                    hands.start_soon(self._perform, plan, wait_ms, done)
            group.cancel_scope.cancel()

    async def _perform(self, plan: LockPlan, wait_ms: int, done: Any) -> None:
        await tasks.sleep_us(wait_ms * 1_000)
        try:
            await (LockUser(self._process, self._truth).use(plan) if plan.by else self._use(plan))
        finally:
            done()

    async def _use(self, plan: LockPlan) -> None:
        """Take one after the other, hold them all for a while, give them back in the other order."""
        if not plan.resources:
            await self._end_session(plan)
            return
        held: list[HeldLock] = []
        async with tasks.TaskGroup() as keepers:
            for number, resource in enumerate(plan.resources):
                if number:
                    await tasks.sleep(plan.between_ms / 1_000)
                lock = await self._take(plan, number, resource)
                if lock is None:
                    break
                held.append(lock)
                keepers.start_soon(self._keep, lock)
            else:
                await self._hold(plan, held)
            for lock in reversed(held):
                lock.over = True
                await self._let_go(lock)

    # -- to have one ------------------------------------------------------------------------------------------

    async def _take(self, plan: LockPlan, number: int, resource: str) -> HeldLock | None:
        for attempt in range(plan.tries):
            answer = await self._ask(plan, f"{plan.id}-{number}" + (f"-{attempt}" if attempt else ""), resource)
            if not isinstance(answer, Refused | Ended):
                return answer
            code = answer.code if isinstance(answer, Refused) else answer.error and answer.error.code
            if code != "LOCK_HELD":
                return None
            await tasks.sleep((answer.retry_after_ms or 100) / 1_000)
        return None

    async def _ask(self, plan: LockPlan, id: str, resource: str) -> HeldLock | Refused | Ended | None:
        """The lock, or why it is not had; None where that is not known, or it was given up."""
        request = LockRequest(
            id=id, resource=resource, session=plan.session, secret=self._secret(plan), hold=plan.hold, actor="hand",
            wait_ms=plan.wait_ms, ttl_ms=plan.ttl_ms, explicit=plan.explicit,
        )  # fmt: skip
        if plan.gives_up_ms == 0:
            await self._cancel(plan, id, resource)
        sent_ms = self._process.boot_ms()
        if not await self._append(request, plan.astray):
            await self._cancel(plan, id, resource)
            return None
        self._truth.requests.acknowledged.append(id)
        await self._ask_again(plan, request)
        waits_s = plan.wait_ms / 1_000 + ANSWER_S if not plan.gives_up_ms else plan.gives_up_ms / 1_000
        answer = await self._heard.until(id, lambda event: _answers(event, id), waits_s)
        if answer is None:
            await self._cancel(plan, id, resource)
        if not isinstance(answer, Granted | Coalesced):
            return answer  # type: ignore[no-any-return]
        lock = HeldLock(plan, resource, id, answer.run, answer.token or 0)
        if isinstance(answer, Coalesced) or answer.claim_ms is None:
            lock.counts(sent_ms, answer.lease_ms or 0)
            return lock
        if not plan.claims:
            if self._dice.random() < 0.5:
                await self._cancel(plan, id, resource, bare=True)
            return None
        return lock if await self._renew(lock, f"{id}-claim") else None

    async def _ask_again(self, plan: LockPlan, request: LockRequest) -> None:
        match plan.again:
            case "same":
                await self._append(request)
            case "anew":
                await self._append(_other(request, id=f"{request.id}-again"))
            case "other":
                await self._append(_other(request, wait_ms=request.wait_ms + 1))

    # -- while it is held -------------------------------------------------------------------------------------

    async def _keep(self, lock: HeldLock) -> None:
        """Act while it is believed to be held, and renew it in the plan's way."""
        resource, run, token = lock.resource, lock.run, lock.token
        renewed_ms = self._process.boot_ms()
        while not lock.over:
            if self._heard.about(run, Lost) or any(run == end.run for end in self._heard.about(run, Ended)):
                lock.over = True
                return
            now_ms = self._process.boot_ms()
            if not lock.is_held(now_ms):
                if lock.plan.renews == "late":
                    await self._renew(lock)
                lock.over = True
                return
            self._truth.grants.acts(self._process, resource, run, token)
            self._process.world.after(
                int(self._dice.random() * 20_000), self._truth.grants.effect_arrives, resource, run, token
            )
            if now_ms - renewed_ms >= lock.lease_ms // 3 and lock.plan.renews not in ("", "late"):
                renewed_ms = now_ms
                await self._renew(lock)
            left_ms = lock.sent_ms + usable_ms(lock.lease_ms) - now_ms
            await tasks.sleep(max(1, min(STEP_MS, left_ms - 1)) / 1_000)

    async def _renew(self, lock: HeldLock, id: str = "") -> bool:
        """Whether the lane has renewed it, or let it be claimed."""
        plan, way = lock.plan, "" if id else lock.plan.renews
        id = id or f"{lock.request}-r{next(self._count)}"
        renewal = Renewal(
            id=id,
            resource=self._beside(lock.resource) if way == "resource" else lock.resource,
            run=lock.run,
            token=lock.token + (way == "token"),
            secret=secret_of(plan.session, "no-") if way == "secret" else self._secret(plan),
            blocked="a person" if way == "blocked" and self._dice.random() < 0.6 else None,
        )
        sent_ms = self._process.boot_ms()
        if not await self._append(renewal):
            return False
        answer = await self._heard.until(id, lambda event: isinstance(event, Renewed | Fenced | Refused), ANSWER_S)
        if isinstance(answer, Renewed):
            lock.counts(sent_ms, 0 if answer.blocked and not answer.claimed else answer.lease_ms)
        return isinstance(answer, Renewed)

    async def _hold(self, plan: LockPlan, held: Sequence[HeldLock]) -> None:
        if plan.ends == "obey":
            run = held[-1].run
            await self._heard.until(run, lambda event: isinstance(event, StopAsked), OBEYS_S)
        else:
            await tasks.sleep(plan.hold_ms / 1_000)

    # -- the end ----------------------------------------------------------------------------------------------

    async def _let_go(self, lock: HeldLock) -> None:
        plan = lock.plan
        release = Release(
            id=f"{lock.request}-x{next(self._count)}", resource=lock.resource, run=lock.run, token=lock.token,
            secret=self._secret(plan),
        )  # fmt: skip
        match plan.ends:
            case "twice":
                await self._append(release)
                await self._append(release)
            case "token":
                await self._append(_other(release, token=lock.token - 1))
            case "secret":
                await self._append(_other(release, secret=secret_of(plan.session, "no-")))
            case "cancel":
                await self._cancel(plan, lock.request, lock.resource)
            case "cancel_bare":
                await self._cancel(plan, lock.request, lock.resource, bare=True)
                if await self._heard.until(lock.run, lambda event: isinstance(event, StopAsked), 2.0):
                    await self._append(release)
            case "end" | "end_secret":
                await self._end_session(plan)
            case "forget":
                pass
            case _:
                await self._append(release)

    async def _end_session(self, plan: LockPlan) -> None:
        secret = secret_of(plan.session, "no-") if plan.ends == "end_secret" else self._secret(plan)
        id = f"{plan.id}-e{next(self._count)}"
        ended = encode(SessionEnded(id=id, session=plan.session, secret=secret))
        places = range(self._scenario.partitions)
        await self._send([Record(topics.REQUESTS, place, plan.session.encode(), ended) for place in places])

    async def _cancel(self, plan: LockPlan, request: str, resource: str, *, bare: bool = False) -> None:
        """It is wanted no more; `bare`: says who does not know the secret."""
        id = f"{request}-c{next(self._count)}"
        secret = None if bare or plan.gives_up_ms == 30 else self._secret(plan)
        await self._append(Cancellation(id=id, resource=resource, request=request, secret=secret))

    def _beside(self, resource: str) -> str:
        """Another resource of the same lane."""
        partitions = self._scenario.partitions
        at = partition_of(true_owner(resource).encode(), partitions)
        return next(key for key in (f"lock://b{n}" for n in count()) if partition_of(key.encode(), partitions) == at)

    # -- what is written --------------------------------------------------------------------------------------

    def _secret(self, plan: LockPlan) -> str:
        return secret_of(plan.session, plan.secret)

    async def _append(self, record: Any, astray: bool = False) -> bool:
        partitions = self._scenario.partitions
        partition = (partition_of(true_owner(record.resource).encode(), partitions) + astray) % partitions
        return await self._send([Record(topics.REQUESTS, partition, record.resource.encode(), encode(record))])

    async def _send(self, records: list[Record]) -> bool:
        """At least once: what is not acknowledged is sent again, a few times. Whether it was at last."""
        for _ in range(SENDS):
            try:
                await self._journal.append(records)
                return True
            except Unavailable:
                await tasks.sleep(AGAIN_S)
        return False


def _other(record: Schema, **fields: Any) -> Any:
    return replace(record, **fields)


def _answers(event: Any, id: str) -> bool:
    match event:
        case Granted():
            return event.run == id  # type: ignore[no-any-return]
        case Coalesced():
            return event.request == id and event.token is not None
        case Refused():
            return event.request == id and event.command == "LockRequest"
        case Ended():
            return id in event.requests
    return False
