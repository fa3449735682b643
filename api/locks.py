"""What is known of locks: the credential of one that was acquired, and how those stand that are not over.

Plain immutable values, which print as JSON, and the fold from a lane's state. How locks are had is `locking`'s.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from keylane.schemas.state import Run
from keylane.views import LaneView, wall

LockState = Literal["waiting", "claimed", "held", "blocked", "stopping"]
"""`claimed`: its turn has come after a wait, and its requester has not said yet that it is still there. `blocked`: its
holder says that it cannot go on, and nothing renews it. `stopping`: its holder was asked to give it back."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What renews and releases one lock, from any process that has it. It holds the session's secret: keep it so."""

    resource: str
    """The canonical key that was asked for."""
    run: str
    token: int
    """The fencing token, for targets that remember the highest they have seen."""
    session: str
    secret: str
    hold: str
    holder: str
    """As others see it: the actor that asked."""
    acquired: str
    """Wall time, RFC 3339."""
    ttl_ms: int
    """How long its lease is, from each renewal on."""

    def __repr__(self) -> str:
        return (
            f"Credential(resource={self.resource!r}, run={self.run!r}, token={self.token}, session={self.session!r},"
            f" secret='…', hold={self.hold!r}, holder={self.holder!r}, acquired={self.acquired!r},"
            f" ttl_ms={self.ttl_ms})"
        )


class LockInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A lock that is held or waited for, as of its lane's last commit. Times are wall time, RFC 3339, about."""

    resource: str
    """The requested key; several can belong to one owning key."""
    owner: str
    """The owning key, which is what is locked."""
    run: str
    session: str
    """Whose it is, or will be."""
    hold: str
    actor: str
    """Who asked for it. Agent-written, as all names."""
    holder: str | None
    """Who holds the resource: of one that waits, somebody else."""
    state: LockState
    token: int | None = None
    since: str
    """Held: since when. Waiting: since when it waits."""
    lease_ends: str | None = None
    """Held: when it is lost unless it is renewed. `claimed`: unless it is claimed."""
    position: int | None = None
    """Waiting: how many are before it; 0 is next."""
    blocked: str | None = None
    """Why its holder cannot go on, in its own words."""


def lock_infos(view: LaneView, owner: str | None, session_id: str | None) -> list[LockInfo]:
    """The locks of a lane that are not over, in acceptance order; on one owning key, or of one session, where these are
    named."""
    by_owner: dict[str, list[Run]] = {}
    for run in sorted(view.runs.values(), key=lambda run: run.order):
        if run.state != "Done" and owner in (None, run.owner):
            by_owner.setdefault(run.owner, []).append(run)
    locks = [
        (run, beside)
        for beside in by_owner.values()
        for run in beside
        if run.lock is not None and session_id in (None, run.lock.session)
    ]
    return [_info(view, run, beside) for run, beside in sorted(locks, key=lambda each: each[0].order)]


def lock_state(run: Run) -> LockState:
    """How a lock that is not over stands."""
    if run.state != "Held":
        return "waiting"
    if run.stop is not None:
        return "stopping"
    if run.unclaimed:
        return "claimed"
    return "held" if run.blocked is None else "blocked"


def _info(view: LaneView, run: Run, beside: list[Run]) -> LockInfo:
    """`beside`: the runs on its owning key that are not over, itself among them, in acceptance order."""
    assert run.lock is not None
    is_held = run.state == "Held"
    holder = next((each.holder for each in beside if each.state == "Held"), None)
    waiting = [each.id for each in beside if each.state != "Held"]
    return LockInfo(
        resource=run.resource,
        owner=run.owner,
        run=run.id,
        session=run.lock.session,
        hold=run.lock.hold,
        actor=run.actor,
        holder=holder,
        state=lock_state(run),
        token=run.token if is_held else None,
        since=run.since if is_held else run.accepted or wall(view, run.accepted_ms),
        lease_ends=None if run.lease_until_ms is None else wall(view, run.lease_until_ms),
        position=None if is_held else waiting.index(run.id),
        blocked=run.blocked,
    )
