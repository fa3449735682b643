"""What each role may have to do with which topic: the rights that it rests on (SECURITY.md). No store's own words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from keylane.journal.upkeep import Need
from keylane.schemas import topics

Role = Literal["router", "worker", "agent", "operator"]


def needs(role: Role, *, partitions: int, pools: Sequence[str], group: str, missing: Sequence[str]) -> list[Need]:
    """`group` is the routers'; `missing` are topics that are not there yet, which somebody must create."""
    items = [topics.items(pool) for pool in pools]
    found: list[Need] = []
    match role:
        case "router":
            found += _topics("read", topics.REQUESTS, topics.RESULTS, topics.STATE, topics.WAITS, topics.METADATA)
            # Requests too: what arrived at the wrong partition is sent on.
            written = (topics.REQUESTS, topics.EVENTS, topics.CONFLICTS, topics.STATE, topics.DEADLETTERS)
            found += _topics("write", *written, topics.WAITS, *items)
            found += _topics("settings", *_all(items))
            found += _topics("create", *missing)
            found.append(Need("group", group, "read"))
            found += [Need("lane", str(partition), "write") for partition in range(partitions)]
        case "worker":
            found += [*_topics("read", *items, topics.METADATA), *_topics("write", topics.RESULTS)]
            found += _topics("settings", topics.RESULTS)
            # A worker's group is named by its pool and by its actions, which are not known here: any will do.
            found += [Need("group", f"workers.{pool}.any", "read") for pool in pools]
        case "agent":
            found += [*_topics("read", topics.EVENTS, topics.CONFLICTS, topics.STATE, topics.METADATA)]
            found += [*_topics("write", topics.REQUESTS), *_topics("settings", topics.REQUESTS)]
        case "operator":
            found += [*_topics("read", *_all(items)), *_topics("write", topics.REQUESTS, topics.METADATA)]
            found += [*_topics("settings", *_all(items)), *_topics("alter", *_all(items))]
            found += _topics("create", *missing)
            # To change scope rules every lane is claimed.
            found += [Need("lane", str(partition), "write") for partition in range(partitions)]
    return found


def _topics(right: Literal["read", "write", "create", "settings", "alter"], *names: str) -> Iterator[Need]:
    return (Need("topic", name, right) for name in names)


def _all(items: Sequence[str]) -> list[str]:
    fixed = (
        topics.REQUESTS, topics.RESULTS, topics.EVENTS, topics.CONFLICTS, topics.STATE, topics.WAITS,
        topics.DEADLETTERS, topics.METADATA,
    )  # fmt: skip
    return [*fixed, *items]
