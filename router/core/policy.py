"""What a configuration can choose: the policy of each action, and the bounds of a lane. Plain values, no parsing.

Times are lane time in milliseconds. Defaults are those of design section 4.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import force_setattr

OnConflict = Literal["queue", "reject", "supersede", "review"]
Then = Literal["fail", "review"]

SECOND_MS = 1_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Limit(Struct, frozen=True, kw_only=True):
    """At most `count` granted runs of an action under an owning key, each until one of `until` completes."""

    count: int
    until: tuple[str, ...]


class ActionPolicy(Struct, frozen=True, kw_only=True):
    """How requests for one action are treated."""

    pool: str = "default"
    lease_ms: int = 300 * SECOND_MS
    attempts: int = 3
    backoff_ms: int = SECOND_MS
    """Before the second attempt; doubles with each further one."""
    backoff_max_ms: int = 60 * SECOND_MS
    coalesce_ms: int = SECOND_MS
    """Since a run's acceptance: how long an equal request still joins it after it was granted."""
    quiet_ms: int = 0
    """A run is ready when no request has joined it for so long: at the latest `max_delay_ms` after its acceptance,
    and when `max_count` requests are in it."""
    max_delay_ms: int = 0
    max_count: int = 0
    min_interval_ms: int = 0
    """Between the first grants of two runs on one requested key."""
    on_conflict: OnConflict = "queue"
    on_conflict_with: dict[str, OnConflict] = {}
    """By the other run's action; `on_conflict` for those not named."""
    stop_holder: bool = False
    """With `supersede`: the holder is asked to stop as well."""
    version_required: bool = False
    """A request must name the version that it was decided on."""
    harmless: bool = False
    """It changes nothing: a completion supersedes no version and stands in nobody's way."""
    requires: tuple[str, ...] = ()
    """One of these must be the last completed action on the requested key."""
    limit: Limit | None = None
    then: Then = "fail"
    """After the last attempt: the run fails, or a person is asked."""
    review_ms: int = 7 * DAY_MS
    """How long a person may take."""
    queue_ms: int = DAY_MS
    max_hold_ms: int = DAY_MS

    # What follows from the others, found once: it is asked for at every request.
    starts_freely: bool = True
    """Nothing but its turn decides when it may begin."""
    only_queues: bool = True
    """It waits behind whatever it meets."""
    may_ask: bool = False
    """A person may be asked where it meets another action."""

    def __post_init__(self) -> None:
        modes = {self.on_conflict, *self.on_conflict_with.values()}
        force_setattr(self, "starts_freely", not (self.requires or self.min_interval_ms or self.limit))
        force_setattr(self, "only_queues", self.on_conflict == "queue" and not self.on_conflict_with)
        force_setattr(self, "may_ask", "review" in modes)

    def against(self, action: str) -> OnConflict:
        """What happens when this action meets a run of `action`."""
        return self.on_conflict_with.get(action, self.on_conflict)


class LockPolicy(Struct, frozen=True, kw_only=True):
    """How locks are treated: runs that their requester holds itself."""

    ttl_ms: int = 1_800 * SECOND_MS
    """Of a lease, where the request names none: `resource_lock_timeout`."""
    claim_ms: int = 30 * SECOND_MS
    """How long the requester of a lock whose turn has come may take to say that it is still there."""
    max_hold_ms: int = DAY_MS
    """No renewal reaches beyond: `max_hold` of the defaults."""
    wait_ms_max: int = DAY_MS
    check_ms: int = SECOND_MS
    """How long an answer is held back for the graph of waits."""


class Bounds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a lane holds at most. Overload is answered, never absorbed (design section 7, promise 12)."""

    waiters_per_resource: int = 1_000
    members_per_run: int = 256
    run_bytes: int = 512 * 1024
    """Payload, checkpoint and evidence together."""
    runs: int = 1_000_000
    lane_bytes: int = 512 * 1024 * 1024
    """Payloads, checkpoints and results of all runs together."""
    crowded_runs: int = 500_000
    crowded_bytes: int = 256 * 1024 * 1024
    """Above so many of either, outcomes are kept for `crowded_retention_ms` only."""
    refusals: int = 100_000
    kept_cancellations: int = 10_000
    unserved_actions: int = 10_000
    recurrences: int = 10_000
    """Kinds of clashes that are counted."""
    resources: int = 200_000
    """Beyond, those that were idle longest go; but with what hangs on their last step, or on a limit, none is taken."""
    sessions: int = 1_000
    locks_per_session: int = 256
    """Of one agent's session in a lane: held or waited for."""
    wait_links: int = 10_000
    """Waits of sessions for sessions that a lane tells of. What waits beyond is not looked at for deadlocks."""


class Policy(Struct, frozen=True, kw_only=True):
    """Everything that a router's configuration says about its lanes."""

    defaults: ActionPolicy = ActionPolicy()
    locks: LockPolicy = LockPolicy()
    actions: dict[str, ActionPolicy] = {}
    pools: tuple[str, ...] = ("default",)
    bounds: Bounds = Bounds()
    runbooks: dict[str, str] = {}
    """By the kind of a conflict artifact: where people read what to do about it."""
    session_lapse_ms: int = 10 * SECOND_MS
    unserved_after_ms: int = 30 * SECOND_MS
    retention_ms: int = HOUR_MS
    """How long an outcome is remembered after the end of its run."""
    crowded_retention_ms: int = 120 * SECOND_MS
    idempotency_retention_ms: int = DAY_MS
    """The same where a request had an idempotency key; never cut short."""
    resource_retention_ms: int = 30 * DAY_MS
    """How long the versions of an idle resource are remembered, its last step, and what a limit counts."""

    def of(self, action: str) -> ActionPolicy:
        """The policy of `action`."""
        return self.actions.get(action, self.defaults)

    def steps(self) -> frozenset[str]:
        """The actions that others require."""
        return frozenset(name for action in self.actions.values() for name in action.requires)

    def lifted_by(self) -> dict[str, tuple[str, ...]]:
        """By what ends the counting of runs: the actions whose runs those are."""
        ends: dict[str, tuple[str, ...]] = {}
        for name, action in self.actions.items():
            for until in () if action.limit is None else action.limit.until:
                ends[until] = (*ends.get(until, ()), name)
        return ends
