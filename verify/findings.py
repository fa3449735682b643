"""Where the rules put what they find: violations, capped; what could not be decided, and why. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from .report import Report, Violation

KEPT_MAX = 100
"""Violations of one promise that are told in full; of more only how many there are."""


class Findings:
    """Collects for all lanes. What was not asked for is dropped here, so that no rule has to know."""

    def __init__(self, promises: Collection[int]) -> None:
        self.promises = frozenset(promises)
        self.report = Report()
        self._doubts: dict[int, Counter[str]] = {}

    def violation(self, promise: int, partition: int, message: str, *places: str) -> None:
        """A promise was broken; `places` are the records that show it."""
        if promise not in self.promises:
            return
        found = self.report.found
        found[promise] = found.get(promise, 0) + 1
        if found[promise] <= KEPT_MAX:
            self.report.violations.append(Violation(promise, partition, message, tuple(dict.fromkeys(places))))

    def undecided(self, promise: int, why: str, count: int = 1) -> None:
        """Something that the records do not show. Counted by reason, over all lanes."""
        if promise in self.promises and count:
            self._doubts.setdefault(promise, Counter())[why] += count

    def open(self, what: str, count: int = 1) -> None:
        """Something that had not come to its end."""
        if count:
            self.report.open[what] = self.report.open.get(what, 0) + count

    def done(self) -> Report:
        """The judgement, in the order of the promises."""
        for promise, doubts in sorted(self._doubts.items()):
            told = [f"{why} ({count})" if count > 1 else why for why, count in doubts.items()]
            self.report.undecided[promise] = "; ".join(told)
        self.report.violations.sort(key=lambda each: each.promise)
        return self.report
