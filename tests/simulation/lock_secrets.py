"""The secrets of the simulation's sessions: each can be told wherever it turns up."""

from __future__ import annotations

MARK = "hush-"
"""With which each begins: nothing but what was asked may say one."""


def secret_of(session: str, other: str = "") -> str:
    """Of a session, or `other` than its own."""
    return f"{MARK}{other}{session}-0123456789"
