"""The series of a worker process: what became of its items, and how it stands. Labels are its own actions only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from keylane.schemas.results import Completed, Failed

OUTCOMES = ("completed", "failed", "retried", "lost")
BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)


class WorkerMetrics:
    """Counts what handlers did. An action that has no handler here has no series."""

    def __init__(self, registry: CollectorRegistry, actions: Sequence[str], slots: int) -> None:
        items = Counter(
            "keylane_worker_items_total",
            "Items by what became of them here: lost ones report nothing.",
            ["action", "outcome"],
            registry=registry,
        )
        self._items = {(action, outcome): items.labels(action, outcome) for action in actions for outcome in OUTCOMES}
        handling = Histogram(
            "keylane_worker_handling_seconds",
            "How long handlers took.",
            ["action"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._handling = {action: handling.labels(action) for action in actions}
        self._registry = registry
        Gauge("keylane_worker_slots", "Items that it takes at once.", registry=registry).set(slots)

    def watch(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A gauge that is asked at each scrape, from another thread."""
        Gauge(f"keylane_worker_{name}", help, registry=self._registry).set_function(value)

    def handled(self, action: str, report: Completed | Failed | None, began_s: float) -> None:
        """An item's handler has returned or was cancelled (None). `began_s` is of time.monotonic."""
        self._items[action, _outcome(report)].inc()
        self._handling[action].observe(time.monotonic() - began_s)


def _outcome(report: Completed | Failed | None) -> str:
    if report is None or (isinstance(report, Failed) and report.error.code == "FENCED"):
        return "lost"
    if isinstance(report, Completed):
        return "completed"
    return "failed" if report.final else "retried"
