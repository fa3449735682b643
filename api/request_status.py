"""The fold behind `status`: how one request stands, from what a lane has committed. A pure function of a `LaneView`."""

from __future__ import annotations

import msgspec

from keylane.errors import error_body
from keylane.outcome import Outcome, RequestState, ReviewState, Status
from keylane.schemas.refusals import REFUSALS
from keylane.schemas.state import RefusedRequest, Run
from keylane.ticket import failure
from keylane.views import LaneView
from keylane.waits import queue_of, wait_of


def request_status(view: LaneView, resource: str, request_id: str) -> Status | None:
    """How one request on `resource` stands; None where it is not known."""
    refused = view.refused.get(request_id)
    if refused is not None and refused.resource == resource:
        return _refused_status(refused)
    member = view.members.get(request_id)
    run = view.runs.get(member.run if member else request_id)
    if run is None or resource not in (run.resource, run.owner):
        return None
    if member is not None and member.left is not None:
        outcome = Outcome(
            request_id=request_id,
            run=run.id,
            status=member.left,
            coalesced=run.id != request_id,
            error=failure(member.left, None, None),
        )
        return _status(run, request_id, "done", outcome)
    if run.state == "Done":
        return _status(run, request_id, "done", _outcome(run, request_id))
    states: dict[str, RequestState] = {"Waiting": "waiting", "Parked": "parked", "Held": "held"}
    status = _reviewed(_status(run, request_id, states[run.state], None), run, view.partition)
    if run.state == "Held":
        return msgspec.structs.replace(
            status, holder=run.holder, token=run.token, attempt=run.attempt, blocked=run.blocked
        )
    queue = queue_of(view, run.owner)
    return msgspec.structs.replace(
        status,
        position=queue.waiting.index(run),
        ready_in_ms=run.ready_ms - view.clock_ms if run.ready_ms is not None and run.ready_ms > view.clock_ms else None,
        holder=queue.held.holder if queue.held else None,
        attempt=run.attempt,
        unserved=run.action in view.unserved,
        wait=wait_of(queue, run, None if member is None else member.deadline_ms),
    )


def _outcome(run: Run, request_id: str) -> Outcome:
    assert run.status is not None
    return Outcome(
        request_id=request_id,
        run=run.id,
        status=run.status,
        result=msgspec.json.decode(run.result),
        version=run.version,
        coalesced=run.id != request_id,
        error=failure(run.status, run.error, run.superseded_by),
    )


def _status(run: Run, request_id: str, state: RequestState, outcome: Outcome | None) -> Status:
    return Status(
        request_id=request_id,
        run=run.id,
        resource=run.resource,
        action=run.action,
        state=state,
        coalesced=run.id != request_id,
        outcome=outcome,
    )


def _reviewed(status: Status, run: Run, partition: int) -> Status:
    """With what a person was asked about the run, and said."""
    review = run.review
    if review is None:
        return status
    if run.state != "Parked":
        return msgspec.structs.replace(status, review="approved", decided_by=review.by)
    asked: ReviewState = "approval_voided" if review.reason == "approval_voided" else "needs_decision"
    return msgspec.structs.replace(status, review=asked, conflict_id=f"{partition}-{review.order}")


def _refused_status(refused: RefusedRequest) -> Status:
    suggestion = REFUSALS[refused.code].suggestion
    error = error_body(refused.code, f"the request was refused. {suggestion}")
    outcome = Outcome(request_id=refused.id, run="", status="refused", error=error)
    return Status(request_id=refused.id, run="", resource=refused.resource, action="", state="done", outcome=outcome)
