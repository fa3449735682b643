"""The cells of the table beyond arrival: what a run does on a report, a cancellation or a timer. They never grant."""

from __future__ import annotations

from msgspec.structs import replace

from keylane.router.core.answers import refuse
from keylane.router.core.coalescing import is_open, payload_bytes, settled_ms
from keylane.router.core.describe import about, parties_of, party_of, said
from keylane.router.core.endings import ask_to_stop, delay, end, fail, lose, lose_lock, refuse_accepted
from keylane.router.core.lane import Lane
from keylane.router.core.locks import BLOCKED_CHARACTERS_MAX, is_given_up, wait_is_over
from keylane.router.core.order import note_failed
from keylane.router.core.records import Arrived, Gone, Grounds, Now
from keylane.router.core.resources import note_found
from keylane.schemas.base import NULL, ErrorDetail
from keylane.schemas.event_parts import Party
from keylane.schemas.events import CancellationKept, Fenced, Progressed, Withdrawn
from keylane.schemas.items import Checkpoint, Notice
from keylane.schemas.requests import Cancellation, Decision
from keylane.schemas.results import Completed, Failed, Progress
from keylane.schemas.state import KeptCancellation, Member, Run

ERROR_CHARACTERS_MAX = 2_048
"""What is kept of a handler's error message: agent-written text, for people."""


def impossible(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """A cell that no history reaches. The message goes into a dead letter, and commands have secrets and payloads."""
    met = "no run" if run is None else f"{run.id}, which is {run.state}"
    raise AssertionError(f"{type(arrived.record).__name__} cannot meet {met}")


def ignore(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """A cell in which nothing is to be done."""


# -- cancellation ---------------------------------------------------------------------------------------------


def remember(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Unknown: it may have overtaken its request."""
    cancellation = arrived.record
    assert isinstance(cancellation, Cancellation)
    seq = lane.emit(
        CancellationKept,
        now,
        arrived.traceparent,
        request=cancellation.request,
        cancellation=cancellation.id,
        resource=cancellation.resource,
    )
    kept = KeptCancellation(
        request=cancellation.request,
        resource=cancellation.resource,
        by=cancellation.actor,
        order=seq,
        forget_ms=now.clock_ms + lane.policy.retention_ms,
    )
    lane.put(kept)
    if len(lane.kept) > lane.policy.bounds.kept_cancellations:
        oldest = min(lane.kept.values(), key=lambda each: each.order)
        lane.put(Gone(b"cancelled/" + oldest.request.encode()))


def withdraw(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting, Parked, Held: one requester leaves; the run ends, or its holder is asked to stop, when none is left."""
    cancellation = arrived.record
    assert run is not None and isinstance(cancellation, Cancellation)
    member = lane.member(cancellation.request)
    assert member is not None
    is_last = sum(1 for _ in lane.live_members(run)) == 1
    if member.left is None and is_last and is_given_up(lane, run, cancellation):
        end(lane, run, now, "cancelled")
    elif member.left is not None or run.stop is not None:
        too_late(lane, run, arrived, now)
    elif not is_last:
        _leave(lane, run, member, now, cancellation.actor)
    elif run.state == "Held":
        ask_to_stop(lane, run, now, "cancelled", cancellation.actor)
    else:
        end(lane, run, now, "cancelled")


def _leave(lane: Lane, run: Run, member: Member, now: Now, by: str) -> None:
    lane.put(replace(member, left="cancelled"))
    lane.emit(Withdrawn, now, member.traceparent, **about(run), request=member.id, status="cancelled", by=by)


def too_late(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """The run, or this requester's part in it, is over."""
    if isinstance(arrived.record, Decision) and run is not None:
        stands = "waiting for its turn" if run.state == "Waiting" else run.state.lower()
        why = f"it waits for no decision: it is {stands}"
    else:
        why = "it has ended, or was asked to stop, already"
    refuse(lane, arrived, now, Grounds("TOO_LATE", why))


def unknown(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """A command about a request that this lane does not know."""
    refuse(lane, arrived, now, Grounds("NOT_FOUND", "no such request is remembered for this resource"))


# -- reports --------------------------------------------------------------------------------------------------


def fence(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """A report under a token that is not live changes nothing, and is on the record."""
    report = arrived.record
    real = lane.runs.get(report.run)  # type: ignore[union-attr]  # every report names a run
    session = said(report, "session")
    late = Party(request=said(report, "run"), session=session, token=report.token)  # type: ignore[union-attr]
    lane.emit(
        Fenced,
        now,
        arrived.traceparent,
        run=said(report, "run"),
        resource=said(report, "resource"),
        action="" if real is None else real.action,
        report=type(report).__name__,
        report_id=said(report, "id"),
        token=report.token,  # type: ignore[union-attr]
        session=session,
        live_token=real.token if real is not None and real.state == "Held" else None,
        status="Unknown" if real is None else real.state,
        parties=(late,) if real is None else (late, party_of(real)),
    )
    reporter = lane.sessions.get(session)
    if reporter is not None and not isinstance(report, Completed | Failed):
        lane.tell(reporter, Notice, kind="lost", run=report.run, token=report.token, reason="fenced")  # type: ignore[union-attr]


def renew(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Held: the lease runs anew from now, unless the holder says that it is blocked."""
    report = arrived.record
    assert run is not None and isinstance(report, Progress)
    data = Checkpoint(
        data=report.checkpoint.copy(), evidence=report.evidence.copy(), open_questions=report.open_questions
    )
    saved = data != Checkpoint()
    if saved and data.data == NULL and run.checkpoint is not None:
        data = _added(run.checkpoint, data)
    size = payload_bytes(lane, run) + sum(len(bytes(part)) for part in (data.data, data.evidence))
    size += sum(len(question) for question in data.open_questions)
    too_large = saved and size > lane.policy.bounds.run_bytes
    blocked = report.blocked[:BLOCKED_CHARACTERS_MAX] if report.blocked else None
    assert run.hold_until_ms is not None
    lease_until_ms = run.lease_until_ms if blocked else min(now.clock_ms + run.lease_ms, run.hold_until_ms)
    checkpoint = data if saved and not too_large else run.checkpoint
    lane.put(replace(run, lease_until_ms=lease_until_ms, checkpoint=checkpoint, blocked=blocked))
    session = lane.sessions[run.session]
    if session.read < run.number:  # who reports on an item has read it, before a heartbeat says so
        lane.put(replace(session, read=run.number))
    if too_large:
        # Only the checkpoint is refused. The holder counts every acknowledged Progress as a renewal.
        refuse(lane, arrived, now, Grounds("TOO_LARGE", f"payload, checkpoint and evidence: {size} bytes"))
        return
    lane.emit(
        Progressed,
        now,
        arrived.traceparent or run.traceparent,
        **about(run),
        token=run.token,
        checkpoint=saved,
        blocked=blocked,
    )


def _added(old: Checkpoint, new: Checkpoint) -> Checkpoint:
    """What comes without a checkpoint is added to the one of before, which stays."""
    evidence = old.evidence if new.evidence == NULL else new.evidence
    return replace(old, evidence=evidence, open_questions=new.open_questions or old.open_questions)


def complete(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Held: done, for everyone who was merged into it."""
    report = arrived.record
    assert run is not None and isinstance(report, Completed)
    parties = (party_of(run),) if report.observed_version not in (None, report.version) else ()
    end(
        lane,
        run,
        now,
        "completed",
        result=report.result.copy(),
        version=report.version,
        observed_version=report.observed_version,
        parties=parties,
    )


def attempt_failed(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Held: this attempt did not succeed."""
    report = arrived.record
    assert run is not None and isinstance(report, Failed)
    note_failed(lane, run)
    error = ErrorDetail(code=report.error.code[:128], message=report.error.message[:ERROR_CHARACTERS_MAX])
    if error.code == "STALE_VERSION" and run.stop is None:
        found_stale(lane, run, now, error, report.observed_version)
        return
    fail(lane, run, now, error, final=report.final, retry_after_ms=report.retry_after_ms)


def found_stale(lane: Lane, run: Run, now: Now, error: ErrorDetail, observed_version: str | None) -> None:
    """The worker's own check: the resource is not what the run was decided on, though the lane did not know."""
    if observed_version is not None:
        note_found(lane, run, now, observed_version)
    grounds = Grounds("STALE_VERSION", error.message, known_version=observed_version)
    refuse_accepted(lane, run, now, grounds)


# -- timers ---------------------------------------------------------------------------------------------------


def ripen(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Waiting: requesters whose deadline has passed leave; its wait is over; or its backoff is."""
    assert run is not None
    if _ends_overdue(lane, run, now):
        return
    if run.lock is not None:
        wait_is_over(lane, run, now)
    elif run.expires_ms is not None and run.expires_ms <= now.clock_ms:
        why = "no_worker: no worker handles the action" if run.action in lane.unserved else "its turn did not come"
        _expired(lane, run, now, why)
    elif run.ready_ms is not None and run.ready_ms <= now.clock_ms:
        # Who joins writes no run anew: only now is it seen that somebody did, and it waits on.
        again_ms = settled_ms(lane, run) if is_open(run) else 0
        if again_ms > now.clock_ms:
            delay(lane, run, now, again_ms, "quiet")
        else:
            lane.put(replace(run, ready_ms=None, delayed=None))


def give_up(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Parked: requesters whose deadline has passed leave; or nobody has decided in time."""
    assert run is not None
    if not _ends_overdue(lane, run, now) and run.expires_ms is not None and run.expires_ms <= now.clock_ms:
        _expired(lane, run, now, "undecided: nobody has decided in time")


def _ends_overdue(lane: Lane, run: Run, now: Now) -> bool:
    """Whether the run ends with the deadline of its last requester; the others' only take them out of it."""
    for member in _overdue(lane, run, now):
        if sum(1 for _ in lane.live_members(run)) == 1:
            _expired(lane, run, now, "its deadline passed before it was granted")
            return True
        lane.put(replace(member, left="expired"))
        side = replace(party_of(run), request=member.id, actor=member.actor, at_ms=member.accepted_ms)
        lane.emit(
            Withdrawn, now, member.traceparent, **about(run), request=member.id, status="expired", parties=(side,)
        )
    return False


def _expired(lane: Lane, run: Run, now: Now, why: str) -> None:
    error = ErrorDetail(code="EXPIRED", message=why)
    end(lane, run, now, "expired", error=error, parties=parties_of(lane, run))


def _overdue(lane: Lane, run: Run, now: Now) -> list[Member]:
    due = [each for each in lane.live_members(run) if each.deadline_ms is not None and each.deadline_ms <= now.clock_ms]
    return sorted(due, key=lambda each: (each.deadline_ms, each.id))


def expire(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Held: its lease is over, and everything acknowledged before has been applied."""
    assert run is not None
    if run.lock is not None:
        lose_lock(lane, run, now, "unclaimed" if run.unclaimed else "lease_expired")
    else:
        lose(lane, run, now, "lease_expired")


def forget(lane: Lane, run: Run | None, arrived: Arrived, now: Now) -> None:
    """Done: the retention has ended; tombstones for the outcome and its requests."""
    assert run is not None
    for _, id in list(lane.members_of.get(run.id, ())):
        lane.put(Gone(b"member/" + id.encode()))
    lane.put(Gone(b"run/" + run.id.encode()))
