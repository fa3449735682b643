"""What `submit` and `run` take besides resource, action and payload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class SubmitOptions(TypedDict, total=False):
    """What `submit` and `run` take besides resource, action and payload; what each of them means."""

    request_id: str | None
    """Repeating a request under its id gets its first answer again. Default: a new one."""
    idempotency_key: str | None
    """Remembers accepted work for longer than a request id, and under any request id."""
    expected_version: str | None
    """The version of the resource that the request was decided on."""
    coalesce_key: str | None
    """Requests under one key are equal, whatever their payload."""
    reject_if_busy: bool
    """Be refused with `LOCK_HELD` instead of waiting."""
    requires: Sequence[str]
    """One of these actions must be the last completed one on the resource."""
    deadline_s: float | None
    """Withdrawn after so many seconds from acceptance, while it is not held."""
    traceparent: str | None
    """W3C trace context. Default: that of the current OpenTelemetry span, where there is one."""
