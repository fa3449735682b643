"""The lives of lanes, seen from outside: who claims, what was read before timers fired, and what a load would make."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.bench import image
from simulation.findings import Findings
from simulation.log_model import Log
from simulation.process import SECOND_US, Process

from keylane.journal.port import Place, Stored
from keylane.router.core.lane import Lane
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_request, decode_result, decode_state
from keylane.schemas.events import Lost, WorkerClosed
from keylane.schemas.requests import Release, Renewal
from keylane.schemas.results import WorkerHeartbeat, WorkerJoined
from keylane.schemas.state import LaneRecord, Run

COMPARED = 0.05
"""How many turns are followed by a load beside the living lane."""


class Life(NamedTuple):
    """A lane's life in a process: what lane time was at what monotonic time of that process."""

    monotonic_us: int
    lane_ms: int


class TrueLanes:
    """Lanes by partition and process."""

    def __init__(self, findings: Findings, log: Log, seed: int) -> None:
        self.halted: dict[int, str] = {}
        self.compared = 0
        """How often a lane was loaded beside the living one."""
        self.written_by: dict[int, str] = {}
        self._broken = findings.broken
        self._world = findings.world
        self._log = log
        self._dice = random.Random(f"lanes/{seed}")
        self._lives: dict[tuple[str, int], Life] = {}
        self._acknowledged_us: dict[Place, dict[int, int]] = defaultdict(dict)

    # -- what processes do ----------------------------------------------------------------------------------

    def acknowledged(self, places: Sequence[tuple[Place, int]]) -> None:
        """The journal has acknowledged these records to whoever appended them."""
        for place, offset in places:
            self._acknowledged_us[place].setdefault(offset, self._world.now_us)

    def claims(self, process: Process, partition: int, since_s: float | None, is_confirmed: bool) -> None:
        """A lane is claimed; `since_s`: when this process lost it last, if it did (kafka-facts)."""
        if since_s is not None and not is_confirmed:
            why = f"{process.name} claims lane {partition} before its group has counted it in again"
            self._broken("claimed unconfirmed", why)

    def ended_another(self, partition: int) -> None:
        """A late request has ended a transaction that its sender did not mean (KAFKA-17754)."""
        self._broken("another transaction ended", f"of lane {partition}, by a request for an earlier one (promise 8)")

    def loaded(self, process: Process, partition: int, now_ms: int) -> None:
        """A life begins, at the lane time that was saved last: time without an owner does not count."""
        self._lives[process.name, partition] = Life(process.clock.monotonic_us(self._world.now_us), now_ms)
        kept = self._log.at(Place(topics.STATE, partition)).newest.get(b"lane")
        own = None if kept is None else decode_state(kept.value)
        saved_ms = own.clock_ms if isinstance(own, LaneRecord) else 0
        if now_ms > saved_ms:
            self._broken(
                "clock ran on", f"lane {partition} was left at {saved_ms} ms and goes on at {now_ms} (promise 7)"
            )

    def turn_failed(self, process: Process, partition: int, reason: str) -> None:
        self._broken("turn failed", f"{process.name}, lane {partition}: {reason}")

    def has_halted(self, process: Process, partition: int) -> None:
        self.halted[partition] = process.name

    def turned(self, process: Process, lane: Lane) -> None:
        """Now and then: what a load would make of the state topic is the living lane (promise 9)."""
        if lane.changed or lane.outputs or self._dice.random() > COMPARED:
            return
        self._has_one_pending(lane)
        if self.written_by.get(lane.partition) != process.name or process.dead:
            return
        restored = Lane(lane.partition, lane.policy, lane.place, lane.owner_of)
        for stored in self._log.at(Place(topics.STATE, lane.partition)).newest.values():
            record = decode_state(stored.value)
            assert not isinstance(record, Undecodable)
            restored.put(record)
        if restored.own != lane.own:
            return  # another life of this process has written meanwhile, or its own commit's outcome was unknown
        self.compared += 1
        living, loaded = image(lane), image(restored)
        for name, value in living.items():
            if value != loaded[name]:
                where = f"lane {lane.partition}: {name}"
                self._broken("reload differs", f"{where}: {value!r} != {loaded[name]!r} (promise 9)")

    def _has_one_pending(self, lane: Lane) -> None:
        for alike, entries in lane.equal.items():
            runs = [lane.runs[id] for _, id in entries]
            pending = [
                run.id for run in runs if run.state == "Waiting" and run.granted_order is None and not run.review
            ]
            if len(pending) > 1:
                self._broken("two pending", f"{pending} wait, all for {alike}: equal requests are one run (rule 4)")

    # -- what lanes commit ----------------------------------------------------------------------------------

    def timer_fired(self, event: Lost | WorkerClosed, partition: int, settled: Sequence[Stored], by: str) -> None:
        """Nothing that was acknowledged before a timer fell due may be left unread when it fires (promise 7)."""
        lane = _lane_record(settled)
        about: str | int
        if isinstance(event, Lost) and event.reason in ("lease_expired", "unclaimed"):
            key, about = f"run/{event.run}", event.token
        elif isinstance(event, WorkerClosed) and event.reason == "session_lapsed":
            key, about = f"session/{event.session}", event.session
        else:
            return
        kept = self._log.at(Place(topics.STATE, partition)).newest.get(key.encode())
        life = self._lives.get((by, partition))
        if kept is None or lane is None or life is None:
            return
        record: Any = decode_state(kept.value)
        due_ms = record.lapses_ms if isinstance(event, WorkerClosed) else record.lease_until_ms
        if due_ms is None or (isinstance(event, Lost) and record.token != event.token):
            return
        lock = getattr(record, "lock", None)
        topic = topics.RESULTS if lock is None else topics.REQUESTS
        place = Place(topic, partition)
        for slot in self._log.at(place).slots[lane.positions.get(topic, 0) :]:
            if slot.stored is None:
                continue
            if _is_of(slot.stored, record) if lock is not None else _names(slot.stored, about):
                at_ms = self._acknowledged_ms(place, slot.stored.offset, life, by)
                if at_ms is not None and at_ms < due_ms:
                    what = f"{key} ended by a timer of {due_ms}; the report at {place}@{slot.stored.offset}"
                    why = f"{what} was acknowledged at {at_ms:.0f} and not applied (promise 7)"
                    self._broken("ended unread", why)

    def _acknowledged_ms(self, place: Place, offset: int, life: Life, by: str) -> float | None:
        """In lane time, as the clock of the lane's owner counts it."""
        at_us = self._acknowledged_us[place].get(offset)
        if at_us is None:
            return None
        clock = self._world.processes[by].clock
        return life.lane_ms + (clock.monotonic_us(at_us) - life.monotonic_us) * 1_000 / SECOND_US


def _names(stored: Stored, about: str | int) -> bool:
    """Whether a report is about that session or token."""
    report = decode_result(stored.value)
    if isinstance(report, Undecodable | WorkerJoined):
        return False
    return about == (report.session if isinstance(report, WorkerHeartbeat) else getattr(report, "token", None))


def _is_of(stored: Stored, run: Run) -> bool:
    """Whether what is said about a lock is said by who holds it."""
    said = decode_request(stored.value)
    if not isinstance(said, Renewal | Release) or run.lock is None:
        return False
    knows = hashlib.sha256(said.secret.encode()).hexdigest() == run.lock.secret_sha256
    return knows and (said.run, said.token) == (run.id, run.token)


def _lane_record(settled: Sequence[Stored]) -> LaneRecord | None:
    for stored in reversed(settled):
        if stored.topic == topics.STATE and stored.key == b"lane":
            record = decode_state(stored.value)
            assert isinstance(record, LaneRecord)
            return record
    return None
