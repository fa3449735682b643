"""How topics, groups and transactional ids are called on a cluster: a prefix before keylane's own names.

Two fleets share a cluster by two prefixes. Everything outside the adapter speaks keylane's names only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .port import Place


class Names(NamedTuple):
    """The names under one prefix."""

    prefix: str

    def full(self, name: str) -> str:
        """What the cluster calls it."""
        return self.prefix + name

    def places(self, places: Iterable[Place]) -> list[Place]:
        """What the cluster calls these partitions."""
        return [Place(self.prefix + topic, partition) for topic, partition in places]

    def own(self, topic: str) -> str:
        """What keylane calls a topic of the cluster."""
        return topic[len(self.prefix) :]
