"""Runs that a person has to decide on: how a decision is taken, and what takes one back.

A decision is bound to what the person saw: a version that is not superseded, and the payload. An approved run goes
only forward: nothing else may complete on its requested key after the decision, and a change made outside voids it.
A conflict that asks for no decision is closed here as well, by a note.
"""

from __future__ import annotations

from msgspec.structs import replace

from keylane.router.core.answers import refuse
from keylane.router.core.coalescing import leading_digest
from keylane.router.core.describe import about, last_to_change, parties_of, party_of, said
from keylane.router.core.endings import end, note_unserved
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Grounds, Now
from keylane.router.core.standing import changed_order, is_approved
from keylane.router.core.versions import stale
from keylane.schemas.base import ErrorDetail
from keylane.schemas.event_parts import Party
from keylane.schemas.events import ApprovalVoided, Decided, Resolved
from keylane.schemas.requests import Decision, Resolution
from keylane.schemas.state import Review, Run


def decide(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Parked: it waits for its turn, or is over, as a person says who knows what it is about."""
    decision = arrived.record
    assert run is not None and isinstance(decision, Decision)
    grounds = _outdated(lane, run, decision, now)
    if grounds is not None:
        refuse(lane, arrived, now, grounds)
        return
    seq = lane.emit(
        Decided,
        now,
        arrived.traceparent,
        decision=decision.id,
        request=decision.request,
        **about(run),
        owner=run.owner,
        verdict=decision.verdict,
        by=decision.by,
        version_seen=decision.version_seen,
        note=decision.note,
        conflict=asked_by(lane, run),
    )
    review = run.review
    assert review is not None
    if decision.verdict == "reject":
        error = ErrorDetail(code="REJECTED", message=decision.note or f"rejected by {decision.by}")
        end(lane, run, now, "rejected", error=error)
        return
    lane.put(
        replace(
            run,
            state="Waiting",
            expires_ms=now.clock_ms + lane.policy.of(run.action).queue_ms,
            review=replace(
                review,
                decision=decision.id,
                by=decision.by,
                version_seen=decision.version_seen,
                decided_order=seq,
            ),
        )
    )
    note_unserved(lane, run.action, now)


def _outdated(lane: Lane, run: Run, decision: Decision, now: Now) -> Grounds | None:
    """Why the decision is not about what is there: another payload or, for an approval, another version."""
    side = Party(
        request=decision.id, actor=decision.by, action=run.action, version=decision.version_seen, at_ms=now.clock_ms
    )
    sides = (side, *parties_of(lane, run))
    if decision.conflict and decision.conflict != asked_by(lane, run):
        reason = f"it was parked anew since {decision.conflict}: it is {asked_by(lane, run)} that is to be decided now"
        return Grounds("TOO_LATE", reason, action=run.action)
    if decision.digest is not None and decision.digest != leading_digest(lane, run):
        reason = "it was decided on another payload than the run has"
        return Grounds("STALE_VERSION", reason, parties=sides, action=run.action)
    if decision.verdict == "reject":
        return None
    resource = lane.resources.get(run.resource)
    if not decision.version_seen and resource is not None and resource.version is not None:
        reason = f"the version that was seen must be named: it is {resource.version} now"
        return Grounds("VERSION_REQUIRED", reason, known_version=resource.version, action=run.action)
    grounds = stale(lane, run.resource, decision.version_seen)
    return grounds and grounds._replace(parties=(*sides, *grounds.parties), action=run.action)


def asked_by(lane: Lane, run: Run) -> str:
    """Parked: the artifact by which a person is asked."""
    assert run.review is not None
    return f"{lane.partition}-{run.review.order}"


def parked_under(lane: Lane, conflict: str) -> Run | None:
    """The run that still waits for a decision by which this artifact would be settled."""
    parked = (lane.runs[id] for entries in lane.parked.values() for _, id in entries)
    return next((run for run in parked if asked_by(lane, run) == conflict), None)


def resolve(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Unknown: no decision will settle it, so it is closed as a person says. Artifacts are not kept here: all that can
    be told is whether this lane has said so much yet."""
    resolution = arrived.record
    assert isinstance(resolution, Resolution)
    if not _may_be_of(lane, resolution.conflict):
        reason = f"lane {lane.partition} has published no conflict {resolution.conflict}"
        refuse(lane, arrived, now, Grounds("NOT_FOUND", reason))
        return
    lane.emit(
        Resolved,
        now,
        arrived.traceparent,
        resolution=resolution.id,
        conflict=resolution.conflict,
        resource=said(resolution, "resource"),
        by=resolution.by,
        note=resolution.note,
    )


def _may_be_of(lane: Lane, conflict: str) -> bool:
    partition, _, seq = conflict.partition("-")
    is_number = len(seq) < 20 and seq.isascii() and seq.isdecimal() and str(int(seq)) == seq
    return is_number and partition == str(lane.partition) and 0 < int(seq) <= lane.own.seq


def undecided(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Parked: what a person was asked is answered by a decision, and by nothing else."""
    assert run is not None
    reason = f"{run.id} still waits for a decision: approve or reject it (keylane decide), which settles the conflict"
    refuse(lane, arrived, now, Grounds("BAD_RECORD", reason, action=run.action))


def is_void(lane: Lane, run: Run) -> bool:
    """Whether the run was approved before a change that was made outside."""
    resource = lane.resources.get(run.resource)
    if resource is None or run.review is None or run.review.decided_order is None:
        return False
    return changed_order(resource) > run.review.decided_order


def void(lane: Lane, run: Run, now: Now) -> None:
    """Back to review: it was approved on what is not there any more."""
    resource, review = lane.resources[run.resource], run.review
    assert is_approved(run) and review is not None
    review_ms = lane.policy.of(run.action).review_ms
    seq = lane.emit(
        ApprovalVoided,
        now,
        run.traceparent,
        **about(run),
        owner=run.owner,
        decision=review.decision,
        by=review.by,
        change="" if resource.outside is None else resource.outside.change,
        expected_version=review.version_seen or None,
        known_version=resource.version,
        expires_in_ms=review_ms,
        parties=(party_of(run), *last_to_change(lane, resource)),
    )
    parked = Review(order=seq, since_ms=now.clock_ms, since=now.time, reason="approval_voided")
    expires_ms = now.clock_ms + review_ms
    lane.put(replace(run, state="Parked", ready_ms=None, delayed=None, expires_ms=expires_ms, review=parked))
