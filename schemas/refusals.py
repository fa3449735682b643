"""The closed set of codes, what each means, and whether trying again can help (design section 9)."""

from __future__ import annotations

from typing import Literal, NamedTuple

Code = Literal[
    "BAD_RECORD",
    "BAD_KEY",
    "TOO_LARGE",
    "ID_REUSED",
    "IDEMPOTENCY_MISMATCH",
    "VERSION_REQUIRED",
    "STALE_VERSION",
    "ORDER_VIOLATION",
    "LIMIT_REACHED",
    "LOCK_HELD",
    "QUEUE_FULL",
    "LANE_FULL",
    "DEADLOCK",
    "SUPERSEDED",
    "REJECTED",
    "EXPIRED",
    "FENCED",
    "NOT_FOUND",
    "TOO_LATE",
    "INTERNAL",
    "UNAVAILABLE",
]


class Refusal(NamedTuple):
    """`transient`: the same request can succeed later. Suggestions never say how to force a way past."""

    transient: bool
    suggestion: str


REFUSALS: dict[Code, Refusal] = {
    "BAD_RECORD": Refusal(False, "Correct the record as the message says and send it under a new id."),
    "BAD_KEY": Refusal(False, "Name the resource by a URI or an ARN, at most 512 bytes."),
    "TOO_LARGE": Refusal(False, "Send less: put large data elsewhere and name it in the payload."),
    "ID_REUSED": Refusal(False, "Use a new id for each request; repeat an id only with the same content."),
    "IDEMPOTENCY_MISMATCH": Refusal(False, "Use a new idempotency key for different work."),
    "VERSION_REQUIRED": Refusal(False, "Read the resource and send the version that you read."),
    "STALE_VERSION": Refusal(False, "Read the resource again and decide anew on what it is now."),
    "ORDER_VIOLATION": Refusal(False, "Do the step that must come first."),
    "LIMIT_REACHED": Refusal(True, "Wait until the earlier work has been undone or finished."),
    "LOCK_HELD": Refusal(True, "Wait and send a new request, or do other work first."),
    "QUEUE_FULL": Refusal(True, "Wait until earlier requests have ended."),
    "LANE_FULL": Refusal(True, "Wait until earlier requests have been forgotten."),
    "DEADLOCK": Refusal(True, "Release what you hold and start again."),
    "SUPERSEDED": Refusal(False, "Read the resource again: newer work has replaced this."),
    "REJECTED": Refusal(False, "Read the note of the person who decided."),
    "EXPIRED": Refusal(True, "See whether a worker serves the action, or a person was asked, then send a new request."),
    "FENCED": Refusal(False, "Stop: another holder has taken over. Read the resource before anything else."),
    "NOT_FOUND": Refusal(False, "Check the resource and the id; what has ended is forgotten after a while."),
    "TOO_LATE": Refusal(False, "See how the request stands now: it has ended, or moved on, before this came."),
    "INTERNAL": Refusal(False, "Report it with the request id; the dead letter has the cause."),
    "UNAVAILABLE": Refusal(True, "Check that the journal is up and a router is running, then try again."),
}
