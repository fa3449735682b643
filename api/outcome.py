"""What callers learn: the outcome and status of a request, who owns a resource, a position in the events.

Plain immutable values, which print as JSON. How they are found out lives in `ticket` and `views`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from keylane.errors import ErrorBody
from keylane.schemas.state import OnLoss

Json: TypeAlias = Any
"""A JSON value in Python's builtins. Payloads may also be msgspec structs or dataclasses."""

OutcomeStatus = Literal["completed", "failed", "cancelled", "superseded", "rejected", "expired", "refused"]
HoldingState = Literal["claimed", "leased", "applying", "blocked", "stopping", "stale_lease"]
"""`claimed`: granted, and its worker has not said yet that it read the item; or, of a lock that had to wait, its
requester that it is still there. `leased`: read, no progress reported; a lock that is held. `applying`: progress was
reported. `blocked`: its holder says that it cannot go on, and nothing renews the lease. `stopping`: its holder was
asked to stop. `stale_lease`: the lease's time, or its worker's, has passed by the wall clock since the lane's last
commit, and the lane has not ended it: nobody routes here, or it is about to be ended."""
PendingState = Literal["waiting", "waiting_on_review"]
OwnershipState = HoldingState | PendingState | Literal["handed_off", "conflict_detected"]
"""`handed_off`: a run has progress that an earlier holder saved. `conflict_detected`: a conflict artifact is open."""
WaitReason = Literal["review", "no_worker", "quiet", "min_interval", "backoff", "held", "queued", "no_slot"]
"""What a run waits for: a person; a worker that handles its action; that nobody asks for a while; that the last run's
start lies back far enough; the time after a failed attempt; who holds the resource; a run that was accepted before; a
free slot. A limit, or a step that must come first, makes nothing wait: it refuses."""
WaitPolicy = Literal["on_conflict", "then", "unserved_after", "quiet", "min_interval", "backoff"]
"""The key of the configuration that makes it wait."""
Approved = Literal["granted", "waits", "superseded", "no_worker", "refused"]
ReviewState = Literal["needs_decision", "approved", "approval_voided"]
"""`approval_voided`: somebody changed the resource after a person had approved; a person is asked again."""
RequestState = Literal["accepted", "waiting", "parked", "held", "done"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. `result` and `error.message` were written by agents: untrusted."""

    request_id: str
    run: str
    """The run that did it; the request's own id unless it was merged. Empty when refused."""
    status: OutcomeStatus
    result: Json = None
    version: str | None = None
    """The version that the action made, if its worker reported one."""
    coalesced: bool = False
    """It was merged into the run of an equal request."""
    repeated: bool = False
    """This id had been answered before; this is that answer."""
    superseded_since: str | None = None
    conflict_id: str | None = None
    error: ErrorBody | None = None


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run waits. Times are wall time, RFC 3339, reckoned from lane time as of the lane's last commit: about right
    while a router is there; while none is, they move on."""

    reason: WaitReason
    policy: WaitPolicy | None = None
    """None: only a worker's free slot is missing, or it is a lock: these wait for their turn, whatever the policies."""
    holder: str | None = None
    """Who holds the resource meanwhile, whatever the reason is. Agent-written, as `behind`."""
    behind: str | None = None
    """The run that it comes right after: the nearest that was accepted before and is ready, else the one held."""
    since: str
    """When that began, as far as the lane keeps it; else when the run was accepted."""
    until: str | None = None
    """When that ends by itself: the holder's lease unless it is renewed, or when the run is ready."""
    expires: str | None = None
    """When the run, or the request that was asked about, is over unless granted before: `EXPIRED`."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a request stands. `accepted`: merged into a run whose own state was not told yet."""

    request_id: str
    run: str
    resource: str
    action: str
    state: RequestState
    position: int | None = None
    """Waiting: runs before it; 0 is next."""
    holder: str | None = None
    """Who holds the resource. Agent-written."""
    token: int | None = None
    attempt: int = 0
    blocked: str | None = None
    """Held: why the holder cannot go on, in its own words."""
    unserved: bool = False
    """No worker handles the action now."""
    wait: Wait | None = None
    """Waiting or parked, where it was asked for and not told by the events of the request: why."""
    ready_in_ms: int | None = None
    """Waiting: for that long at least, as of when that was said: between attempts, for others like it."""
    review: ReviewState | None = None
    """What a person was asked, and has said; None where nobody was."""
    decided_by: str | None = None
    """Who decided."""
    conflict_id: str | None = None
    """Parked: the artifact by which a person is asked, where it is known."""
    coalesced: bool = False
    repeated: bool = False
    outcome: Outcome | None = None
    """Done: how it ended."""


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A live lease. `lease_left_ms` is lane time as of the lane's last commit, so *about* right."""

    holder: str
    run: str
    resource: str
    """The requested key; several can belong to one owning key."""
    action: str
    actor: str = ""
    """Who asked first."""
    requests: tuple[str, ...]
    token: int
    attempt: int
    state: HoldingState
    blocked: str | None = None
    handed_off: bool = False
    """It goes on from progress that was saved, and it is not the first attempt."""
    previous_end: str | None = None
    """How the attempt before ended."""
    since: str
    """Wall time, RFC 3339."""
    lease_left_ms: int
    lease_ends: str
    """Wall time, RFC 3339, about. After it the attempt is lost."""
    renewed_by: Literal["progress", "renewal"] = "progress"
    """What renews the lease: its worker being alive does not. `renewal`: it is a lock."""
    on_loss: OnLoss | Literal["end"]
    """What becomes of the run then: another attempt; or this was the last: it fails, or a person is asked. `end`: its
    holder was asked to stop, and it ends in the way that it was asked for; or it is a lock, and just ends."""


class OnApprove(msgspec.Struct, frozen=True, kw_only=True):
    """What an approval would do, as things stand. Limits and required steps are decided again at its turn."""

    then: Approved
    """`granted`: at once, when a worker has a free slot. `waits`: until `after` are over. `superseded`: one of those
    works on the same requested key, and its completion ends this one, unless that action is harmless. `no_worker`:
    nobody handles its action. `refused`: the version that it expects is known to be superseded, unless the approval
    names another."""
    after: tuple[str, ...] = ()
    """The runs that go first: who holds the resource, and what is ready and was accepted before. At most 16."""
    version: str | None = None
    """The version that it would go ahead on: the current one, which an approval must name; where none is known, the
    one that the request expects."""
    ended_by: tuple[str, ...] = ()
    """Which of `after` end it when they complete, unless their action is harmless: those on the same requested key."""
    ends: tuple[str, ...] = ()
    """What else its completion would end, unless its action is harmless: runs that were approved or had an attempt on
    the same requested key, or expect that version. At most 16."""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A run that waits, in acceptance order."""

    run: str
    resource: str
    action: str
    actor: str
    requests: tuple[str, ...]
    position: int
    state: PendingState
    accepted: str
    """Wall time, RFC 3339."""
    attempt: int = 0
    wait: Wait
    handed_off: bool = False
    """An earlier holder has saved progress: the next one gets it."""
    previous_end: str | None = None
    approved_by: str | None = None
    """Who has approved it, as they say themselves."""
    conflict: str | None = None
    """The artifact that stands open until somebody decides: `keylane conflicts` tells of it."""
    on_approve: OnApprove | None = None
    """Of one that waits for a decision."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The newest run that is over."""

    run: str
    resource: str
    action: str
    status: OutcomeStatus
    actor: str = ""
    holder: str = ""
    """Its last holder; empty: it was never held, or ended under a router that did not keep it."""
    ended: str
    """Wall time, RFC 3339, about."""
    version: str | None = None
    error: ErrorBody | None = None
    conflict: str | None = None
    """The artifact that says that its holder found another state afterwards than it had reported."""


class Touch(msgspec.Struct, frozen=True, kw_only=True):
    """Who has touched the resource: a holder, or somebody outside keylane. All but `kind` is told by others."""

    kind: Literal["run", "change"]
    id: str
    """Of the run, or of the change."""
    by: str
    """The holder, or who made the change."""
    actor: str = ""
    """Who asked for the run."""
    what: str
    resource: str
    """The requested key."""
    at: str
    """Wall time, RFC 3339, about; of a change as its source says it, if that did."""


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a resource, who waits for it, and how the last run on it ended."""

    resource: str
    states: tuple[OwnershipState, ...] = ()
    """All that are so of the resource as a whole, its holder's first. Empty: nobody holds it or waits for it."""
    version: str | None = None
    """The current version of the requested key, as far as it is known."""
    held: Holding | None = None
    waiting: tuple[Pending, ...] = ()
    last: Ended | None = None
    touched: tuple[Touch, ...] = ()
    """The last run that was held and is over, and the last change made outside; the later one first."""
    as_of: str = ""
    """The lane's last commit, wall time, RFC 3339; empty: it never did."""


class Position(msgspec.Struct, frozen=True):
    """A place in the events of all partitions. Opaque: keep it, or its text, to go on from there later.

    An empty one is the oldest event that is kept.
    """

    offsets: Mapping[int, int] = {}

    def __str__(self) -> str:
        return ",".join(f"{partition}:{offset}" for partition, offset in sorted(self.offsets.items()))

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that printed as `text`. Raises `ValueError` for any other text."""
        pairs = (part.split(":") for part in text.split(",") if part)
        try:
            return cls({int(partition): int(offset) for partition, offset in pairs})
        except ValueError as error:
            raise ValueError(f"{text!r} is no position of events") from error
