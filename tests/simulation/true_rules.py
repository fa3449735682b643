"""The rules of work, held against each decision as it is committed.

Told from events and the records that they answer, with the policy and none of the core's code: `true_arrivals` of
requests, `true_turns` of runs, `true_conflicts` of what people close. Here is what goes with the events of a commit:
items, artifacts, and leases in state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from simulation.findings import Findings
from simulation.lock_secrets import MARK
from simulation.log_model import Log
from simulation.scenario import Scenario
from simulation.true_answers import TrueAnswers
from simulation.true_arrivals import TrueArrivals
from simulation.true_conflicts import TrueConflicts
from simulation.true_locks import TrueLocks, is_of_locks
from simulation.true_runs import RulesSeen
from simulation.true_turns import TrueTurns
from simulation.true_waits import TrueWaits
from simulation.wire import Net

from keylane.journal.port import Stored
from keylane.schemas import topics
from keylane.schemas.codec import decode_conflict, decode_item, decode_state
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.items import Notice, WorkItem
from keylane.schemas.state import LaneRecord, Run, WaitLink

SETTLED_US = 5_000_000
"""How long after healing until what goes on can be held against its time."""


class TrueRules:
    """`event` is told of each, then `committed` of all that one commit wrote."""

    def __init__(self, findings: Findings, log: Log, scenario: Scenario) -> None:
        self._seen = RulesSeen(findings, log, scenario)
        self.conflicts = TrueConflicts(self._seen)
        arrivals, turns = TrueArrivals(self._seen), TrueTurns(self._seen)
        self._handlers = (arrivals.handlers, turns.handlers, self.conflicts.handlers)
        self.waits = TrueWaits(findings, self._seen)
        self.locks = TrueLocks(self._seen, self.waits)
        self._answers = TrueAnswers(self._seen, log)
        self._kinds: Counter[tuple[int, str]] = Counter()
        self._clocks_ms: dict[int, int] = {}
        self._stirred = False
        """Something of a lock was said, or of a link, in what is committed now."""
        self._world = findings.world
        is_calm = not scenario.faults and scenario.net == Net(slow=scenario.net.slow)
        self._settled_us = 0 if is_calm else scenario.chaos_ms * 1_000 + SETTLED_US

    def event(self, event: Any, partition: int) -> None:
        """One event, as it was committed."""
        self._answers.event(event, partition)
        of_locks = is_of_locks(event)
        self._stirred |= of_locks
        for handlers in (self.locks.handlers,) if of_locks else self._handlers:
            handler = handlers.get(type(event))
            if handler is not None:
                try:
                    handler(event, partition)
                except KeyError as error:
                    self._seen.broken("unheard of", f"{type(event).__name__} {event.seq} is about {error}")

    def forgotten(self, partition: int, run: str) -> None:
        """The lane no longer remembers it."""
        self._seen.runs.pop((partition, run), None)
        self._seen.locks.pop((partition, run), None)

    def look(self) -> None:
        """Now and then, while nothing goes wrong any more."""
        if self._world.now_us >= self._settled_us:
            self.waits.look()
            self.locks.look(self._clocks_ms)

    def committed(self, settled: Sequence[Stored]) -> None:
        """What goes with the events of this commit, which were handled before."""
        applied: dict[int, int] = {}
        for stored in settled:
            if stored.topic != topics.REQUESTS and MARK.encode() in (stored.value or b""):
                self._seen.broken("secret told", f"in {stored.topic}/{stored.partition}@{stored.offset}")
            if stored.topic.startswith("items."):
                self._item(decode_item(stored.value), stored.partition)
            elif stored.topic == topics.CONFLICTS:
                self._artifact(decode_conflict(stored.value), stored.partition)
            elif stored.topic == topics.WAITS:
                self.waits.written(stored)
            elif stored.topic == topics.STATE and stored.key is not None:
                self._kept(stored, stored.key, applied)
        self._settle(applied)

    def _settle(self, applied: dict[int, int]) -> None:
        """All of the commit has been seen."""
        for partition, position in applied.items():
            self._answers.committed(partition, position)
            if self._stirred:
                self.locks.committed()
                self.waits.committed(partition)
        self._stirred = False
        for partition, token in self._seen.told:
            self._seen.broken("holder not told", f"of a change, in lane {partition} under token {token}")
        for run in self._seen.doomed:
            if run.state != "Done" and not run.stopping:
                self._seen.broken("not replaced", f"{run.id} was to be replaced by {run.doomed_by}, and goes on")
        self._seen.told, self._seen.doomed = [], []

    def _kept(self, stored: Stored, key: bytes, applied: dict[int, int]) -> None:
        """A record of state. `applied`: by lane, up to where its requests are."""
        kind, _, id = key.decode().partition("/")
        partition, record = stored.partition, None
        if kind in ("run", "link", "lane") and stored.value is not None:
            record = decode_state(stored.value)
        if isinstance(record, Run):
            self._standing(record, partition)
            self._lease(record, partition)
            self.locks.kept(record, partition)
        elif isinstance(record, LaneRecord):
            applied[partition] = record.positions.get(topics.REQUESTS, 0)
            self._clocks_ms[partition] = record.clock_ms
        elif kind == "link":
            self._stirred = True
            self.waits.link(partition, id, record if isinstance(record, WaitLink) else None)
        elif kind == "cancelled" and stored.value is None:
            self._seen.cancelled.pop((partition, id), None)

    def _item(self, item: Any, partition: int) -> None:
        if isinstance(item, Notice) and item.kind == "changed":
            if (partition, item.token) in self._seen.told:
                self._seen.told.remove((partition, item.token))
        if not isinstance(item, WorkItem):
            return
        leads, merged, version, checkpoint = self._seen.items.pop((partition, item.token))
        if (bytes(item.payload), [bytes(each) for each in item.merged]) != (leads, merged):
            self._seen.broken("payload lost", f"the item of {item.run} has other payloads than were asked for")
        if item.expected_version != version:
            self._seen.broken("version lost", f"the item of {item.run} says {item.expected_version}, not {version}")
        saved = None if item.checkpoint is None else bytes(item.checkpoint.data)
        if saved != checkpoint:
            self._seen.broken("checkpoint lost", f"the item of {item.run} has {saved!r}, and {checkpoint!r} was saved")

    def _artifact(self, artifact: Any, partition: int) -> None:
        if isinstance(artifact, ConflictArtifact):
            self._seen.artifacts[partition].append(artifact.id)
            self._kinds[partition, artifact.fingerprint] += 1
            if artifact.recurrence != self._kinds[partition, artifact.fingerprint]:
                self._seen.broken(
                    "miscounted", f"{artifact.id} says that it is number {artifact.recurrence} of its kind"
                )

    def _standing(self, kept: Run, partition: int) -> None:
        """Who holds a run, or held it at its end; and why it waits for a time, where it does."""
        run = self._seen.runs.get((partition, kept.id))
        if run is None or kept.state != run.state:
            return
        if kept.holder != run.holder:
            self._seen.broken("wrong holder", f"of {run.id} ({run.state}): {kept.holder!r}, and it is {run.holder!r}")
        if (kept.ready_ms is None) != (kept.delayed is None):
            self._seen.broken("wrong delay", f"of {run.id}: until {kept.ready_ms}, because of {kept.delayed}")
        if kept.delayed is not None and (kept.delayed == "backoff") != (run.granted is not None):
            self._seen.broken("wrong delay", f"of {run.id}: {kept.delayed}, and its first grant is {run.granted}")

    def _lease(self, kept: Run, partition: int) -> None:
        """A lease runs from its last renewal, and to no other time."""
        run = self._seen.runs.get((partition, kept.id))
        if run is None or kept.state != "Held" or run.state != "Held" or kept.token != run.token:
            return
        until_ms = min(run.renewed_ms + run.lease_ms, run.granted_ms + self._seen.policy.of(run.action).max_hold_ms)
        if kept.lease_until_ms != until_ms:
            self._seen.broken(
                "wrong lease", f"of {run.id}: until {kept.lease_until_ms}, and it is to end at {until_ms}"
            )
