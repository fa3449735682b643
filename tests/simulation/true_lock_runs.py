"""Locks as their events and requests tell them, for `true_locks`: whose they are, how they stand, until when.

Stands among the runs of `true_runs` under its owning key: other work meets it there.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulation.findings import true_resource
from simulation.true_runs import Id, RulesSeen, RunSeen

from keylane.router.core.policy import LockPolicy
from keylane.schemas.events import Queued
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, SessionEnded
from keylane.schemas.state import LOCK_ACTION


class LockSeen:
    """One lock of one lane."""

    action = LOCK_ACTION
    doomed_by = ""

    def __init__(self, event: Queued, request: LockRequest, policy: LockPolicy) -> None:
        self.id = event.run
        self.resource = event.resource
        self.owner = event.owner
        self.terms = request
        self.order = event.seq
        self.input = event.input
        self.ttl_ms = policy.ttl_ms if request.ttl_ms is None else request.ttl_ms
        self.waits_until_ms = event.clock_ms + (request.wait_ms or policy.check_ms)
        self.state = "Waiting"
        self.members: dict[str, LockRequest] = {request.id: request}
        """Who has it, and has not left."""
        self.joined = 1
        self.token: int | None = None
        self.until_ms = self.hold_until_ms = 0
        self.unclaimed = self.stopping = False
        self.blocked: str | None = None
        self.lost = ""
        self.status = ""

    @property
    def holder(self) -> str:
        """As people are told."""
        return self.terms.actor or self.terms.session

    def is_of(self, request: LockRequest) -> bool:
        """Whether it is what the request's session has under the same hold id."""
        return (request.session, request.hold, request.secret) == (
            self.terms.session, self.terms.hold, self.terms.secret,
        )  # fmt: skip

    def obeys(self, report: Renewal | Release) -> bool:
        """Whether the report is under its token, and of somebody who knows the secret."""
        return self.token == report.token and self.terms.secret == report.secret

    def is_meant_by(self, command: Cancellation) -> bool:
        """Whether one of its requests is."""
        return command.request in self.members and true_resource(command.resource) == self.resource

    def is_ended_by(self, ended: SessionEnded) -> bool:
        """Whether its session is."""
        return (ended.session, ended.secret) == (self.terms.session, self.terms.secret)

    def renew(self, now_ms: int) -> int:
        """It runs anew from now. Returns for how long."""
        self.until_ms = min(now_ms + self.ttl_ms, self.hold_until_ms)
        self.unclaimed = False
        return max(0, self.until_ms - now_ms)


def held(seen: RulesSeen, owner: str) -> LockSeen | RunSeen | None:
    """What holds the key."""
    return next((run for run in seen.alive[owner].values() if run.state == "Held"), None)


def waiting_runs(seen: RulesSeen, owner: str) -> Iterator[LockSeen | RunSeen]:
    """What waits for the key, locks in the order of acceptance: work that has been tried stands where it stood."""
    return (run for run in seen.alive[owner].values() if run.state == "Waiting")


def of_session(seen: RulesSeen, partition: int, session: str) -> list[tuple[Id, LockSeen]]:
    """What a session holds or waits for in a lane."""
    return [(id, lock) for id, lock in seen.open_locks.items() if id[0] == partition and lock.terms.session == session]


def is_shaped(request: LockRequest, policy: LockPolicy) -> bool:
    """Whether it says what a request may say."""
    names = (request.session, request.secret) + ((request.hold,) if request.hold else ())
    return (
        all(0 < len(name) <= 128 and name.isprintable() for name in names)
        and len(request.secret) >= 16
        and 0 <= request.wait_ms <= policy.wait_ms_max
        and (request.ttl_ms is None or 1_000 <= request.ttl_ms <= policy.max_hold_ms)
    )
