"""How a run stops being held or waiting: it ends, is lost, or waits again. Shared by the rules; grants nothing."""

from __future__ import annotations

import hashlib

from msgspec import Raw
from msgspec.structs import replace

from keylane.router.core.describe import about, in_the_way, outcome_of, parties_of
from keylane.router.core.lane import Lane
from keylane.router.core.records import Grounds, Now
from keylane.router.core.resources import note_completed
from keylane.router.core.standing import decided_on
from keylane.schemas.base import NULL, ErrorDetail
from keylane.schemas.event_parts import LostReason, Party, Status
from keylane.schemas.events import AttemptFailed, Delayed, Ended, Lost, Parked, StopAsked
from keylane.schemas.items import Notice
from keylane.schemas.state import Delay, Review, Run, UnservedAction

UNREAD_MAX = 3
"""How often a run gets its attempt back because its item was never read (design section 4, workers)."""


def end(
    lane: Lane,
    run: Run,
    now: Now,
    status: Status,
    *,
    result: Raw = NULL,
    version: str | None = None,
    observed_version: str | None = None,
    error: ErrorDetail | None = None,
    superseded_by: str | None = None,
    parties: tuple[Party, ...] = (),
    grounds: Grounds | None = None,
) -> None:
    """The run is over for everyone who still wants it. Only its outcome is kept, until the retention ends.

    `grounds`: why it is refused, though it was accepted.
    """
    why = {} if grounds is None else in_the_way(grounds, now)
    seq = lane.next_seq
    requests = tuple(member.id for member in lane.live_members(run))
    done = _done(lane, run, now, seq, status, result, version, observed_version, error, superseded_by)
    held_ms = now.clock_ms - run.since_ms if run.state == "Held" else None
    ended = Ended(
        seq=seq,
        input=lane.input,
        clock_ms=now.clock_ms,
        time=now.time,
        **outcome_of(done),
        expected_version=decided_on(run) if status == "refused" else None,
        known_version=None if grounds is None else grounds.known_version,
        cycle=() if grounds is None else grounds.cycle,
        waits_position=None if grounds is None else grounds.waits_position,
        held_ms=held_ms,
        **why,
        requests=requests,
        parties=parties,
    )
    lane.publish(ended, run.owner, run.traceparent)
    lane.put(done)
    for _, id in lane.members_of.get(run.id, ()) if run.coalesce_key is not None else ():
        if lane.members[id].payload != NULL:
            lane.put(replace(lane.members[id], payload=NULL))
    if status == "completed" and run.lock is None:  # a lock says nothing of what was done under it
        note_completed(lane, run, now, seq, version, observed_version)


def _done(
    lane: Lane,
    run: Run,
    now: Now,
    order: int,
    status: Status,
    result: Raw,
    version: str | None,
    observed_version: str | None,
    error: ErrorDetail | None,
    superseded_by: str | None,
) -> Run:
    """What is left of the run: its name, what equal requests and repeats are told by, and its outcome."""
    others = lane.members_of.get(run.id, ())
    keyed = run.idempotency is not None or any(lane.members[id].idempotency is not None for _, id in others)
    return Run(
        id=run.id,
        order=run.order,
        state="Done",
        resource=run.resource,
        owner=run.owner,
        action=run.action,
        digest=run.digest,
        request_digest=run.request_digest,
        idempotency=run.idempotency,
        expected_version=run.expected_version,
        requires=run.requires,
        coalesce_key=run.coalesce_key,
        accepted_ms=run.accepted_ms,
        actor=run.actor,
        attempt=run.attempt,
        granted_order=run.granted_order,
        token=run.token,
        holder=run.holder,
        lock=run.lock,
        ended_ms=now.clock_ms,
        keyed=keyed,
        forget_ms=now.clock_ms + (lane.policy.idempotency_retention_ms if keyed else lane.policy.retention_ms),
        status=status,
        result=result,
        version=version,
        observed_version=observed_version,
        error=error,
        superseded_by=superseded_by,
        ended_order=order,
    )


def refuse_accepted(lane: Lane, run: Run, now: Now, grounds: Grounds) -> None:
    """What holds at arrival holds at dispatch: the run is refused, though it was accepted."""
    end(
        lane,
        run,
        now,
        "refused",
        grounds=grounds,
        error=ErrorDetail(code=grounds.code, message=grounds.message),
        parties=(*parties_of(lane, run), *grounds.parties),
    )


def fail(lane: Lane, run: Run, now: Now, error: ErrorDetail, *, final: bool, retry_after_ms: int | None) -> None:
    """The holder reported that this attempt did not succeed."""
    if run.stop is not None:
        stopped(lane, run, now, error)
        return
    if final:
        end(lane, run, now, "failed", error=error)
        return
    if run.attempt >= lane.policy.of(run.action).attempts:
        _give_up(lane, run, now, error)
        return
    longest_ms = lane.policy.of(run.action).queue_ms
    delay_ms = backoff_ms(lane, run) if retry_after_ms is None else min(max(0, retry_after_ms), longest_ms)
    lane.emit(
        AttemptFailed,
        now,
        run.traceparent,
        **about(run),
        token=run.token,
        attempt=run.attempt,
        error=error,
        retry_in_ms=delay_ms,
    )
    wait_again(lane, run, now, delay_ms, f"failed: {error.code}: {error.message}")


def stopped(lane: Lane, run: Run, now: Now, error: ErrorDetail | None) -> None:
    """The holder, asked to stop, let go: the run ends in the way that it was asked for."""
    assert run.stop is not None
    replaced = run.stop == "superseded"
    sides = parties_of(lane, run) if replaced else ()
    end(lane, run, now, run.stop, superseded_by=run.stop_by if replaced else None, error=error, parties=sides)


def lose(lane: Lane, run: Run, now: Now, reason: LostReason) -> None:
    """The holder's lease is over without a result: a failed attempt, unless its item was never read."""
    session = lane.sessions.get(run.session)
    unread = session is not None and run.number > session.read and run.unread < UNREAD_MAX
    policy = lane.policy.of(run.action)
    spent = not unread and run.attempt >= policy.attempts
    final = run.stop is not None or (spent and policy.then == "fail")
    delay_ms = 0 if unread or spent or final else backoff_ms(lane, run)
    lane.emit(
        Lost,
        now,
        run.traceparent,
        **about(run),
        token=run.token,
        attempt=run.attempt,
        reason=reason,
        session=run.session,
        holder=run.holder,
        spent=not unread,
        final=final,
        retry_in_ms=delay_ms,
        parties=parties_of(lane, run),
    )
    if session is not None and reason == "lease_expired":
        lane.tell(session, Notice, kind="lost", run=run.id, token=run.token, reason=reason)
    if run.stop is not None:
        stopped(lane, run, now, None)
    elif spent:
        _give_up(lane, run, now, ErrorDetail(code="EXPIRED", message=f"every attempt was lost: {reason}"))
    elif unread:
        again = replace(run, attempt=run.attempt - 1, unread=run.unread + 1)
        wait_again(lane, again, now, 0, run.previous_end)
    else:
        wait_again(lane, run, now, delay_ms, reason)


def lose_lock(lane: Lane, run: Run, now: Now, reason: LostReason) -> None:
    """The session that held a lock holds it no more, and has not given it back: it had one attempt."""
    lane.emit(
        Lost,
        now,
        run.traceparent,
        **about(run),
        token=run.token,
        attempt=run.attempt,
        reason=reason,
        session=run.session,
        holder=run.holder,
        spent=True,
        final=True,
        parties=parties_of(lane, run),
    )
    if run.stop is not None:
        stopped(lane, run, now, None)
    else:
        end(lane, run, now, "failed", error=ErrorDetail(code="EXPIRED", message=f"the lock was lost: {reason}"))


def ask_to_stop(lane: Lane, run: Run, now: Now, status: Status, by: str) -> None:
    """Tell the holder that its work is not wanted any more. It may still complete first.

    The holder of a lock reads events.
    """
    lane.put(replace(run, stop=status, stop_by=by))
    if run.lock is None:
        session = lane.sessions[run.session]
        lane.tell(session, Notice, run.traceparent, kind="stop", run=run.id, token=run.token, reason=status)
    lane.emit(
        StopAsked,
        now,
        run.traceparent,
        **about(run),
        token=run.token,
        status=status,
        by=by,
    )


def wait_again(lane: Lane, run: Run, now: Now, delay_ms: int, previous_end: str | None) -> None:
    """Back to the queue, in the place that its acceptance gives it; not ready for `delay_ms`."""
    ready_ms = now.clock_ms + delay_ms if delay_ms else None
    expires_ms = now.clock_ms + lane.policy.of(run.action).queue_ms
    waits = replace(run, state="Waiting", expires_ms=expires_ms, previous_end=previous_end)
    lane.put(_unheld(replace(waits, ready_ms=ready_ms, delayed="backoff" if delay_ms else None)))
    note_unserved(lane, run.action, now)


def _unheld(run: Run) -> Run:
    return replace(
        run,
        session="",
        holder="",
        number=0,
        since_ms=0,
        since="",
        lease_ms=0,
        lease_until_ms=None,
        hold_until_ms=None,
        on_loss="retry",
        blocked=None,
    )


def _give_up(lane: Lane, run: Run, now: Now, error: ErrorDetail) -> None:
    """The last attempt is over: the run fails, or a person is asked."""
    policy = lane.policy.of(run.action)
    if policy.then == "fail":
        end(lane, run, now, "failed", error=error)
        return
    resource = lane.resources.get(run.resource)
    seq = lane.emit(
        Parked,
        now,
        run.traceparent,
        request=run.id,
        **about(run),
        owner=run.owner,
        actor=run.actor,
        reason="attempts",
        expires_in_ms=policy.review_ms,
        error=error,
        token=run.token,
        attempt=run.attempt,
        expected_version=decided_on(run),
        known_version=None if resource is None else resource.version,
        parties=parties_of(lane, run),
    )
    review = Review(order=seq, since_ms=now.clock_ms, since=now.time, reason="attempts")
    expires_ms = now.clock_ms + policy.review_ms
    previous = f"failed: {error.code}: {error.message}"
    lane.put(_unheld(replace(run, state="Parked", expires_ms=expires_ms, previous_end=previous, review=review)))


def delay(lane: Lane, run: Run, now: Now, ready_ms: int, why: Delay) -> None:
    """It waits, and lets others pass until then."""
    lane.emit(Delayed, now, run.traceparent, **about(run), ready_in_ms=ready_ms - now.clock_ms)
    lane.put(replace(run, ready_ms=ready_ms, delayed=why))


def note_unserved(lane: Lane, action: str, now: Now) -> None:
    """Start the time after which runs of an action that nobody handles step aside."""
    if action not in lane.unserved and not lane.is_served(action):
        lane.put(UnservedAction(action=action, since_ms=now.clock_ms))


def backoff_ms(lane: Lane, run: Run) -> int:
    """Exponential, with half of it jitter taken from the run's id, so that reruns of history wait alike."""
    policy = lane.policy.of(run.action)
    full: int = min(policy.backoff_ms * 2 ** min(max(run.attempt - 1, 0), 30), policy.backoff_max_ms)
    spread = hashlib.sha256(f"{run.id}/{run.attempt}".encode()).digest()
    return full // 2 + int.from_bytes(spread[:4]) % (full // 2 + 1)
