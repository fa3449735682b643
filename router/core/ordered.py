"""Ordered lists by key, which is what the lane's indexes are made of. No record and no rule."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any, TypeVar

K = TypeVar("K")
Entry = tuple[int, str]
"""(order, id): ordered lists of these keep every walk the same on any machine."""


def add(lists: dict[K, list[Any]], key: K, entry: Any) -> None:
    """Put `entry` in its place under `key`."""
    insort(lists.setdefault(key, []), entry)


def remove(lists: dict[K, list[Any]], key: K, entry: Any) -> None:
    """Take `entry`, which must be there, from under `key`."""
    entries = lists[key]
    place = bisect_left(entries, entry)
    assert entries[place] == entry
    del entries[place]
    if not entries:
        del lists[key]
