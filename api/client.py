"""`Client`: asking for work, and for what became of it.

The shell over `commands` (what is published), `publishing` (how), `receipts` (what is read back), `waiting`, `ticket`,
`changes` and `command_answers` (what that means), `views` (what a lane has committed), `ownership`, `request_status`,
and `reviews` (the folds behind `who`, `status` and `review`). No rule of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self, Unpack
from uuid import uuid4

import anyio

from keylane import commands
from keylane.changes import ChangeTicket
from keylane.command_answers import CancelAnswer, ToldMachine
from keylane.conflicts import find_conflict, partition_of_id
from keylane.errors import Refused, RunFailed, error_body, refusal, translated
from keylane.events import EventStream
from keylane.journal.connect import connect, resolve_url
from keylane.journal.port import Journal
from keylane.lease import Lease, holding
from keylane.lock_reports import LockReports
from keylane.locking import Locking
from keylane.locks import Credential, LockInfo
from keylane.outcome import Json, Outcome, Ownership, Position, Status
from keylane.ownership import ownership
from keylane.publishing import Publisher
from keylane.receipts import Receipts
from keylane.request_status import request_status
from keylane.reviews import Review, parked_run, read_review
from keylane.schemas.conflicts import ConflictResolved
from keylane.schemas.event_parts import Verdict
from keylane.schemas.events import Changed, Decided, Renewed
from keylane.schemas.requests import Cancellation, Decision, Resolution, ResourceChange, WorkRequest
from keylane.sessions import Session
from keylane.submitting import SubmitOptions
from keylane.ticket import TicketMachine
from keylane.views import read_state
from keylane.waiting import Ticket, Watch


class Client:
    """An agent's side of keylane. An async context manager; safe to share between tasks of one event loop.

    `url`: where the journal is; else `KEYLANE_URL`, else the embedded one in `./.keylane`. `actor`: who asks,
    for people; else `KEYLANE_ACTOR`, else user@host. Every method raises `Unavailable` when the journal does
    not answer, and `Refused` for what was not accepted. `session`: to which its locks belong; without one each
    acquire is a session of its own.
    """

    def __init__(self, url: str | None = None, *, actor: str | None = None, session: Session | None = None) -> None:
        with translated():
            self.url = resolve_url(url, os.environ)
        self.actor = actor or commands.default_actor(os.environ)
        self._session = session

    async def __aenter__(self) -> Self:
        with translated():
            self._journal: Journal = await connect(self.url)
            self._receipts = Receipts(self._journal)
            self._publisher = Publisher(self._journal, self._receipts)
            try:
                await self._publisher.layout_now()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._journal.close()
                raise
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._locking = Locking(self._publisher, self._receipts, self._tasks, actor=self.actor, session=self._session)
        self._lock_reports = LockReports(self._journal, self._publisher, self._receipts, actor=self.actor)
        self._tasks.start_soon(self._receipts.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._receipts.fail("the client was closed")
        self._tasks.cancel_scope.cancel()
        try:
            # Not told of `error`: it is the caller's, and would come back wrapped in a group.
            await self._tasks.__aexit__(None, None, None)
        finally:
            with anyio.CancelScope(shield=True):
                await self._journal.close()

    async def submit(
        self,
        resource: str,
        action: str,
        payload: Json = None,
        *,
        request_id: str | None = None,
        idempotency_key: str | None = None,
        expected_version: str | None = None,
        coalesce_key: str | None = None,
        reject_if_busy: bool = False,
        requires: Sequence[str] = (),
        deadline_s: float | None = None,
        traceparent: str | None = None,
    ) -> Ticket:
        """Ask that a worker does `action` on `resource`. Returns when the journal has the request for good.

        `payload` is JSON: builtins, msgspec structs or dataclasses. For the options see `SubmitOptions`.
        Raises `Refused` at once for a bad key or a request over 256 KiB; what the router refuses is told by
        the ticket.
        """
        request = WorkRequest(
            id=uuid4().hex if request_id is None else request_id,
            resource=resource,
            action=action,
            payload=commands.encoded_payload(payload),
            actor=self.actor,
            idempotency_key=idempotency_key,
            expected_version=expected_version,
            coalesce_key=coalesce_key,
            requires=tuple(requires),
            reject_if_busy=reject_if_busy,
            deadline_ms=None if deadline_s is None else commands.milliseconds("deadline", deadline_s),
        )
        (ticket,) = await self.submit_all([request], traceparent=traceparent)
        return ticket

    async def submit_all(self, requests: Sequence[WorkRequest], *, traceparent: str | None = None) -> list[Ticket]:
        """Publish many requests at once, in order; as `submit`. One refused here lets none through."""
        published = await self.publish_all(requests, traceparent=traceparent)
        return [ticket for ticket in published if isinstance(ticket, Ticket)]

    async def publish_all(
        self, asked: Sequence[WorkRequest | ResourceChange], *, traceparent: str | None = None
    ) -> list[Ticket | ChangeTicket]:
        """As `submit_all`, with changes that were made outside among the requests. Returns a ticket for each."""
        records = []
        if self._receipts.sent_on:
            # Scope rules were changed since: what is published from now on goes to where it belongs.
            with translated():
                await self._publisher.layout_now()
            self._receipts.sent_on = False
        watches: list[Watch[TicketMachine] | Watch[ToldMachine]] = []
        tickets: list[Ticket | ChangeTicket] = []
        for command in asked:
            command = commands.with_canonical_key(command)
            record = commands.record_of(command, self._publisher.layout, commands.source_of(self.actor), traceparent)
            records.append(record)
            if isinstance(command, ResourceChange):
                told = Watch(ToldMachine(command.id, record.partition))
                watches.append(told)
                tickets.append(ChangeTicket(told))
            else:
                request = Watch(TicketMachine(command.id, command.resource, command.action, record.partition))
                watches.append(request)
                tickets.append(Ticket(request, lambda: self._receipts.trouble))
        for watch, command in zip(watches, asked, strict=True):
            self._receipts.watch(watch, command.id)
        await self._publisher.publish(records, watches)
        return tickets

    async def run(
        self,
        resource: str,
        action: str,
        payload: Json = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Outcome:
        """Submit, and wait until it is completed.

        Raises `Refused` (`LockHeld`); `RunFailed` when it ended in any other way than completed, superseded
        and cancelled among them; `TimeoutError` after `timeout_s`, which does not withdraw the request.
        """
        ticket = await self.submit(resource, action, payload, **options)
        outcome = await ticket.outcome(timeout_s)
        if outcome.status == "completed":
            return outcome
        assert outcome.error is not None
        if outcome.status == "refused":
            raise refusal(outcome.error)
        raise RunFailed(outcome.error, outcome)

    async def cancel(self, resource: str, request_id: str) -> CancelAnswer:
        """Withdraw a request. Others that were merged into its run keep it.

        `withdrawn`: it is over. `stop_asked`: it is held and nobody else wants it, so its holder was asked to
        stop; it ends cancelled or, if the holder had finished, completed. Raises `Refused`: `NOT_FOUND`, or
        `TOO_LATE` when it had ended.
        """
        key = commands.checked_key(resource)
        command = Cancellation(id=uuid4().hex, resource=key, request=request_id, actor=self.actor)
        return await self._publisher.cancelled(command, commands.source_of(self.actor))

    async def changed(
        self,
        resource: str,
        version: str,
        *,
        by: str,
        what: str,
        at: str | None = None,
        source: str = "",
        sequence: int | None = None,
    ) -> Changed:
        """Tell that `by` changed the resource outside keylane: `version` is current now; empty, nobody knows which.

        Returns what became of it, as it is on the record. `effect` there: `applied` (the holder was told, approvals
        given before are void), `known` (the lane knew that version), `older` (its `source` had told of a higher
        `sequence`) or `repeated`. `what` is what was done, `at` when (RFC 3339). Raises `Refused` for what cannot be.
        """
        key = commands.checked_key(resource)
        change = ResourceChange(
            id=uuid4().hex, resource=key, version=version, by=by, what=what, at=at, source=source, sequence=sequence
        )
        with translated():
            layout = await self._publisher.layout_now()
        record = commands.record_of(change, layout, commands.source_of(self.actor), None)
        told = await self._publisher.told(change, record)
        assert isinstance(told, Changed)
        return told

    async def review(self, resource: str, request_id: str) -> Review:
        """What a person is asked about a parked request, and what approving it will do, as of the lane's last commit.

        Raises `Refused` (`NOT_FOUND`) where it waits for no decision.
        """
        key = commands.checked_key(resource)
        with translated():
            partition = (await self._publisher.layout_now()).partition_of(key)
            found = await read_review(self._journal, partition, lambda view: parked_run(view, key, request_id))
        if found is None:
            raise Refused(error_body("NOT_FOUND", f"no request {request_id} on {key} waits for a decision"))
        return found

    async def decide(
        self,
        resource: str,
        request_id: str,
        verdict: Verdict,
        *,
        version_seen: str,
        note: str,
        by: str | None = None,
        seen: Review | None = None,
    ) -> Decided:
        """Approve or reject a parked request: for everybody who was merged into its run.

        The decision is bound to `version_seen`, the version of the resource that was decided on (empty: none is
        known), and to payload and asking as in `seen`, which `review` returned; else as they are when this is called.
        `by`: who decides, else the client's actor. An approved run waits for its turn; a rejected one ends `rejected`.

        Raises `Refused`: `NOT_FOUND`; `TOO_LATE` where it waits for no decision, or is parked anew since;
        `STALE_VERSION` where version or payload are others now; `VERSION_REQUIRED`. The code is the router's.
        """
        key = commands.checked_key(resource)
        with translated():
            layout = await self._publisher.layout_now()
            if seen is None:
                partition = layout.partition_of(key)
                seen = await read_review(self._journal, partition, lambda view: parked_run(view, key, request_id))
        decision = Decision(
            id=uuid4().hex,
            resource=key,
            request=request_id,
            verdict=verdict,
            by=by or self.actor,
            version_seen=version_seen,
            digest=None if seen is None else seen.digest,
            note=note,
            conflict="" if seen is None else seen.conflict_id,
        )
        record = commands.record_of(decision, layout, commands.source_of(self.actor), None)
        told = await self._publisher.told(decision, record)
        assert isinstance(told, Decided)
        return told

    async def resolve(self, conflict_id: str, *, note: str, by: str | None = None) -> ConflictResolved:
        """Close a conflict that no decision settles. One that is settled already is left, and returned, as it is.

        Raises `Refused`: `NOT_FOUND` where it is not on record, `BAD_RECORD` while its run waits for a decision.
        """
        with translated():
            layout = await self._publisher.layout_now()
            artifact, resolved = await find_conflict(self._journal, layout.partitions, conflict_id)
        if resolved is not None:
            return resolved
        resolution = Resolution(
            id=uuid4().hex, conflict=conflict_id, resource=artifact.resource, by=by or self.actor, note=note
        )
        partition = partition_of_id(conflict_id)
        # Where the artifact lies, whatever the rules make of its resource now, which need not be a key at all.
        record = commands.record_at(resolution, partition, artifact.resource, commands.source_of(self.actor), None)
        told = await self._publisher.told(resolution, record)
        return ConflictResolved(
            id=f"{partition}-{told.seq}", conflict=conflict_id, resource=told.resource, by=resolution.by, note=note
        )

    async def status(self, resource: str, request_id: str) -> Status:
        """How a request stands, as of the lane's last commit. Raises `Refused` (`NOT_FOUND`)."""
        key = commands.checked_key(resource)
        with translated():
            layout = await self._publisher.layout_now()
            seen = await read_state(self._journal, layout.partition_of(key))
        status = request_status(seen, key, request_id)
        if status is None:
            raise Refused(error_body("NOT_FOUND", f"no request {request_id} is known on {key}"))
        return status

    async def who(self, resource: str) -> Ownership:
        """Who holds a resource, who waits for it and why, and who touched it last, as of the lane's last commit."""
        key = commands.checked_key(resource)
        with translated():
            layout = await self._publisher.layout_now()
            seen = await read_state(self._journal, layout.partition_of(key))
        return ownership(seen, key, layout.owner_of(key), commands.wall_ms())

    def lock(
        self,
        *resources: str,
        wait_s: float = 0,
        ttl_s: float | None = None,
        session: Session | None = None,
        explicit: bool | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold resources for as long as the block runs: all of them, or none. `session` and `explicit` as in `acquire`;
        of several keys a session of their own is explicit, too.

        Renewed in the background at a third of each lease, which is `ttl_s` long (else as the router has it). Where
        one is held by another, waits up to `wait_s` for it. Raises `LockHeld`, `Refused` (`DEADLOCK` with `cycle`
        among them), `Unavailable`. On every way out what is held is given back; where it was lost meanwhile, leaving
        the block raises `LeaseLost`, unless an exception is on its way already.
        """
        return holding(self._locking, resources, wait_s, ttl_s, session, explicit)

    async def acquire(
        self,
        resource: str,
        *,
        session: Session | None = None,
        hold: str = "",
        wait_s: float = 0.0,
        ttl_s: float | None = None,
        explicit: bool | None = None,
    ) -> Credential:
        """Acquire one lock without keeping it: nothing renews it but `renew`. Returns what renews and releases it.

        `session` may have it already under the same `hold`: then it is had again, under the same token. `explicit`:
        the session may hold other locks, so that waiting can close a cycle; else so where a session was named.
        Raises as `lock`. Failing or cancelled on the way it leaves nothing held.
        """
        return await self._locking.acquire(
            resource, session=session, hold=hold, wait_s=wait_s, ttl_s=ttl_s, explicit=explicit
        )

    async def renew(self, credential: Credential, *, blocked: str | None = None) -> Renewed:
        """Let the lease of a lock run anew; or with `blocked`, say why its holder cannot go on, which renews nothing.

        Raises `LeaseLost` where it is not held any more.
        """
        return await self._lock_reports.renew(credential, blocked=blocked)

    async def release(self, credential: Credential) -> None:
        """Give a lock back; one that was given back already is. Raises `LeaseLost` where it was lost before."""
        await self._lock_reports.release(credential)

    async def end_session(self, session: Session) -> tuple[str, ...]:
        """End a session: all that it holds or waits for goes. Returns the runs that ended, of all partitions."""
        return await self._lock_reports.end_session(session)

    async def locks(self, resource: str | None = None, session_id: str | None = None) -> list[LockInfo]:
        """The locks that are held or waited for, as of each lane's last commit: all, of one key, or of one session."""
        return await self._lock_reports.locks(resource, session_id)

    def events(self, resource: str | None = None, after: Position | None = None) -> EventStream:
        """What routers decide, as it happens: of one resource, or of all.

        From now on; or after a position that an earlier stream had, `Position()` being the oldest event
        that is kept. Iterate over it, and keep its `position` to go on later.
        """
        key = None if resource is None else commands.checked_key(resource)
        return EventStream(self._journal, self._publisher.layout, key, after)
