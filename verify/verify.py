"""The one function: lines in, a judgement out. Groups what it reads by partition and asks each promise's module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from .history import Entry, Line
from .report import Report

PROMISES = tuple(range(1, 14))


def verify(
    lines: Iterable[Line],
    *,
    drained: bool,
    promises: Collection[int] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Report:
    """Judge a history. Entries of a partition of a topic come in offset order; all else may be interleaved.

    `drained`: everything has come to rest and been read, so what is still open is a violation. `promises`: only
    these. `advance` is told how many more lines were read.
    """
    report = Report()
    for line in lines:
        if isinstance(line, Entry):
            report.records[line.topic] = report.records.get(line.topic, 0) + 1
    return report
