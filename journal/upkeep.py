"""What an operator asks of a journal, as plain values: topics against their specification, checks of the store, rights.

Values only, and none of a particular store: an adapter words its own findings, and says itself what to do.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fault"]

Weight = Literal["refused", "harmful", "risky", "chosen"]
"""How much a difference matters. `refused`: no router starts so. `harmful`: routers work, but not as they should.
`risky`: what was acknowledged can be lost; an operator may want that. `chosen`: the operator's own business."""


class Difference(NamedTuple):
    """A setting of a topic that is not as specified, in the store's own words."""

    setting: str
    found: str
    wanted: str
    weight: Weight
    changeable: bool = True
    """By `alter`. Else only by other tools, or never, since keys would move."""


class TopicState(NamedTuple):
    """A topic as it is, held against its specification. `partitions` None: it is not there.

    `retention_ms` None keeps records for ever."""

    name: str
    partitions: int | None
    retention_ms: int | None = None
    differences: tuple[Difference, ...] = ()


class Finding(NamedTuple):
    """What one check found. `advice` says what to do about it; empty where nothing is."""

    name: str
    level: Level
    said: str
    advice: str = ""


class Need(NamedTuple):
    """A right that a role rests on. Of a topic: to read, write, create it, or to read or change its settings. Of a
    group: to be a member (read). Of a lane (`name` is its partition number): to claim it (write)."""

    kind: Literal["topic", "group", "lane"]
    name: str
    right: Literal["read", "write", "create", "settings", "alter"]
