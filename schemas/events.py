"""Topic `events`: what the lane decided, one event a decision: requesters' receipts and the audit log in one.

Written in the lane's transactions only. `Refused`, `Withdrawn` and `Ended` are terminal for the requests that
they name; marked `repeat` they say a first answer again and are not counted. A `command` on `Refused` other
than WorkRequest or LockRequest says that what was refused is that command, not the request that it was about.
"""

from __future__ import annotations

from msgspec import Raw

from keylane.schemas.base import NULL, ErrorDetail
from keylane.schemas.event_parts import ChangeEffect, Event, LostReason, ParkReason, Party, Status, Verdict
from keylane.schemas.refusals import Code


class Queued(Event, frozen=True, kw_only=True):
    """Accepted: waits for its turn. `position` 0 is next. `unserved`: no worker handles the action now."""

    request: str
    run: str
    resource: str
    owner: str
    action: str
    actor: str = ""
    position: int = 0
    holder: str = ""
    unserved: bool = False
    ready_in_ms: int | None = None
    """Waits for that long at least, for others like it."""
    repeat: bool = False


class Coalesced(Event, frozen=True, kw_only=True):
    """Accepted: merged into `run`, whose outcome it gets. `parked`: which waits for a person's decision."""

    request: str
    run: str
    resource: str
    action: str
    actor: str = ""
    parked: bool = False
    token: int | None = None
    """A lock that its session holds already: under this token, and its lease of `lease_ms` runs anew."""
    lease_ms: int | None = None
    repeat: bool = False


class Granted(Event, frozen=True, kw_only=True):
    """`session` holds `owner` for `run` under `token`."""

    run: str
    resource: str
    owner: str
    action: str
    token: int
    attempt: int
    session: str
    holder: str
    """The name of the worker or agent, agent-written."""
    lease_ms: int
    claim_ms: int | None = None
    """A lock that had to wait: its requester has so long to claim it by a Renewal, with which its lease begins.
    None: its lease has begun."""
    waited_ms: int = 0
    """Lane time since the run was accepted, also where it was granted before."""
    requests: tuple[str, ...]


class Parked(Event, frozen=True, kw_only=True):
    """Waits for a person's decision, no longer than `expires_in_ms`: as it came, or after its last attempt."""

    request: str
    run: str
    resource: str
    owner: str = ""
    action: str
    actor: str = ""
    reason: ParkReason = "on_conflict"
    expires_in_ms: int | None = None
    error: ErrorDetail | None = None
    token: int | None = None
    attempt: int = 0
    expected_version: str | None = None
    known_version: str | None = None
    parties: tuple[Party, ...] = ()
    repeat: bool = False


class Delayed(Event, frozen=True, kw_only=True):
    """A run that waits is not ready yet: requests keep joining it, or its action has begun here too recently."""

    run: str
    resource: str
    action: str
    ready_in_ms: int


class Decided(Event, frozen=True, kw_only=True):
    """A person has decided on a parked run. It waits for its turn, or its end follows. `note` is for people.

    `decision` is the id of the Decision, `conflict` the artifact that is settled by it.
    """

    decision: str
    request: str
    run: str
    resource: str
    owner: str
    action: str
    verdict: Verdict
    by: str
    version_seen: str
    note: str = ""
    conflict: str


class ApprovalVoided(Event, frozen=True, kw_only=True):
    """The resource was changed outside after `by` had approved a run: a person is asked again."""

    run: str
    resource: str
    owner: str
    action: str
    decision: str
    by: str
    change: str
    expected_version: str | None = None
    """The version that was seen then."""
    known_version: str | None = None
    expires_in_ms: int
    parties: tuple[Party, ...] = ()


class Refused(Event, frozen=True, kw_only=True):
    """The command with this id was not accepted. See `refusals` for codes, and whether to try again."""

    request: str
    resource: str
    code: Code
    message: str
    command: str = "WorkRequest"
    action: str = ""
    actor: str = ""
    retry_after_ms: int | None = None
    holder: str | None = None
    held_since: str | None = None
    lease_expires_in_ms: int | None = None
    position: int | None = None
    expected_version: str | None = None
    """The version that was decided on, and below the one that the lane knows, where they clash."""
    known_version: str | None = None
    cycle: tuple[str, ...] = ()
    parties: tuple[Party, ...] = ()
    repeat: bool = False


class Renewed(Event, frozen=True, kw_only=True):
    """A lock's lease runs anew, or begins. `renewal` is the id of the Renewal that did it."""

    run: str
    resource: str
    action: str = ""
    token: int
    renewal: str
    lease_ms: int = 0
    """How long from now on. Shorter than before near the end of the longest hold."""
    claimed: bool = False
    """It was the claim of a lock that had waited."""
    blocked: str | None = None
    """Why its holder cannot go on. While it says so the lease is not renewed, and `lease_ms` is what is left of it."""


class Progressed(Event, frozen=True, kw_only=True):
    """The holder renewed its lease, or said why it is blocked (which stops renewal)."""

    run: str
    resource: str
    action: str
    token: int
    checkpoint: bool = False
    blocked: str | None = None


class StopAsked(Event, frozen=True, kw_only=True):
    """The holder was asked to stop, since nobody wants the work any more or other work replaces it."""

    run: str
    resource: str
    action: str
    token: int
    status: Status
    by: str


class AttemptFailed(Event, frozen=True, kw_only=True):
    """The holder reported failure; the run waits for its next attempt in `retry_in_ms`."""

    run: str
    resource: str
    action: str
    token: int
    attempt: int
    error: ErrorDetail
    retry_in_ms: int


class Lost(Event, frozen=True, kw_only=True):
    """The holder's lease ended without a result. `spent` says whether that was one of the run's attempts."""

    run: str
    resource: str
    action: str
    token: int
    attempt: int
    reason: LostReason
    session: str
    holder: str
    spent: bool
    final: bool
    """The run ends with this; else it waits for its next attempt in `retry_in_ms`."""
    retry_in_ms: int = 0
    parties: tuple[Party, ...] = ()


class Fenced(Event, frozen=True, kw_only=True):
    """A report under a token that is not live: it changed nothing."""

    run: str
    resource: str
    action: str = ""
    report: str
    report_id: str = ""
    """Of a Renewal or a Release: its id."""
    token: int
    session: str
    live_token: int | None = None
    """The token under which the run is held now, if it is."""
    status: str = ""
    """How the run stands: `Unknown`, `Waiting`, `Parked`, `Held` or `Done`."""
    parties: tuple[Party, ...] = ()


class Withdrawn(Event, frozen=True, kw_only=True):
    """One requester left (`cancelled`), or no longer wants it (`expired`); the run goes on for the others."""

    request: str
    run: str
    resource: str
    action: str
    status: Status
    by: str = ""
    repeat: bool = False
    parties: tuple[Party, ...] = ()


class CancellationKept(Event, frozen=True, kw_only=True):
    """A cancellation whose request is not known: remembered, in case it overtook it."""

    request: str
    cancellation: str
    resource: str


class Ended(Event, frozen=True, kw_only=True):
    """The run is over, for every request named."""

    run: str
    resource: str
    owner: str
    action: str
    status: Status
    requests: tuple[str, ...]
    result: Raw = NULL
    version: str | None = None
    observed_version: str | None = None
    expected_version: str | None = None
    """The version that was decided on, and below the one that the lane knows, where they clash."""
    known_version: str | None = None
    error: ErrorDetail | None = None
    holder: str | None = None
    """A lock that was not had, as the five that follow: who is in its way. They read as in `Refused`."""
    held_since: str | None = None
    lease_expires_in_ms: int | None = None
    position: int | None = None
    retry_after_ms: int | None = None
    cycle: tuple[str, ...] = ()
    """`DEADLOCK`: session, resource, session, resource, …: each waits for that resource, which the next one holds."""
    waits_position: int | None = None
    """`DEADLOCK`: the offset in `waits` of the edge that closed the cycle."""
    superseded_by: str | None = None
    superseded_since: str | None = None
    """Said with an outcome of before: the run or the change that has changed the resource since."""
    token: int | None = None
    """The last token under which it was held."""
    held_ms: int | None = None
    """Lane time since its last grant, where it was held to the end."""
    attempt: int = 0
    coalesced: bool = False
    """Accepted into a run that was already over: this is the request's one event."""
    repeat: bool = False
    parties: tuple[Party, ...] = ()


class Changed(Event, frozen=True, kw_only=True):
    """A change made outside keylane is on the record, by the id of the ResourceChange that told of it."""

    change: str
    resource: str
    owner: str
    version: str | None
    """None: nobody said."""
    by: str
    what: str
    at: str | None = None
    source: str = ""
    sequence: int | None = None
    effect: ChangeEffect
    previous: str | None = None
    """The version that was known until then."""


class Resolved(Event, frozen=True, kw_only=True):
    """A person has closed a conflict with a note. Lanes keep no artifacts: that one stands under this id, and was open,
    is the word of the one who closed it. What comes first of several for one conflict counts.

    `resolution` is the id of the Resolution, `conflict` the artifact.
    """

    resolution: str
    conflict: str
    resource: str
    by: str
    note: str


class AgentSessionEnded(Event, frozen=True, kw_only=True):
    """An agent's session is over here, by the id of the SessionEnded that said so. The ends of `runs` follow."""

    ended: str
    session: str
    runs: tuple[str, ...] = ()
    """What it held or waited for in this partition."""


class SentOn(Event, frozen=True, kw_only=True):
    """A command that had come to the wrong partition was published again on the right one."""

    request: str
    resource: str
    to_partition: int


class WorkerOpened(Event, frozen=True, kw_only=True):
    """A worker session serves this partition."""

    session: str
    name: str
    pool: str
    actions: tuple[str, ...]
    slots: int


class WorkerClosed(Event, frozen=True, kw_only=True):
    """A worker session is over."""

    session: str
    name: str
    pool: str
    reason: str


class DeadLettered(Event, frozen=True, kw_only=True):
    """A record that could not be decoded or done; `deadletters` has it by its place."""

    topic: str
    offset: int
    code: Code
    reason: str
    key: str = ""
    excerpt: str = ""
    resource: str = ""
    action: str = ""
    parties: tuple[Party, ...] = ()


AnyEvent = (
    Queued | Coalesced | Granted | Parked | Delayed | Decided | ApprovalVoided | Refused | Renewed | Progressed
    | StopAsked | AttemptFailed | Lost | Fenced | Withdrawn | CancellationKept | Ended | Changed | Resolved
    | AgentSessionEnded | SentOn | WorkerOpened | WorkerClosed | DeadLettered
)  # fmt: skip
