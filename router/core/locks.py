"""Locks: runs that their requester's session holds itself. What becomes of each command about one; never a grant.

Whoever knows the session's secret may renew a lock or give it back: lanes keep a digest of it alone.
"""

from __future__ import annotations

import hashlib
import hmac

from msgspec.structs import replace

from keylane.router.core.answers import refuse
from keylane.router.core.bounds import full_of_locks, has_most_members
from keylane.router.core.contention import RETRY_AFTER_MS_MIN, is_taken
from keylane.router.core.describe import about, outcome_of, party_of
from keylane.router.core.endings import end, lose_lock, refuse_accepted, stopped
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Gone, Grounds, Now, WaitChecked
from keylane.router.core.repeats import Answered, repeat_first_answer, seen_before, was_cancelled
from keylane.schemas.events import AgentSessionEnded, Coalesced, Ended, Queued, Renewed
from keylane.schemas.requests import Cancellation, LockRequest, Release, Renewal, SessionEnded
from keylane.schemas.state import LOCK_ACTION, LockTerms, Member, Run

BLOCKED_CHARACTERS_MAX = 512


def secret_sha256(secret: str) -> str:
    """What records keep of a secret. It is random, so that a plain digest gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()


def has_secret(run: Run, secret: str | None) -> bool:
    """Whether it is the secret of the session whose lock this is. In constant time."""
    if run.lock is None or secret is None:
        return False
    return hmac.compare_digest(run.lock.secret_sha256, secret_sha256(secret))


def lock_of(lane: Lane, arrived: Arrived, report: Renewal | Release) -> Run | None:
    """The lock that the report is about, if its token is the live one and its secret that of the holder.

    A Release may come again, since its sender cannot know that it was read: that is no late one.
    """
    run = lane.runs.get(report.run)
    if run is None or run.owner != arrived.owner or run.token != report.token or not has_secret(run, report.secret):
        return None
    given_back = isinstance(report, Release) and run.status in ("completed", "cancelled")
    return run if run.state == "Held" or given_back else None


# -- to have one ----------------------------------------------------------------------------------------------


def meets_lock(lane: Lane, arrived: Arrived, request: LockRequest, now: Now) -> Run | Answered | None:
    """Rule 2: the run whose row of the table applies: its own, or the lock that its session holds already."""
    known = seen_before(lane, arrived, request, now)
    if known is not None:
        return known
    holder = lane.held.get(arrived.owner)
    run = None if holder is None else lane.runs[holder]
    if run is None or run.lock is None or was_cancelled(lane, request):
        return None
    is_own = (run.lock.session, run.lock.hold) == (request.session, request.hold) and run.stop is None
    return run if is_own and has_secret(run, request.secret) else None


def acquire(lane: Lane, _run: Run | None, arrived: Arrived, now: Now) -> None:
    """Unknown: refused at once, or a run that waits for its turn, which may be now."""
    request = arrived.record
    assert isinstance(request, LockRequest)
    cancelled = was_cancelled(lane, request)
    grounds = (None if cancelled else _taken(lane, request, arrived.owner, now)) or full_of_locks(
        lane, request.session, arrived.owner
    )
    if grounds is not None:
        refuse(lane, arrived, now, grounds)
        return
    holder = lane.held.get(arrived.owner)
    seq = lane.emit(
        Queued,
        now,
        arrived.traceparent,
        request=request.id,
        run=request.id,
        resource=request.resource,
        owner=arrived.owner,
        action=LOCK_ACTION,
        actor=request.actor,
        position=len(lane.queue.get(arrived.owner, ())),
        holder="" if holder is None else lane.runs[holder].holder,
    )
    lane.put(_waiting(lane, arrived, request, now, seq))
    if cancelled:
        lane.put(Gone(b"cancelled/" + request.id.encode()))
        end(lane, lane.runs[request.id], now, "cancelled")


def _waiting(lane: Lane, arrived: Arrived, request: LockRequest, now: Now, order: int) -> Run:
    policy = lane.policy.locks
    terms = LockTerms(
        session=request.session,
        secret_sha256=secret_sha256(request.secret),
        hold=request.hold,
        wait_ms=request.wait_ms,
        ttl_ms=policy.ttl_ms if request.ttl_ms is None else request.ttl_ms,
        explicit=request.explicit,
    )
    return Run(
        id=request.id,
        order=order,
        state="Waiting",
        resource=request.resource,
        owner=arrived.owner,
        action=LOCK_ACTION,
        digest="",
        request_digest=arrived.digest,
        accepted_ms=now.clock_ms,
        accepted=now.time,
        actor=request.actor,
        traceparent=arrived.traceparent,
        lock=terms,
        expires_ms=now.clock_ms + (request.wait_ms or policy.check_ms),
    )


def _taken(lane: Lane, request: LockRequest, owner: str, now: Now) -> Grounds | None:
    """Why a request that would not wait is refused as it comes.

    Where the graph of waits may find a deadlock, the answer is held back for that: see `check_wait`.
    """
    holder, waiting = lane.held.get(owner), lane.queue.get(owner, [])
    if request.wait_ms or (holder is None and not waiting):
        return None
    first = lane.runs[holder or waiting[0][1]]
    if request.explicit and holder is not None and len(lane.links) < lane.policy.bounds.wait_links:
        if first.lock is not None and first.lock.session != request.session:
            return None
    return is_taken(first, len(waiting) + (holder is not None), now)


def have_again(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting, Held: its first answer again; or its session holds the lock already, and has it under the same token."""
    request = arrived.record
    assert run is not None and run.lock is not None and isinstance(request, LockRequest)
    member = lane.member(request.id)
    if member is not None:
        repeat_first_answer(lane, run, member, now)
        return
    if has_most_members(lane, run):
        refuse(lane, arrived, now, Grounds("QUEUE_FULL", "it was asked for as often as one lock can be: renew it"))
        return
    assert run.hold_until_ms is not None
    until_ms = min(now.clock_ms + run.lease_ms, run.hold_until_ms)
    seq = lane.emit(
        Coalesced,
        now,
        arrived.traceparent,
        request=request.id,
        **about(run),
        actor=request.actor,
        token=run.token,
        lease_ms=max(0, until_ms - now.clock_ms),
    )
    lane.put(
        Member(
            id=request.id,
            run=run.id,
            order=seq,
            digest=arrived.digest,
            accepted_ms=now.clock_ms,
            actor=request.actor,
            traceparent=arrived.traceparent,
        )
    )
    lane.put(replace(run, lease_until_ms=until_ms, unclaimed=False, blocked=None))


def had(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Done: how it ended, again."""
    request = arrived.record
    assert run is not None and isinstance(request, LockRequest)
    member = lane.member(request.id)
    assert member is not None
    if member.left is not None:
        repeat_first_answer(lane, run, member, now)
    else:
        lane.emit(Ended, now, arrived.traceparent, **outcome_of(run), requests=(request.id,), repeat=True)


# -- while it waits -------------------------------------------------------------------------------------------


def wait_is_over(lane: Lane, run: Run, now: Now) -> None:
    """Its turn has not come in the time that its requester would wait: who is in its way is told."""
    grounds = _still_taken(lane, run, now)
    link = lane.links.get(run.id)
    if link is not None and run.lock is not None and not run.lock.wait_ms:
        # It may ask again, and no edge of its own would be there in between.
        lane.put(replace(link, until_ms=now.clock_ms + (grounds.retry_after_ms or 0)))
    refuse_accepted(lane, run, now, grounds)


def check_wait(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting: every router has seen by now that it waits, and whether that closes a cycle."""
    checked = arrived.record
    assert run is not None and run.lock is not None and isinstance(checked, WaitChecked)
    link = lane.links.get(run.id)
    if link is None or link.holder != checked.holder:
        return  # of a holder of before: what is said of the one of now is on its way
    if checked.cycle:
        holder = lane.runs[lane.held[run.owner]]
        path = " -> ".join((*checked.cycle, checked.cycle[0]))
        grounds = Grounds("DEADLOCK", f"waiting for it would close a cycle: {path}", parties=(party_of(holder),))
        grounds = grounds._replace(holder=holder, cycle=checked.cycle, waits_position=checked.position)
        refuse_accepted(lane, run, now, grounds)
    elif not run.lock.wait_ms:
        wait_is_over(lane, run, now)


def _still_taken(lane: Lane, run: Run, now: Now) -> Grounds:
    holder = lane.held.get(run.owner)
    before = [id for order, id in lane.queue[run.owner] if (order, id) < (run.order, run.id)]
    if holder is None and not before:  # what freed the key was read before the timer of its wait could fire
        return Grounds("LOCK_HELD", "its wait was over when its turn came", RETRY_AFTER_MS_MIN, position=0)
    return is_taken(lane.runs[holder or before[0]], len(before) + (holder is not None), now)


# -- while it is held -----------------------------------------------------------------------------------------


def renew_lock(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Held: its lease runs anew from now, or begins, unless its holder says that it is blocked."""
    renewal = arrived.record
    assert run is not None and isinstance(renewal, Renewal)
    assert run.lease_until_ms is not None and run.hold_until_ms is not None
    blocked = renewal.blocked[:BLOCKED_CHARACTERS_MAX] if renewal.blocked else None
    until_ms = run.lease_until_ms
    if run.unclaimed or not blocked:
        until_ms = min(now.clock_ms + run.lease_ms, run.hold_until_ms)
    lane.emit(
        Renewed,
        now,
        arrived.traceparent or run.traceparent,
        **about(run),
        token=run.token,
        renewal=renewal.id,
        lease_ms=max(0, until_ms - now.clock_ms),
        claimed=run.unclaimed,
        blocked=blocked,
    )
    lane.put(replace(run, lease_until_ms=until_ms, unclaimed=False, blocked=blocked))


def give_back(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Held: its holder is done with it."""
    assert run is not None
    if run.stop is not None:
        stopped(lane, run, now, None)
    else:
        end(lane, run, now, "completed")


def is_given_up(lane: Lane, run: Run, cancellation: Cancellation) -> bool:
    """Whether a cancellation ends a lock that is held: its session's own does, and before it is claimed anybody's."""
    return run.state == "Held" and run.lock is not None and (run.unclaimed or has_secret(run, cancellation.secret))


# -- its session ----------------------------------------------------------------------------------------------


def end_session(lane: Lane, arrived: Arrived, ended: SessionEnded, now: Now) -> list[Run]:
    """Put on record that the session is over. Returns its locks; those of another secret under its id are not its."""
    ids = [id for _, id in lane.locks_of.get(ended.session, ())]
    runs = [run for run in map(lane.runs.__getitem__, ids) if has_secret(run, ended.secret)]
    lane.emit(
        AgentSessionEnded,
        now,
        arrived.traceparent,
        ended=ended.id,
        session=ended.session,
        runs=tuple(run.id for run in runs),
    )
    return runs


def leave(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting, Held: its session is over."""
    assert run is not None
    if run.state == "Held":
        lose_lock(lane, run, now, "session_ended")
    else:
        end(lane, run, now, "cancelled")
