"""Who really holds what: each grant as it is committed, what holders believe, and what targets take from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from simulation.findings import Findings, true_owner, true_resource
from simulation.log_model import Log
from simulation.process import Process

from keylane.journal.port import Place
from keylane.router.core.policy import Policy
from keylane.schemas import topics
from keylane.schemas.codec import decode_result
from keylane.schemas.events import (
    AttemptFailed,
    Decided,
    Ended,
    Granted,
    Lost,
    Parked,
    Progressed,
    Queued,
    WorkerClosed,
    WorkerOpened,
)
from keylane.schemas.state import LOCK_ACTION


class Grant(NamedTuple):
    """A grant that is committed. `owner` is the true owning key, however its resource was spelt."""

    owner: str
    run: str
    session: str
    token: int
    partition: int


class TrueGrants:
    """Grants by resource and token, since lanes count their tokens apart."""

    def __init__(self, findings: Findings, log: Log, policy: Policy) -> None:
        self.effects: list[tuple[str, str, int]] = []
        self.overlaps = 0
        """Effects on targets that check no tokens, out of turn: not promised, counted."""
        self.generations: dict[str, int] = {}
        """By session, the generation that it joined with."""
        self.handlers: dict[type, Callable[[Any, int], None]] = {
            Queued: self._queued,
            Parked: self._parked,
            Decided: self._decided,
            Granted: self._granted,
            Progressed: self._progressed,
            AttemptFailed: self._attempt_failed,
            Lost: self._lost,
            Ended: self._ended_run,
            WorkerOpened: self._opened,
            WorkerClosed: self._closed,
        }
        self._broken = findings.broken
        self._log = log
        self._policy = policy
        self._live: dict[str, Grant] = {}
        self._grants: dict[tuple[str, int], Grant] = {}
        self._ended: set[Grant] = set()
        self._given_back: set[tuple[str, int | None]] = set()
        self._highest: dict[str, int] = {}
        self._users: dict[tuple[str, int], str] = {}
        self._sessions: dict[tuple[int, str], tuple[tuple[str, ...], tuple[int, int]]] = {}
        self._completed: dict[str, tuple[int, str]] = {}
        self._first_granted: dict[tuple[int, str], int] = {}

    def forgotten(self, partition: int, run: str) -> None:
        """The lane no longer remembers it: its id may name another run."""
        self._first_granted.pop((partition, run), None)

    # -- what lanes commit ----------------------------------------------------------------------------------

    def _parked(self, event: Parked, partition: int) -> None:
        if event.reason == "on_conflict":
            self._queued(event, partition)
        elif event.token is not None:
            self._over(event.resource, event.token)  # its holder had failed for the last time

    def _queued(self, event: Queued | Parked, partition: int) -> None:
        if not event.repeat:
            self.forgotten(partition, event.run)  # in the same turn, perhaps: then no tombstone says so

    def _decided(self, event: Decided, partition: int) -> None:
        """What is approved goes ahead as if it had been granted then."""
        if event.verdict == "approve":
            self._first_granted[partition, event.run] = event.seq

    def _granted(self, event: Granted, partition: int) -> None:
        grant = Grant(true_owner(event.resource), event.run, event.session, event.token, partition)
        live = self._live.get(grant.owner)
        if live is not None:
            self._broken("two live grants", f"{grant} while {live} is live (promise 1)")
        before = self._grants.get((grant.owner, event.token))
        if before is not None:
            self._broken("token reused", f"{grant} and {before} (promise 2)")
        self._live[grant.owner] = self._grants[grant.owner, event.token] = grant
        self._is_forward(event, partition)
        self._is_current(event, partition)

    def _is_forward(self, event: Granted, partition: int) -> None:
        """A run that was granted before goes ahead only where nothing else was completed since (design section 4)."""
        first = self._first_granted.setdefault((partition, event.run), event.seq)
        seq, run = self._completed.get(event.resource, (0, event.run))
        if seq > first and run != event.run:
            self._broken(
                "not forward", f"{event.run} was granted again, though {run} was completed on {event.resource}"
            )

    def _is_current(self, event: Granted, partition: int) -> None:
        """New grants go to the session of the highest generation, then of the latest join, of its group."""
        actions, seat = self._sessions.get((partition, event.session), ((), (0, 0)))
        newest = max(
            (other for (at, _), (does, other) in self._sessions.items() if at == partition and does == actions),
            default=(0, 0),
        )
        if seat < newest:
            self._broken("older session", f"{event.run} was granted to {event.session}, which is not the current one")

    def _opened(self, event: WorkerOpened, partition: int) -> None:
        seat = (self.generations.get(event.session, 0), event.seq)
        self._sessions[partition, event.session] = (event.actions, seat)

    def _closed(self, event: WorkerClosed, partition: int) -> None:
        self._sessions.pop((partition, event.session), None)

    def _progressed(self, event: Progressed, partition: int) -> None:
        self._is_of_the_holder(event, partition)

    def _attempt_failed(self, event: AttemptFailed, partition: int) -> None:
        self._is_of_the_holder(event, partition)
        self._over(event.resource, event.token)

    def _lost(self, event: Lost, partition: int) -> None:
        self._over(event.resource, event.token)
        if event.reason == "session_ended":
            self._let_go(event)

    def _let_go(self, event: Ended | Lost) -> None:
        """Its own session has given it back: whoever else of that session has it may not know yet."""
        self._given_back.add((true_owner(event.resource), event.token))

    def _ended_run(self, event: Ended, partition: int) -> None:
        if event.repeat or event.coalesced:
            return
        if event.token is not None:
            self._is_of_the_holder(event, partition)
            self._over(event.resource, event.token)
            if event.action == LOCK_ACTION and event.status in ("completed", "cancelled"):
                self._let_go(event)
        if event.action == LOCK_ACTION:
            return  # what was done under it is not known
        if event.status == "completed" and not self._policy.of(event.action).harmless:
            self._completed[event.resource] = (event.seq, event.run)

    def _over(self, resource: str, token: int) -> None:
        grant = self._grants.get((true_owner(resource), token))
        if grant is None:
            return
        self._ended.add(grant)
        if self._live.get(grant.owner) == grant:
            del self._live[grant.owner]

    def _is_of_the_holder(self, event: Progressed | AttemptFailed | Ended, partition: int) -> None:
        """A report is believed under the live token alone: the record that brought this about bore that."""
        topic, _, offset = event.input.partition("/")
        if topic != topics.RESULTS:
            return
        slot = self._log.at(Place(topic, partition)).slots[int(offset)]
        report = decode_result(None if slot.stored is None else slot.stored.value)
        token = getattr(report, "token", None)
        if token is not None and getattr(report, "run", "") == event.run and token != event.token:
            self._broken("not fenced", f"a report under {token} counted for {event.run}, held under {event.token}")

    # -- what holders and targets do ------------------------------------------------------------------------

    def acts(self, process: Process, resource: str, run: str, token: int) -> None:
        """A holder that has looked at its own clock believes that it holds `run`, and acts."""
        grant = self._grants.get((true_owner(resource), token))
        if grant is None or grant.run != run:
            self._broken("holds ungranted", f"{process.name} acts on {run} under {token}, which was not granted")
            return
        if (grant.owner, token) in self._given_back:
            return
        live = self._live.get(grant.owner)
        if live is not None and live.token != token:
            self._broken("two holders", f"{process.name} acts on {grant} although {live} was granted (leases)")
        elif grant in self._ended:
            self._broken("acts after end", f"{process.name} acts on {grant}, whose lease the lane has ended (leases)")

    def effect_arrives(self, resource: str, run: str, token: int) -> None:
        """An effect reaches its target, which refuses tokens below the highest that it has seen."""
        resource = true_resource(resource)
        live = self._live.get(true_owner(resource))
        if live is not None and live.token != token:
            self.overlaps += 1
        if token < self._highest.get(resource, 0):
            if live is not None and live.token == token:
                self._broken("holder refused", f"{resource} refuses {token} of its holder {run}: it saw a higher one")
            return
        self._highest[resource] = token
        user = self._users.setdefault((resource, token), run)
        if user != run:
            self._broken("token shared", f"{resource} accepted {token} from {run} and {user} (promise 2)")
        self.effects.append((resource, run, token))
