"""`Lease`: what a holder of locks has in hand while it holds them, and what renews it in the background.

A lease is the holder's own belief, on its own clock (design section 4): it ends early, for good, and without asking.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from uuid import uuid4

import anyio

from keylane import commands
from keylane.errors import KeylaneError, LeaseLost
from keylane.locking import Locking, Taken, Terms, log
from keylane.sessions import Session
from keylane.workers.clock import boottime_ms

LOOK_S = 1.0
"""How long the keeper sleeps at most: what counts suspend cannot be slept on."""
RENEWALS_A_LEASE = 3


class Lease:
    """Locks that are held together, and renewed in the background until they are lost or given back.

    Safe to look at from any thread (`resources`, `expires_in_s`, `lost`, `stop_asked`, `check`).
    """

    def __init__(self, locking: Locking) -> None:
        self._locking = locking
        self._locks: list[Taken] = []
        self._tokens: dict[str, int] = {}
        self._lost: str | None = None
        self._blocked = False
        self.is_given_back = False
        self._changed = anyio.Event()
        self._keeping = anyio.CancelScope()
        self._taking = anyio.CancelScope()

    @property
    def resources(self) -> Mapping[str, int]:
        """The fencing token by requested key, canonical. Keys with one owning key have one token."""
        return MappingProxyType(self._tokens)

    @property
    def expires_in_s(self) -> float:
        """How long it is held for certain without another renewal, by the holder's own clock and less a margin."""
        if self.lost is not None:
            return 0.0
        left_ms = min((lock.watch.machine.until_ms for lock in self._locks), default=0) - boottime_ms()
        return max(0.0, left_ms / 1_000)

    @property
    def lost(self) -> str | None:
        """Why it is not held any more, once it is not: for good."""
        if self._lost is None:
            self._lost = self._look()
        return self._lost

    @property
    def stop_asked(self) -> str | None:
        """Who has asked that it be given back, if somebody has. It is held all the same."""
        return next((by for lock in self._locks if (by := lock.watch.machine.stop_by) is not None), None)

    def check(self) -> None:
        """Raise LeaseLost when it is not held any more: before each effect."""
        if (why := self.lost) is not None:
            raise LeaseLost(why)

    async def renew(self, *, blocked: str | None = None) -> None:
        """Renew now. With `blocked`, say why its holder cannot go on instead: nothing renews it from then on, until
        `renew()` says that it goes on. Raises LeaseLost, Unavailable."""
        self.check()
        self._blocked = bool(blocked)
        sent = await self._locking.send_renewals(self._locks, blocked or None)
        await self._locking.answered(self._locks, sent, "renewal")
        self.check()

    async def release(self) -> None:
        """Give all of it back before the block ends. Raises LeaseLost where it was not held any more."""
        if not self.is_given_back:
            await self.leave()

    async def until_lost(self) -> str:
        """Wait until it is lost, or somebody asks that it be given back (`stop_asked`); returns why."""
        while self.lost is None and self.stop_asked is None:
            await self._changed.wait()
        return self.lost or f"{self.stop_asked} asks that it be given back"

    # -- for `holding` alone -------------------------------------------------------------------------------------

    async def take_all(
        self,
        resources: Sequence[str],
        wait_s: float,
        ttl_s: float | None,
        session: Session | None,
        explicit: bool | None,
    ) -> None:
        """Acquire one lock an owning key, in their order, which is the same for everybody. Failing on the way, it gives
        back what it has."""
        owners = await self._locking.owners(resources)
        asked: dict[str, list[str]] = {}
        for key, owner in sorted(owners.items(), key=lambda each: (each[1], each[0])):
            asked.setdefault(owner, []).append(key)
        named = session or self._locking.session
        ttl_ms = None if ttl_s is None else commands.milliseconds("ttl", ttl_s)
        if explicit is None:
            explicit = named is not None or len(asked) > 1
        terms = Terms(named or Session.new(), uuid4().hex, ttl_ms, explicit)
        ends_s = anyio.current_time() + wait_s
        try:
            for keys in asked.values():
                left_s = max(0.0, ends_s - anyio.current_time()) if self._locks else wait_s
                taken = await self._next(keys[0], terms, left_s)
                self._locks.append(taken)
                self._tokens.update(dict.fromkeys(keys, taken.watch.machine.token))
                taken.watch.listener = self._wake
                if len(self._locks) == 1:
                    self._locking.tasks.start_soon(self._keep)
        except BaseException:
            await self.let_go()
            raise

    async def _next(self, key: str, terms: Terms, wait_s: float) -> Taken:
        """The next lock, unless what is held already is lost while it is waited for."""
        with anyio.CancelScope() as self._taking:
            if self.lost is None:
                return await self._locking.take(key, terms, wait_s)
        raise LeaseLost(self.lost or "it was given back")

    async def leave(self) -> None:
        """Give it back, and say whether it was held until then: raises LeaseLost."""
        lost = self.lost
        await self._give_back(wait=True)
        for lock in self._locks:
            if lost is None and (why := lock.watch.machine.lost) is not None:
                lost = f"{lock.request.resource}: {why}"
        if lost is not None:
            raise LeaseLost(lost)

    async def let_go(self) -> None:
        """Give it back on the way out for another reason, which goes on."""
        await self._give_back(wait=False)

    async def _give_back(self, *, wait: bool) -> None:
        if self.is_given_back:
            return
        self.is_given_back = True
        self._lost = self._lost or "it was given back"
        self._wake()
        self._keeping.cancel()
        await self._locking.give_back(list(reversed(self._locks)), wait=wait)

    # -- keeping it ----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew until it is lost or given back, which it is at the latest when the client is closed."""
        try:
            with self._keeping:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._renew_in_time)
                    while self.lost is None:
                        await self._pause(min(lock.watch.machine.until_ms for lock in self._locks))
                    tasks.cancel_scope.cancel()
                self._wake()
                self._taking.cancel()
                await anyio.sleep_forever()
        except BaseException:
            await self.let_go()
            raise

    async def _renew_in_time(self) -> None:
        while True:
            now_ms = boottime_ms()
            due = [lock for lock in self._locks if self._due_ms(lock) <= now_ms]
            if due:
                try:
                    await self._locking.send_renewals(due, None)
                except KeylaneError as error:
                    log.warning("a lease cannot be renewed at the moment: %s", error)
            await self._pause(min(map(self._due_ms, self._locks)))

    def _due_ms(self, lock: Taken) -> float:
        """When it is to be renewed next."""
        machine = lock.watch.machine
        if machine.settled or not machine.renewable or self._blocked:
            return math.inf
        return max(machine.renewed_ms, machine.asked_ms) + machine.ttl_ms // RENEWALS_A_LEASE

    async def _pause(self, until_ms: float) -> None:
        """Wait until something was learnt, or that time, on a clock that counts suspend."""
        with anyio.move_on_after(min(LOOK_S, max(0.0, until_ms - boottime_ms()) / 1_000)):
            await self._changed.wait()

    def _look(self) -> str | None:
        """Why it is not held any more, by what was read and by the holder's clock."""
        now_ms = boottime_ms()
        for request, watch in self._locks:
            machine, why = watch.machine, watch.failure
            if machine.settled:
                why = machine.lost or "another of its session gave it back"
            elif machine.until_ms <= now_ms:
                why = "its lease was not renewed in time"
            if why is not None:
                return f"{request.resource}: {why}"
        return None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def holding(
    locking: Locking,
    resources: Sequence[str],
    wait_s: float,
    ttl_s: float | None,
    session: Session | None,
    explicit: bool | None,
) -> AsyncIterator[Lease]:
    """See `Client.lock`."""
    if not resources:
        raise ValueError("lock: name at least one resource")
    lease = Lease(locking)
    await lease.take_all(resources, wait_s, ttl_s, session, explicit)
    try:
        yield lease
    except BaseException:
        await lease.let_go()
        raise
    if not lease.is_given_back:
        await lease.leave()
