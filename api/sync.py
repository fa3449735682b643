"""`SyncClient`: the same names as `Client`, for code without an event loop. Safe to use from several threads.

A blocking portal runs one `Client` in a thread of its own; there is no logic here beyond handing calls over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from keylane.changes import ChangeTicket
from keylane.client import Client
from keylane.command_answers import CancelAnswer
from keylane.locks import Credential, LockInfo
from keylane.outcome import Json, Outcome, Ownership, Position, Status
from keylane.reviews import Review
from keylane.schemas.conflicts import ConflictResolved
from keylane.schemas.event_parts import ChangeEffect, Verdict
from keylane.schemas.events import AnyEvent, Changed, Decided, Renewed
from keylane.schemas.requests import ResourceChange, WorkRequest
from keylane.sessions import Session
from keylane.submitting import SubmitOptions
from keylane.sync_locks import SyncLease, interruptible, locked
from keylane.waiting import ANSWER_S, Ticket


class SyncTicket:
    """One published request; see `Ticket`."""

    def __init__(self, portal: BlockingPortal, ticket: Ticket) -> None:
        self._portal = portal
        self._ticket = ticket

    @property
    def request_id(self) -> str:
        """The id under which the request is known."""
        return self._ticket.request_id

    def accepted(self, timeout_s: float = ANSWER_S) -> Status:
        """See `Ticket.accepted`."""
        return self._portal.call(self._ticket.accepted, timeout_s)

    def outcome(self, timeout_s: float | None = None) -> Outcome:
        """See `Ticket.outcome`."""
        return self._portal.call(self._ticket.outcome, timeout_s)


class SyncChangeTicket:
    """One change that was published; see `ChangeTicket`."""

    def __init__(self, portal: BlockingPortal, ticket: ChangeTicket) -> None:
        self._portal = portal
        self._ticket = ticket

    def recorded(self, timeout_s: float = ANSWER_S) -> ChangeEffect:
        """See `ChangeTicket.recorded`."""
        return self._portal.call(self._ticket.recorded, timeout_s)


class SyncClient:
    """An agent's side of keylane, blocking. A context manager; see `Client` for every method."""

    def __init__(self, url: str | None = None, *, actor: str | None = None, session: Session | None = None) -> None:
        self._client = Client(url, actor=actor, session=session)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def submit(self, resource: str, action: str, payload: Json = None, **options: Unpack[SubmitOptions]) -> SyncTicket:
        """See `Client.submit`."""
        ticket = self._portal.call(lambda: self._client.submit(resource, action, payload, **options))
        return SyncTicket(self._portal, ticket)

    def submit_all(self, requests: Sequence[WorkRequest], *, traceparent: str | None = None) -> list[SyncTicket]:
        """See `Client.submit_all`."""
        tickets = self._portal.call(lambda: self._client.submit_all(requests, traceparent=traceparent))
        return [SyncTicket(self._portal, ticket) for ticket in tickets]

    def publish_all(
        self, asked: Sequence[WorkRequest | ResourceChange], *, traceparent: str | None = None
    ) -> list[SyncTicket | SyncChangeTicket]:
        """See `Client.publish_all`."""
        tickets = self._portal.call(lambda: self._client.publish_all(asked, traceparent=traceparent))
        return [
            SyncTicket(self._portal, ticket) if isinstance(ticket, Ticket) else SyncChangeTicket(self._portal, ticket)
            for ticket in tickets
        ]

    def run(
        self,
        resource: str,
        action: str,
        payload: Json = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Outcome:
        """See `Client.run`."""
        return self._portal.call(lambda: self._client.run(resource, action, payload, timeout_s=timeout_s, **options))

    def cancel(self, resource: str, request_id: str) -> CancelAnswer:
        """See `Client.cancel`."""
        return self._portal.call(self._client.cancel, resource, request_id)

    def changed(
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
        """See `Client.changed`."""
        return self._portal.call(
            lambda: self._client.changed(resource, version, by=by, what=what, at=at, source=source, sequence=sequence)
        )

    def review(self, resource: str, request_id: str) -> Review:
        """See `Client.review`."""
        return self._portal.call(self._client.review, resource, request_id)

    def decide(
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
        """See `Client.decide`."""
        return self._portal.call(
            lambda: self._client.decide(
                resource, request_id, verdict, version_seen=version_seen, note=note, by=by, seen=seen
            )
        )

    def resolve(self, conflict_id: str, *, note: str, by: str | None = None) -> ConflictResolved:
        """See `Client.resolve`."""
        return self._portal.call(lambda: self._client.resolve(conflict_id, note=note, by=by))

    def status(self, resource: str, request_id: str) -> Status:
        """See `Client.status`."""
        return self._portal.call(self._client.status, resource, request_id)

    def who(self, resource: str) -> Ownership:
        """See `Client.who`."""
        return self._portal.call(self._client.who, resource)

    def lock(
        self,
        *resources: str,
        wait_s: float = 0,
        ttl_s: float | None = None,
        session: Session | None = None,
        explicit: bool | None = None,
    ) -> AbstractContextManager[SyncLease]:
        """See `Client.lock`."""
        lease = self._client.lock(*resources, wait_s=wait_s, ttl_s=ttl_s, session=session, explicit=explicit)
        return locked(self._portal, lease)

    def acquire(
        self,
        resource: str,
        *,
        session: Session | None = None,
        hold: str = "",
        wait_s: float = 0.0,
        ttl_s: float | None = None,
        explicit: bool | None = None,
    ) -> Credential:
        """See `Client.acquire`. Interrupted on the way (KeyboardInterrupt) it leaves nothing held."""
        return interruptible(
            self._portal,
            lambda: self._client.acquire(
                resource, session=session, hold=hold, wait_s=wait_s, ttl_s=ttl_s, explicit=explicit
            ),
            self._client.release,
        )

    def renew(self, credential: Credential, *, blocked: str | None = None) -> Renewed:
        """See `Client.renew`."""
        return self._portal.call(lambda: self._client.renew(credential, blocked=blocked))

    def release(self, credential: Credential) -> None:
        """See `Client.release`."""
        self._portal.call(self._client.release, credential)

    def end_session(self, session: Session) -> tuple[str, ...]:
        """See `Client.end_session`."""
        return self._portal.call(self._client.end_session, session)

    def locks(self, resource: str | None = None, session_id: str | None = None) -> list[LockInfo]:
        """See `Client.locks`."""
        return self._portal.call(self._client.locks, resource, session_id)

    def events(self, resource: str | None = None, after: Position | None = None) -> Iterator[AnyEvent]:
        """See `Client.events`. Starts at the first step; close the generator to let go."""
        stream = self._client.events(resource, after)
        try:
            while True:
                yield self._portal.call(stream.__anext__)
        finally:
            self._portal.call(stream.aclose)
