"""Runs as their events and requests tell them, for `true_rules`: who wants them, on what grounds, how they stand."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from simulation.findings import Findings
from simulation.log_model import Log
from simulation.scenario import Scenario
from simulation.true_resources import TrueResources

from keylane.journal.port import Place
from keylane.router.core.policy import ActionPolicy
from keylane.schemas import topics
from keylane.schemas.base import NULL
from keylane.schemas.codec import decode_request, decode_result
from keylane.schemas.events import ApprovalVoided, Decided, Parked
from keylane.schemas.requests import WorkRequest
from keylane.schemas.results import Failed, Progress

if TYPE_CHECKING:
    from simulation.true_lock_runs import LockSeen

Id = tuple[int, str]
FEW_RESOURCES = 100
"""A lane that remembers fewer forgets what a rule asks for: then only what it must never do is judged."""


class RunSeen:
    """One run of one lane."""

    def __init__(self, id: str, resource: str, owner: str, request: WorkRequest, accepted_ms: int) -> None:
        self.id = id
        self.resource = resource
        self.owner = owner
        self.action = request.action
        self.first = request
        self.accepted_ms = accepted_ms
        self.state = "Waiting"
        self.members: dict[str, tuple[WorkRequest, int]] = {}
        """Who wants it, with when each came."""
        self.keys: dict[str, WorkRequest] = {}
        """By idempotency key: the first request that came under it."""
        self.count = 0
        self.joined_ms = accepted_ms
        self.was_quiet = False
        self.granted: int | None = None
        """The event of its first grant."""
        self.approved: Decided | None = None
        self.parked_ms = 0
        self.asked_by = ""
        """Parked: the artifact by which a person is asked."""
        self.token: int | None = None
        self.holder = ""
        """The worker that holds it, or held it at its end."""
        self.stopping = False
        self.lease_ms = self.renewed_ms = self.granted_ms = 0
        self.checkpoint: bytes | None = None
        self.doomed_by = ""
        """The request that replaces it."""

    def joins(self, request: WorkRequest, clock_ms: int) -> None:
        """One more wants it."""
        self.members[request.id] = (request, clock_ms)
        self.count += 1
        self.joined_ms = clock_ms
        if request.idempotency_key is not None:
            self.keys.setdefault(request.idempotency_key, request)

    def parks(self, event: Parked | ApprovalVoided, partition: int) -> None:
        """A person is asked, by the artifact of this event."""
        self.state, self.approved, self.holder = "Parked", None, ""
        self.parked_ms, self.asked_by = event.clock_ms, f"{partition}-{event.seq}"

    def quiet_ms(self, policy: ActionPolicy) -> int:
        """When nobody will have joined it for long enough."""
        return min(self.joined_ms + policy.quiet_ms, self.accepted_ms + policy.max_delay_ms)

    def renews(self, report: Progress, clock_ms: int) -> None:
        """Its lease runs anew, unless the holder says that it is blocked."""
        if not report.blocked:
            self.renewed_ms = clock_ms

    def firm(self) -> int | None:
        """The event after which nothing else may be completed on its resource."""
        return self.granted if self.approved is None else self.approved.seq

    def decided_on(self) -> str | None:
        """The version that it goes ahead on."""
        return (self.approved.version_seen if self.approved is not None else None) or self.first.expected_version

    def payloads(self) -> tuple[bytes, list[bytes]]:
        """The one that leads, and the others, oldest first."""
        if self.first.coalesce_key is None:
            return bytes(self.first.payload), []
        wanted = [bytes(request.payload) for request, _ in self.members.values()]
        leads = wanted[-1]
        return leads, [each for each in dict.fromkeys(wanted) if each != leads]

    def digest(self) -> str:
        """Of the payload that leads."""
        return hashlib.sha256(self.payloads()[0]).hexdigest()

    def is_like(self, request: WorkRequest) -> bool:
        """Whether the request may join it, as its content goes."""
        first = self.first
        if (request.action, request.coalesce_key) != (first.action, first.coalesce_key):
            return False
        if (request.expected_version, set(request.requires)) != (first.expected_version, set(first.requires)):
            return False
        return request.coalesce_key is not None or request.payload == first.payload

    def saves(self, data: object) -> None:
        """The holder saved something for the next one."""
        if data != NULL:
            self.checkpoint = bytes(data)  # type: ignore[call-overload]  # raw JSON


def is_same_work(one: WorkRequest, other: WorkRequest) -> bool:
    """Whether two requests ask for the same, whoever asks, and for how long."""
    plain = [
        (each.resource, each.action, each.payload, each.expected_version, each.coalesce_key) for each in (one, other)
    ]
    return plain[0] == plain[1] and set(one.requires) == set(other.requires)


class RulesSeen:
    """All runs by their lane and id, and what is known of what they are about."""

    def __init__(self, findings: Findings, log: Log, scenario: Scenario) -> None:
        self.broken = findings.broken
        self.log = log
        self.policy = scenario.policy
        self.remembers = scenario.policy.bounds.resources > FEW_RESOURCES
        self.known = TrueResources(scenario.policy)
        self.runs: dict[Id, RunSeen] = {}
        self.locks: dict[Id, LockSeen] = {}
        self.open_locks: dict[Id, LockSeen] = {}
        """Those that are not over."""
        self.alive: dict[str, dict[Id, RunSeen | LockSeen]] = defaultdict(dict)
        """By owning key: runs that are not over."""
        self.cancelled: dict[Id, str] = {}
        """Requests whose cancellation came before them, as long as that is remembered, with the resource it named."""
        self.pools: dict[Id, str] = {}
        self.items: dict[tuple[int, int], tuple[Any, ...]] = {}
        """By lane and token: what the item of a grant is to say."""
        self.told: list[tuple[int, int]] = []
        """Holders that are to be told of a change, by lane and token."""
        self.doomed: list[RunSeen] = []
        self.artifacts: dict[int, list[str]] = defaultdict(list)
        """By lane, in the order in which they were published."""

    def record(self, event: Any, partition: int) -> Any:
        """The record that brought the event about; None for a timer."""
        topic, _, offset = event.input.partition("/")
        if topic not in (topics.REQUESTS, topics.RESULTS):
            return None
        stored = self.log.at(Place(topic, partition)).slots[int(offset)].stored
        value = None if stored is None else stored.value
        return decode_request(value) if topic == topics.REQUESTS else decode_result(value)

    def fails(self, event: Any, partition: int, run: RunSeen) -> None:
        """Whose holder says that it did not succeed is counted no more."""
        if run.state == "Held" and isinstance(self.record(event, partition), Failed):
            self.known.counted(run.owner, run.action).pop(run.id, None)

    def modes(self, owner: str, action: str, states: tuple[str, ...]) -> set[str]:
        """What is to happen between a request for `action` and the runs that it meets in those states."""
        others = [other.action for other in self.alive[owner].values() if other.state in states]
        return {self.mode(action, other) for other in others}

    def mode(self, action: str, other: str) -> str:
        """The same of two actions."""
        policy = self.policy.of(action)
        return policy.on_conflict_with.get(other, policy.on_conflict)

    def under_key(self, partition: int, owner: str, key: str | None) -> RunSeen | None:
        """The run that is remembered under an idempotency key, unless it ended without having begun."""
        if key is None:
            return None
        for (at, _), run in self.runs.items():
            if at == partition and run.owner == owner and key in run.keys:
                if run.state != "Done" or run.granted is not None:
                    return run
        return None
