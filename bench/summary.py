"""The arithmetic of the results: percentiles, and ratios paired by round. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The middle of some values, and how far they reach."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Raises `ValueError` where there are none."""
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of each round's two values: what disturbs a machine for minutes disturbs both sides of a round."""
    return spread([our / their for our, their in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: the least value that `percent` of all do not exceed. It is one that was measured."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
