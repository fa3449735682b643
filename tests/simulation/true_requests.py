"""What became of requests, seen from outside: what agents asked, how their tickets ended, and what the log says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace
from simulation.findings import Findings, true_owner, true_resource
from simulation.scenario import Scenario

from keylane.journal.partitioner import partition_of
from keylane.journal.port import Stored
from keylane.schemas.codec import decode_request
from keylane.schemas.events import Coalesced, DeadLettered, Ended, Parked, Queued, Refused, Withdrawn
from keylane.schemas.requests import Cancellation, LockRequest, WorkRequest
from keylane.schemas.state import LOCK_ACTION

REMEMBERED = (
    "LOCK_HELD", "QUEUE_FULL", "LANE_FULL", "INTERNAL", "IDEMPOTENCY_MISMATCH", "VERSION_REQUIRED", "STALE_VERSION",
    "ORDER_VIOLATION", "LIMIT_REACHED",
)  # fmt: skip
"""Codes of refusals that are kept under the request's id: those of requests that have passed the first rule."""

Id = tuple[int, str]
"""A partition, and an id in it."""


class TrueRequests:
    """Requests by their lane and id."""

    def __init__(self, findings: Findings, scenario: Scenario) -> None:
        self.acknowledged: list[str] = []
        """Requests whose publish was acknowledged."""
        self.open: dict[int, set[str]] = defaultdict(set)
        """By partition, runs that are queued or held."""
        self.handlers: dict[type, Callable[[Any, int], None]] = {
            Queued: self._queued,
            Parked: self._parked,
            Coalesced: self._coalesced,
            Refused: self._refuse,
            Withdrawn: self._withdrawn,
            Ended: self._ended,
            DeadLettered: self._dead_lettered,
        }
        self._broken = findings.broken
        self._partitions = scenario.partitions
        self._remembers = scenario.policy.bounds.refusals > len(scenario.acts)
        self._said: dict[str, list[str]] = defaultdict(list)
        self._reused: list[str] = []
        self._set_aside: set[tuple[int, int]] = set()
        """Requests that became dead letters as ids used before: partition and offset."""
        self._accepted_at: dict[Id, int] = {}
        self._refused: set[Id] = set()
        self._cancelled: set[Id] = set()
        self._keyed: set[Id] = set()
        """Requests with an idempotency key: theirs is the outcome of what was done under it, whatever it was."""
        self._contents: dict[Id, list[tuple[int, Any]]] = defaultdict(list)

    def asked(self, stored: Stored) -> None:
        """A record of `requests`."""
        command = decode_request(stored.value)
        if isinstance(command, Cancellation):
            self._cancelled.add((stored.partition, command.request))
        elif isinstance(command, WorkRequest):
            resource = true_resource(command.resource)
            if command.idempotency_key is not None:
                self._keyed.add((stored.partition, command.id))
            owner = true_owner(resource)
            if partition_of(owner.encode(), self._partitions) == stored.partition:  # else it is not decided here
                content = (resource, command.action, bytes(command.payload), command.expected_version)
                self._contents[stored.partition, command.id].append((stored.offset, content))
        elif isinstance(command, LockRequest):
            if partition_of(true_owner(command.resource).encode(), self._partitions) == stored.partition:
                self._contents[stored.partition, command.id].append((stored.offset, replace(command, hops=0)))

    def forgotten(self, partition: int, request: str) -> None:
        """The lane no longer remembers it: its id may be used for something new."""
        self._accepted_at.pop((partition, request), None)

    # -- what lanes commit ----------------------------------------------------------------------------------

    def _parked(self, event: Parked, partition: int) -> None:
        if event.reason == "on_conflict":  # else it was accepted before
            self._queued(event, partition)

    def _queued(self, event: Queued | Parked, partition: int) -> None:
        if not event.repeat:
            self._is_new(partition, event.request)
            self.open[partition].add(event.run)
            self._accepted_at[partition, event.request] = int(event.input.partition("/")[2])

    def _coalesced(self, event: Coalesced, partition: int) -> None:
        if not event.repeat:
            self._is_new(partition, event.request)

    def _refuse(self, event: Refused, partition: int) -> None:
        if event.command in ("WorkRequest", "LockRequest") and not event.repeat and event.code in REMEMBERED:
            self._is_new(partition, event.request)
            self._refused.add((partition, event.request))
        self._said[event.request].append("refused")

    def _is_new(self, partition: int, request: str) -> None:
        """A request that was refused is not decided again while that is remembered (rule 2)."""
        if self._remembers and (partition, request) in self._refused:
            self._broken("refusal forgotten", f"{request} was refused before, and is decided anew (promise 3)")

    def _withdrawn(self, event: Withdrawn, partition: int) -> None:
        if event.action != LOCK_ACTION:
            self._were_cancelled(event.status, partition, (event.request,))
        self._said[event.request].append(event.status)

    def _ended(self, event: Ended, partition: int) -> None:
        if event.action != LOCK_ACTION:  # of locks that is `true_locks`'s to say
            self._were_cancelled(event.status, partition, event.requests)
        if not event.repeat and not event.coalesced:
            self.open[partition].discard(event.run)
        for request in event.requests:
            self._said[request].append(event.status)

    def _were_cancelled(self, status: str, partition: int, requests: Sequence[str]) -> None:
        for request in requests:
            if status == "cancelled" and not {(partition, request)} & (self._cancelled | self._keyed):
                self._broken("not cancelled", f"{request} ended cancelled, and nobody cancelled it (promise 4)")

    def _dead_lettered(self, event: DeadLettered, partition: int) -> None:
        if event.code == "ID_REUSED":
            self._reused.append(event.reason)
            self._set_aside.add((partition, event.offset))

    # -- what agents see ------------------------------------------------------------------------------------

    def ticket_ended(self, id: str, status: str, code: str | None) -> None:
        """A client's ticket says how its request ended: the log must say the same."""
        if code == "ID_REUSED":
            if not any(repr(id) in reason for reason in self._reused):
                self._broken("ticket differs", f"the ticket of {id} says ID_REUSED, no dead letter does (promise 4)")
        elif status not in self._said[id]:
            self._broken("ticket differs", f"the ticket of {id} says {status}, the log {self._said[id]} (promise 4)")

    def close(self) -> None:
        """What can be said at the end: ids that were used for other content were noticed (rule 2)."""
        for (partition, id), used in self._contents.items():
            first = self._accepted_at.get((partition, id))
            if first is None:
                continue
            mine = next((content for offset, content in used if offset == first), None)
            for offset, content in used:
                if offset > first and content != mine and (partition, offset) not in self._set_aside:
                    where = f"{id} at requests/{partition}@{offset} and {first}"
                    self._broken("id reused unnoticed", f"{where} (promise 11)")
