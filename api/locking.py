"""Having locks: acquiring, claiming, renewing and giving back, one at a time. The shell over `lock_machine`.

What keeps several of them is `lease`; what is done by a credential alone is in `lock_reports`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup

from keylane import commands
from keylane.command_answers import not_told
from keylane.errors import KeylaneError, Unavailable, error_body, refusal, translated
from keylane.journal.port import Record
from keylane.lock_machine import LockMachine
from keylane.locks import Credential
from keylane.publishing import Publisher
from keylane.receipts import Receipts
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal
from keylane.schemas.times import rfc3339
from keylane.sessions import Session
from keylane.waiting import ANSWER_S, Watch
from keylane.workers.clock import boottime_ms

log = logging.getLogger(__name__)

UNDO_S = 5.0
"""How long giving back may take on the way out, whatever the caller does meanwhile."""


class Taken(NamedTuple):
    """A lock that was acquired, and is still followed."""

    request: LockRequest
    watch: Watch[LockMachine]


class Terms(NamedTuple):
    """How a lock is asked for."""

    session: Session
    hold: str
    ttl_ms: int | None
    explicit: bool


class Locking:
    """One client's. `session`: whose its locks are where none is named."""

    def __init__(
        self,
        publisher: Publisher,
        receipts: Receipts,
        tasks: TaskGroup,
        *,
        actor: str,
        session: Session | None,
    ) -> None:
        self._publisher = publisher
        self._receipts = receipts
        self._actor = actor
        self.session = session
        self.tasks = tasks
        """Where leases are kept while their blocks run: they end with the client at the latest."""

    async def owners(self, resources: Sequence[str]) -> dict[str, str]:
        """The owning key of each, canonical. Raises `Refused` (`BAD_KEY`)."""
        with translated():
            layout = await self._publisher.layout_now()
        keys = map(commands.checked_key, resources)
        return {key: layout.owner_of(key) for key in keys}

    async def acquire(
        self,
        resource: str,
        *,
        session: Session | None,
        hold: str,
        wait_s: float,
        ttl_s: float | None,
        explicit: bool | None,
    ) -> Credential:
        """See `Client.acquire`."""
        named = session or self.session
        terms = Terms(
            session=named or Session.new(),
            hold=hold,
            ttl_ms=None if ttl_s is None else commands.milliseconds("ttl", ttl_s),
            explicit=named is not None if explicit is None else explicit,
        )
        request, watch = await self.take(commands.checked_key(resource), terms, wait_s)
        self._receipts.drop(watch)
        machine = watch.machine
        return Credential(
            resource=request.resource,
            run=machine.run,
            token=machine.token,
            session=terms.session.id,
            secret=terms.session.secret,
            hold=hold,
            holder=machine.holder or self._actor,
            acquired=rfc3339(commands.wall_ms() / 1_000),
            ttl_ms=machine.ttl_ms,
        )

    async def take(self, key: str, terms: Terms, wait_s: float) -> Taken:
        """Acquire a lock, and claim it where it had to wait. On every other way out nothing of it is left held."""
        request = LockRequest(
            id=uuid4().hex,
            resource=key,
            session=terms.session.id,
            secret=terms.session.secret,
            hold=terms.hold,
            actor=self._actor,
            wait_ms=commands.milliseconds("wait", wait_s),
            ttl_ms=terms.ttl_ms,
            explicit=terms.explicit,
        )
        with translated():
            await self._publisher.layout_now()
        record = self._record(request)
        watch = Watch(LockMachine(request.id, record.partition, boottime_ms()))
        taken = Taken(request, watch)
        self._receipts.watch(watch, request.id)
        try:
            await self._publisher.publish([record], [watch])
            await self._had(taken, wait_s)
        except BaseException:
            self._receipts.drop(watch)
            await self._withdraw(taken)
            raise
        return taken

    async def _had(self, taken: Taken, wait_s: float) -> None:
        machine, said = taken.watch.machine, f"the request for {taken.request.resource}"
        if not await taken.watch.until(lambda m: m.standing != "asked", ANSWER_S):
            trouble = f" ({why})" if (why := self._receipts.trouble) else ""
            raise Unavailable(f"no router answered {said} within {ANSWER_S:g} s{trouble}; it is withdrawn")
        if not await taken.watch.until(lambda m: m.standing != "waiting", wait_s + ANSWER_S):
            raise Unavailable(f"no router ended the wait of {said} when {wait_s:g} s were over; it is withdrawn")
        if machine.standing == "granted" or (machine.standing == "held" and machine.until_ms <= boottime_ms()):
            # After a wait it is to be claimed. What lay unread for longer than its lease is renewed before it is had.
            await self.answered([taken], await self.send_renewals([taken], None), "claim")
        if machine.error is not None:
            raise not_told(machine.error)
        if machine.settled:
            why = machine.lost or "it was given back by another of its session"
            raise refusal(error_body("EXPIRED", f"{taken.request.resource}: lost before it was had: {why}"))
        if machine.until_ms <= boottime_ms():
            raise Unavailable(
                f"a lease of {machine.ttl_ms / 1_000:g} s on {taken.request.resource} was over when the answer came"
            )

    async def _withdraw(self, taken: Taken) -> None:
        """Leave nothing of a request that failed: it may be on record all the same, or be granted yet."""
        request, machine = taken.request, taken.watch.machine
        if machine.settled and (machine.error is None or machine.error.code != "UNAVAILABLE"):
            return
        command = Cancellation(
            id=uuid4().hex,
            resource=request.resource,
            request=request.id,
            actor=request.actor,
            secret=request.secret,
        )
        await self.write_shielded([command])

    async def send_renewals(self, locks: Sequence[Taken], blocked: str | None) -> list[str]:
        """Publish a Renewal of each, which also claims. Returns their ids: their answers are the machines'."""
        ids, records = [], []
        for request, watch in locks:
            machine = watch.machine
            renewal = Renewal(
                id=uuid4().hex,
                resource=request.resource,
                run=machine.run,
                token=machine.token,
                secret=request.secret,
                blocked=blocked,
            )
            ids.append(renewal.id)
            records.append(self._record(renewal))
            machine.sends(renewal.id, boottime_ms())
        await self._publisher.write(records)
        return ids

    async def answered(self, locks: Sequence[Taken], ids: Sequence[str], what: str) -> None:
        """Wait until each Renewal is answered, or its lock is over. Raises `Unavailable`."""
        for (request, watch), id in zip(locks, ids, strict=True):
            if not await watch.until(lambda machine, id=id: machine.is_answered(id), ANSWER_S):  # type: ignore[misc]
                raise Unavailable(f"no router answered the {what} of {request.resource} within {ANSWER_S:g} s")

    async def give_back(self, locks: Sequence[Taken], *, wait: bool) -> None:
        """Release what is not over yet, also where the caller is cancelled. `wait`: until the lane has said so.

        Never raises: what cannot be given back now ends with its lease.
        """
        releases = []
        for request, watch in locks:
            machine = watch.machine
            if not machine.settled:
                release = Release(
                    id=uuid4().hex,
                    resource=request.resource,
                    run=machine.run,
                    token=machine.token,
                    secret=request.secret,
                )
                machine.sends(release.id, boottime_ms())
                releases.append(release)
        if await self.write_shielded(releases) and wait:
            with anyio.move_on_after(UNDO_S, shield=True) as scope:
                for _, watch in locks:
                    while not watch.machine.settled and watch.failure is None:
                        await watch.changed()
            if scope.cancelled_caught:
                log.warning("no router has answered the release of locks yet; it is on record")
        for _, watch in locks:
            self._receipts.drop(watch)

    async def write_shielded(self, given_up: Sequence[Cancellation | Release]) -> bool:
        """Publish what gives locks back, for a bounded time and whatever becomes of the caller. Returns whether it is
        on record."""
        written, over = False, anyio.Event()

        async def write() -> None:
            nonlocal written
            try:
                with anyio.CancelScope(shield=True):
                    written = await self._written(given_up)
            finally:
                over.set()

        if not given_up:
            return True
        # A task of its own: an asyncio task can be cancelled through any shield, and a client waits for its tasks.
        try:
            self.tasks.start_soon(write)
        except RuntimeError:
            return False  # the client was closed meanwhile
        with anyio.CancelScope(shield=True):
            await over.wait()
        return written

    async def _written(self, given_up: Sequence[Cancellation | Release]) -> bool:
        try:
            with anyio.move_on_after(UNDO_S), translated():
                await self._publisher.layout_now()
                await self._publisher.write([self._record(each) for each in given_up])
                return True
            why = f"not within {UNDO_S:g} s"
        except KeylaneError as error:
            why = str(error)
        named = ", ".join(each.resource for each in given_up)
        log.warning("could not give back %s, which ends with its lease: %s", named, why)
        return False

    def _record(self, command: LockRequest | Renewal | Release | Cancellation) -> Record:
        return commands.record_of(command, self._publisher.layout, commands.source_of(self._actor), None)
