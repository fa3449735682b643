"""Wall time as everybody writes it: RFC 3339, UTC, milliseconds, `Z`. For people only: nothing may compare it."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(wall_s: float) -> str:
    """Seconds since the epoch, as time.time() gives them."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
