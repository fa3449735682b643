"""Times as people write them in a configuration, and back."""

from __future__ import annotations

import re

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

Duration = str | int | float
"""`"5m"`, `"1.5s"`, `"200ms"`; a bare number is seconds."""


def milliseconds(where: str, value: Duration, least: int = 0) -> int:
    """Raises `ValueError` that begins with `where`."""
    if isinstance(value, int | float):
        value = f"{value}s"
    match = DURATION.fullmatch(value)
    if match is None:
        raise ValueError(f'{where}: {value!r} is no duration; write it like "5m", "1.5s" or "200ms"')
    found_ms = round(float(match[1]) * UNITS_MS[match[2]])
    if found_ms < least:
        raise ValueError(f"{where}: must be at least {least} ms")
    return found_ms


def duration(ms: int) -> str:
    """As a file may have it, in the greatest unit that is whole."""
    for unit, size_ms in UNITS_MS.items():
        if ms and ms % size_ms == 0:
            return f"{ms // size_ms}{unit}"
    return f"{ms}ms"
