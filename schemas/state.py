"""Topic `state` (compacted): what a lane is, as small keyed records. A lane is loaded by putting each of them.

Times are lane time in milliseconds. `order` is the lane sequence number of the event that made the record:
acceptance order. A tombstone under the same key forgets the record.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec import Raw

from keylane.schemas.base import NULL, ErrorDetail, Schema
from keylane.schemas.event_parts import ParkReason, Status
from keylane.schemas.items import Checkpoint
from keylane.schemas.refusals import Code

RunState = Literal["Waiting", "Parked", "Held", "Done"]
Delay = Literal["quiet", "min_interval", "backoff"]
"""The policy by which a run is not ready yet."""

LANE_KEY = b"lane"


class LaneRecord(Schema, frozen=True, kw_only=True):
    """The lane's own record, written with every turn. Under the key `lane`."""

    positions: dict[str, int]
    """The next offset of each input topic: what the outputs written with it account for."""
    clock_ms: int = 0
    seq: int = 0
    token: int = 0
    claim: int = 0
    """Grows with every load."""


LOCK_ACTION = "lock"
"""The action of every run that is a lock; no work can be asked for under it."""


class LockTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What makes a run a lock: whose it is, and how its requester holds it itself."""

    session: str
    secret_sha256: str
    """Of the session's secret, hexadecimal: whoever knows that renews it and gives it back."""
    hold: str = ""
    wait_ms: int = 0
    ttl_ms: int
    explicit: bool = False
    """Its session may hold other locks: while it waits for another session there is a `WaitLink`."""


OnLoss = Literal["retry", "fail", "review"]
"""`retry`: it waits for its next attempt. This was the last one: it fails, or a person is asked."""


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True):
    """A requester's own name for its work, with what tells that work from any other."""

    owner: str
    key: str
    digest: str
    """Of the work alone: not of who asks, under which id, or for how long."""


class Review(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person is asked; and what was decided, if it was approved."""

    order: int
    """Of the event that parked the run, which its artifact is named by."""
    since_ms: int
    since: str
    reason: ParkReason
    decision: str = ""
    by: str = ""
    version_seen: str = ""
    decided_order: int | None = None
    """Nothing else may complete on the resource after it."""


class Run(Schema, frozen=True, kw_only=True):
    """One piece of work. Under the key `run/<id>`; its id is the id of its first request."""

    id: str
    order: int
    state: RunState
    resource: str
    owner: str
    action: str
    digest: str
    """SHA-256 of the payload in canonical JSON."""
    request_digest: str = ""
    """Of its first request as a whole, which has no Member of its own until it leaves. Empty: it has one."""
    deadline_ms: int | None = None
    """Its first request's. Dropped when the run is done."""
    idempotency: IdempotencyKey | None = None
    """Its first request's."""
    expected_version: str | None = None
    requires: tuple[str, ...] = ()
    coalesce_key: str | None = None
    """What its requests have in common instead of their payload."""
    accepted_ms: int
    accepted: str = ""
    """The same in wall time, for people, until the run is done. As `since`."""
    actor: str = ""
    traceparent: str | None = None
    payload: Raw = NULL
    """Dropped when the run is done."""
    expires_ms: int | None = None
    """When its waiting ends by itself."""
    attempt: int = 0
    """Attempts granted and not taken back because their item was never read."""
    unread: int = 0
    """How often an item was lost before it was read."""
    granted_order: int | None = None
    """Of the first grant: a retry goes ahead only if nothing else completed on the resource since."""
    previous_end: str | None = None
    review: Review | None = None
    """Parked: why. After that: that it was approved."""
    parked_first: bool = False
    """A person was asked as it came: that was its first answer."""
    checkpoint: Checkpoint | None = None
    lock: LockTerms | None = None
    """It is a lock. Kept when it is done, to tell a repeated Release."""

    ready_ms: int | None = None
    """Waiting: not ready before. None: ready."""
    delayed: Delay | None = None
    """Why it is not ready before that."""

    token: int | None = None
    """Held: the live one. Done: the last one."""
    session: str = ""
    holder: str = ""
    """The worker's name, as it says itself. Done: of the one that held it at its end, if one did."""
    number: int = 0
    """Held: the number of its item record."""
    since_ms: int = 0
    since: str = ""
    lease_ms: int = 0
    lease_until_ms: int | None = None
    hold_until_ms: int | None = None
    """Held: no renewal reaches beyond."""
    unclaimed: bool = False
    """Held: a lock whose turn has come. Its requester has until `lease_until_ms` to say that it is still there."""
    on_loss: OnLoss = "retry"
    """Held: what becomes of it when this lease is lost."""
    blocked: str | None = None
    stop: Status | None = None
    """Held: asked to stop; the status that it ends with unless it completes first."""
    stop_by: str = ""

    status: Status | None = None
    """Done, as all below."""
    result: Raw = NULL
    version: str | None = None
    observed_version: str | None = None
    error: ErrorDetail | None = None
    superseded_by: str | None = None
    ended_order: int | None = None
    ended_ms: int = 0
    keyed: bool = False
    """Some request in it had an idempotency key: it is remembered for longer, and never forgotten early."""
    forget_ms: int | None = None


class Member(Schema, frozen=True, kw_only=True):
    """One request merged into a run; the run says for its first one what this would (`first_member`).

    Under the key `member/<request id>`."""

    id: str
    run: str
    order: int
    digest: str
    """Of the whole request: what tells a repeat from a reused id."""
    accepted_ms: int
    actor: str = ""
    traceparent: str | None = None
    deadline_ms: int | None = None
    idempotency: IdempotencyKey | None = None
    payload_digest: str = ""
    """Where its payload is not that of the run's first request."""
    payload: Raw = NULL
    """The same, unless an earlier request brought it. Dropped when the run is done."""
    left: Status | None = None
    """It left before the run ended, in this way."""


class RefusedRequest(Schema, frozen=True, kw_only=True):
    """Remembers a refusal, so that a repeat gets the same answer. Under the key `refused/<request id>`."""

    id: str
    order: int
    digest: str
    resource: str
    code: Code


class KeptCancellation(Schema, frozen=True, kw_only=True):
    """A cancellation that overtook its request. Under the key `cancelled/<request id>`."""

    request: str
    resource: str
    by: str
    order: int
    forget_ms: int


class UnservedAction(Schema, frozen=True, kw_only=True):
    """An action that runs wait for and no worker session handles. Under the key `unserved/<action>`.

    A record of the action, not a mark on each run: that a worker comes or goes rewrites no payload.
    """

    action: str
    since_ms: int
    aside: bool = False
    """Its runs are not ready: they keep their place and block nobody."""


class WorkerSession(Schema, frozen=True, kw_only=True):
    """One worker process's membership here. Under the key `session/<id>`."""

    id: str
    order: int
    pool: str
    name: str
    actions: tuple[str, ...]
    generation: int
    slots: int
    lapses_ms: int
    heartbeat: int = 0
    read: int = 0
    sent: int = 0
    """The number of the last item record written to it."""


class WaitLink(Schema, frozen=True, kw_only=True):
    """An explicit session waits for a lock that another holds: what `waits` says of it. Under the key `link/<request>`.

    Kept so that a lane that is loaded says it again; what is written to `waits` follows from changes of these.
    """

    request: str
    waiter: str
    holder: str
    owner: str
    resource: str
    order: int
    """Of the run that waits, or was refused."""
    until_ms: int | None = None
    """It was refused, and counts as waiting until it may ask again. None: it waits."""


class CountedGrant(Schema, frozen=True, kw_only=True):
    """A granted run that a limit counts, also when it is over. Under the key `counted/<run id>`."""

    run: str
    owner: str
    resource: str
    action: str
    actor: str = ""
    order: int
    token: int
    since_ms: int
    forget_ms: int


class Recurrence(Schema, frozen=True, kw_only=True):
    """How often clashes of one kind have come about here. Under the key `recurrence/<fingerprint>`."""

    fingerprint: str
    order: int
    """Of the newest one's event."""
    count: int


class Outside(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was told of changes that were made outside keylane."""

    order: int = 0
    """Of the newest one that was news; its id, who made it, what it was, and when in wall time, for people."""
    change: str = ""
    by: str = ""
    what: str = ""
    at: str = ""
    changes: tuple[str, ...] = ()
    """The ids of the newest changes that were told: one that is told again changes nothing."""
    sources: dict[str, int] = msgspec.field(default_factory=dict)
    """By source, latest last: the highest sequence that it has told of."""


class Resource(Schema, frozen=True, kw_only=True):
    """What is known of a requested key beyond its runs. Under the key `resource/<key>`."""

    key: str
    completed_order: int
    """Of the newest completion, and whose it was; harmless ones aside. 0: none."""
    completed_run: str
    completed_action: str
    forget_ms: int
    version: str | None = None
    """The current version, as far as the lane knows."""
    outside: Outside | None = None
    started: dict[str, int] | None = None
    """By action, latest last: when its newest run was first granted, where they must not follow each other closely."""
    superseded: tuple[str, ...] = ()
    """The newest of the versions that are known to be current no more, oldest first."""


StateRecord = (
    LaneRecord
    | Run
    | Member
    | RefusedRequest
    | KeptCancellation
    | UnservedAction
    | WorkerSession
    | WaitLink
    | Resource
    | CountedGrant
    | Recurrence
)


# By type, not a match statement: this is asked for every record that a lane changes.
KEYS: dict[type, tuple[bytes, Callable[[Any], str]]] = {
    Run: (b"run/", attrgetter("id")),
    Member: (b"member/", attrgetter("id")),
    WorkerSession: (b"session/", attrgetter("id")),
    Resource: (b"resource/", attrgetter("key")),
    RefusedRequest: (b"refused/", attrgetter("id")),
    KeptCancellation: (b"cancelled/", attrgetter("request")),
    UnservedAction: (b"unserved/", attrgetter("action")),
    WaitLink: (b"link/", attrgetter("request")),
    CountedGrant: (b"counted/", attrgetter("run")),
    Recurrence: (b"recurrence/", attrgetter("fingerprint")),
    LaneRecord: (LANE_KEY, lambda _: ""),
}
"""By type: what a record's key begins with, and the name that follows."""


def first_member(run: Run) -> Member | None:
    """The request that made the run, as far as the run itself says. A Member under its id says otherwise.

    Most runs are one request: a record of its own for it was a quarter of all that a lane wrote and remembered
    (docs/decisions/first-requests.md). None in state written before that.
    """
    if not run.request_digest:
        return None
    return Member(
        id=run.id,
        run=run.id,
        order=run.order,
        digest=run.request_digest,
        accepted_ms=run.accepted_ms,
        actor=run.actor,
        traceparent=run.traceparent,
        deadline_ms=run.deadline_ms,
        idempotency=run.idempotency,
    )


def state_key(record: StateRecord) -> bytes:
    """The key under which `record` lies in the topic."""
    prefix, name = KEYS[type(record)]
    return prefix + name(record).encode()
