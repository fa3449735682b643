"""The promises of design section 7, judged from what was read and what was published, without the core's code."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from keylane.router.core.policy import Policy
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.event_parts import Event
from keylane.schemas.events import (
    ApprovalVoided,
    AttemptFailed,
    Changed,
    Coalesced,
    DeadLettered,
    Decided,
    Ended,
    Fenced,
    Granted,
    Lost,
    Parked,
    Progressed,
    Queued,
    Refused,
    Renewed,
    Withdrawn,
    WorkerClosed,
    WorkerOpened,
)
from keylane.schemas.items import ItemRecord, SessionClosed, WorkItem
from keylane.schemas.requests import LockRequest, WorkRequest
from keylane.schemas.results import WorkerHeartbeat, WorkerJoined
from keylane.schemas.state import LOCK_ACTION

CLASHING = ("LOCK_HELD", "STALE_VERSION", "IDEMPOTENCY_MISMATCH", "ORDER_VIOLATION", "LIMIT_REACHED", "DEADLOCK")
"""Refusals that are a clash of intentions."""


class Judge:
    """Reads a history in order: what arrived (`saw`) and what was published (`heard`). Asserts as it goes."""

    def __init__(self, policy: Policy) -> None:
        self.live: dict[str, Granted] = {}
        self.renewed_ms: dict[int, int] = {}
        self.last_token = 0
        self.last_seq = 0
        self.numbers: dict[str, int] = {}
        self.items: dict[int, WorkItem] = {}
        self.beat_ms: dict[str, int] = {}
        self.beat_number: dict[str, int] = {}
        self.sessions: dict[str, WorkerOpened] = {}
        self.run_of: dict[str, str] = {}
        self.members: dict[str, list[str]] = defaultdict(list)
        self.key_of: dict[str, str | None] = {}
        self.policy = policy
        self.last_done: dict[str, str] = {}
        """By resource: the last completed action, harmless ones aside."""
        self.standing: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        """By owning key and action: the runs that a limit counts, with their resource."""
        self.granted_under: dict[tuple[str, str], str] = {}
        """By owning and idempotency key: the run that was granted. Judged where keys are never forgotten."""
        self.terminal: Counter[str] = Counter()
        self.waiting: dict[str, dict[str, tuple[int, str, int]]] = defaultdict(dict)
        """By owning key and run: order of acceptance, action, and from when on it is ready."""
        self.about: dict[str, Queued | Parked] = {}
        self.parked: dict[str, str] = {}
        self.approved: dict[str, Decided] = {}
        self.moved: dict[str, int] = {}
        """By resource: the newest event that changed it, by a completion that is not harmless or from outside."""
        self.unclaimed: dict[int, int] = {}
        """By token of a lock that waited: until when it may be claimed."""
        self.clashes: set[int] = set()
        self.artifacts: Counter[int] = Counter()

    # -- what arrived -------------------------------------------------------------------------------------

    def saw(self, clock_ms: int, record: Any) -> None:
        if isinstance(record, WorkerHeartbeat) and record.session in self.sessions:
            if record.number > self.beat_number.get(record.session, 0):
                self.beat_number[record.session] = record.number
                self.beat_ms[record.session] = clock_ms
        elif isinstance(record, WorkerJoined) and record.session not in self.sessions:
            self.beat_ms[record.session] = clock_ms
            self.beat_number[record.session] = 0
        elif isinstance(record, WorkRequest):
            self.key_of.setdefault(record.id, record.idempotency_key)
        elif isinstance(record, LockRequest):
            self.key_of.setdefault(record.id, None)

    # -- what was published -------------------------------------------------------------------------------

    def heard(self, record: Any) -> None:
        if isinstance(record, ConflictArtifact):
            self.artifacts[record.event_seq] += 1
        elif isinstance(record, SessionClosed):
            self.numbers.pop(record.session, None)
        elif isinstance(record, ItemRecord):
            assert record.number == self.numbers.get(record.session, 0) + 1, "items are numbered without gaps"
            self.numbers[record.session] = record.number
            if isinstance(record, WorkItem):
                self.items[record.token] = record
        elif isinstance(record, Event):
            assert record.seq == self.last_seq + 1, "events are numbered without gaps"
            self.last_seq = record.seq
            if self.is_clash(record):
                self.clashes.add(record.seq)
            judge = getattr(self, f"on_{type(record).__name__}", None)
            if judge is not None:
                judge(record)

    @staticmethod
    def is_clash(event: Any) -> bool:
        """Promise 11: whether an artifact is due."""
        match event:
            case Refused(repeat=False) if event.command in ("WorkRequest", "Decision"):
                return event.code in CLASHING
            case Parked(repeat=False) | ApprovalVoided():
                return True
            case Ended(repeat=False, coalesced=False):
                seen = event.observed_version
                inconsistent = event.status == "completed" and seen is not None and seen != event.version
                if event.status == "refused" and event.action == LOCK_ACTION:
                    return event.error is not None and event.error.code == "DEADLOCK"
                if event.status == "refused":
                    return event.error is not None and event.error.code in CLASHING
                return event.status in ("superseded", "expired") or (inconsistent and event.version is not None)
            case Withdrawn(status="expired", repeat=False) | Fenced() | Lost() | DeadLettered(code="ID_REUSED"):
                return True
        return False

    def on_WorkerOpened(self, event: WorkerOpened) -> None:
        self.sessions[event.session] = event

    def on_WorkerClosed(self, event: WorkerClosed) -> None:
        del self.sessions[event.session]
        if event.reason == "session_lapsed":
            assert event.clock_ms >= self.beat_ms[event.session] + self.policy.session_lapse_ms, (
                "promise 7: lapsed early"
            )

    def on_Queued(self, event: Queued) -> None:
        if not event.repeat:
            self.run_of[event.request] = event.run
            self.members[event.run].append(event.request)
            self.about[event.run] = event
            its = self.policy.of(event.action)
            delayed = its.quiet_ms or its.min_interval_ms
            ready_ms = event.clock_ms if not delayed else 10**15  # those are not held to their place
            self.waiting[event.owner][event.run] = (event.seq, event.action, ready_ms)

    def on_Parked(self, event: Parked) -> None:
        if event.repeat:
            return
        if event.reason == "on_conflict":
            self.run_of[event.request] = event.run
            self.members[event.run].append(event.request)
            self.about[event.run] = event
        else:
            grant = self.live.get(event.owner)
            if grant is not None and grant.run == event.run:
                self.fails(self.live.pop(event.owner))
            self.waiting[event.owner].pop(event.run, None)
        self.parked[event.run] = event.owner

    def on_Decided(self, event: Decided) -> None:
        owner = self.parked[event.run]
        if event.verdict == "approve":
            del self.parked[event.run]
            self.approved[event.run] = event
            first = self.about[event.run]
            self.waiting[owner][event.run] = (first.seq, first.action, event.clock_ms)

    def on_ApprovalVoided(self, event: ApprovalVoided) -> None:
        assert self.approved.pop(event.run).decision == event.decision
        del self.waiting[event.owner][event.run]
        self.parked[event.run] = event.owner

    def on_Coalesced(self, event: Coalesced) -> None:
        if not event.repeat:
            self.run_of[event.request] = event.run
            self.members[event.run].append(event.request)
        if event.token is not None:
            self.renews(event.run, event.token, event.clock_ms)

    def on_Renewed(self, event: Renewed) -> None:
        assert event.claimed == (event.token in self.unclaimed), "who has to claim it does"
        if event.blocked is None or event.claimed:
            self.renews(event.run, event.token, event.clock_ms)
        else:
            self.renews(event.run, event.token, self.renewed_ms[event.token])

    def renews(self, run: str, token: int, clock_ms: int) -> None:
        """A lock's lease runs anew since then."""
        grant = self.live[self.about[run].owner]
        assert (grant.run, grant.token) == (run, token), "promise 7: a lease came back"
        self.renewed_ms[token] = clock_ms
        self.unclaimed.pop(token, None)

    def on_Granted(self, event: Granted) -> None:
        assert event.owner not in self.live, "promise 1: two live grants"
        assert event.token > self.last_token, "promise 2: a token that does not grow"
        assert event.requests == tuple(self.members[event.run]), "a grant names who wants it"
        for key in {self.key_of[id] for id in event.requests} - {None}:
            first = self.granted_under.setdefault((event.owner, key), event.run)
            assert first == event.run, f"promise 6: {event.run} was granted under the key of {first}"
        self.judge_order(event)
        order = self.waiting[event.owner].pop(event.run)[0]
        served = {action for session in self.sessions.values() for action in session.actions}
        for run, (earlier, action, ready_ms) in self.waiting[event.owner].items():
            ready = (action in served or action == LOCK_ACTION) and ready_ms < event.clock_ms
            assert earlier > order or not ready, f"promise 5: {event.run} was granted before {run}"
        if event.action == LOCK_ACTION:
            assert event.attempt == 1, "a lock has one attempt"
            if event.claim_ms is not None:
                self.unclaimed[event.token] = event.clock_ms + event.claim_ms
        else:
            item = self.items.pop(event.token)
            assert (item.run, item.session, item.attempt) == (event.run, event.session, event.attempt)
            assert event.session in self.sessions
        self.last_token = event.token
        self.live[event.owner] = event
        self.renewed_ms[event.token] = event.clock_ms

    def judge_order(self, event: Granted) -> None:
        """Arrival rule 5, as it is to hold whenever something is granted."""
        wanted = self.policy.of(event.action)
        approved = self.approved.get(event.run)
        if approved is not None:
            assert self.moved.get(event.resource, 0) < approved.seq, "approved on what is not there any more"
        if wanted.requires:
            assert self.last_done.get(event.resource) in wanted.requires, "a step without the one it requires"
        if wanted.limit is not None:
            counted = self.standing[event.owner, event.action]
            assert len(counted.keys() - {event.run}) < wanted.limit.count, "one more than the limit"
            counted[event.run] = event.resource

    def on_Changed(self, event: Changed) -> None:
        if event.effect == "applied":
            self.last_done.pop(event.resource, None)
            self.moved[event.resource] = event.seq
        if event.effect in ("applied", "known"):
            self.lifts(event.what, event.owner, event.resource)

    def fails(self, grant: Granted) -> None:
        self.standing[grant.owner, grant.action].pop(grant.run, None)

    def completes(self, event: Ended) -> None:
        if not self.policy.of(event.action).harmless:
            self.last_done[event.resource] = event.action
            self.moved[event.resource] = event.seq
        self.lifts(event.action, event.owner, event.resource)

    def lifts(self, what: str, of: str, resource: str) -> None:
        for (owner, action), counted in self.standing.items():
            limit = self.policy.of(action).limit
            if owner == of and limit is not None and what in limit.until:
                for run in [run for run, its in counted.items() if its == resource]:
                    del counted[run]

    def on_Progressed(self, event: Progressed) -> None:
        grant = self.live[self.about[event.run].owner]
        assert (grant.run, grant.token) == (event.run, event.token), "promise 7: a lease came back"
        if event.blocked is None:
            self.renewed_ms[event.token] = event.clock_ms

    def let_go(self, event: Lost | AttemptFailed) -> Granted:
        queued = self.about[event.run]
        grant = self.live.pop(queued.owner)
        assert (grant.run, grant.token) == (event.run, event.token)
        ready_ms = event.clock_ms + event.retry_in_ms
        self.waiting[queued.owner][event.run] = (queued.seq, queued.action, ready_ms)
        return grant

    def on_AttemptFailed(self, event: AttemptFailed) -> None:
        self.fails(self.let_go(event))

    def on_Lost(self, event: Lost) -> None:
        grant = self.let_go(event)
        if event.reason == "unclaimed":
            assert event.clock_ms >= self.unclaimed.pop(event.token), "a claim that was cut short"
        if event.reason == "lease_expired":
            assert event.token not in self.unclaimed
            held_until_ms = grant.clock_ms + self.policy.of(grant.action).max_hold_ms
            until_ms = min(self.renewed_ms[event.token] + grant.lease_ms, held_until_ms)
            assert event.clock_ms >= until_ms, "promise 7: expired early"

    def on_Refused(self, event: Refused) -> None:
        if event.command in ("WorkRequest", "LockRequest") and not event.repeat:
            assert event.request not in self.run_of, "promise 3: accepted, then refused"
            self.terminal[event.request] += 1

    def on_Withdrawn(self, event: Withdrawn) -> None:
        if not event.repeat:
            self.members[event.run].remove(event.request)
            self.terminal[event.request] += 1

    def on_Ended(self, event: Ended) -> None:
        if event.repeat:
            return
        self.terminal.update(event.requests)
        if event.coalesced:
            assert event.status == "completed" or all(self.key_of[id] for id in event.requests)
            return
        assert event.requests == tuple(self.members[event.run]), "promise 4: the outcome is everybody's who stayed"
        assert event.requests, "a run that nobody wants has ended before"
        if event.status == "completed" and event.action != LOCK_ACTION:
            self.completes(event)
        grant = self.live.get(event.owner)
        if grant is not None and grant.run == event.run:
            del self.live[event.owner]
            if event.status != "completed" and event.error is not None:
                self.fails(grant)
        elif event.run in self.parked:
            del self.parked[event.run]
        else:
            del self.waiting[event.owner][event.run]

    # -- at any pause ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds whenever a turn has been written."""
        assert not [id for id, count in self.terminal.items() if count > 1], "promise 3: two ends"
        assert self.artifacts == Counter(self.clashes), "promise 11: one artifact a clash, and none beside"
        assert not self.items, "an item without its grant"

    def check_rest(self, asked: set[str]) -> None:
        """What holds when everything has come to rest."""
        self.check()
        assert set(self.terminal) == asked, "promise 3: each request has its end"
        assert not self.live and not self.parked and not any(self.waiting.values())
