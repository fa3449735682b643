"""Promise 11: exactly one artifact for each clash that design section 7 lists, and none beside."""

from __future__ import annotations

from typing import Any

from keylane.schemas import topics
from keylane.schemas.events import ApprovalVoided, DeadLettered, Ended, Fenced, Lost, Parked, Refused, Withdrawn

from .lane import Handlers, Lane

REFUSALS = {
    "STALE_VERSION": "stale_version",
    "IDEMPOTENCY_MISMATCH": "idempotency_mismatch",
    "ORDER_VIOLATION": "order_violation",
    "LIMIT_REACHED": "limit_reached",
    "DEADLOCK": "deadlock",
}


def clash_of(event: Any) -> str | None:
    """The kind of the artifact that an event must have; None where it is no clash."""
    match event:
        case Refused(repeat=False, command="WorkRequest", code="LOCK_HELD"):
            return "lock_held"
        case Refused(repeat=False):
            return REFUSALS.get(event.code)
        case Ended(repeat=False, coalesced=False):
            return _clash_of_end(event)
        case Withdrawn(repeat=False, status="expired"):
            return "wait_expired"
        case Fenced():
            return "fenced_report"
        case Lost():
            return "lease_expired"
        case Parked(repeat=False):
            return "parked"
        case ApprovalVoided():
            return "approval_voided"
        case DeadLettered(code="ID_REUSED"):
            return "id_reused"
    return None


def _clash_of_end(event: Ended) -> str | None:
    if event.status == "refused":
        return None if event.error is None else REFUSALS.get(event.error.code)
    if event.status in ("superseded", "expired"):
        return "superseded" if event.status == "superseded" else "wait_expired"
    seen = event.observed_version
    differs = seen is not None and event.version is not None and seen != event.version
    return "inconsistent_state" if event.status == "completed" and differs else None


class Clashes:
    """Notes the clashes of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.clashes: dict[int, tuple[int, str, str]] = {}
        """By sequence number: the event, the kind, and the resource."""
        self.first_seq: int | None = None
        kinds = (Refused, Ended, Withdrawn, Fenced, Lost, Parked, ApprovalVoided, DeadLettered)
        self.handlers: Handlers = dict.fromkeys(kinds, self.on_perhaps_a_clash)

    def on_perhaps_a_clash(self, event: Any, at: int) -> None:
        kind = clash_of(event)
        if kind is not None:
            self.clashes[event.seq] = (at, kind, event.resource)

    # -- when all has been read ---------------------------------------------------------------------------------

    def close(self, drained: bool) -> None:
        """Hold the artifacts against the clashes, and the other way round."""
        lane = self.lane
        cut = lane.cut(drained)
        settled = lane.fold.last_seq if cut is None else min(lane.fold.last_seq, cut[1].seq)
        artifacts: dict[int, int] = {}
        for offset, seq, kind, resource, id in lane.artifacts:
            place = lane.place(topics.CONFLICTS, offset)
            if seq in artifacts:
                message = f"event {seq} has two artifacts"
                lane.violation(11, message, lane.place(topics.CONFLICTS, artifacts[seq]), place)
                continue
            artifacts[seq] = offset
            self._fits(place, seq, kind, resource, id)
        is_cut = bool(lane.begin_of(topics.CONFLICTS))
        begin = min(artifacts, default=2**63) if is_cut else 0
        gone = 0
        for seq, (at, kind, resource) in self.clashes.items():
            if seq > settled or seq in artifacts:
                continue
            if seq < begin:
                gone += 1
            else:
                lane.violation(11, f"no artifact for what is a clash ({kind}) on {resource}", lane.event(at))
        lane.findings.undecided(11, "artifacts of that time are not there any more, for clashes", gone)

    def _fits(self, place: str, seq: int, kind: str, resource: str, id: str) -> None:
        lane = self.lane
        clash = self.clashes.get(seq)
        if clash is None:
            if lane.fold.partial or seq > lane.fold.last_seq or lane.unreadable.get(topics.EVENTS):
                return
            lane.violation(11, f"an artifact ({kind}) of event {seq}, which is no clash", place)
        elif (kind, resource, id) != (clash[1], clash[2], f"{lane.partition}-{seq}"):
            message = (
                f"event {seq} is a clash ({clash[1]}) on {clash[2]}, and its artifact {id} says {kind} on {resource}"
            )
            lane.violation(11, message, lane.event(clash[0]), place)
