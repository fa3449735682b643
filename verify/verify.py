"""The one function: lines in, a judgement out. Hands each record to its lane, each event to the rules, then joins.

A rule is an object with `handlers` by type of event, called with the fold as it stood before the event, and a
`close` for what other topics have to say. A new promise is a new rule in `_Judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_event, decode_metadata
from keylane.schemas.metadata import Metadata

from .agents import Agents
from .bounds import Bounds, judge_sizes
from .clashes import Clashes
from .commits import Commits
from .findings import Findings
from .grants import Grants, judge_effects, judge_places
from .history import Acknowledged, Configured, Effect, Entry, Line, Span
from .lane import Lane
from .leases import Leases
from .locks import Locks
from .report import Report
from .requests import Requests, judge_acknowledged, judge_sent_on, retention_of
from .secrecy import INPUTS, Secrecy
from .states import States
from .waits import Cycles, Deadlocks

PROMISES = tuple(range(1, 15))
"""13 of design section 7; and 14: who has a lock's secret alone renews it and gives it back, and routers write none."""
ADVANCE_LINES = 1_000


def verify(
    lines: Iterable[Line],
    *,
    drained: bool,
    promises: Collection[int] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Report:
    """Judge a history. Entries of a partition of a topic come in offset order; all else may be interleaved.

    `drained`: everything has come to rest and been read, so what is still open is a violation. `promises`: only
    these. `advance` is told how many more lines were read. Takes time in proportion to n log n.
    """
    verifier = Verifier(promises)
    count = 0
    for line in lines:
        verifier.take(line)
        count += 1
        if advance is not None and count % ADVANCE_LINES == 0:
            advance(ADVANCE_LINES)
    return verifier.close(drained=drained)


class _Judge:
    """The rules of one lane."""

    def __init__(self, findings: Findings, partition: int, cycles: Cycles) -> None:
        self.lane = lane = Lane(partition, findings)
        self.grants = Grants(lane)
        self.requests = Requests(lane)
        self.leases = Leases(lane)
        self.locks = Locks(lane)
        self.agents = Agents(lane)
        self.commits = Commits(lane)
        self.clashes = Clashes(lane)
        self.bounds = Bounds(lane)
        self.states = States(lane)
        self.handlers: dict[type, list[Callable[[Any, int], None]]] = {}
        rules = (
            self.commits, self.grants, self.requests, self.leases, self.locks, self.agents, self.clashes, self.bounds,
            Deadlocks(lane, cycles),
        )  # fmt: skip
        for rule in rules:
            for kind, handler in rule.handlers.items():
                self.handlers.setdefault(kind, []).append(handler)

    def take_event(self, entry: Entry) -> None:
        """Judge one event by what came before it, then let it count."""
        lane, at = self.lane, entry.offset
        event: Any = decode_event(entry.value)
        if isinstance(event, Undecodable):
            self._unreadable()
            return
        if not self.commits.admit(event, at):
            return
        self.leases.clock(event, at)
        begun = self.commits.first_of_input(event, at)
        if begun is not None:
            topic, offset = begun
            if topic == topics.REQUESTS:
                self.requests.note(event, at, offset)
            else:
                self.leases.note(event, offset)
        for handler in self.handlers.get(type(event), ()):
            handler(event, at)
        lane.fold.apply(event, at)

    def _unreadable(self) -> None:
        """Of a newer keylane: what it decided is unknown, so the fold begins anew behind it."""
        lane = self.lane
        lane.unreadable[topics.EVENTS] = lane.unreadable.get(topics.EVENTS, 0) + 1
        for promise in (1, 3, 4, 5, 7, 8, 9, 10, 11, 14):
            lane.findings.undecided(promise, "events cannot be read by this keylane: upgrade it")
        lane.fold.lose_track()
        lane.fold.last_seq += 1

    def close(self, drained: bool, configured: Configured, observed_ms: int | None) -> None:
        """What other topics have to say, when all has been read."""
        self.grants.close()
        self.requests.close(drained, configured.retention_ms, observed_ms)
        self.leases.close()
        self.locks.close(configured)
        self.agents.close(drained, configured)
        self.commits.close(drained, self.grants)
        self.states.close()
        self.clashes.close(drained)
        self.bounds.close(configured)
        self.bounds.rest(drained)


class Verifier:
    """The same for whoever has the lines one by one: `take` each, then `close`."""

    def __init__(self, promises: Collection[int] | None = None) -> None:
        self._findings = findings = Findings(PROMISES if promises is None else promises)
        self._judges: dict[int, _Judge] = {}
        self._cycles = Cycles(findings)
        self._secrecy = Secrecy(findings)
        self._metadata: Metadata | None = None
        self._configured = Configured()
        self._acknowledged: list[Acknowledged] = []
        self._effects: list[Effect] = []

    def _judge(self, partition: int) -> _Judge:
        """The lane's rules, begun where they are first asked for."""
        found = self._judges.get(partition)
        if found is None:
            found = self._judges[partition] = _Judge(self._findings, partition, self._cycles)
        return found

    def take(self, line: Line) -> None:
        """One line of the history."""
        match line:
            case Entry():
                self._entry(line)
            case Acknowledged():
                self._acknowledged.append(line)
            case Configured():
                self._configured = line
            case Effect():
                self._effects.append(line)
            case Span():
                if line.topic == topics.WAITS:
                    self._cycles.reaches(line)
                elif line.topic != topics.METADATA:
                    self._judge(line.partition).lane.reaches(line)

    def _entry(self, entry: Entry) -> None:
        records, topic = self._findings.report.records, entry.topic
        records[topic] = records.get(topic, 0) + 1
        judge_sizes(self._findings, entry)
        if topic in INPUTS:
            self._secrecy.take_input(entry, self._judge(entry.partition).lane.take(entry))
            return
        self._secrecy.take_output(entry)
        if topic == topics.EVENTS:
            self._judge(entry.partition).take_event(entry)
        elif topic == topics.WAITS:
            self._cycles.take(entry)
        elif topic == topics.METADATA:
            found = decode_metadata(entry.value)
            self._metadata = found if isinstance(found, Metadata) else self._metadata
        else:
            self._judge(entry.partition).lane.take(entry)

    def close(self, *, drained: bool) -> Report:
        """Judge what could only be judged when all had been read."""
        judges = [self._judges[partition] for partition in sorted(self._judges)]
        for judge in judges:
            judge.lane.load()
        observed_ms = retention_of([judge.lane for judge in judges])
        for judge in judges:
            judge.close(drained, self._configured, observed_ms)
        if judges:
            grants = [judge.grants for judge in judges]
            requests = [judge.requests for judge in judges]
            judge_places(grants, None if self._metadata is None else self._metadata.partitions)
            judge_effects(grants, self._effects)
            judge_sent_on(requests)
            judge_acknowledged(requests, self._acknowledged)
        self._cycles.close()
        self._secrecy.close(drained)
        return self._findings.done()
