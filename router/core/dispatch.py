"""The only place that grants: a free owning key goes to its first ready run, in acceptance order.

Nothing here looks at why a key became free or a slot did: the lane says which keys have a new head and which
sessions may have room, and each is offered what it can take.
"""

from __future__ import annotations

from msgspec.structs import replace

from keylane.router.core.coalescing import payloads
from keylane.router.core.describe import about, parties_of, party_of
from keylane.router.core.endings import delay, end, refuse_accepted
from keylane.router.core.lane import Lane
from keylane.router.core.links import relink
from keylane.router.core.order import note_granted, out_of_order, over_limit
from keylane.router.core.policy import ActionPolicy
from keylane.router.core.records import Arrived, Now
from keylane.router.core.resources import may_start_ms, note_started
from keylane.router.core.reviews import is_void, void
from keylane.router.core.standing import decided_on, due_ms, firm_order
from keylane.router.core.transitions import ripen
from keylane.router.core.versions import stale
from keylane.schemas.events import Granted
from keylane.schemas.items import WorkItem
from keylane.schemas.state import LockTerms, Run, WorkerSession


def dispatch(lane: Lane, now: Now) -> None:
    """Grant all that can be granted. Afterwards no ready head waits while a session that handles it has a slot."""
    while lane.stirred or lane.freed:
        if lane.stirred:
            owner = next(iter(lane.stirred))
            del lane.stirred[owner]
            _offer_key(lane, owner, now)
        else:
            id = next(iter(lane.freed))
            del lane.freed[id]
            _offer_slots(lane, id, now)
    relink(lane)


def _offer_key(lane: Lane, owner: str, now: Now) -> None:
    """Give the key to its first ready run, if a worker has room for it."""
    head = lane.head_of.get(owner)
    if head is None:
        return
    run = lane.runs[head[1][1]]
    if run.lock is not None:
        if not _is_overdue(lane, run, now):
            _grant_lock(lane, run, run.lock, now)
        return
    policy = lane.policy.of(run.action)
    if _settled_at_dispatch(lane, run, policy, now):
        return  # what it changed has stirred the key again
    roomy = [session for session in lane.current_sessions(policy.pool, run.action) if lane.free_slots(session) > 0]
    if len(roomy) > 1:
        roomy.sort(key=lambda each: (-lane.free_slots(each), each.name, each.id))
    if roomy:
        _grant(lane, run, policy, roomy[0], now)


def _offer_slots(lane: Lane, id: str, now: Now) -> None:
    """Fill a session's free slots with the oldest heads among its actions."""
    session = lane.sessions.get(id)
    if session is None or lane.seats.current_of(session) != id:
        return
    while lane.free_slots(session) > 0:
        heads = [lane.heads[action][0] for action in session.actions if action in lane.heads]
        heads = [head for head in heads if lane.policy.of(lane.runs[head[1]].action).pool == session.pool]
        if not heads:
            return
        _offer_key(lane, lane.runs[min(heads)[1]].owner, now)


def _settled_at_dispatch(lane: Lane, run: Run, policy: ActionPolicy, now: Now) -> bool:
    """Decide again, on the state as it is now, what was decided at arrival; and a retried or approved run goes only
    forward."""
    if _is_overdue(lane, run, now):
        return True
    if _has_no_condition(run) and policy.starts_freely:
        return False
    if is_void(lane, run):
        void(lane, run, now)
        return True
    resource, firm = lane.resources.get(run.resource), firm_order(run)
    if firm is not None and resource is not None and resource.completed_order > firm:
        newer = resource.completed_run
        sides = (*parties_of(lane, run), *((party_of(lane.runs[newer]),) if newer in lane.runs else ()))
        end(lane, run, now, "superseded", superseded_by=newer, parties=sides)
        return True
    grounds = (
        stale(lane, run.resource, decided_on(run))
        or out_of_order(lane, run.resource, run.action, run.requires)
        or over_limit(lane, run.owner, run.action, run.id)
    )
    if grounds is not None:
        refuse_accepted(lane, run, now, grounds)
        return True
    again_ms = may_start_ms(lane, run)
    if again_ms is not None and again_ms > now.clock_ms:
        delay(lane, run, now, again_ms, "min_interval")
        return True
    return False


def _is_overdue(lane: Lane, run: Run, now: Now) -> bool:
    """Whether its wait was over before its turn came. What that changed has stirred the key again."""
    due = due_ms(run, lane.deadline_ms(run))
    if due is None or due > now.clock_ms:
        return False
    ripen(lane, run, Arrived(record=None), now)  # type: ignore[arg-type]  # a timer brings no record
    lane.stirred[run.owner] = None
    return True


def _grant_lock(lane: Lane, run: Run, lock: LockTerms, now: Now) -> None:
    """To its requester's session. Who had to wait may be gone: it gets a claim first, which only the lane counts."""
    policy = lane.policy.locks
    token = lane.mint()
    came_now = lane.next_seq == run.order + 1 and now.clock_ms == run.accepted_ms  # nothing has happened in between
    hold_until_ms = now.clock_ms + policy.max_hold_ms
    claim_ms = None if came_now else min(policy.claim_ms, policy.max_hold_ms)
    lease_ms = min(lock.ttl_ms, policy.max_hold_ms)  # it may have been asked for under a policy of before
    holder = run.actor or lock.session
    seq = lane.emit(
        Granted,
        now,
        run.traceparent,
        **about(run),
        owner=run.owner,
        token=token,
        attempt=1,
        session=lock.session,
        holder=holder,
        lease_ms=lease_ms,
        claim_ms=claim_ms,
        waited_ms=now.clock_ms - run.accepted_ms,
        requests=tuple(member.id for member in lane.live_members(run)),
    )
    held = replace(
        run,
        state="Held",
        attempt=1,
        granted_order=seq,
        token=token,
        session=lock.session,
        holder=holder,
        since_ms=now.clock_ms,
        since=now.time,
        lease_ms=lease_ms,
        lease_until_ms=now.clock_ms + (claim_ms or lease_ms),
        hold_until_ms=hold_until_ms,
        unclaimed=claim_ms is not None,
        on_loss="fail",
    )
    lane.put(held)


def _has_no_condition(run: Run) -> bool:
    """Whether it was decided on no version, requires no step, and neither a person nor a holder has had it before."""
    return run.expected_version is None and not run.requires and run.review is None and run.granted_order is None


def _grant(lane: Lane, run: Run, policy: ActionPolicy, session: WorkerSession, now: Now) -> None:
    token = lane.mint()
    attempt = run.attempt + 1
    leads, merged = (run.payload, ()) if run.coalesce_key is None else payloads(lane, run)
    requests = tuple(member.id for member in lane.live_members(run))
    item = WorkItem(
        session=session.id,
        number=session.sent + 1,
        heartbeat=session.heartbeat,
        run=run.id,
        resource=run.resource,
        action=run.action,
        owner=run.owner,
        payload=leads,
        merged=merged,
        requests=requests,
        actor=run.actor,
        token=token,
        attempt=attempt,
        lease_ms=policy.lease_ms,
        expected_version=decided_on(run),
        hold_ms=policy.max_hold_ms,
        checkpoint=run.checkpoint,
        previous_end=run.previous_end,
    )
    number = lane.send(session, item, run.owner, run.traceparent)
    granted = Granted(
        seq=lane.next_seq,
        clock_ms=now.clock_ms,
        time=now.time,
        input=lane.input,
        run=run.id,
        resource=run.resource,
        action=run.action,
        owner=run.owner,
        token=token,
        attempt=attempt,
        session=session.id,
        holder=session.name,
        lease_ms=policy.lease_ms,
        waited_ms=now.clock_ms - run.accepted_ms,
        requests=requests,
    )
    seq = lane.publish(granted, run.owner, run.traceparent)
    lane.put(_held(run, policy, session, now, token=token, attempt=attempt, number=number, order=seq))
    if not policy.starts_freely:
        note_granted(lane, run, token, now)
        note_started(lane, run, now)


def _held(
    run: Run,
    policy: ActionPolicy,
    session: WorkerSession,
    now: Now,
    *,
    token: int,
    attempt: int,
    number: int,
    order: int,
) -> Run:
    hold_until_ms = now.clock_ms + policy.max_hold_ms
    return replace(
        run,
        state="Held",
        attempt=attempt,
        granted_order=order if run.granted_order is None else run.granted_order,
        token=token,
        session=session.id,
        holder=session.name,
        number=number,
        since_ms=now.clock_ms,
        since=now.time,
        lease_ms=policy.lease_ms,
        lease_until_ms=min(now.clock_ms + policy.lease_ms, hold_until_ms),
        hold_until_ms=hold_until_ms,
        on_loss="retry" if attempt < policy.attempts else policy.then,
    )
