"""The series of a router process, by name, with their closed label sets. `meter.py` moves them.

Labels come from closed sets only (design section 9): an action that the configuration does not name is `other`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from keylane.router.core.policy import Policy
from keylane.schemas.conflicts import ConflictKind
from keylane.schemas.event_parts import LostReason, Status
from keylane.schemas.refusals import Code
from keylane.schemas.state import LOCK_ACTION

OTHER = "other"
OUTCOMES = get_args(Status)
REPORTS = ("Progress", "Completed", "Failed", "Renewal", "Release")
RELOADS = ("lost", "culprit", "unavailable", "changing", "fault")
WAIT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)
TURN_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class RouterMetrics:
    """The series of one router process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry, policy: Policy, partitions: int) -> None:
        self._registry = registry
        self.actions = (*sorted(policy.actions), LOCK_ACTION, OTHER)
        self.accepted = self._counters("requests_accepted", "Requests accepted.", "action", self.actions)
        self.ended = self._counters("requests", "Requests by how they ended.", "outcome", OUTCOMES)
        self.coalesced = self._counters("requests_coalesced", "Requests merged into a run.", "action", self.actions)
        self.repeated = self._counter("requests_repeated", "Requests that were answered before, answered again.")
        self.refusals = self._counters("refusals", "Commands refused, by code.", "code", get_args(Code))
        self.lock_failures = self._counters(
            "lock_acquisition_failures", "Resources not had: LOCK_HELD or DEADLOCK.", "action", self.actions
        )
        self.expirations = self._pairs(
            "lease_expirations",
            "Leases that ended without a result.",
            ("action", self.actions),
            ("reason", get_args(LostReason)),
        )
        self.inconsistent = self._counters(
            "inconsistent_states", "Completed work whose observed version is another.", "action", self.actions
        )
        self.conflicts = self._counters("conflicts", "Conflict artifacts, by kind.", "kind", get_args(ConflictKind))
        self.grants = self._counters("grants", "Grants.", "action", self.actions)
        self.failed = self._counters("attempts_failed", "Attempts that a worker failed.", "action", self.actions)
        self.fenced = self._counters("fenced_reports", "Reports under a token not live.", "report", REPORTS)
        self.dead_letters = self._counters("dead_letters", "Records set aside, by code.", "code", get_args(Code))
        self.waits = self._histograms("wait_seconds", "From acceptance to the first grant.", self.actions)
        self.handlings = self._histograms("handling_seconds", "From the last grant to the end.", self.actions)
        self.turns = Histogram(
            "keylane_turn_duration_seconds",
            "A turn that applied something: decode, decide, encode.",
            buckets=TURN_BUCKETS_S,
            registry=registry,
        )
        self.commits = Histogram(
            "keylane_commit_duration_seconds",
            "A turn's commit to the journal.",
            buckets=TURN_BUCKETS_S,
            registry=registry,
        )
        self.depth = self._gauge("queue_depth", "Runs that wait.", "partition")
        self.held = self._gauge("held_runs", "Runs that are held.", "partition")
        self.oldest = self._gauge("oldest_wait_seconds", "Since the oldest waiting run was accepted.", "partition")
        self.unserved = self._gauge("unserved_actions", "Actions lately asked for that no worker handles.", "partition")
        self.sessions = self._gauge("worker_sessions_open", "Worker sessions of a lane.", "partition")
        self.lag = self._gauge("lag_records", "Input records that are not applied yet.", "topic", "partition")
        self.lag_age = self._gauge(
            "lag_seconds", "Since this router first saw that the oldest of them was there.", "topic", "partition"
        )
        self.wait_edges = self._gauge("wait_edges", "Waits of sessions for sessions, of all lanes, as seen here.")
        self._gauge("partitions", "Partitions of the journal, as pinned.").set(partitions)
        self.owned = self._gauge("partitions_owned", "Lanes that are loaded here and turn.")
        self.halted = self._gauge("partitions_halted", "Lanes that stopped here until an operator has looked.")
        self.loads = self._counter("lane_loads", "Lanes loaded.")
        self.reloads = self._counters("lane_reloads", "Lanes dropped, to be loaded again.", "reason", RELOADS)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"keylane_{name}_total", help, registry=self._registry)

    def _counters(self, name: str, help: str, label: str, values: Sequence[str]) -> dict[str, Counter]:
        """A counter for each label value, made at once: a rate over a series that just began misses its first step."""
        family = Counter(f"keylane_{name}_total", help, [label], registry=self._registry)
        return {value: family.labels(value) for value in values}

    def _pairs(
        self, name: str, help: str, one: tuple[str, Sequence[str]], two: tuple[str, Sequence[str]]
    ) -> dict[tuple[str, str], Counter]:
        family = Counter(f"keylane_{name}_total", help, [one[0], two[0]], registry=self._registry)
        return {(first, second): family.labels(first, second) for first in one[1] for second in two[1]}

    def _histograms(self, name: str, help: str, actions: Sequence[str]) -> dict[str, Histogram]:
        family = Histogram(f"keylane_{name}", help, ["action"], buckets=WAIT_BUCKETS_S, registry=self._registry)
        return {action: family.labels(action) for action in actions}

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"keylane_{name}", help, labels, registry=self._registry)
