"""What no log shows, watched while it happens: who believed to hold what, what targets took, what was acknowledged.

Each check names the promise of design section 7 that it is about. The records alone are judged by `keylane.verify`.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulation.decoding import decode_event
from simulation.findings import Findings
from simulation.log_model import Log
from simulation.scenario import Scenario
from simulation.true_grants import TrueGrants
from simulation.true_lanes import TrueLanes
from simulation.true_requests import TrueRequests
from simulation.true_rules import TrueRules
from simulation.world import World

from keylane.journal.port import Place, Stored
from keylane.schemas import topics
from keylane.schemas.codec import decode_result, decode_state
from keylane.schemas.events import Lost, WorkerClosed
from keylane.schemas.results import WorkerJoined


class Truth:
    """Watches a run: `heard` is told of each record when it is in the log for good."""

    def __init__(self, world: World, log: Log, scenario: Scenario) -> None:
        self.findings = Findings(world)
        self.lanes = TrueLanes(self.findings, log, scenario.seed)
        self.grants = TrueGrants(self.findings, log, scenario.policy)
        self.requests = TrueRequests(self.findings, scenario)
        self.rules = TrueRules(self.findings, log, scenario)
        self.completions: dict[int, Stored] = {}
        """By partition: the newest report that a run is completed."""
        self._log = log

    def heard(self, settled: Sequence[Stored], by: str) -> None:
        """These records of one commit are there for good now. What is newest in `state` is still what was before."""
        for stored in settled:
            if stored.topic == topics.EVENTS:
                self._event(stored, settled, by)
            elif stored.topic == topics.STATE:
                self.lanes.written_by[stored.partition] = by
                if stored.value is None and stored.key is not None:
                    self._forgotten(stored.partition, stored.key.decode())
            elif stored.topic == topics.REQUESTS:
                self.requests.asked(stored)
            elif stored.topic == topics.RESULTS and b'"type":"Completed"' in (stored.value or b""):
                self.completions[stored.partition] = stored
            elif stored.topic == topics.RESULTS and b'"WorkerJoined"' in (stored.value or b""):
                join = decode_result(stored.value)
                if isinstance(join, WorkerJoined):
                    self.grants.generations.setdefault(join.session, join.generation)
        self.rules.committed(settled)

    def _event(self, stored: Stored, settled: Sequence[Stored], by: str) -> None:
        event = decode_event(stored.value)
        for handlers in (self.grants.handlers, self.requests.handlers):
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event, stored.partition)
        self.rules.event(event, stored.partition)
        if isinstance(event, Lost | WorkerClosed):
            self.lanes.timer_fired(event, stored.partition, settled, by)

    def _forgotten(self, partition: int, key: str) -> None:
        kind, _, id = key.partition("/")
        if kind == "run":
            self.grants.forgotten(partition, id)
            self.rules.forgotten(partition, id)
        if kind in ("run", "member"):  # a run speaks for its first request
            self.requests.forgotten(partition, id)

    def is_quiet(self) -> bool:
        """Whether every run has ended, and every input has been applied."""
        halted = self.lanes.halted
        if not halted and not self.rules.waits.is_quiet():
            return False
        if any(runs for partition, runs in self.requests.open.items() if partition not in halted):
            return False
        for place, partition in self._log.partitions.items():
            if place.topic == topics.REQUESTS and place.partition not in halted:
                lane = self._log.at(Place(topics.STATE, place.partition)).newest.get(b"lane")
                if lane is None or decode_state(lane.value).positions.get(place.topic, 0) < partition.end:  # type: ignore[union-attr]
                    return False
        return True
