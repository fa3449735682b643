"""What a judgement says: violations with their places, what could not be decided and why, what is still open."""

from __future__ import annotations

from msgspec import Struct, field


class Violation(Struct, frozen=True):
    """A broken promise, as a plain counterexample: what happened, and the records that show it."""

    promise: int
    """Of design section 7."""
    partition: int
    message: str
    places: tuple[str, ...]
    """`topic/partition/offset`, in the order in which they are to be read."""


class Report(Struct, kw_only=True):
    """A judgement. Without violations and with nothing undecided, every promise that was asked for was kept."""

    violations: list[Violation] = field(default_factory=list)
    """By promise. Of many of one promise only the first are told."""
    found: dict[int, int] = field(default_factory=dict)
    """How many violations there are, by promise, also of those that are not told."""
    undecided: dict[int, str] = field(default_factory=dict)
    """By promise: what could not be decided, and why."""
    open: dict[str, int] = field(default_factory=dict)
    """What had not come to its end yet where the history ends, counted. Without `drained` that is no violation."""
    records: dict[str, int] = field(default_factory=dict)
    """How many were read, by topic."""
