"""What is judged: the records of the topics, with their places, and what else a recorder knows. Values only."""

from __future__ import annotations

from msgspec import Struct


class Entry(Struct, frozen=True, tag=True):
    """A record as it lies in the log. Entries of one partition of a topic come in the order of their offsets."""

    topic: str
    """The logical name, without a Kafka journal's prefix."""
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0


class Acknowledged(Struct, frozen=True, kw_only=True, tag=True):
    """The journal acknowledged that a command was published: it must be in `requests` (promise 3)."""

    id: str
    partition: int | None = None
    offset: int | None = None


class Configured(Struct, frozen=True, kw_only=True, tag=True):
    """What a recorder knows of the routers' configuration, where the records do not say it themselves."""

    retention_ms: int | None = None
    """How long outcomes are remembered, over all of the history."""
    waiters_per_resource: int | None = None
    members_per_run: int | None = None
    locks_per_session: int | None = None
    max_hold_ms: int | None = None
    """How long a lock may be held at most, over all of the history."""


class Effect(Struct, frozen=True, kw_only=True, tag=True):
    """A target that checks tokens accepted an effect of the holder of `run`, in the order of these lines."""

    resource: str
    run: str
    token: int


class Span(Struct, frozen=True, kw_only=True, tag=True):
    """A partition of a topic was read from its start to before `end`. Without it, the first record that is seen is
    taken for the start; so it matters where retention has taken all of them."""

    topic: str
    partition: int
    end: int
    moving: bool = False
    """Compacted, and written to until the end: the newest record of a key may be one that came after it."""


Line = Entry | Acknowledged | Configured | Effect | Span
